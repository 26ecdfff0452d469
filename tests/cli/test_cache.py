"""`theseus generate --cache`."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

Theseus = Callable[..., Any]


def test_a_cache_says_what_it_left_out_and_what_it_cost_and_is_replayed(theseus: Theseus, here: Path) -> None:
    result = theseus("generate", "a red circle", "-o", "out.mp4", "--steps", 20, "--cache", 0.05, "--cache-check")
    assert result.code == 0
    said = re.search(r"cache: (\d+) of 20 evaluations left out", result.err)
    assert said and int(said[1]) > 0
    assert re.search(r"against the same without a cache: \d+\.\d dB PSNR", result.err)
    assert json.loads((here / "out.mp4.json").read_text())["recipe"]["cache"] == 0.05
    again = theseus("replay", "out.mp4.json")
    assert "the same bytes as out.mp4 had" in again.err and "cache: " in again.err
    assert (here / "out-replay.mp4").read_bytes() == (here / "out.mp4").read_bytes()


def test_a_check_of_nothing_is_refused(theseus: Theseus, here: Path) -> None:
    result = theseus("generate", "a red circle", "-o", "out.mp4", "--cache-check")
    assert result.code == 1 and "nothing to check: --cache-check" in result.err
    assert theseus("generate", "a red circle", "-o", "out.mp4", "--cache", 2).code == 1
    assert not (here / "out.mp4").exists()
    assert "cache: " not in theseus("generate", "a red circle", "-o", "out.mp4").err
