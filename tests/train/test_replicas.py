"""Replicas: two ranks that train alone and are averaged are what is written out here by hand, and survive being killed."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_distributed import everything
from test_resume import finish, outcome, steps_logged, wait_for_step
from torch import Tensor, nn
from train_toys import Clips, Ranks, make, settings

from theseus_core.contracts import Batch
from theseus_core.data.clip import Clip
from theseus_core.data.loader import ReplicaDraw, VideoSource
from theseus_core.data.shards import Dataset
from theseus_core.data.writer import write_dataset
from theseus_core.errors import TheseusError
from theseus_core.registry import build
from theseus_core.train.config import TrainConfig
from theseus_core.train.distributed import find_world
from theseus_core.train.replicas import Merges, draw_of, in_processes

PLAIN: dict[str, Any] = {"schedule": "constant", "warmup": 0, "clip": 0.0, "weight_decay": 0.0, "noise": 0.0}
WISHES: dict[str, Any] = {"replicas": 2, "merge_every": 3, "last_pass": 2, "steps": 9, "checkpoint_every": 1, "keep": 9}


class ByHand:
    """A replica of the toy as anyone would write it."""

    def __init__(self, rank: int) -> None:
        self.rank, self.model = rank, make("toy", 0.0)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-2, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
        self.average = [p.detach().clone() for p in self.model.parameters()]

    def backward(self, step: int) -> None:
        self.optimizer.zero_grad()
        batch = Clips(8).batch(step, 0, self.rank, 2)
        self.model.losses(batch, "model")["loss"].backward()  # type: ignore[no-untyped-call]

    def update(self, step: int) -> None:
        self.optimizer.step()
        decay = min(0.9, (1 + step) / (10 + step))
        for average, p in zip(self.average, self.model.parameters(), strict=True):
            average.mul_(decay).add_(p.detach(), alpha=1 - decay)

    def tensors(self) -> list[Tensor]:
        state = self.optimizer.state
        moments = [state[p][key] for p in self.model.parameters() for key in ("exp_avg", "exp_avg_sq")]
        return [*(p.data for p in self.model.parameters()), *moments, *self.average]


def mean(one: list[Tensor], other: list[Tensor]) -> None:
    for a, b in zip(one, other, strict=True):
        middle = (a + b) / 2
        a.copy_(middle)
        b.copy_(middle)


def gradients(model: nn.Module) -> list[Tensor]:
    return [p.grad for p in model.parameters() if p.grad is not None]


def test_two_replicas_are_an_average_written_by_hand(tmp_path: Path, two_ranks: Ranks) -> None:
    one, other = ByHand(0), ByHand(1)
    for step in range(9):
        one.backward(step)
        other.backward(step)
        if step >= 7:  # the last pass
            mean(gradients(one.model), gradients(other.model))
        one.update(step)
        other.update(step)
        if step + 1 in (3, 6, 7):
            mean(one.tensors(), other.tensors())
    assert [finish(process) for process in two_ranks(tmp_path / "run", **WISHES, **PLAIN)] == [0, 0]
    saved = everything(tmp_path / "run")
    for (name, parameter), average in zip(one.model.named_parameters(), one.average, strict=True):
        torch.testing.assert_close(saved[f"model/{name}"], parameter.detach(), rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(saved[f"ema/{name}"], average, rtol=1e-4, atol=1e-6)
    names = {path.name for path in (tmp_path / "run/checkpoints").iterdir()}
    assert names == {f"step-{step:06d}" for step in (3, 6, 7, 8, 9)}  # only where the replicas are one


def test_killed_replicas_end_bit_identical(tmp_path: Path, two_ranks: Ranks) -> None:
    wishes = {**WISHES, "optimizer": "muon", "steps": 12, "last_pass": 4, "keep": 2, "accumulate": 2, "evaluate_every": 5}
    assert [finish(process) for process in two_ranks(tmp_path / "whole", **wishes)] == [0, 0]
    for goal in (4, 10):  # between two merges, and in the last pass
        ranks = two_ranks(tmp_path / "killed", **wishes, stall=11)
        wait_for_step(tmp_path / "killed", goal, ranks[0])
        for process in ranks:
            process.kill()
        assert [finish(process) for process in ranks] == [-signal.SIGKILL] * 2
        assert goal <= steps_logged(tmp_path / "killed") < 12
    assert [finish(process) for process in two_ranks(tmp_path / "killed", **wishes)] == [0, 0]
    assert outcome(tmp_path / "killed") == outcome(tmp_path / "whole")


def test_replicas_that_are_asked_to_stop_say_what_is_saved(tmp_path: Path, two_ranks: Ranks) -> None:
    ranks = two_ranks(tmp_path / "run", **{**WISHES, "steps": 1000, "merge_every": 400}, pause=0.05)
    wait_for_step(tmp_path / "run", 2, ranks[1])
    assert ranks[1].pid is not None
    os.kill(ranks[1].pid, signal.SIGTERM)
    assert [finish(process) for process in ranks] == [1, 1]
    assert "of 1000, of which 0 are saved in" in (tmp_path / "run.error").read_text()


def test_when_replicas_are_one() -> None:
    merges = Merges(every=4, until=10)
    assert [step for step in range(15) if merges.merged(step)] == [0, 4, 8, 10]
    assert [step for step in range(15) if merges.alone(step)] == list(range(10))
    assert [step for step in range(1, 20) if merges.due(step, 3)] == [4, 8, 10, 12, 15, 18]
    assert [step for step in range(1, 20) if merges.due(step, 100)] == []
    assert [step for step in range(1, 20) if Merges().due(step, 3)] == [3, 6, 9, 12, 15, 18]
    assert not any(Merges().merged(step) for step in range(1, 20))


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    clips = [Clip(np.full((3, 8, 8, 3), i, np.uint8), 8.0, f"clip {i}") for i in range(14)]
    return write_dataset(tmp_path / "dataset", clips, {"size": [8, 8]}, chunk_size=3)


def test_each_replica_draws_from_its_own_chunks_and_at_last_all_from_all(dataset: Dataset) -> None:
    config = TrainConfig(steps=16, batch_size=4, replicas=2, last_pass=4)
    draw = draw_of(dataset, range(1, 14), config)
    assert isinstance(draw, ReplicaDraw)
    assert draw.own == (((1, 2), (6, 7, 8), (12, 13)), ((3, 4, 5), (9, 10, 11)))  # chunks 0, 2, 4 and 1, 3
    for rank, own in enumerate(draw.own):
        drawn = iter([clip for step in range(12) for clip, _ in draw.places(step, 0, rank, 2)])
        epochs = [[[next(drawn) for _ in chunk] for chunk in own] for _ in range(3)]
        assert all(sorted(clips) == list(chunk) for epoch in epochs for clips, chunk in zip(epoch, own, strict=True))
        assert epochs[0] != epochs[1] or epochs[1] != epochs[2]
    last = [clip for step in range(12, 16) for rank in range(2) for clip, _ in draw.places(step, 0, rank, 2)]
    assert set(last[:13]) == set(range(1, 14))
    random = [generator.random() for step in (0, 12) for rank in range(2) for _, generator in draw.places(step, 0, rank, 2)]
    assert len(set(random)) == len(random)


def test_fewer_chunks_than_replicas_are_refused(dataset: Dataset) -> None:
    with pytest.raises(TheseusError, match=r"6 replicas need a chunk of clips each, .*: 5$") as caught:
        draw_of(dataset, range(14), TrainConfig(replicas=6))
    assert "--chunk-size 3" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"replicas": 2, "distributed": "fsdp"}, "replicas are not fsdp"),
        ({"replicas": 2, "optimizer": "adamw8bit"}, "no average"),
        ({"merge_every": 7}, "only with replicas"),
        ({"last_pass": 7}, "only with replicas"),
        ({"replicas": 2, "steps": 5, "last_pass": 5}, "below the steps in all: 5"),
    ],
)
def test_settings_that_contradict_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        settings(**changes)


def test_there_must_be_as_many_ranks_as_replicas(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TheseusError, match="2 replicas need as many ranks, not: 1"):
        find_world(replicas=2)
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "3")):
        monkeypatch.setenv(name, value)
    with pytest.raises(TheseusError, match="2 replicas need as many ranks, not: 3"):
        find_world(replicas=2)
    assert find_world(replicas=3).kind == "replicas"


@pytest.mark.parametrize("together", [True, False])
def test_a_codebook_that_learns_alone_asks_no_other_rank(together: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Tensor] = []
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    monkeypatch.setattr("torch.distributed.all_reduce", asked.append)
    monkeypatch.setattr("torch.distributed.broadcast", lambda tensor, src: asked.append(tensor))
    model = build("tokenizers", "vqvae", "debug").train()
    model.set_together(together)
    model.losses(Batch(video=torch.rand(2, 3, 2, 16, 16)), "model")
    model.after_step()
    assert bool(asked) == together


def rank_of(what: str) -> str:
    """The work of a process, for the test below."""
    rank = os.environ["RANK"]
    if what == "refuse" and rank == "1":
        raise TheseusError("there is no second: 1", hint="take one")
    if what == "die" and rank == "1":
        os.kill(os.getpid(), signal.SIGKILL)
    return what


def test_what_goes_wrong_in_a_process_is_said() -> None:
    with pytest.raises(TheseusError, match="there is no second: 1") as caught:
        in_processes(2, rank_of, "refuse")
    assert caught.value.hint == "take one"
    with pytest.raises(TheseusError, match="a replica was killed: SIGKILL"):
        in_processes(2, rank_of, "die")
    assert "RANK" not in os.environ


def test_other_chunks_are_another_dataset(tmp_path: Path) -> None:
    clips = [Clip(np.full((4, 8, 8, 3), 20 * i, np.uint8), 8.0, "a wall") for i in range(12)]
    found = set()
    for size in (6, 3):
        dataset = write_dataset(tmp_path / str(size), clips, {"size": [8, 8]}, chunk_size=size)
        draw = draw_of(dataset, range(12), TrainConfig.model_validate({"batch_size": 4, **WISHES}))
        assert isinstance(draw, ReplicaDraw)
        found.add(VideoSource(dataset, draw, 4).fingerprint)
    assert len(found) == 2
