"""Lines, names that are not UTF-8, and what may take the place of what."""

import os
from pathlib import Path

import pytest

from theseus_core.errors import TheseusError
from theseus_core.files import printable, read_lines, replacing, split_lines


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("", []),
        ("\n", [""]),
        ("a", ["a"]),
        ("a\n", ["a"]),
        ("a\n\nb", ["a", "", "b"]),
        ("a\u2028b\x85c\x0bd\n", ["a\u2028b\x85c\x0bd"]),
    ],
)
def test_lines_end_at_a_line_feed_alone(tmp_path: Path, text: str, lines: list[str]) -> None:
    (tmp_path / "text").write_text(text, encoding="utf-8-sig")
    assert split_lines(text) == read_lines(tmp_path / "text", encoding="utf-8-sig") == lines


def test_what_is_not_utf8_can_be_written() -> None:
    assert printable(Path("größe/ü.gif")) == "größe/ü.gif"
    assert printable(os.fsdecode(b"caf\xe9.gif")) == r"caf\udce9.gif"
    assert printable("\ud800") == r"\ud800"


def test_a_file_never_takes_the_place_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("kept")
    with pytest.raises(TheseusError, match="there is a folder by that name"), replacing(tmp_path / "mine") as part:
        part.write_text("a picture")
    assert (tmp_path / "mine/notes.txt").read_text() == "kept"
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    with replacing(tmp_path / "mine") as part:
        part.mkdir()
    assert not any((tmp_path / "mine").iterdir())
    with pytest.raises(TheseusError, match="not a name that can be written"), replacing(Path()):
        pass
