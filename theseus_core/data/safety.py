"""The safety layer of `prep`: a list of words for captions, and any image classifier of transformers for frames.

What it does not catch. The list finds English words as they are spelt in `unsafe_words.txt`: no other language, no misspelling on
purpose, no meaning that hides behind harmless words; and a caption says only what its writer thought worth saying. The classifier
sees a few frames of every clip, as they are after cropping and resizing, and knows what it was trained on: what lies between those
frames, what only the motion shows, and what it was never taught pass. Neither replaces a look at the contact sheet.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from theseus_core.data.filters import PrepSettings
from theseus_core.data.shards import Frames
from theseus_core.errors import TheseusError, nearest
from theseus_core.files import read_lines
from theseus_core.quiet import without_bars

if TYPE_CHECKING:
    import torch

Inspect = Callable[[Frames], str | None]  # (T, H, W, 3) uint8 to why it is refused, or None

WORDS = Path(__file__).parent / "unsafe_words.txt"
UNSAFE_LABELS = (  # what the classifiers in use call what is meant
    "nsfw",
    "unsafe",
    "porn",
    "pornography",
    "hentai",
    "sexy",
    "sexual",
    "explicit",
    "nude",
    "nudity",
    "gore",
    "gore_bloodshed_violent",
    "violence",
    "violent",
    "blood",
)


@cache
def _patterns() -> tuple[re.Pattern[str], re.Pattern[str]]:
    """What is unsafe, and the harmless phrases in which it is not; see the head of the list for its rules."""
    lines = [line.strip() for line in read_lines(WORDS) if line.strip() and not line.startswith("#")]
    harmless = [line[1:] for line in lines if line.startswith("!")]
    return _any_of([line for line in lines if not line.startswith("!")]), _any_of(harmless)


def _any_of(words: Sequence[str]) -> re.Pattern[str]:
    longest_first = sorted(words, key=len, reverse=True)
    parts = [re.escape(word).replace(r"\ ", r"[\s-]+").replace(r"\*", r"\w*") for word in longest_first]
    return re.compile(rf"(?<!\w)(?:{'|'.join(parts)})(?!\w)")


def unsafe_words(captions: Sequence[str]) -> str | None:
    """The first unsafe word or phrase of a clip's captions, with the caption; None where there is none.

    One such caption is enough: the others describe the same pictures.
    """
    unsafe, harmless = _patterns()
    for caption in captions:
        plain = unicodedata.normalize("NFKD", caption).casefold()
        plain = "".join(c for c in plain if unicodedata.category(c) not in ("Mn", "Cf"))  # accents, and what takes no room
        plain = plain.replace("_", " ")  # as tags are joined
        found = unsafe.search(harmless.sub(" ", plain))
        if found:
            return f"{found[0]}: {caption}"
    return None


def open_classifiers(settings: PrepSettings) -> Inspect | None:
    """What looks at the frames of a clip; None where no classifier is asked for.

    Raises:
        TheseusError: a classifier cannot be read, or has no label that means unsafe; or labels are named for none.
    """
    if settings.unsafe_labels and not settings.classifiers:
        raise TheseusError(
            f"no classifier has these labels: {', '.join(settings.unsafe_labels)}", hint="name one with --safety MODEL"
        )
    judges = [Classifier(name, settings) for name in settings.classifiers]
    if not judges:
        return None

    def inspect(frames: Frames) -> str | None:
        return next((why for judge in judges if (why := judge(frames))), None)

    return inspect


class Classifier:
    """An image classifier that looks at frames spread over a clip.

    Attributes:
        labels: its labels that mean unsafe.

    Raises:
        TheseusError: from the constructor; it cannot be read, has no label of such a name, or none that is known to mean unsafe.
    """

    def __init__(self, source: str, settings: PrepSettings) -> None:
        from theseus_core.device import pick_device

        self.source, self._threshold, self._count = source, settings.unsafe_threshold, settings.unsafe_frames
        self._processor, self._network = _read(source)
        self._device = pick_device("auto")
        self._network.to(self._device).eval()
        self._classes = self._choose(settings.unsafe_labels)
        self.labels = [self._network.config.id2label[number] for number in self._classes]

    def _choose(self, wanted: Sequence[str]) -> list[int]:
        known = {str(label).lower(): int(number) for number, label in self._network.config.id2label.items()}
        for label in wanted:
            if label.lower() not in known:
                raise TheseusError(
                    f"the classifier {self.source} has no label: {label}", hint=nearest(label.lower(), list(known)[:50])
                )
        chosen = [known[label.lower()] for label in wanted] or [known[label] for label in UNSAFE_LABELS if label in known]
        if not chosen:
            hint = f"say which with --unsafe-label; it has: {', '.join(list(known)[:50])}"
            raise TheseusError(f"no label of this classifier is known to mean unsafe: {self.source}", hint=hint)
        return chosen

    def __call__(self, frames: Frames) -> str | None:
        """Why a clip (T, H, W, 3) uint8 is refused, or None."""
        places = _places(len(frames), self._count)
        scores = self._probabilities(frames[places])[:, self._classes]  # (frames, unsafe labels)
        unsafe = self._of_labels(scores)
        worst = int(unsafe.argmax())
        if unsafe[worst] < self._threshold:
            return None
        label = self.labels[int(scores[worst].argmax())]
        return f"{label} {unsafe[worst]:.2f} in frame {places[worst]}, by {Path(self.source).name}"

    def _probabilities(self, pictures: Frames) -> torch.Tensor:
        import torch
        from PIL import Image

        images = [Image.fromarray(picture) for picture in pictures]
        with torch.inference_mode():
            logits = self._network(**self._processor(images=images, return_tensors="pt").to(self._device)).logits.float().cpu()
        found: torch.Tensor = logits.sigmoid() if self._many else logits.softmax(-1)
        return found

    @property
    def _many(self) -> bool:
        """Whether a picture may have several labels, each with a probability of its own."""
        return bool(self._network.config.problem_type == "multi_label_classification")

    def _of_labels(self, scores: torch.Tensor) -> torch.Tensor:
        """(frames, unsafe labels) to the probability of any (frames,): labels that exclude one another add up."""
        return scores.amax(-1) if self._many else scores.sum(-1)


def _places(frames: int, count: int) -> list[int]:
    """Frames in the middle of `count` equal parts of a clip."""
    return [(2 * part + 1) * frames // (2 * count) for part in range(count)] if frames > count else list(range(frames))


def _read(source: str) -> tuple[Any, Any]:
    """The image processor and the network of a folder or a hub name; weights from safetensors only, in fp32."""
    import torch
    import transformers  # seconds to import, and only for those who ask for it

    processors: Any = transformers.AutoImageProcessor
    networks: Any = transformers.AutoModelForImageClassification
    try:
        with without_bars() if Path(source).is_dir() else nullcontext():  # a download may take minutes, and shows itself
            processor = processors.from_pretrained(source)
            network = networks.from_pretrained(source, dtype=torch.float32, use_safetensors=True)
    except (OSError, ValueError) as error:  # what transformers raises for a missing file, a bad name, no network
        short = " ".join(str(error).split())[:160]
        hint = (
            f"captions, or an image classifier of transformers: a hub name, or a folder with config.json and safetensors: {short}"
        )
        raise TheseusError(f"cannot read the classifier: {source}", hint=hint) from error
    return processor, network
