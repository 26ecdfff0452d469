"""Evaluation: the world's own clips score full marks on the files that they were written to, wrong ones none."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from theseus_core import world
from theseus_core.data.clip import Clip
from theseus_core.errors import TheseusError
from theseus_core.evaluate import Report, Suite, draw_suite, evaluate, held_out_of
from theseus_core.evaluate.scores import difference, flicker, is_frozen, warping_error
from theseus_core.files import write_json
from theseus_core.pipeline import TextToVideo, to_frames
from theseus_core.recipe import content_hash
from theseus_core.render.video import read, sidecar_path, write
from theseus_core.world.description import shows

HELD = ("red circle moving up", "a star on the move: spinning clockwise")
SHARED = {
    "frames": 17,
    "height": 64,
    "width": 64,
    "fps": 8.0,
    "steps": 1,
    "guidance_scale": 1.0,
    "sampler": "none",
    "model": "the world",
    "model_hash": "0" * 16,
    "device": "cpu",
    "dtype": "fp32",
}


class Renderer(TextToVideo):
    """Makes the clip of the world that a prompt was worded from, or of the prompt that stands `off` places further."""

    def __init__(self, suite: Suite, off: int = 0) -> None:
        texts = [prompt.text for prompt in suite.prompts]
        clips = [prompt.clip for prompt in suite.prompts]
        self.shown = dict(zip(texts, clips[off:] + clips[:off], strict=True))
        self.made: list[str] = []

    def generate(self, prompt: str, seed: int = 0, **settings: Any) -> Clip:  # type: ignore[override]
        self.made.append(prompt)
        clip = world.Description(self.shown[prompt].kind, self.shown[prompt].attributes, seed)
        size = (settings["frames"], settings["height"], settings["width"])
        return Clip(to_frames(world.render([clip], *size)[0]), settings["fps"], prompt)


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Suite, Path, Report]:
    suite = draw_suite("shapes", 20, 3, HELD)
    folder = tmp_path_factory.mktemp("shapes")
    return suite, folder, evaluate(Renderer(suite), suite, folder, SHARED)


def test_the_worlds_own_clips_score_full_marks(shapes: tuple[Suite, Path, Report]) -> None:
    _, _, report = shapes
    for held_out in (False, True):
        scores = report.scores(held_out)
        assert {"presence", "shape", "colour", "motion", "all three", "speed", "background"} <= scores.keys()
        assert scores["all three"].of == 20
        assert sum(score.right for score in scores.values()) >= 0.99 * sum(score.of for score in scores.values()), scores
    found = report.summary()
    assert (found["blank"], found["frozen"]) == (0, 0)
    assert found["diversity"]["visibly_different"] == found["diversity"]["pairs"] == 8
    assert found["diversity"]["least"] <= found["diversity"]["mean"]
    assert 0 < found["flicker"] < 0.2
    assert 0 < found["warping_error"] < 1
    assert found["seconds_per_clip"] > 0


def test_wrong_clips_score_next_to_nothing(tmp_path: Path) -> None:
    suite = draw_suite("shapes", 12)
    scores = evaluate(Renderer(suite, off=7), suite, tmp_path, SHARED).scores(False)
    assert scores["all three"].right == 0
    assert scores["shape"].share + scores["colour"].share + scores["motion"].share < 1


def test_the_report_holds_every_verdict_and_the_sheet_is_drawn(shapes: tuple[Suite, Path, Report]) -> None:
    suite, folder, report = shapes
    tree = json.loads((folder / "report.json").read_text())
    assert tree == json.loads(json.dumps(report.tree()))
    assert [row["text"] for row in tree["prompts"]] == [prompt.text for prompt in suite.prompts]
    assert all(
        {"asked", "right", "noticed", "blank", "frozen", "flicker", "warping_error"} <= row.keys() for row in tree["prompts"]
    )
    assert tree["hold_out"] == list(HELD)
    assert sum(row["right"]["shape"] for row in tree["prompts"][:20]) == tree["scores"]["seen"]["shape"]["right"]
    assert (folder / "contact_sheet.png").stat().st_size > 10_000
    assert len((folder / "clips/index.jsonl").read_text().splitlines()) == 48


def test_a_second_start_makes_what_is_missing_and_reports_the_same(tmp_path: Path) -> None:
    suite = draw_suite("shapes", 2, 0, HELD)
    pipe = Renderer(suite)
    report = evaluate(pipe, suite, tmp_path, SHARED)
    assert len(pipe.made) == 6, "two of each, and another of the two that are not held out"
    before = (tmp_path / "report.json").read_bytes()
    again = Renderer(suite)
    assert evaluate(again, suite, tmp_path, SHARED).tree() == report.tree()
    assert again.made == []
    assert (tmp_path / "report.json").read_bytes() == before
    (tmp_path / "clips/seen-0001.mp4").unlink()
    tree = evaluate(again, suite, tmp_path, SHARED).tree()
    assert again.made == [suite.prompts[1].text]
    assert {**tree, "seconds_per_clip": None} == {**report.tree(), "seconds_per_clip": None}
    with pytest.raises(TheseusError, match="made from another recipe"):
        evaluate(again, suite, tmp_path, SHARED | {"steps": 2})


def test_what_is_judged_is_the_file(tmp_path: Path) -> None:
    suite = draw_suite("shapes", 2)
    evaluate(Renderer(suite), suite, tmp_path, SHARED)
    one, other = (tmp_path / f"clips/seen-{number:04d}.mp4" for number in (0, 1))
    one.write_bytes(other.read_bytes())
    sidecar = json.loads(sidecar_path(one).read_text())
    write_json(sidecar_path(one), sidecar | {"sha256": content_hash(other)})  # so that it is not made anew
    verdicts = evaluate(Renderer(suite), suite, tmp_path, SHARED).verdicts
    assert not verdicts[0].right["all three"]
    assert verdicts[1].right["all three"]


# --- prompts ---


def test_prompts_of_shapes_say_what_they_are_scored_by() -> None:
    suite = draw_suite("shapes", 60, 1, HELD)
    held = [world.wanted(text) for text in HELD]
    assert len({prompt.name for prompt in suite.prompts}) == 120
    for number, prompt in enumerate(suite.prompts):
        assert {"shape", "colour", "motion"} <= prompt.asked.attributes.keys()
        assert prompt.asked == world.parse(prompt.text)
        assert shows(prompt.clip, prompt.asked)
        assert prompt.held_out == (number >= 60)
        showing = [shows(prompt.asked, each) for each in held]
        assert showing[number % 2] if prompt.held_out else not any(world.GROUPS["shapes"].shows(prompt.clip, h) for h in held)
    two = sum("relation" in prompt.asked.attributes for prompt in suite.prompts[:60])
    assert 6 < two < 40


def test_a_suite_is_a_function_of_its_arguments_and_grows_at_its_end() -> None:
    suite = draw_suite("shapes", 20, 5)
    assert suite == draw_suite("shapes", 20, 5)
    assert draw_suite("shapes", 30, 5).prompts[:20] == suite.prompts
    assert {prompt.text for prompt in draw_suite("shapes", 20, 6).prompts} != {prompt.text for prompt in suite.prompts}


def test_the_number_of_shapes_can_be_asked_for() -> None:
    for objects in (1, 2):
        prompts = draw_suite("shapes", 30, objects=objects).prompts
        assert all(("relation" in prompt.clip.attributes) == (objects == 2) for prompt in prompts)
        assert objects == 1 or any("relation" in prompt.asked.attributes for prompt in prompts)


def test_scenes_have_equal_numbers_of_each_kind() -> None:
    kinds = world.GROUPS["nature"].kinds
    suite = draw_suite("scenes", 2 * len(kinds) - 5, hold_out=["a waterfall at night", "aurora"])
    seen = [prompt for prompt in suite.prompts if not prompt.held_out]
    assert {kind: sum(prompt.clip.kind == kind for prompt in seen) for kind in kinds} == {
        kind: 0 if kind == "aurora" else 2 for kind in kinds
    }
    assert not any(prompt.clip.kind == "waterfall" and prompt.clip.attributes["time"] == "night" for prompt in seen)
    held = [prompt for prompt in suite.prompts if prompt.held_out]
    assert all(prompt.asked.attributes["time"] == "night" for prompt in held[::2])
    assert {prompt.asked.kind for prompt in held[1::2]} == {"aurora"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "animals"}, "no such suite: animals"),
        ({"name": "scenes", "objects": 1}, "only of shapes a number can be asked for: 1"),
        ({"name": "scenes", "hold_out": ["red circle"]}, "nothing that the suite scenes shows is: red circle"),
        ({"name": "shapes", "hold_out": ["a cow"]}, "the world has nothing like: a cow"),
        (
            {"name": "shapes", "hold_out": ["red circle spinning above a red square"]},
            "shows: red circle spinning above a red square",
        ),
    ],
)
def test_what_cannot_be_drawn_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(TheseusError, match=message):
        draw_suite(clips=2, **arguments)


def test_a_model_says_what_it_was_never_shown(tmp_path: Path) -> None:
    parts = {"tokenizer": "a", "text_encoder": "b"}
    settings = {"world": {"hold_out": ["red circle moving up", "a waterfall at night"]}}
    write_json(tmp_path / "model.json", {"format": 1, "parts": parts, "made_by": {"settings": settings}})
    assert held_out_of(str(tmp_path), "shapes") == ["red circle moving up"]
    assert held_out_of(str(tmp_path), "scenes") == ["a waterfall at night"]
    for made_by in ({}, {"settings": {}}, {"settings": {"world": {}}}, {"settings": None}):
        write_json(tmp_path / "model.json", {"format": 1, "parts": parts, "made_by": made_by})
        assert held_out_of(str(tmp_path), "shapes") == []


# --- measures ---


def test_too_few_frames_are_refused_before_any_work(tmp_path: Path) -> None:
    suite = draw_suite("shapes", 1)
    with pytest.raises(TheseusError, match=r"can be judged from 17 frames, not from: 9") as error:
        evaluate(Renderer(suite), suite, tmp_path / "out", SHARED | {"frames": 9})
    assert error.value.hint == "--frames 17"
    assert not (tmp_path / "out").exists()


def test_a_picture_held_still_is_frozen_even_under_noise(tmp_path: Path) -> None:
    noise = torch.Generator().manual_seed(0)
    for number, kind in enumerate(["shapes", "starry night", "candle"]):
        video = world.render([world.sample(number, (kind,))], 17, 64, 64)[0]
        held = video[:, 8:9] + 0.03 * torch.randn(video.shape, generator=noise)
        for frozen, clip in ((False, video), (True, held)):
            path = write(Clip(to_frames(clip.clamp(-1, 1)), 8.0), tmp_path / "clip.mp4")
            assert is_frozen(read(path, 17).frames) == frozen, kind


def test_flicker_is_of_brightness_that_goes_to_and_fro() -> None:
    frames = np.full((17, 8, 8, 3), 100, np.uint8)
    assert flicker(frames) == 0
    assert flicker(frames + np.arange(17, dtype=np.uint8).reshape(-1, 1, 1, 1)) == 0
    frames[1::2] += 5
    assert flicker(frames) == pytest.approx(10)


def test_movement_explains_what_moves_and_nothing_else() -> None:
    rng = np.random.default_rng(0)
    ground = np.repeat(np.repeat(rng.integers(0, 255, (30, 30, 3), dtype=np.uint8), 4, 0), 4, 1)  # no pixel is like its neighbours
    panned = np.stack([ground[20:84, 10 + 3 * t : 74 + 3 * t] for t in range(12)])
    assert warping_error(panned[:1].repeat(12, axis=0)) == 0
    assert warping_error(panned) < 8, "but for the edge where something new comes in"
    assert warping_error(panned[rng.permutation(12)]) > 2 * warping_error(panned)
    noisy = panned.astype(np.int16) + rng.integers(-20, 21, panned.shape)
    assert warping_error(noisy.clip(0, 255).astype(np.uint8)) > warping_error(panned) + 8
    alone = rng.integers(0, 255, (12, 16, 16, 3), dtype=np.uint8).repeat(4, axis=1).repeat(4, axis=2)
    assert warping_error(alone) > 40, "frames that have nothing to do with one another"
    assert warping_error(panned.repeat(2, axis=1).repeat(2, axis=2)) == pytest.approx(warping_error(panned)), "at any size"


def test_difference_is_a_mean_over_all_values() -> None:
    dark, light = np.zeros((2, 4, 4, 3), np.uint8), np.full((2, 4, 4, 3), 255, np.uint8)
    assert difference(dark, light) == difference(light, dark) == 255
    light[:, :2] = 0
    assert difference(dark, light) == 127.5


def test_blank_and_frozen_clips_are_counted(tmp_path: Path) -> None:
    class Broken(Renderer):
        def generate(self, prompt: str, seed: int = 0, **settings: Any) -> Clip:  # type: ignore[override]
            clip = super().generate(prompt, seed, **settings)
            frames = np.full_like(clip.frames, 128) if self.made.index(prompt) == 0 else clip.frames[:1].repeat(17, axis=0)
            return Clip(frames, clip.fps, prompt)

    suite = draw_suite("shapes", 3)
    report = evaluate(Broken(suite), suite, tmp_path, SHARED)
    assert [(verdict.blank, verdict.frozen) for verdict in report.verdicts] == [(True, True), (False, True), (False, True)]
    assert (report.summary()["blank"], report.summary()["frozen"]) == (1, 3)
    assert not any(verdict.right["motion"] for verdict in report.verdicts)
    assert report.pairs[0].difference == 0
    assert asdict(report.pairs[0])["names"] == ("seen-0000", "again-seen-0000")
