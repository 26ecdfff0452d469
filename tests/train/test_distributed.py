"""Two gloo processes, as torchrun starts them, against one process with the same global batch."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from test_resume import finish, outcome, steps_logged, wait_for_step
from torch import Tensor
from train_toys import Ranks, Start, make, trainer

from theseus_core.contracts import Trainable
from theseus_core.errors import TheseusError
from theseus_core.train import distributed
from theseus_core.train.checkpoint import PARTS, newest_checkpoint
from theseus_core.train.journal import read_journal

WISHES: dict[str, Any] = {"noise": 0.0, "accumulate": 2, "evaluate_every": 3, "best": "sum"}
CASES = [("ddp", "toy", "muon"), ("fsdp", "toy", "muon"), ("ddp", "gan", "adamw"), ("fsdp", "toy", "adamw8bit")]


def everything(folder: Path) -> dict[str, Tensor]:
    saved = newest_checkpoint(folder / "checkpoints")
    assert saved is not None
    return {f"{part}/{name}": tensor for part in PARTS for name, tensor in saved.tensors(part).items()}


@pytest.mark.parametrize(("kind", "family", "optimizer"), CASES[:3])
def test_two_ranks_are_one_process(kind: str, family: str, optimizer: str, tmp_path: Path, start: Start, two_ranks: Ranks) -> None:
    wishes = {**WISHES, "family": family, "optimizer": optimizer}
    assert finish(start(tmp_path / "one", **wishes)) == 0
    ranks = two_ranks(tmp_path / "two", **wishes, distributed=kind)
    assert [finish(process) for process in ranks] == [0, 0]
    one, two = everything(tmp_path / "one"), everything(tmp_path / "two")
    assert one.keys() == two.keys()
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=1e-4, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")
    for ours, theirs in zip(
        read_journal(tmp_path / "two/metrics.jsonl"), read_journal(tmp_path / "one/metrics.jsonl"), strict=True
    ):
        for key in (key for key in theirs if key.endswith(("loss", "grad_norm"))):
            assert ours[key] == pytest.approx(theirs[key], rel=1e-4), (theirs["step"], key)


def test_two_ranks_end_by_one_clock(tmp_path: Path, two_ranks: Ranks) -> None:
    ranks = two_ranks(tmp_path / "run", steps=1000, minutes=1e-9, schedule="constant", checkpoint_every=1000)
    assert [finish(process) for process in ranks] == [0, 0]
    assert steps_logged(tmp_path / "run") == 1


@pytest.mark.parametrize(("kind", "family", "optimizer"), [CASES[0], CASES[1]])
def test_two_killed_ranks_end_bit_identical(
    kind: str, family: str, optimizer: str, tmp_path: Path, start: Start, two_ranks: Ranks
) -> None:
    wishes = {**WISHES, "family": family, "optimizer": optimizer, "noise": 0.1, "steps": 12, "distributed": kind}
    assert [finish(process) for process in two_ranks(tmp_path / "whole", **wishes)] == [0, 0]
    ranks = two_ranks(tmp_path / "killed", **wishes, stall=11)
    wait_for_step(tmp_path / "killed", 6, ranks[0])
    for process in ranks:
        process.kill()
    assert [finish(process) for process in ranks] == [-signal.SIGKILL] * 2
    assert 6 <= steps_logged(tmp_path / "killed") < 12
    assert [finish(process) for process in two_ranks(tmp_path / "killed", **wishes)] == [0, 0]
    assert outcome(tmp_path / "killed") == outcome(tmp_path / "whole")


def test_a_sharded_run_goes_on_in_one_process(tmp_path: Path, start: Start, two_ranks: Ranks) -> None:
    """A checkpoint is whole, whatever wrote it."""
    wishes = {**WISHES, "optimizer": "adamw"}
    ranks = two_ranks(tmp_path / "moved", **wishes, steps=6, distributed="fsdp", schedule="constant")
    assert [finish(process) for process in ranks] == [0, 0]
    for folder in ("moved", "one"):
        assert finish(start(tmp_path / folder, **wishes, steps=8, schedule="constant")) == 0
    one, moved = everything(tmp_path / "one"), everything(tmp_path / "moved")
    for name in one:
        torch.testing.assert_close(moved[name], one[name], rtol=1e-4, atol=1e-6)


def test_fsdp_refuses_several_phases(tmp_path: Path, two_ranks: Ranks) -> None:
    ranks = two_ranks(tmp_path / "run", **WISHES, family="gan", distributed="fsdp")
    assert [finish(process) for process in ranks] == [1, 1]
    assert (tmp_path / "run.error").read_text() == "fsdp trains families with one phase, not: discriminator, generator"


def test_a_rank_that_is_asked_to_stop_takes_the_other_along(tmp_path: Path, two_ranks: Ranks) -> None:
    ranks = two_ranks(tmp_path / "run", **{**WISHES, "steps": 1000, "evaluate_every": 0}, pause=0.05)
    wait_for_step(tmp_path / "run", 2, ranks[1])
    assert ranks[1].pid is not None
    os.kill(ranks[1].pid, signal.SIGTERM)
    assert [finish(process) for process in ranks] == [1, 1]
    assert (tmp_path / "run.error").read_text().startswith(f"stopped on request after step {saved_step(tmp_path / 'run')} of 1000")


def saved_step(folder: Path) -> int:
    saved = newest_checkpoint(folder / "checkpoints")
    assert saved is not None
    return saved.step


def test_only_several_phases_are_searched_for_unused_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    searched: list[bool] = []

    def wrapped(model: Trainable, find_unused_parameters: bool) -> Trainable:
        searched.append(find_unused_parameters)
        return model

    monkeypatch.setattr(distributed, "DistributedDataParallel", wrapped)
    for family in ("toy", "gan"):
        distributed.wrap(make(family), distributed.World(size=2, kind="ddp"), torch.device("cpu"))
    assert searched == [False, True]


def test_gradients_reach_ddp_in_the_strides_of_their_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """An axis of length 1 may have any stride, and convolutions give another than DDP expects."""
    monkeypatch.setattr(distributed, "DistributedDataParallel", lambda model, find_unused_parameters: model)
    model = make("toy")
    distributed.wrap(model, distributed.World(size=2, kind="ddp"), torch.device("cpu"))
    weight = model.get_parameter("near.weight")
    seen: list[Tensor] = []
    weight.register_hook(seen.append)  # called after those that are there
    weight.backward(torch.arange(27.0).as_strided((3, 1, 3, 3), (9, 1, 3, 1)))
    assert seen[0].stride() == weight.stride() == (9, 9, 3, 1)
    assert torch.equal(seen[0].flatten(), torch.arange(27.0))


def test_ranks_exchange_scalars_once_a_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The request to stop goes along with the losses."""
    sizes: list[int] = []

    def mean(values: Tensor, world: distributed.World) -> Tensor:
        sizes.append(values.numel())
        return values

    monkeypatch.setattr(distributed, "mean_over_ranks", mean)
    trainer(tmp_path, steps=4).fit()
    assert sizes == [3] * 4  # loss, size, and whether to stop


def test_distributed_without_torchrun_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TheseusError, match=r"not started by torchrun.*: fsdp") as caught:
        trainer(tmp_path, distributed="fsdp")
    assert "torchrun" in str(caught.value.hint)


def test_a_batch_that_does_not_divide_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "3"), ("LOCAL_RANK", "0")):
        monkeypatch.setenv(name, value)
    with pytest.raises(TheseusError, match="does not divide over 3 ranks x 2 micro-steps: 8") as caught:
        trainer(tmp_path, accumulate=2, batch_size=8)
    assert "--batch-size 6" in str(caught.value.hint)
