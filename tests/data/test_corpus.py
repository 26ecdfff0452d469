"""Real clips against what three decoders said about them; skipped where the corpus is not at hand."""

import json
from typing import Any

import numpy as np
import pytest
from prep_clips import CORPUS

from theseus_core.data.decode import open_film
from theseus_core.data.filters import PrepSettings, Rejected, cut
from theseus_core.data.prepare import prepare
from theseus_core.data.resize import Resizer
from theseus_core.data.shards import Dataset

pytestmark = pytest.mark.skipif(not (CORPUS / "expected.json").exists(), reason="the corpus is not here")
EXPECTED: dict[str, Any] = json.loads((CORPUS / "expected.json").read_text())["files"] if CORPUS.exists() else {}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Dataset, dict[str, str]]:
    output = tmp_path_factory.mktemp("corpus") / "dataset"
    summary = prepare([CORPUS], output, PrepSettings(), workers=2)
    assert summary.found == summary.kept + sum(summary.rejected.values()) == len(EXPECTED)
    rejected = [json.loads(line) for line in (output / "rejected.jsonl").read_text().splitlines()]
    return Dataset.open(output), {entry["source"]: entry["reason"] for entry in rejected}


@pytest.mark.parametrize("name", EXPECTED)
def test_kept_or_rejected(name: str, prepared: tuple[Dataset, dict[str, str]]) -> None:
    dataset, rejected = prepared
    expected, kept = EXPECTED[name], {record.source: record for record in dataset.records}
    assert (name in kept) != (name in rejected)
    if expected["keep_15_40"] != "either":
        assert (name in kept) == expected["keep_15_40"]
    if name in kept:
        assert kept[name].frames == expected["frames"]
    elif expected["decodable"] == "yes" and not expected["container"].endswith("_pipe"):
        assert rejected[name] == ("too_short" if expected["frames"] < 15 else "too_long")
    else:
        assert rejected[name] in ("empty", "not_video", "damaged")


@pytest.mark.parametrize("name", [name for name, file in EXPECTED.items() if file["decodable"] == "yes"])
def test_every_frame_and_its_colours(name: str) -> None:
    expected = EXPECTED[name]
    if expected["container"].endswith("_pipe"):
        with pytest.raises(Rejected, match="not_video"), open_film(CORPUS / name):
            pytest.fail("a picture is no video")
        return
    settings = PrepSettings(min_frames=1, max_frames=1000, fit="stretch")
    with open_film(CORPUS / name) as film:
        ((frames, _),) = cut(film, Resizer((128, 128), "stretch").of(film), settings)
    assert len(frames) == expected["frames"]
    if name == "videos/red_dot_alpha.webm":  # those decoders dropped its alpha layer; a browser shows a red dot on white
        assert frames[0, 0, 0].min() > 250
        return
    turned = np.rot90(frames, expected.get("rotation", 0) // -90, axes=(1, 2))
    quadrants = turned.reshape(len(frames), 2, 64, 2, 64, 3).mean((2, 4))
    for which, at in (("first", 0), ("last", -1)):
        if which in expected["quadrant_mean_rgb_on_white"]:
            difference = np.abs(quadrants[at] - np.array(expected["quadrant_mean_rgb_on_white"][which]))
            assert difference.max() < 3
