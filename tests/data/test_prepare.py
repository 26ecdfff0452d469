"""`prep` from folder to dataset: the same bytes whatever happens on the way, and every file accounted for."""

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from prep_clips import Picture, gif, moving_gif, moving_pictures, video

from theseus_core.data import ledger, pool
from theseus_core.data import prepare as prepare_module
from theseus_core.data.filters import PrepSettings
from theseus_core.data.ledger import Ledger, open_journal
from theseus_core.data.prepare import Summary, prepare
from theseus_core.data.shards import Dataset
from theseus_core.errors import TheseusError
from theseus_core.render.sheets import contact_sheet

SETTINGS = PrepSettings(width=16, height=16, min_frames=3, max_frames=9, chunk_size=4)


def tree(folder: Path) -> dict[str, str]:
    """Every file below a folder, by hash."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def run(source: Path, output: Path, settings: PrepSettings = SETTINGS, **options: Any) -> Summary:
    summary = prepare([source], output, settings, **options)
    assert summary.found == summary.kept + sum(summary.rejected.values())
    rejected = [json.loads(line) for line in (output / "rejected.jsonl").read_text().splitlines()]
    assert len(rejected) == sum(summary.rejected.values())
    assert len(Dataset.open(output)) == summary.clips
    return summary


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Good, bad, long, short, twice-the-same and unreadable files, with captions from everywhere."""
    folder = tmp_path_factory.mktemp("mixed")
    for number in range(10):
        (folder / f"good_{number}.gif").write_bytes(moving_gif(3 + number % 5, number))
    video(folder / "film.mp4", moving_pictures(6))
    (folder / "good_3_again.gif").write_bytes(moving_gif(6, 3))
    (folder / "long.gif").write_bytes(moving_gif(10, 50))
    (folder / "short.gif").write_bytes(moving_gif(2, 51))
    (folder / "cut.gif").write_bytes(moving_gif(5, 52)[:-20])
    (folder / "empty.gif").touch()
    (folder / "picture.gif").write_bytes(b"\xff\xd8\xff\xe0")
    (folder / "huge.gif").write_bytes(gif((65000, 65000), [Picture(np.zeros((2, 2), np.uint8))] * 4))
    os.mkfifo(folder / "fifo.mp4")
    (folder / "good_1.txt").write_text("from a sidecar\nand another\n")
    (folder / "captions.tsv").write_text("good_2.gif\tfrom a table\ngood_3_again.gif\tthe same clip\ngone.gif\tof nothing\n")
    return folder


@pytest.fixture(scope="module")
def reference(mixed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("reference") / "dataset"
    run(mixed, output, workers=1, draw_sheet=contact_sheet)
    return output


def test_every_file_is_accounted_for(mixed: Path, reference: Path) -> None:
    summary = prepare([mixed], reference, SETTINGS)
    assert summary.finished_before
    assert (summary.found, summary.kept, summary.clips) == (19, 11, 11)
    reasons = ["damaged", "duplicate", "empty", "not_a_file", "not_video", "too_large", "too_long", "too_short"]
    assert summary.rejected == dict.fromkeys(reasons, 1)
    by_name = {
        entry["source"]: entry["reason"] for entry in map(json.loads, (reference / "rejected.jsonl").read_text().splitlines())
    }
    assert by_name["cut.gif"] == "damaged"
    assert by_name["good_3_again.gif"] == "duplicate"
    assert list(by_name) == sorted(by_name)


def test_captions_come_from_sidecar_table_and_name(mixed: Path, reference: Path) -> None:
    records = {record.source: record for record in Dataset.open(reference).records}
    assert (records["good_1.gif"].captions, records["good_1.gif"].caption_from) == (("from a sidecar", "and another"), "sidecar")
    assert (records["good_2.gif"].captions, records["good_2.gif"].caption_from) == (("from a table",), "table")
    assert (records["good_4.gif"].captions, records["good_4.gif"].caption_from) == (("good 4",), "name")
    assert records["good_3.gif"].captions == ("the same clip",), "a duplicate's real caption is better than a name"
    summary = prepare([mixed], reference, SETTINGS)
    assert summary.captions == {"name": 8, "sidecar": 1, "table": 2}
    assert summary.captions_without_file == 1


def test_the_clips_are_those_of_the_files(mixed: Path, reference: Path) -> None:
    dataset = Dataset.open(reference)
    number = next(n for n, record in enumerate(dataset.records) if record.source == "good_5.gif")
    with av.open(str(mixed / "good_5.gif")) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    np.testing.assert_array_equal(dataset.read(number).frames, np.stack(frames))
    assert dataset.read(number).fps == pytest.approx(10)
    assert len(list((reference / "chunks").iterdir())) == 3, "11 clips, 4 in a chunk"
    assert (reference / "contact_sheet.png").stat().st_size > 1000


def test_the_bytes_do_not_depend_on_the_number_of_workers(mixed: Path, reference: Path, tmp_path: Path) -> None:
    steps: list[tuple[int, int]] = []
    moved = shutil.copytree(mixed, tmp_path / "elsewhere", ignore=shutil.ignore_patterns("fifo*"))
    os.mkfifo(moved / "fifo.mp4")
    run(moved, tmp_path / "dataset", workers=2, draw_sheet=contact_sheet, progress=lambda *step: steps.append(step))
    assert tree(tmp_path / "dataset") == tree(reference)
    assert steps == [(done, 19) for done in range(1, 20)]
    assert not (tmp_path / "dataset" / ".partial").exists()


KILLED = """
import os, signal, sys, time
from pathlib import Path
from theseus_core.data import ledger, prepare, writer
from theseus_core.data.filters import PrepSettings
from theseus_core.render.sheets import contact_sheet

ledger.SYNC_SECONDS = 0
source, output, settings, step = sys.argv[1:]

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

def slowed(work):
    def slow(*arguments):
        time.sleep(0.05)
        return work(*arguments)
    return slow

if step == "slowly":  # so that there is time to kill it, with clips on the disk that the journal does not have yet and without
    ledger.Ledger.enter = slowed(ledger.Ledger.enter)
    ledger.Ledger._write = slowed(ledger.Ledger._write)
elif step == "before dataset.json":
    writer.write_json = die
elif step == "after dataset.json":
    write = writer.write_json
    writer.write_json = lambda *arguments: die(write(*arguments))
elif step == "between files":
    writer.os.replace = die
elif step:
    entered = ledger.Ledger.enter
    def enter(self, answer, spool):
        if self.done == int(step):
            self._append(answer.get("clips", []), [True] * len(answer.get("clips", [])), spool)
            self._chunks.sync()
            self._journal.write(b'{"clips": [{"ke')
            self._journal.flush()
            die()
        entered(self, answer, spool)
    ledger.Ledger.enter = enter
prepare.prepare([Path(source)], Path(output), PrepSettings.model_validate_json(settings), workers=2, draw_sheet=contact_sheet)
"""


def start(source: Path, output: Path, step: str = "") -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", KILLED, str(source), str(output), SETTINGS.model_dump_json(), step]
    return subprocess.Popen(command, cwd=Path(__file__).parents[2], stderr=subprocess.PIPE)


def test_killed_at_random_moments_it_comes_to_the_same_files(mixed: Path, reference: Path, tmp_path: Path) -> None:
    output, chance, ends = tmp_path / "dataset", random.Random(0), []
    for kill in range(4):
        process = start(mixed, output, "slowly")
        journal = output / ".partial" / "journal.jsonl"
        wanted, deadline = 2 + 4 * kill, time.monotonic() + 120
        while process.poll() is None and not (journal.exists() and journal.read_bytes().count(b"\n") >= wanted):
            assert time.monotonic() < deadline, "it does not get on"
            time.sleep(0.002)
        time.sleep(chance.random() * 0.1)
        process.kill()
        ends.append(process.wait())
    assert set(ends) <= {0, -signal.SIGKILL}, ends
    assert -signal.SIGKILL in ends, "no kill came before the end"
    run(mixed, output, workers=1, draw_sheet=contact_sheet)
    assert tree(output) == tree(reference)


@pytest.mark.parametrize("step", ["7", "before dataset.json", "between files", "after dataset.json"])
def test_killed_at_the_worst_moments_too(mixed: Path, reference: Path, tmp_path: Path, step: str) -> None:
    process = start(mixed, tmp_path / "dataset", step)
    assert process.wait() == -signal.SIGKILL, process.stderr and process.stderr.read()
    run(mixed, tmp_path / "dataset", workers=1, draw_sheet=contact_sheet)
    assert tree(tmp_path / "dataset") == tree(reference)


def test_an_interrupt_while_the_journal_is_written_counts_nothing_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = good_files(tmp_path / "in", 4)
    for number in range(4):
        (source / f"{number}.txt").write_text(f"caption {number}")
    run(source, tmp_path / "whole", workers=1)
    fsync, journals = os.fsync, 0

    def interrupted(file: int) -> None:
        nonlocal journals
        fsync(file)
        if os.path.realpath(f"/proc/self/fd/{file}").endswith("journal.jsonl"):
            journals += 1
            if journals == 2:
                raise KeyboardInterrupt

    monkeypatch.setattr(ledger, "SYNC_SECONDS", 0)
    monkeypatch.setattr(ledger.os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepare([source], tmp_path / "out", SETTINGS, workers=1)
    monkeypatch.undo()
    assert journals >= 2
    run(source, tmp_path / "out", workers=1)
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"min_frames": 4}, r"other settings \(min_frames\)"),
        ({"fps": 5.0}, r"other settings \(fps\)"),
        ({"limit": 3}, r"\(limit\)"),
    ],
)
def test_a_dataset_with_other_settings_is_left_alone(mixed: Path, reference: Path, change: dict[str, Any], message: str) -> None:
    before = tree(reference)
    with pytest.raises(TheseusError, match=message) as caught:
        prepare([mixed], reference, SETTINGS.model_copy(update=change))
    assert "-o" in (caught.value.hint or "")
    assert tree(reference) == before


def good_files(folder: Path, count: int = 3) -> Path:
    folder.mkdir(exist_ok=True)
    for number in range(count):
        (folder / f"{number}.gif").write_bytes(moving_gif(4, number))
    return folder


def test_new_files_and_new_captions_are_noticed(tmp_path: Path) -> None:
    source = good_files(tmp_path / "in")
    run(source, tmp_path / "out")
    (source / "0.txt").write_text("a caption")
    with pytest.raises(TheseusError, match="other files or captions"):
        prepare([source], tmp_path / "out", SETTINGS)


def test_a_dataset_of_an_earlier_version_with_fewer_settings_is_finished(tmp_path: Path) -> None:
    source = good_files(tmp_path / "in")
    run(source, tmp_path / "out")
    file = tmp_path / "out" / "dataset.json"
    described = json.loads(file.read_text())
    for key in ("source", "per_file", "safety", "unsafe_frames"):
        del described["settings"][key]
    del described["splits"]
    file.write_text(json.dumps(described))
    assert run(source, tmp_path / "out").finished_before
    described["settings"] = {"scenes": ["shapes"]}
    file.write_text(json.dumps(described))
    with pytest.raises(TheseusError, match=r"other settings \(width, height, .*\)"):
        run(source, tmp_path / "out")


def test_an_unfinished_run_with_other_settings_is_not_mixed_in(tmp_path: Path) -> None:
    source = good_files(tmp_path / "in")
    folder = tmp_path / "out/.partial"
    journal = open_journal(folder)
    other = Ledger.open(folder, {"settings": "of another run"}, 4, [], journal)
    with journal, other, pytest.raises(TheseusError, match="another process is preparing this dataset"):
        prepare([source], tmp_path / "out", SETTINGS)
    with pytest.raises(TheseusError, match="unfinished dataset with other settings") as caught:
        prepare([source], tmp_path / "out", SETTINGS)
    assert "rm -r" in (caught.value.hint or "")


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    source = good_files(tmp_path / "in")
    with pytest.raises(TheseusError, match="something else than a dataset"):
        prepare([source], source, SETTINGS)
    with pytest.raises(TheseusError, match="not a folder"):
        prepare([source], source / "0.gif", SETTINGS)


def test_all_files_bad_is_an_error_that_says_where_to_look(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for number in range(3):
        (tmp_path / "in" / f"{number}.gif").write_bytes(b"no gif")
    for _ in range(2):
        with pytest.raises(TheseusError, match="all files were rejected: 3") as caught:
            prepare([tmp_path / "in"], tmp_path / "out", SETTINGS)
        assert str(tmp_path / "out" / "rejected.jsonl") in (caught.value.hint or "")
        assert len((tmp_path / "out" / "rejected.jsonl").read_text().splitlines()) == 3
    good_files(tmp_path / "in")
    assert run(tmp_path / "in", tmp_path / "out").kept == 3


def test_the_seed_decides_what_the_limit_takes(tmp_path: Path) -> None:
    source = good_files(tmp_path / "in", 8)

    def taken(seed: int) -> list[str]:
        output = tmp_path / f"out{time.monotonic_ns()}"
        run(source, output, SETTINGS.model_copy(update={"limit": 3, "seed": seed}))
        return [record.source for record in Dataset.open(output).records]

    assert len(taken(0)) == 3
    assert taken(0) == taken(0) == sorted(taken(0))
    assert taken(0) != taken(1)


def test_windows_of_one_file_lie_side_by_side(tmp_path: Path) -> None:
    source = good_files(tmp_path / "in", 1)
    (source / "long.gif").write_bytes(moving_gif(23, 9))
    summary = run(source, tmp_path / "out", SETTINGS.model_copy(update={"long": "windows"}))
    assert (summary.kept, summary.clips, summary.frames) == (2, 4, 27)
    assert [record.frames for record in Dataset.open(tmp_path / "out").records] == [4, 9, 9, 5]


def test_layouts(tmp_path: Path) -> None:
    source = good_files(tmp_path / "in")
    (source / "0.txt").write_text("sidecar")
    (source / "captions.csv").write_text("file,caption\n0.gif,table 0\n1.gif,table 1\n")

    def captions(**change: Any) -> dict[str, tuple[str, ...]]:
        output = tmp_path / f"out{time.monotonic_ns()}"
        run(source, output, SETTINGS.model_copy(update=change))
        return {record.source: record.captions for record in Dataset.open(output).records}

    table = tmp_path / "words.jsonl"
    table.write_text('{"file": "in/0.gif", "caption": "asked for"}')
    assert captions() == {"0.gif": ("sidecar",), "1.gif": ("table 1",), "2.gif": ("2",)}
    assert captions(layout="folder") == {"0.gif": ("sidecar",), "1.gif": ("1",), "2.gif": ("2",)}
    assert captions(layout="captions") == {"0.gif": ("table 0",), "1.gif": ("table 1",)}
    assert captions(captions=str(table)) == {"0.gif": ("asked for",), "1.gif": ("1",), "2.gif": ("2",)}
    table.write_text('{"file": "gone.gif", "caption": "of nothing"}')
    with pytest.raises(TheseusError, match="none of its 1 lines names a file"):
        captions(captions=str(table))
    (source / "captions.csv").unlink()
    with pytest.raises(TheseusError, match="no captions file"):
        captions(layout="captions")


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere every name is Unicode")
def test_names_that_are_not_utf8_or_hold_line_breaks(tmp_path: Path) -> None:
    source = tmp_path / os.fsdecode(b"d\xff")
    (source / os.fsdecode(b"sub\xe9")).mkdir(parents=True)
    for number, name in enumerate((b"caf\xe9.gif", b"sub\xe9/b.gif", "one\u2028two\x85.gif".encode())):
        (source / os.fsdecode(name)).write_bytes(moving_gif(4, number))
    (source / os.fsdecode(b"bad\xe9.gif")).write_bytes(b"no gif")
    video(tmp_path / "film.mp4", moving_pictures(6))
    (tmp_path / "film.mp4").rename(source / os.fsdecode(b"film\xe9.mp4"))
    assert run(source, tmp_path / "out", draw_sheet=contact_sheet).kept == 4
    records = Dataset.open(tmp_path / "out").records
    assert [record.source for record in records] == [
        r"caf\udce9.gif",
        r"film\udce9.mp4",
        "one\u2028two\x85.gif",
        r"sub\udce9/b.gif",
    ]
    assert records[0].captions == (r"caf\udce9",)
    assert r'"source": "bad\\udce9.gif"' in (tmp_path / "out" / "rejected.jsonl").read_text()
    with pytest.raises(TheseusError, match="all files were rejected"):
        prepare([source / os.fsdecode(b"bad\xe9.gif"), source / os.fsdecode(b"bad\xe9.gif")], tmp_path / "bad", SETTINGS)


STRANGE = """
import json, os, signal, sys, time
sys.stdin.readline()
print(json.dumps({"ready": True}), flush=True)
for line in sys.stdin:
    job = json.loads(line)
    name = os.path.basename(job["path"])
    if name == "1.gif":
        time.sleep(1000)
    if name == "2.gif":
        os.kill(os.getpid(), signal.SIGSEGV)
    if name == "3.gif":
        sys.exit(3)
    open(job["spool"], "wb").write(name.encode())
    clip = {"key": name, "frames": 1, "fps": 1.0, "width": 1, "height": 1, "bytes": len(name)}
    print(json.dumps({"clips": [clip]}), flush=True)
"""


@pytest.mark.parametrize("workers", [1, 3])
def test_a_worker_that_hangs_or_dies_costs_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int) -> None:
    monkeypatch.setattr(pool, "PROGRAM", STRANGE)
    source = good_files(tmp_path / "in", 6)
    summary = run(source, tmp_path / "out", SETTINGS.model_copy(update={"timeout": 4}), workers=workers)
    assert summary.rejected == {"crashed": 2, "timeout": 1}
    assert [record.source for record in Dataset.open(tmp_path / "out").records] == ["0.gif", "4.gif", "5.gif"]
    details = [json.loads(line)["detail"] for line in (tmp_path / "out" / "rejected.jsonl").read_text().splitlines()]
    assert details == ["more than 4 seconds", "killed by SIGSEGV", "exit code 3"]


def test_a_worker_that_does_not_start_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "PROGRAM", "raise SystemExit(7)")
    with pytest.raises(TheseusError, match="a worker process does not start: exit code 7"):
        prepare([good_files(tmp_path / "in")], tmp_path / "out", SETTINGS)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can hold a process to an address space")
def test_a_small_file_that_asks_for_much_memory_is_refused_it(tmp_path: Path) -> None:
    source = good_files(tmp_path / "in", 2)
    (source / "0_large.gif").write_bytes(gif((8000, 8000), [Picture(np.zeros((2, 2), np.uint8))] * 4))
    summary = run(source, tmp_path / "out", SETTINGS.model_copy(update={"memory": 128}))
    assert summary.rejected == {"memory": 1}


def test_a_disk_that_cannot_be_written_is_no_fault_of_the_file(tmp_path: Path) -> None:
    source = good_files(tmp_path / "in")
    fault = 'import sys; sys.stdin.readline(); print("{}", flush=True)\nfor _ in sys.stdin: print(\'{"disk": "full"}\', flush=True)'
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pool, "PROGRAM", fault)
        with pytest.raises(TheseusError, match="cannot write to") as caught:
            prepare([source], tmp_path / "out", SETTINGS)
    assert "full; mend that and start the same command again" in (caught.value.hint or "")
    assert run(source, tmp_path / "out").kept == 3


def test_a_worker_brings_no_torch_along() -> None:
    code = "import sys, theseus_core.data.worker; sys.exit(bool({'torch', 'transformers', 'matplotlib', 'PIL'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], check=False).returncode == 0


def test_what_another_process_has_finished_meanwhile_is_left_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, output = good_files(tmp_path / "in"), tmp_path / "out"

    def slow(settings: PrepSettings) -> Any:
        monkeypatch.undo()
        run(source, output)  # what the other does while this one reads a classifier
        return lambda *_: None

    monkeypatch.setattr(prepare_module, "open_classifiers", slow)
    assert prepare([source], output, SETTINGS).finished_before
    dataset = Dataset.open(output)
    assert all(len(dataset.read(number).frames) for number in range(len(dataset)))


def test_files_that_are_called_alike_keep_their_own_captions(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.gif").write_bytes(moving_gif(5, seed=ord(name)))
    (tmp_path / "captions.tsv").write_text("path\tcaption\na/x.gif\ta ring\nb/x.gif\ta boat\n")
    settings = SETTINGS.model_copy(update={"captions": str(tmp_path / "captions.tsv")})
    prepare([tmp_path / "a/x.gif", tmp_path / "b/x.gif"], tmp_path / "out", settings)
    found = {record.source: record.captions for record in Dataset.open(tmp_path / "out").records}
    assert found == {"a/x.gif": ("a ring",), "b/x.gif": ("a boat",)}
