"""A training that ends by the clock: which step is its last, what it keeps, and how it goes on."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from train_toys import Clips, trainer

from theseus_core.contracts import Batch
from theseus_core.errors import TheseusError
from theseus_core.train import trainer as module
from theseus_core.train.checkpoint import newest_checkpoint
from theseus_core.train.journal import read_journal
from theseus_core.train.runs import configure_run

THREE_STEPS = 0.1  # minutes, at the two seconds that a step takes by the clock below
CONSTANT: dict[str, Any] = {"schedule": "constant", "warmup": 0, "checkpoint_every": 100}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two looks at it a second goes by: a step looks three times."""
    seconds = count()
    monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: float(next(seconds))))


def last_step(folder: Path) -> int:
    saved = newest_checkpoint(folder / "checkpoints")
    assert saved is not None
    return saved.step


@pytest.mark.usefixtures("clock")
def test_it_ends_with_the_step_in_which_the_minutes_are_spent(tmp_path: Path) -> None:
    run = trainer(tmp_path / "minutes", steps=1000, minutes=THREE_STEPS, **CONSTANT)
    notes: list[str] = []
    run.note = notes.append
    model = run.fit()
    assert (run.step, run.elapsed, last_step(tmp_path / "minutes")) == (3, 6.0, 3)
    assert "ended after step 3: 0.1 minutes of training are spent" in notes[-1]
    lines = read_journal(tmp_path / "minutes/metrics.jsonl")
    assert [line["seconds"] for line in lines if "seconds" in line] == [4.0, 6.0]
    assert lines[-1]["step"] == 3 and "eval/sum" in lines[-1]
    steps = trainer(tmp_path / "steps", steps=3, **CONSTANT).fit()
    for name, tensor in steps.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name]), name


@pytest.mark.usefixtures("clock")
def test_steps_may_end_before_the_minutes_do(tmp_path: Path) -> None:
    notes: list[str] = []
    run = trainer(tmp_path, steps=2, minutes=THREE_STEPS, **CONSTANT)
    run.note = notes.append
    run.fit()
    assert (last_step(tmp_path), notes) == (2, [])


@pytest.mark.usefixtures("clock")
def test_another_start_does_no_more_and_more_minutes_go_on(tmp_path: Path) -> None:
    for minutes, step in ((THREE_STEPS, 3), (THREE_STEPS, 3), (2 * THREE_STEPS, 6)):
        run = trainer(tmp_path, steps=1000, minutes=minutes, **CONSTANT)
        run.fit()
        assert (run.step, last_step(tmp_path)) == (step, step)
    evaluated = [line["step"] for line in read_journal(tmp_path / "metrics.jsonl") if "eval/sum" in line]
    assert evaluated == [3, 6]


class Failing(Clips):
    def batch(self, step: int, micro: int, rank: int, world: int) -> Batch:
        if step == 2:
            raise TheseusError("a damaged chunk: chunk-000.bin")
        return super().batch(step, micro, rank, world)


@pytest.mark.usefixtures("clock")
def test_minutes_count_over_all_starts(tmp_path: Path) -> None:
    settings = {**CONSTANT, "steps": 1000, "minutes": THREE_STEPS, "checkpoint_every": 1}
    with pytest.raises(TheseusError, match="a damaged chunk"):
        trainer(tmp_path, source=Failing(8), **settings).fit()
    assert last_step(tmp_path) == 2
    run = trainer(tmp_path, **settings)
    run.fit()
    assert (run.step, run.elapsed) == (3, 6.0)


def test_other_schedules_are_refused() -> None:
    with pytest.raises(TheseusError, match=r"train.minutes: the other schedules go by `steps`") as error:
        configure_run("transformer", "tiny", {"train": {"minutes": 5}})
    assert "no second run of it ends with the same" in str(error.value.hint)
    assert configure_run("transformer", "shapes", {"train": {"minutes": 5}}).train.minutes == 5
