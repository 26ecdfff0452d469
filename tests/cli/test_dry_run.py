"""`theseus generate --dry-run`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Theseus = Callable[..., Any]


def test_it_predicts_and_makes_nothing(theseus: Theseus, here: Path) -> None:
    result = theseus("generate", "a red circle", "--device", "cpu", "--dry-run", "-o", "no.mp4")
    assert result.code == 0, result.err
    found = json.loads(result.out)
    assert found["fits"] and found["fetch_bytes"] == 0 and found["would_fit"] == []
    assert found["peak_bytes"] == max(found["memory_bytes"].values())
    assert "the steps" in result.err and "nothing to fetch" in result.err
    assert not (here / "no.mp4").exists()


def test_it_says_what_does_not_fit(theseus: Theseus, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def little(device: Any) -> int:
        return 2**20

    monkeypatch.setattr("theseus_core.device.free_memory", little)
    result = theseus("generate", "a red circle", "--device", "cpu", "--dry-run")
    assert result.code == 0
    assert not json.loads(result.out)["fits"]
    assert "warning: it does not fit" in result.err and "a smaller --size" in result.err


def test_it_refuses_what_generate_refuses(theseus: Theseus, here: Path) -> None:
    result = theseus("generate", "a", "--device", "cpu", "--offload", "model", "--dry-run")
    assert result.code == 1 and "offloading moves parts" in result.err


def test_it_says_what_it_does_not_know_of(theseus: Theseus, here: Path) -> None:
    dry = ("generate", "a red circle", "--device", "cpu", "--dry-run")
    assert "the prediction is that without: --video, --cache" in theseus(*dry, "--video", "in.mp4", "--cache", "0.02").err
    assert "the prediction is that without" not in theseus(*dry).err
