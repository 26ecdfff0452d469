"""Checkpoints on the disk: whole or not there, never mistaken, never a pickle."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import resource
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from train_toys import Start, score, trainer

from theseus_core.contracts import Trainable
from theseus_core.errors import TheseusError
from theseus_core.train import checkpoint
from theseus_core.train.checkpoint import drop_old_checkpoints, newest_checkpoint, open_checkpoint, write_checkpoint
from theseus_core.train.journal import Journal, Window, read_journal, without_times
from theseus_core.train.trainer import Trainer


def parts(size: int = 4) -> dict[str, dict[str, torch.Tensor]]:
    return {part: {"a.weight": torch.randn(size), "empty": torch.zeros(0)} for part in checkpoint.PARTS}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_is_written_is_read(tmp_path: Path) -> None:
    written = parts()
    path = write_checkpoint(tmp_path, 7, written, {"best": None})
    saved = newest_checkpoint(tmp_path)
    assert saved is not None
    assert (saved.path, saved.step, saved.state["best"]) == (path, 7, None)
    for part in checkpoint.PARTS:
        assert torch.equal(saved.tensors(part)["a.weight"], written[part]["a.weight"])
    assert {path.suffix for path in path.iterdir()} == {".safetensors", ".json"}


def test_tied_weights_are_written_under_each_name(tmp_path: Path) -> None:
    tied = torch.randn(4)
    path = write_checkpoint(tmp_path, 1, {**parts(), "model": {"one": tied, "other": tied}}, {})
    loaded = load_file(path / "model.safetensors")
    assert torch.equal(loaded["one"], loaded["other"])


@pytest.mark.parametrize("damage", ["cut", "flip", "missing", "state", "not a number"])
def test_damage_is_seen(damage: str, tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path, 1, parts(100), {})
    weights, state = path / "ema.safetensors", path / "state.json"
    data = weights.read_bytes()
    if damage == "cut":
        weights.write_bytes(data[:-50])
    elif damage == "flip":
        weights.write_bytes(data[:-50] + bytes([data[-50] ^ 4]) + data[-49:])
    elif damage == "missing":
        weights.unlink()
    elif damage == "state":
        state.write_text(state.read_text()[:30])
    else:
        state.write_text(json.dumps({**json.loads(state.read_text()), "step": "one"}))
    with pytest.raises(TheseusError, match="damaged checkpoint"):
        open_checkpoint(path)


def test_the_newest_and_the_best_stay(tmp_path: Path) -> None:
    for step in (1, 2, 3, 4, 12):
        write_checkpoint(tmp_path, step, parts(), {})
    (tmp_path / ".step-000009.part").mkdir()  # of a process that was killed
    drop_old_checkpoints(tmp_path, 4, keep=2, best=1)  # and 12 was damaged when this run resumed before it
    assert names(tmp_path) == ["step-000001", "step-000003", "step-000004"]


def test_the_best_checkpoint_of_a_run_stays(tmp_path: Path) -> None:
    scores = {1: 3.0, 2: 5.0, 3: 4.0, 4: 4.5, 5: 1.0, 6: 4.9}
    run = trainer(tmp_path, evaluate_every=1, checkpoint_every=3, keep=1, best="psnr")
    run.evaluate = lambda model, step: {"psnr": scores[step]}
    run.fit()
    assert names(tmp_path / "checkpoints") == ["step-000002", "step-000006"]


def test_the_best_before_goes_when_a_better_one_is_found(tmp_path: Path) -> None:
    run = trainer(tmp_path, evaluate_every=2, checkpoint_every=1, keep=1, best="psnr")
    run.evaluate = lambda model, step: {"psnr": {2: 3.0, 6: 5.0}.get(step, 1.0)}
    run.fit()
    assert names(tmp_path / "checkpoints") == ["step-000006"]


def test_the_best_may_be_asked_for_later(tmp_path: Path) -> None:
    def run(steps: int, best: str) -> Trainer:
        made = trainer(tmp_path, evaluate_every=1, keep=3, best=best, steps=steps, schedule="constant")
        made.evaluate = lambda model, step: {"psnr": {2: 5.0, 3: 4.0}.get(step, 1.0), "error": abs(step - 5)}
        return made

    run(3, "psnr").fit()
    run(7, "").fit()
    assert names(tmp_path / "checkpoints") == ["step-000005", "step-000006", "step-000007"]
    run(11, "-error").fit()
    assert names(tmp_path / "checkpoints") == ["step-000005", "step-000009", "step-000010", "step-000011"]


def test_lower_is_better_with_a_minus(tmp_path: Path) -> None:
    run = trainer(tmp_path, evaluate_every=1, checkpoint_every=100, keep=1, best="-error")
    run.evaluate = lambda model, step: {"error": abs(step - 4)}
    run.fit()
    assert names(tmp_path / "checkpoints") == ["step-000004", "step-000006"]


def test_a_score_that_is_not_there_is_named_and_can_be_mended(tmp_path: Path) -> None:
    wishes = {"evaluate_every": 1, "checkpoint_every": 100, "keep": 1}
    for _ in range(2):  # again is no better, and no worse
        with pytest.raises(TheseusError, match="no score of the name in `best`: psnr") as caught:
            trainer(tmp_path, best="psnr", **wishes).fit()
        assert "sum" in str(caught.value.hint)
        assert names(tmp_path / "checkpoints") == ["step-000001"]
    notes: list[str] = []
    mended = trainer(tmp_path, best="sum", **wishes)
    mended.note = notes.append
    mended.fit()
    assert "after step 1" in notes[0]
    evaluated = [line["step"] for line in read_journal(tmp_path / "metrics.jsonl") if "eval/sum" in line]
    assert evaluated == [1, 2, 3, 4, 5, 6]


def test_scores_that_are_not_numbers_are_not_the_best(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "metrics.jsonl", -1)
    for step, psnr in enumerate([float("nan"), 2.0, 3.0, 3.0, 1.0]):
        journal.write({"step": step, "eval/psnr": psnr, "eval/seconds": 9.0 * step})
    again = Journal(tmp_path / "metrics.jsonl", 4)
    for either in (journal, again):
        assert [either.best_step(wanted, {0, 1, 2, 3, 4}) for wanted in ("psnr", "-psnr", "seconds", "")] == [2, 4, None, None]
        assert either.best_step("psnr", {0, 1, 4}) == 1


def test_a_failing_evaluation_costs_no_training(tmp_path: Path) -> None:
    def fail(model: Trainable, step: int) -> dict[str, float]:
        if step == 5:
            raise TheseusError("cannot write: 0000.mp4")
        return score(model, step)

    wishes = {"evaluate_every": 5, "checkpoint_every": 100, "steps": 8}
    run = trainer(tmp_path / "failed", **wishes)
    run.evaluate = fail
    with pytest.raises(TheseusError, match=r"cannot write: 0000\.mp4"):
        run.fit()
    assert names(tmp_path / "failed/checkpoints") == ["step-000005"]
    for folder in ("failed", "whole"):
        trainer(tmp_path / folder, **wishes).fit()
    ours, theirs = (read_journal(tmp_path / folder / "metrics.jsonl") for folder in ("failed", "whole"))
    assert [without_times(line) for line in ours] == [without_times(line) for line in theirs]


def _train_with_small_files(folder: str, limit: int) -> None:
    """Exits with 0 if the training fails as it should: files larger than `limit` bytes cannot be written."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        trainer(Path(folder)).fit()
    except TheseusError as error:
        os._exit(0 if "cannot write" in error.message and "step-000002" in str(error.hint) else 3)
    os._exit(4)


def test_a_file_that_cannot_be_written_costs_nothing(tmp_path: Path, start: Start) -> None:
    """The system refuses the bytes: what safetensors makes of that is put into words, and the checkpoint before stays."""
    trainer(tmp_path, steps=2).fit()
    process = multiprocessing.get_context("forkserver").Process(target=_train_with_small_files, args=(str(tmp_path), 10_000))
    process.start()
    process.join(300)
    assert process.exitcode == 0
    assert names(tmp_path / "checkpoints") == ["step-000002"]
    assert newest_checkpoint(tmp_path / "checkpoints") is not None


def test_a_full_disk_leaves_the_last_checkpoint_and_the_run_goes_on_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_space(path: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    run = trainer(tmp_path)
    run.progress = lambda step, steps, values: monkeypatch.setattr(checkpoint, "_to_disk", no_space) if step == 4 else None
    with pytest.raises(TheseusError, match=r"cannot write.*step-000004") as caught:
        run.fit()
    assert "No space left on device; the last good checkpoint is step-000002" in str(caught.value.hint)
    assert names(tmp_path / "checkpoints") == ["step-000002"]
    monkeypatch.undo()
    trainer(tmp_path).fit()
    trainer(tmp_path / "whole").fit()
    weights = "checkpoints/step-000006/model.safetensors"
    assert (tmp_path / weights).read_bytes() == (tmp_path / "whole" / weights).read_bytes()


def test_a_run_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file")
    with pytest.raises(TheseusError, match="cannot write the run folder"):
        trainer(tmp_path / "run").fit()


def test_training_over_something_else_is_refused(tmp_path: Path) -> None:
    """Before anything is written; a folder that a training began in is taken, however little it wrote."""
    dataset, other, bare = tmp_path / "dataset", tmp_path / "other", tmp_path / "bare"
    for folder, name in ((dataset, "dataset.json"), (dataset, ".lock"), (other, "config.json"), (bare, ".lock")):
        folder.mkdir(exist_ok=True)
        (folder / name).write_text('{"layers": 3}')
    for folder in (dataset, other):
        before = names(folder)
        with pytest.raises(TheseusError, match=f"not a run folder: {folder}") as caught:
            trainer(folder).fit()
        assert "-o" in str(caught.value.hint)
        assert names(folder) == before
    trainer(bare).fit()
    for name in (".lock", "metrics.jsonl"):
        (bare / name).unlink()
    trainer(bare)  # config.json is a run's


def test_a_journal_is_cut_back(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    journal = Journal(path, -1)
    for step in (0, 2, 4):
        journal.write({"step": step, "loss": 0.1 * step, "endless": float("inf")})
    path.write_text(path.read_text() + '{"step": 6, "lo')
    assert [line["step"] for line in read_journal(path)] == [0, 2, 4]
    Journal(path, 2).write({"step": 3})
    assert read_journal(path) == [{"step": 0, "loss": 0.0}, {"step": 2, "loss": 0.2}, {"step": 3}]
    with pytest.raises(TheseusError, match="no journal"):
        read_journal(tmp_path / "none.jsonl")


def test_a_journal_on_a_full_disk(tmp_path: Path) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("no /dev/full here")
    journal = Journal(tmp_path / "metrics.jsonl", -1)
    journal.path = full
    with pytest.raises(TheseusError, match="cannot write the journal"):
        journal.write({"step": 1})


def test_a_window_averages() -> None:
    window = Window()
    window.add({"loss": 1.0})
    again = Window(**json.loads(json.dumps({"sums": window.sums, "counts": window.counts})))
    again.add({"loss": 3.0, "late": 4.0})
    assert again.means() == {"loss": 2.0, "late": 4.0}, "each over the steps that had it"
