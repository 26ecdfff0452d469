"""What is found in folders, and which caption belongs to it."""

import os
import socket
from pathlib import Path

import pytest

from theseus_core.data.sources.folders import caption_from_name, find
from theseus_core.data.sources.tables import match, read_table
from theseus_core.errors import TheseusError


def touch(path: Path, text: str = "x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def names(*sources: Path) -> list[str]:
    return [file.name for file in find(sources, leave_out=sources[0].parent / "dataset")]


def test_files_are_found_by_their_ending_in_one_order(tmp_path: Path) -> None:
    for name in (
        "b/2.GIF",
        "b/10.mp4",
        "a.webm",
        "c.mov",
        "d.avi",
        "e.mkv",
        "a.txt",
        "captions.tsv",
        "x.png",
        ".hidden.gif",
        ".git/x.gif",
    ):
        touch(tmp_path / "in" / name, name)
    assert names(tmp_path / "in") == ["a.webm", "b/10.mp4", "b/2.GIF", "c.mov", "d.avi", "e.mkv"]


def test_a_file_reached_twice_counts_once(tmp_path: Path) -> None:
    touch(tmp_path / "in" / "a.gif")
    (tmp_path / "in" / "b.gif").symlink_to("a.gif")
    assert names(tmp_path / "in", tmp_path / "in", tmp_path / "in" / "a.gif") == ["in-1/a.gif"]


def test_several_sources_are_told_apart(tmp_path: Path) -> None:
    for name in ("x/one/a.gif", "y/one/a.gif", "two/a.gif", "b.gif"):
        touch(tmp_path / name, name)
    sources = [tmp_path / "x/one", tmp_path / "y/one", tmp_path / "two", tmp_path / "b.gif"]
    assert names(*sources) == ["one-1/a.gif", "one-2/a.gif", "two/a.gif", "b.gif"]


def test_a_circle_of_folders_ends(tmp_path: Path) -> None:
    touch(tmp_path / "in" / "a" / "a.gif")
    (tmp_path / "in" / "a" / "up").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "self").symlink_to(".")
    assert names(tmp_path / "in") == ["a/a.gif"]


def test_the_output_is_not_an_input(tmp_path: Path) -> None:
    touch(tmp_path / "in" / "a.gif")
    touch(tmp_path / "in" / "dataset" / "b.gif")
    assert [file.name for file in find([tmp_path / "in"], leave_out=tmp_path / "in" / "dataset")] == ["a.gif"]


def test_pipes_devices_sockets_and_broken_links_are_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in").mkdir()
    os.mkfifo(tmp_path / "in" / "fifo.gif")
    (tmp_path / "in" / "endless.gif").symlink_to("/dev/zero")
    (tmp_path / "in" / "broken.gif").symlink_to("nowhere")
    monkeypatch.chdir(tmp_path / "in")  # the path of a socket must be short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket.gif")
        problems = {file.name: file.problem for file in find([tmp_path / "in"], leave_out=tmp_path / "out")}
    assert {name: problem and problem[0] for name, problem in problems.items()} == {
        "fifo.gif": "not_a_file",
        "endless.gif": "not_a_file",
        "broken.gif": "not_a_file",
        "socket.gif": "not_a_file",
    }


def test_nothing_found_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TheseusError, match=r"no such file or folder: .*nowhere"):
        find([tmp_path / "nowhere"], leave_out=tmp_path / "out")
    with pytest.raises(TheseusError, match="no clips found"):
        find([tmp_path], leave_out=tmp_path / "out")


def test_sidecars(tmp_path: Path) -> None:
    for stem in "abcd":
        touch(tmp_path / f"{stem}.gif", stem)
    touch(tmp_path / "a.txt", "\ufeffa  cat \n\nthe cat\na cat\n")
    touch(tmp_path / "b.txt", "  \n")
    (tmp_path / "c.txt").write_bytes(b"caf\xe9")
    os.mkfifo(tmp_path / "d.txt")
    captions = {file.name: file.captions for file in find([tmp_path], leave_out=tmp_path / "out")}
    assert captions == {"a.gif": ("a cat", "the cat"), "b.gif": (), "c.gif": ("caf\ufffd",), "d.gif": ()}


@pytest.mark.parametrize(("name", "words"), [("gifs/red_circle-2.gif", "red circle 2"), ("a.b.mp4", "a.b"), ("x/___.gif", "___")])
def test_names_as_captions(name: str, words: str) -> None:
    assert caption_from_name(name) == words


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("c.tsv", '\ufeffa.gif\ta cat\r\n\r\nb.gif\tit says "no", twice\r\na.gif\tthe cat\r\n'),
        ("c.tsv", 'path\tcaption\na.gif\ta cat\nb.gif\tit says "no", twice\na.gif\tthe cat'),
        ("c.csv", 'id,Text,File\n1,a cat,a.gif\n\n2,"it says ""no"", twice",b.gif\n3,the\tcat,a.gif\n'),
        (
            "c.jsonl",
            '{"file": "a.gif", "caption": "a cat"}\n{"video_path": "b.gif", "text": "it says \\"no\\", twice"}\n\n'
            '{"path": "a.gif", "caption": ["the cat"]}',
        ),
        (
            "c.json",
            '[{"video_file": "a.gif", "description": "a cat"}, {"video_path": "b.gif", "text": "it says \\"no\\", twice"},'
            ' {"path": "a.gif", "caption": ["the cat"]}]',
        ),
    ],
)
def test_tables(tmp_path: Path, name: str, text: str) -> None:
    table = touch(tmp_path / name, text)
    assert [(row.path, row.caption) for row in read_table(table)] == [
        ("a.gif", "a cat"),
        ("b.gif", 'it says "no", twice'),
        ("a.gif", "the cat"),
    ]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("c.tsv", b"a.gif\ta cat\nb.gif a dog\n", "1 columns instead of 2, line 2 of"),
        ("c.tsv", b"a.gif\ta\tcat\n", "3 columns instead of 2, line 1 of"),
        ("c.tsv", b"a.gif\t \n", "no caption, line 1 of"),
        ("c.tsv", b"\ta cat\n", "no file named, line 1 of"),
        ("c.tsv", b"a.gif\ta cat\nb.gif\tcaf\xe9\n", "not UTF-8, line 2 of"),
        ("c.tsv", b"\n", "no captions in"),
        ("c.csv", b"a.gif,a cat\n", "no column named file or path or video_path or video_file, line 1 of"),
        ("c.csv", b"file,words\na.gif,a cat\n", "no column named caption or text or description, line 1 of"),
        ("c.csv", b"file,caption\na.gif,a cat, asleep\n", "3 columns instead of 2, line 2 of"),
        ("c.jsonl", b'{"file": "a.gif", "caption": "\\ud800"}', "half a character, line 1 of"),
        ("c.csv", b'file,caption\n\na.gif,"a "cat\n', "malformed .*, line 3 of"),
        ("c.jsonl", b'{"file": "a.gif", "caption": "x"}\n{"file": \n', "not JSON, line 2 of"),
        ("c.jsonl", b'["a.gif", "a cat"]\n', "no file and caption, line 1 of"),
        ("c.jsonl", b'{"file": "a.gif", "caption": 3}\n', "no caption, line 1 of"),
        ("c.json", b'{"file": "a.gif", "caption": "x"}', "not a list of files and captions"),
        ("c.json", b'[{"file": "a.gif", "caption": "x"}, {"file": "b.gif"}]', "no file and caption, entry 2 of"),
        ("c.json", b"[{]", "not a JSON file"),
        ("c.xlsx", b"", "not a captions file"),
    ],
)
def test_malformed_tables_say_where(tmp_path: Path, name: str, text: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(text)
    with pytest.raises(TheseusError, match=message) as caught:
        read_table(tmp_path / name)
    assert caught.value.hint or "no captions" in message


def test_rows_find_files_by_path_then_by_a_name_that_is_unique(tmp_path: Path) -> None:
    for name in ("a/1.gif", "b/1.gif", "b/2.gif", "3.gif", "c/4.gif"):
        touch(tmp_path / name, name)
    table = touch(
        tmp_path / "captions.tsv",
        "a/1.gif\tby path\n./b/../b/1.gif\tby path too\nhttps://host/x/2.gif\tby name\n1.gif\ttwo have this name\n"
        "elsewhere/3.gif\ttwo rows\nother/3.gif\tmean this name\ngone.gif\tno file\n4.gif\tfirst\n4.gif\tsecond\n",
    )
    captions, missing = match(table, read_table(table), find([tmp_path], leave_out=tmp_path / "out"))
    assert captions == {
        "a/1.gif": ("by path",),
        "b/1.gif": ("by path too",),
        "b/2.gif": ("by name",),
        "c/4.gif": ("first", "second"),
    }
    assert missing == 4
