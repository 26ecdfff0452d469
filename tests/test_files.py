"""Lines, and names that are not UTF-8."""

import os
from pathlib import Path

import pytest

from theseus_core.files import printable, read_lines, split_lines


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
