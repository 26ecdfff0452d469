"""A frozen text encoder by its hub name or folder: CLIP, BERT, RoBERTa, GPT-2 or T5, through transformers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Self

import torch
from pydantic import Field
from safetensors import SafetensorError

from theseus_core.config import Config as BaseConfig
from theseus_core.contracts import Text, TextEncoder
from theseus_core.errors import TheseusError
from theseus_core.quiet import without_bars

MOST = 77  # tokens, unless more are asked for: what CLIP takes
CLASSES = {"clip": "CLIPTextModel", "clip_text_model": "CLIPTextModel", "t5": "T5EncoderModel"} | {
    "bert": "BertModel",
    "roberta": "RobertaModel",
    "gpt2": "GPT2Model",
}


class Config(BaseConfig):
    """Configuration of `hub`."""

    source: str = Field("openai/clip-vit-base-patch32", description="name on the hub, or a folder with the model and its tokenizer")
    max_tokens: int | None = Field(
        None, ge=2, description="L, the length that captions are padded or cut to; None for CLIP's 77, or as many as it takes"
    )
    masked: bool = Field(True, description="padding is hidden from network and generator; CogVideoX reads it like words")


PRESETS: dict[str, dict[str, object]] = {
    "small": {},
    "clip": {},
    "clip-large": {"source": "openai/clip-vit-large-patch14"},
    "bert": {"source": "google-bert/bert-base-uncased"},
    "roberta": {"source": "FacebookAI/roberta-base"},
    "gpt2": {"source": "openai-community/gpt2"},
    "t5": {"source": "google-t5/t5-base"},
}


class Model(TextEncoder):
    """The `hub` family."""

    config: Config
    trained_along = False

    def __init__(self, config: Config, folder: Path | None = None, made: tuple[Any, Callable[[], Any]] | None = None) -> None:
        """Read the network and its tokenizer from `folder`, else from the config's source.

        Args:
            made: a tokenizer, and what reads the network, in place of both; `free` then can give its memory back.

        Raises:
            TheseusError: it cannot be read or fetched, is of a kind not known here, or takes fewer tokens.
        """
        super().__init__()
        self._again = made[1] if made else None
        self.words, network = (made[0], made[1]()) if made else _read(str(folder or config.source))
        self.network: Any = network.requires_grad_(False).eval()
        self.width = int(network.config.hidden_size)
        self.token_limit = _limit(self.words, network)
        self.max_tokens = config.max_tokens or min(self.token_limit or MOST, MOST)
        self.config = config.model_copy(update={"max_tokens": self.max_tokens})
        if self.token_limit and self.max_tokens > self.token_limit:
            raise TheseusError(
                f"{config.source} takes at most {self.token_limit} tokens, not: {self.max_tokens}",
                hint=f"max_tokens={self.token_limit}",
            )
        if self.words.pad_token is None:  # GPT-2 has none; what is padded is masked
            self.words.pad_token = self.words.eos_token

    def free(self) -> None:
        """See `TextEncoder.free`."""
        if self._again is not None:
            self.network = None

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode: it is frozen, and dropout would make its cache wrong."""
        return super().train(False)

    def tokenize(self, captions: Sequence[str]) -> Text:
        coded = self.words(
            list(captions),
            padding="max_length",
            truncation=True,
            max_length=self.max_tokens,
            padding_side="right",
            return_tensors="pt",
        )
        mask = (
            coded["attention_mask"].bool() if self.config.masked else torch.ones_like(coded["input_ids"], dtype=torch.bool)
        )  # (B, L)
        mask[:, 0] = True  # where no start token is added, "" would be masked as a whole
        return Text(mask=mask, ids=coded["input_ids"])

    def count_tokens(self, caption: str) -> int:
        return len(self.words(caption, verbose=False)["input_ids"])

    @torch.no_grad()
    def forward(self, text: Text) -> Text:
        assert text.ids is not None
        if self.network is None:
            assert self._again is not None
            network = self._again().requires_grad_(False).eval()
            if self.once_read is not None:
                self.once_read(network)
            self.network = network.to(text.ids.device)
        found = self.network(input_ids=text.ids, attention_mask=text.mask.long() if self.config.masked else None)
        return Text(mask=text.mask, ids=text.ids, embeddings=found.last_hidden_state)  # (B, L, E)


def save(model: Model, folder: Path) -> None:
    """Keep the network (as safetensors) and its tokenizer's files with the model, so that no hub is asked again."""
    with without_bars():
        model.network.save_pretrained(folder / "network")
        model.words.save_pretrained(folder / "network")


def load(folder: Path, config: Config) -> Model:
    """Read what `save` wrote."""
    return Model(config, folder / "network")


def _limit(words: Any, network: Any) -> int | None:
    """The most tokens that an encoder has positions for; None for T5, whose positions are relative."""
    if network.config.model_type == "t5":  # the length that its tokenizer names is no limit
        return None
    return min(int(words.model_max_length), int(network.config.max_position_embeddings))


def _read(source: str) -> tuple[Any, Any]:
    """The tokenizer and the network of a folder or a hub name; weights from safetensors only, in fp32."""
    import transformers  # seconds to import, and only for those who ask for it

    with without_bars() if Path(source).is_dir() else nullcontext():  # a download may take minutes, and shows itself
        return _read_with(transformers, source)


def _read_with(transformers: Any, source: str) -> tuple[Any, Any]:
    try:
        kind = transformers.AutoConfig.from_pretrained(source).model_type
        if kind not in CLASSES:
            raise TheseusError(f"no text encoder of a known kind: {source} ({kind})", hint=f"known: {', '.join(sorted(CLASSES))}")
        words = transformers.AutoTokenizer.from_pretrained(source)
        how: dict[str, Any] = {"dtype": torch.float32, "use_safetensors": True, "output_loading_info": True}
        network, found = getattr(transformers, CLASSES[kind]).from_pretrained(source, **how)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:  # a missing or damaged file, a bad name, no network
        hint = (
            f"a hub name such as google-t5/t5-base, or a folder with config.json, safetensors and tokenizer files: {_short(error)}"
        )
        raise TheseusError(f"cannot read the text encoder: {source}", hint=hint) from error
    if missing := sorted(key for key in found["missing_keys"] if "pooler" not in key):  # would be random; the pooler is not read
        hint = f"its safetensors should have {CLASSES[kind]}'s {missing[0]}, and {len(missing) - 1} others that are missing"
        raise TheseusError(f"the text encoder's weights are not all there: {source}", hint=hint)
    return words, network


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:160]
