"""A training that was killed ends bit-identical to one that was not, and a run folder goes on only with its own settings."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from train_toys import Clips, Start, make, settings, trainer

from theseus_core.errors import TheseusError
from theseus_core.train import trainer as trainer_module
from theseus_core.train.checkpoint import newest_checkpoint
from theseus_core.train.journal import TIMES, read_journal, without_times
from theseus_core.train.trainer import Trainer

STEPS = 24
WISHES: dict[str, Any] = {
    "steps": STEPS,
    "accumulate": 2,
    "optimizer": "muon",
    "checkpoint_every": 3,
    "log_every": 2,
    "evaluate_every": 5,
}


def outcome(folder: Path) -> dict[str, Any]:
    """Everything that a run leaves, but what a clock says: hashes of the tensors, the state, the journal."""
    last = newest_checkpoint(folder / "checkpoints")
    assert last is not None
    state = {key: value for key, value in last.state.items() if key != "elapsed"}
    state["window"]["sums"] = {key: value for key, value in state["window"]["sums"].items() if key not in TIMES}
    files = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in last.path.glob("*.safetensors")}
    kept = sorted(path.name for path in (folder / "checkpoints").iterdir())
    return {"state": state, "files": files, "kept": kept, "journal": [without_times(line) for line in journal(folder)]}


def journal(folder: Path) -> list[dict[str, Any]]:
    path = folder / "metrics.jsonl"
    return read_journal(path) if path.exists() else []


def steps_logged(folder: Path) -> int:
    lines = journal(folder)
    return int(lines[-1]["step"]) if lines else -1


def finish(process: BaseProcess) -> int | None:
    process.join(300)
    return process.exitcode


def wait_for_step(folder: Path, step: int, process: BaseProcess) -> None:
    deadline = time.monotonic() + 120
    while steps_logged(folder) < step and process.is_alive():
        assert time.monotonic() < deadline, f"step {step} does not come"
        time.sleep(0.002)


@pytest.mark.parametrize(
    "wishes",
    [
        {"family": "toy", "dtype": "bf16", "threads": 2},
        {"family": "gan", "dtype": "fp32"},
        {"family": "toy", "optimizer": "adamw8bit"},
    ],
    ids=["transformer-bf16", "two-phases", "adamw8bit"],
)
def test_killed_at_random_moments_ends_bit_identical(wishes: dict[str, Any], tmp_path: Path, start: Start) -> None:
    assert finish(start(tmp_path / "whole", **{**WISHES, **wishes})) == 0
    moments, kills = random.Random(repr(wishes)), 0
    for goal in [0, *sorted(moments.sample(range(2, STEPS - 4, 2), 3))]:
        process = start(tmp_path / "killed", **{**WISHES, **wishes, "pause": 0.01, "stall": STEPS - 1})
        wait_for_step(tmp_path / "killed", goal, process)
        time.sleep(moments.uniform(0, 0.05))
        process.kill()
        kills += finish(process) == -signal.SIGKILL
    assert kills == 4
    assert finish(start(tmp_path / "killed", **{**WISHES, **wishes})) == 0
    assert outcome(tmp_path / "killed") == outcome(tmp_path / "whole")


@pytest.mark.parametrize("best", ["", "sum"])
def test_killed_in_an_evaluation_does_it_again(best: str, tmp_path: Path, start: Start) -> None:
    wishes = {**WISHES, "steps": 12, "best": best, "keep": 1}
    assert finish(start(tmp_path / "whole", **wishes)) == 0
    for step in (5, 10, 12):
        assert finish(start(tmp_path / "killed", **wishes, die_at_evaluation=step)) == -signal.SIGKILL
        saved = newest_checkpoint(tmp_path / "killed" / "checkpoints")
        assert saved is not None
        assert saved.step == step
    assert finish(start(tmp_path / "killed", **wishes)) == 0
    assert outcome(tmp_path / "killed") == outcome(tmp_path / "whole")
    evaluated = [line["step"] for line in journal(tmp_path / "killed") if "eval/sum" in line]
    assert evaluated == [5, 10, 12]


def test_killed_while_a_checkpoint_is_written(tmp_path: Path, start: Start) -> None:
    """A checkpoint calls fsync seven times (journal, four files, two folders): die in the second, having made one or none."""
    wishes = {**WISHES, "steps": 12, "checkpoint_every": 2}
    assert finish(start(tmp_path / "whole", **wishes)) == 0
    for number in (8, 10, 13, 14, 5):
        assert finish(start(tmp_path / "killed", **wishes, die_at_sync=number)) == -signal.SIGKILL
    assert finish(start(tmp_path / "killed", **wishes)) == 0
    assert outcome(tmp_path / "killed") == outcome(tmp_path / "whole")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_asked_to_stop_saves_the_step_in_hand(number: int, tmp_path: Path, start: Start) -> None:
    wishes = {**WISHES, "checkpoint_every": 1000}
    assert finish(start(tmp_path / "whole", **wishes)) == 0
    process = start(tmp_path / "stopped", **wishes, pause=0.2)
    wait_for_step(tmp_path / "stopped", 4, process)
    assert process.pid is not None
    os.kill(process.pid, number)
    assert finish(process) == 1
    saved = newest_checkpoint(tmp_path / "stopped" / "checkpoints")
    assert saved is not None
    assert 4 <= saved.step < STEPS
    assert finish(start(tmp_path / "stopped", **wishes)) == 0
    ours, theirs = outcome(tmp_path / "stopped"), outcome(tmp_path / "whole")
    assert (ours["files"], ours["journal"]) == (theirs["files"], theirs["journal"])


def test_a_damaged_checkpoint_is_passed_over(tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    for folder in (whole, broken):
        trainer(folder, keep=3).fit()
    weights = broken / "checkpoints" / "step-000006" / "model.safetensors"
    flipped = bytearray(weights.read_bytes())
    flipped[-9] ^= 1
    weights.write_bytes(flipped)
    (broken / "checkpoints" / "step-000004" / "state.json").write_text('{"step": 4,')
    notes: list[str] = []
    again = trainer(broken, keep=3)
    again.note = notes.append
    again.fit()
    assert [("damaged" in note, "step-000006" in note) for note in notes[:2]] == [(True, True), (True, False)]
    assert "after step 2" in notes[2]
    assert outcome(broken) == outcome(whole)


def test_nothing_but_damaged_checkpoints_is_an_error(tmp_path: Path) -> None:
    trainer(tmp_path).fit()
    for path in (tmp_path / "checkpoints").glob("*/optimizer.safetensors"):
        path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(TheseusError, match="every checkpoint is damaged"):
        trainer(tmp_path).fit()


def test_a_finished_run_gives_its_model_again(tmp_path: Path) -> None:
    first, again = trainer(tmp_path).fit(), trainer(tmp_path).fit()
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
    assert not again.training


@pytest.mark.parametrize(
    ("changes", "names"),
    [({"lr": 2e-2}, "lr: 0.01, now 0.02"), ({"family": "gan"}, "family: toy, now gan"), ({"ema": 0.5}, "ema: 0.9, now 0.5")],
)
def test_other_settings_are_refused_by_name(changes: dict[str, Any], names: str, tmp_path: Path) -> None:
    trainer(tmp_path).fit()
    before = outcome(tmp_path)
    with pytest.raises(TheseusError, match=names) as caught:
        trainer(tmp_path, **changes).fit()
    assert "-o" in str(caught.value.hint)
    assert outcome(tmp_path) == before


def test_another_dataset_is_refused(tmp_path: Path) -> None:
    trainer(tmp_path).fit()
    with pytest.raises(TheseusError, match=r"dataset is not the one.*clips-1, now clips-2"):
        trainer(tmp_path, source=Clips(8, fingerprint="clips-2")).fit()


@pytest.mark.parametrize(("free", "taken"), [({"pictures", "sampling"}, True), ({"sampling.steps"}, False), ({"picture"}, False)])
def test_what_is_only_shown_may_change(free: set[str], taken: bool, tmp_path: Path) -> None:
    def run(steps: int, pictures: int) -> Trainer:
        describe = {"width": 3, "pictures": pictures, "sampling": {"steps": pictures}}
        config = settings(steps=steps, schedule="constant")
        return Trainer(make("toy"), Clips(8), config, tmp_path, describe=describe, free=frozenset(free))

    run(2, 1).fit()
    if taken:
        run(4, 8).fit()
        assert steps_logged(tmp_path) == 4
    else:
        with pytest.raises(TheseusError, match="another pictures: 1, now 8"):
            run(4, 8).fit()


def test_no_resume_starts_anew(tmp_path: Path) -> None:
    trainer(tmp_path, lr=1e-3, steps=8).fit()
    for made in ("model/model.json", "samples/step-000008/0000.mp4", "curves.png", "notes.txt"):
        (tmp_path / made).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / made).write_text("of the run before")
    fresh = trainer(tmp_path)
    fresh.resume = False
    fresh.fit()
    there = {path.name for path in tmp_path.iterdir()}
    assert there == {".lock", "checkpoints", "config.json", "metrics.jsonl", "notes.txt"}
    trainer(tmp_path / "other").fit()
    assert outcome(tmp_path) == outcome(tmp_path / "other")


def test_no_resume_forgets_nothing_before_a_new_run_can_be_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer(tmp_path, steps=4).fit()
    before = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*"))
    fresh = trainer(tmp_path, steps=4)
    fresh.resume = False
    monkeypatch.setattr(trainer_module, "build_phases", Mock(side_effect=TheseusError("no optimizer for this model")))
    with pytest.raises(TheseusError, match="no optimizer for this model"):
        fresh.fit()
    assert sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*")) == before


def test_a_copy_of_a_checkpoint_is_none(tmp_path: Path) -> None:
    trainer(tmp_path, steps=4).fit()
    newest = newest_checkpoint(tmp_path / "checkpoints")
    assert newest is not None
    shutil.copytree(tmp_path / f"checkpoints/step-{newest.step:06d}", tmp_path / f"checkpoints/step-{newest.step:06d}-backup")
    again = newest_checkpoint(tmp_path / "checkpoints")
    assert again is not None
    assert again.step == newest.step


def test_more_steps_go_on_and_fewer_are_refused(tmp_path: Path) -> None:
    trainer(tmp_path, steps=4, schedule="constant").fit()
    (tmp_path / "model").mkdir()
    notes: list[str] = []
    longer = trainer(tmp_path, steps=6, schedule="constant")
    longer.note = notes.append
    longer.fit()
    assert steps_logged(tmp_path) == 6
    assert any("ends at step 6, not 4" in note for note in notes)
    assert any("stays until this training ends" in note for note in notes)
    with pytest.raises(TheseusError, match="already beyond that many steps, at step 6: 3"):
        trainer(tmp_path, steps=3, schedule="constant").fit()


def test_where_and_how_often_may_change(tmp_path: Path) -> None:
    trainer(tmp_path, steps=4).fit()
    trainer(tmp_path, steps=6, threads=1, log_every=1, keep=1, gradient_checkpointing=True).fit()
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-000006"]


def test_the_first_weights_are_made_once(tmp_path: Path) -> None:
    calls: list[float] = []

    def begin(steps: int) -> Trainer:
        run = trainer(tmp_path, steps=steps, ema=0.999, schedule="constant")
        first = run.model.state_dict()["out.bias"]

        def initialize() -> None:
            calls.append(torch.rand(()).item())
            first.fill_(100.0)

        run.initialize = initialize
        return run

    model = begin(2).fit()
    averaged = model.state_dict()["out.bias"]
    assert torch.allclose(averaged, torch.tensor(100.0), atol=0.1)  # the average began there too
    begin(4).fit()
    assert len(calls) == 1
    anew = begin(4)
    anew.resume = False
    anew.fit()
    assert calls == [calls[0]] * 2


def test_two_trainings_in_one_folder(tmp_path: Path, start: Start) -> None:
    process = start(tmp_path, **WISHES, stall=4)
    wait_for_step(tmp_path, 2, process)
    with pytest.raises(TheseusError, match="another process is training in this folder"):
        trainer(tmp_path, **WISHES).fit()
    process.kill()
    assert finish(process) == -signal.SIGKILL


def test_config_json_says_what_was_run(tmp_path: Path) -> None:
    trainer(tmp_path).fit()
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["describe"] == {"family": "toy"}
    assert written["train"]["lr"] == 1e-2
    assert (written["fingerprint"], written["runs_on"]["dtype"]) == ("clips-1", "float32")
