"""Generators that make pixels: their tokenizer does nothing, and their clips come straight from the dataset."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from theseus_core.data.clip import Clip
from theseus_core.data.encode import LatentSource, Pixels
from theseus_core.data.loader import Draw
from theseus_core.data.shards import Clips
from theseus_core.data.sources.world import Drawn, WorldClips
from theseus_core.data.writer import write_dataset
from theseus_core.errors import TheseusError
from theseus_core.pipeline import to_video
from theseus_core.registry import build
from theseus_core.text import builtin
from theseus_core.train.runs import configure_run
from theseus_core.train.tokenizer import train_tokenizer


@pytest.fixture
def dataset(tmp_path: Path) -> Clips:
    rng = np.random.default_rng(0)
    clips = [Clip(rng.integers(0, 255, (6, 16, 16, 3), dtype=np.uint8), 8.0, f"noise {i}") for i in range(4)]
    return write_dataset(tmp_path / "dataset", clips, {"size": [16, 16]})


class Counting:
    """Clips that count how often each is read."""

    def __init__(self, clips: Clips) -> None:
        self.clips, self.path, self.fingerprint, self.records = clips, clips.path, clips.fingerprint, clips.records
        self.reads: list[int] = []

    def __len__(self) -> int:
        return len(self.clips)

    def read(self, index: int) -> Clip:
        self.reads.append(index)
        return self.clips.read(index)


def test_the_tokenizer_changes_nothing_and_takes_any_size() -> None:
    pixels, video = build("tokenizers", "pixels"), torch.rand(2, 3, 5, 7, 9)
    assert torch.equal(pixels.encode(video), video) and torch.equal(pixels.decode(video, chunk=1), video)
    pixels.check_size(2, 3, 5)
    with pytest.raises(TheseusError, match="multiples of 8"):
        pixels.check_size(2, 8, 12, patch=8)


def test_windows_are_those_of_the_clips(dataset: Clips) -> None:
    pixels = Pixels(dataset, frames=3, windows=2)
    whole = to_video(dataset.read(2).frames)
    assert torch.equal(pixels.read(2, 0.0), whole[:, :3])
    assert torch.equal(pixels.read(2, 0.9), whole[:, 3:])
    assert pixels.fingerprint != Pixels(dataset, frames=3, windows=1).fingerprint


def test_clips_are_read_again_only_where_memory_is_short(dataset: Clips) -> None:
    counted = Counting(dataset)
    pixels = Pixels(counted, frames=6, windows=1, room=2 * 6 * 16 * 16 * 3)
    twice = [[pixels.read(clip, 0.0) for clip in range(4)] for _ in range(2)]
    assert counted.reads == [0, 1, 2, 3, 2, 3]
    assert all(torch.equal(first, second) for first, second in zip(*twice, strict=True))


def test_batches_bring_pixels_and_words(dataset: Clips) -> None:
    encoder = builtin.Model(builtin.Config(vocabulary=("noise", "0", "1", "2", "3")))
    draw = Draw((0, 1, 2, 3), batch_size=4, accumulate=1, seed=0)
    source = LatentSource(Pixels(dataset, 5, 1), draw, encoder.tokenize, "words", caption_dropout=0.0)
    batch = source.batch(0, 0, 0, 1)
    assert batch.latents is not None and batch.latents.shape == (4, 3, 5, 16, 16)
    assert batch.text is not None and batch.text.ids is not None
    for video, caption in zip(batch.latents, batch.captions, strict=True):
        assert torch.equal(video, to_video(dataset.read(int(caption.split()[1])).frames)[:, :5])


def test_clips_of_the_world_are_drawn_once(tmp_path: Path) -> None:
    clips = WorldClips(Drawn(clips=2, height=16, width=16), tmp_path / "run")
    counted = Counting(clips)
    pixels = Pixels(counted, frames=17, windows=1)
    assert torch.equal(pixels.read(1, 0.0), pixels.read(1, 0.5))
    assert counted.reads == [1]
    assert not (tmp_path / "run").exists()


def test_pixels_are_not_trained(dataset: Clips, tmp_path: Path) -> None:
    run = configure_run("vae", "debug", {"family": "pixels"})
    with pytest.raises(TheseusError, match="has nothing to train: pixels"):
        train_tokenizer(run, dataset.path, tmp_path / "run")
