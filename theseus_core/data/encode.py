"""Latents or codes, and text embeddings, computed once and kept in the dataset's `cache/`.

A cache folder is named by the hash of all that its content depends on: the clips, the encoder's weights and settings. Another
dataset, another encoder or another precision has another folder, so what is read is never stale.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from theseus_core.ahead import ahead
from theseus_core.config import dump
from theseus_core.contracts import Batch, Progress, Text, TextEncoder, VideoTokenizer
from theseus_core.data.loader import Draw, digest, window, window_starts
from theseus_core.data.shards import Clips, Frames
from theseus_core.device import autocast
from theseus_core.errors import TheseusError
from theseus_core.files import replacing

CLIPS_PER_FILE = 256
CAPTIONS_PER_FILE = 4096
READERS = 2  # threads that read, or draw, clips while others are encoded


def weights_hash(module: nn.Module) -> str:
    """A hash of every weight and of its name."""
    total = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        total.update(name.encode() + str(tensor.dtype).encode() + str(tuple(tensor.shape)).encode())
        total.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()[:16]


def described(module: Any) -> list[object]:
    """What decides the output of an encoder: its family, its settings and its weights."""
    return [type(module).__module__, dump(module.config), weights_hash(module)]


class LatentCache:
    """The latents of every clip's windows.

    Args:
        frames: T, the length of a window.
        windows: windows per clip, at most, spread evenly over it.
        device, dtype: where and in what precision to encode, where that is still to be done.
        progress: called with (files of the cache done, in all).
    """

    def __init__(
        self,
        dataset: Clips,
        tokenizer: VideoTokenizer,
        frames: int,
        windows: int,
        device: torch.device,
        dtype: torch.dtype,
        progress: Progress | None = None,
    ) -> None:
        self.dataset, self.tokenizer, self.frames, self.windows = dataset, tokenizer, frames, windows
        self.image_scale = tokenizer.image_scale
        what = ("latents", 1, dataset.fingerprint, described(tokenizer), frames, windows)
        self.fingerprint = digest(*what)  # the same training may go on where another precision is fast
        self.folder = dataset.path / "cache" / digest(*what, str(dtype))
        with _alone(self.folder):
            self._encode(device, dtype, progress)

    def read(self, clip: int, which: float) -> Tensor:
        """(Z, t, h, w) of a window of a clip, codes as int64; `which` in [0, 1) chooses it."""
        path = self._path(clip // CLIPS_PER_FILE)
        try:
            with safe_open(path, "pt") as file:  # mapped: what is not asked for is not read
                latents: Tensor = file.get_slice(str(clip))[:]
        except (SafetensorError, OSError) as error:
            raise TheseusError(f"damaged cache of latents: {path}", hint=f"remove it: rm -r {self.folder}") from error
        chosen = latents[int(which * len(latents))]
        return chosen.float() if chosen.is_floating_point() else chosen.long()

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:05d}.safetensors"

    def _encode(self, device: torch.device, dtype: torch.dtype, progress: Progress | None) -> None:
        tokenizer = self.tokenizer.eval()
        total = -(-len(self.dataset) // CLIPS_PER_FILE)
        for number in range(total):
            if not self._path(number).exists():
                tokenizer.to(device)  # not before there is something to do
                begin = number * CLIPS_PER_FILE
                clips = range(begin, min(begin + CLIPS_PER_FILE, len(self.dataset)))
                with torch.no_grad(), autocast(device, dtype), ahead(self.dataset.read, clips, 2 * READERS, READERS) as read:
                    latents = [self._latents(tokenizer, each.frames, device) for each in read]
                encoded = {str(clip): each for clip, each in zip(clips, latents, strict=True)}
                _write(encoded, self._path(number))
            if progress is not None:
                progress(number + 1, total)

    def _latents(self, tokenizer: VideoTokenizer, frames: Frames, device: torch.device) -> Tensor:
        """(windows, Z, t, h, w) of a clip in half precision or 32 bits, one window after the other: memory stays small."""
        starts = window_starts(len(frames), self.frames, self.windows)
        parts = [tokenizer.encode(window(frames, self.frames, start)[None].to(device)) for start in starts]
        latents = torch.cat(parts)
        return latents.to(torch.half if latents.is_floating_point() else torch.int32).cpu().contiguous()


class Pixels:
    """The clips' windows as they are, for generators that make pixels; on disk nothing is kept.

    Args:
        frames: T, the length of a window.
        windows: windows per clip, at most, spread evenly over it.
        room: bytes of memory for clips that were read: it takes longer to draw or to unpack one than to learn from it.
    """

    def __init__(self, dataset: Clips, frames: int, windows: int, room: int = 2 * 2**30) -> None:
        self.dataset, self.frames, self.windows, self.room = dataset, frames, windows, room
        self.image_scale = 1.0
        self.fingerprint = digest("pixels", dataset.fingerprint, frames, windows)
        self._kept: dict[int, Frames] = {}

    def read(self, clip: int, which: float) -> Tensor:
        """(3, T, H, W) in [-1, 1] of a window of a clip; `which` in [0, 1) chooses it."""
        frames = self._frames(clip)
        starts = window_starts(len(frames), self.frames, self.windows)
        return window(frames, self.frames, starts[int(which * len(starts))])

    def _frames(self, clip: int) -> Frames:
        """Those that are read first stay: clips come in another order every epoch, and which ones stay is all the same."""
        kept = self._kept.get(clip)
        if kept is not None:
            return kept
        frames = self.dataset.read(clip).frames
        if self.room >= frames.nbytes:  # two threads may both take the last of it, or read the same clip: no harm
            self.room -= frames.nbytes
            self._kept[clip] = frames
        return frames


class CaptionCache:
    """The embeddings of captions by a frozen text encoder, in half precision."""

    def __init__(
        self,
        folder: Path,
        captions: Sequence[str],
        encoder: TextEncoder,
        device: torch.device,
        dtype: torch.dtype,
        progress: Progress | None = None,
    ) -> None:
        self.numbers = {caption: number for number, caption in enumerate(dict.fromkeys(captions))}
        self.encoder = encoder
        what = ("text", 1, list(self.numbers), described(encoder), _tokens_hash(encoder, list(self.numbers)))
        self.fingerprint = digest(*what)
        self.folder = folder / "cache" / digest(*what, str(dtype))
        with _alone(self.folder):
            self._encode(device, dtype, progress)

    def read(self, captions: Sequence[str]) -> Text:
        """Text with embeddings (B, L, E) of captions that were given when the cache was made."""
        rows = [self._row(self.numbers[caption]) for caption in captions]
        embeddings, masks = zip(*rows, strict=True)
        return Text(mask=torch.stack(masks), embeddings=torch.stack(embeddings).float())

    def _row(self, number: int) -> tuple[Tensor, Tensor]:
        path = self._path(number // CAPTIONS_PER_FILE)
        try:
            with safe_open(path, "pt") as file:
                row = number % CAPTIONS_PER_FILE
                return file.get_slice("embeddings")[row], file.get_slice("mask")[row].bool()
        except (SafetensorError, OSError) as error:
            raise TheseusError(f"damaged cache of text: {path}", hint=f"remove it: rm -r {self.folder}") from error

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:05d}.safetensors"

    def _encode(self, device: torch.device, dtype: torch.dtype, progress: Progress | None) -> None:
        encoder = self.encoder.eval()
        captions = list(self.numbers)
        total = -(-len(captions) // CAPTIONS_PER_FILE)
        for number in range(total):
            if not self._path(number).exists():
                some = captions[number * CAPTIONS_PER_FILE :][:CAPTIONS_PER_FILE]
                encoder.to(device)
                with torch.no_grad(), autocast(device, dtype):
                    _write(_embedded(encoder, some), self._path(number))
            if progress is not None:
                progress(number + 1, total)


def _tokens_hash(encoder: TextEncoder, captions: Sequence[str], at_once: int = 1024) -> str:
    """Of the tokens of all captions: two tokenizers may stand before equal weights."""
    total = hashlib.sha256()
    for i in range(0, len(captions), at_once):
        ids = encoder.tokenize(captions[i : i + at_once]).ids
        assert ids is not None
        total.update(ids.numpy().tobytes())
    return total.hexdigest()[:16]


def _embedded(encoder: TextEncoder, captions: Sequence[str], at_once: int = 32) -> dict[str, Tensor]:
    texts = [encoder.encode(captions[i : i + at_once]) for i in range(0, len(captions), at_once)]
    embeddings = torch.cat([text.embeddings for text in texts if text.embeddings is not None])
    return {"embeddings": embeddings.half().cpu(), "mask": torch.cat([text.mask.cpu() for text in texts]).to(torch.uint8)}


def _alone(folder: Path) -> FileLock:
    """One process fills a cache folder, be it a rank or another run; the others wait, and find it filled."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".lock").touch()
    except OSError as error:
        raise TheseusError(f"cannot write the cache: {folder}", hint=error.strerror) from error
    return FileLock(folder / ".lock")


def _write(tensors: dict[str, Tensor], path: Path) -> None:
    with replacing(path) as part:
        save_file(tensors, part)


class LatentSource:
    """Batches of latents with their text, for a generator; of pixels in their place where it makes these.

    Args:
        words: captions to text: a trained-along encoder's `tokenize`, or a cache's `read`.
        words_fingerprint: of what `words` gives.
        caption_dropout: the share of captions replaced by "", which classifier-free guidance needs.
    """

    def __init__(
        self,
        latents: LatentCache | Pixels,
        draw: Draw,
        words: Callable[[Sequence[str]], Text],
        words_fingerprint: str,
        caption_dropout: float,
    ) -> None:
        self.latents, self.draw, self.words, self.caption_dropout = latents, draw, words, caption_dropout
        self.fingerprint = digest(latents.fingerprint, *draw.decided_by, words_fingerprint, caption_dropout)

    def batch(self, step: int, micro: int, rank: int, world: int) -> Batch:
        """Latents (B, Z, t, h, w) and text."""
        places = self.draw.places(step, micro, rank, world)
        latents = torch.stack([self.latents.read(clip, random.random()) for clip, random in places])
        captions = [self._caption(clip, random) for clip, random in places]
        return self._batch(latents, captions)

    def _batch(self, latents: Tensor, captions: Sequence[str]) -> Batch:
        text = self.words(captions).trimmed()
        return Batch(latents=latents, text=text, captions=captions, image_scale=self.latents.image_scale)

    def _caption(self, clip: int, random: np.random.Generator) -> str:
        captions = self.latents.dataset.records[clip].captions
        chosen = captions[random.integers(len(captions))]
        return "" if random.random() < self.caption_dropout else chosen

    def held_out(self, clips: Sequence[int], size: int) -> Iterator[Batch]:
        """Batches of the first window and caption of each clip, none dropped."""
        for i in range(0, len(clips), size):
            some = clips[i : i + size]
            captions = [self.latents.dataset.records[clip].captions[0] for clip in some]
            latents = torch.stack([self.latents.read(clip, 0.0) for clip in some])
            yield self._batch(latents, captions)
