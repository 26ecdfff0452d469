"""Contact sheets, curves and bars."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from theseus_core.data.clip import Clip
from theseus_core.errors import TheseusError
from theseus_core.render.bars import Panel, bars
from theseus_core.render.plots import curves, needs_log_scale, read_series, smoothed
from theseus_core.render.sheets import FONT_SIZE, comparison, contact_sheet, matrix, wrap


def flat(colour: tuple[int, int, int], frames: int = 8) -> Clip:
    return Clip(np.full((frames, 16, 24, 3), colour, np.uint8), 10.0, "a flat colour that fills the whole frame")


RED, GREEN, BLUE = flat((255, 0, 0)), flat((0, 255, 0)), flat((0, 0, 255), frames=2)


def pixels_of(picture: Image.Image, colour: tuple[int, int, int]) -> int:
    return int((np.asarray(picture.convert("RGB")) == colour).all(axis=-1).sum())


def test_a_sheet_shows_every_clip_as_often_as_asked(tmp_path: Path) -> None:
    with Image.open(contact_sheet([RED, GREEN, BLUE], tmp_path / "sheet.png", frames_per_clip=4, height=32)) as sheet:
        assert pixels_of(sheet, (255, 0, 0)) == pixels_of(sheet, (0, 255, 0)) == 4 * 32 * 48
        assert pixels_of(sheet, (0, 0, 255)) == 2 * 32 * 48  # it has but two frames


def test_frames_are_spread_from_the_first_to_the_last(tmp_path: Path) -> None:
    frames = np.zeros((9, 16, 16, 3), np.uint8)
    frames[..., 0] = np.arange(9).reshape(9, 1, 1) * 25 + 3
    with Image.open(contact_sheet([Clip(frames, 10.0)], tmp_path / "sheet.png", frames_per_clip=3, height=16)) as sheet:
        colours = {tuple(colour) for _, colour in sheet.getcolors(1000)}
    assert {(3, 0, 0), (103, 0, 0), (203, 0, 0)} <= colours


def test_the_same_sheet_gives_the_same_bytes(tmp_path: Path) -> None:
    one = contact_sheet([RED, GREEN], tmp_path / "one.png").read_bytes()
    assert one == contact_sheet([RED, GREEN], tmp_path / "two.png").read_bytes()
    assert one != contact_sheet([RED, GREEN], tmp_path / "three.png", labels=["first", "second"]).read_bytes()


def test_columns(tmp_path: Path) -> None:
    with (
        Image.open(contact_sheet([RED] * 4, tmp_path / "a.png", columns=1)) as one,
        Image.open(contact_sheet([RED] * 4, tmp_path / "b.png", columns=4)) as four,
    ):
        assert one.height > 3 * four.height
        assert four.width > 3 * one.width


def test_a_comparison_puts_both_in_the_picture(tmp_path: Path) -> None:
    with Image.open(comparison([RED, RED], [GREEN, BLUE], tmp_path / "pairs.png", frames_per_clip=2, height=32)) as sheet:
        assert pixels_of(sheet, (255, 0, 0)) == 2 * 2 * 32 * 48
        assert pixels_of(sheet, (0, 255, 0)) == pixels_of(sheet, (0, 0, 255)) == 2 * 32 * 48


def test_captions_are_wrapped_at_words() -> None:
    text = "a dark haired woman in a black dress looks at the camera on a street at night"
    lines = wrap(text, 40 * FONT_SIZE // 2)
    assert len(lines) > 1
    assert " ".join(lines) == text
    assert wrap("", 100) == []
    assert len(wrap(text * 9, 200)) == 3
    assert wrap(text * 9, 200)[-1].endswith("...")


def test_a_matrix_has_a_row_for_each_maker_and_a_column_for_each_thing(tmp_path: Path) -> None:
    wide = Clip(RED.frames.repeat(2, axis=2), 10.0)
    labels = [["right", "wrong: motion"]] * 2
    path = matrix([[RED, GREEN], [wide, BLUE]], tmp_path / "m.png", ["dit", "gan"], ["a red clip", "another"], labels, height=16)
    with Image.open(path) as sheet:
        pixels = np.asarray(sheet.convert("RGB"))
    assert (pixels == (255, 0, 0)).all(-1).sum() == 4 * 16 * (24 + 48)
    tops = {}
    for name, colour in (("red", (255, 0, 0)), ("green", (0, 255, 0)), ("blue", (0, 0, 255))):
        rows, columns = np.nonzero((pixels == colour).all(-1))
        tops[name] = (rows.min(), columns.min(), columns.max())
    assert tops["green"][0] == tops["red"][0] < tops["blue"][0]
    assert tops["green"][1] == tops["blue"][1] > tops["red"][2], "a column is as wide as its widest clip"


def test_bars_are_drawn_the_same_each_time_and_tell_what_is_unknown(tmp_path: Path) -> None:
    panels = [Panel("right", {"seen": [90.0, 50.0], "never shown": [80.0, None]}, most=100), Panel("minutes", {"": [None, 3.0]})]
    one = bars(["dit", "gan"], panels, tmp_path / "one.png")
    assert one.read_bytes() == bars(["dit", "gan"], panels, tmp_path / "two.png").read_bytes()
    known = [Panel("right", {"seen": [90.0, 50.0], "never shown": [80.0, 0.0]}, most=100), panels[1]]
    assert one.read_bytes() != bars(["dit", "gan"], known, tmp_path / "known.png").read_bytes()
    assert len({bars(["dit"], [Panel("x", {"": [1.0]})] * n, tmp_path / f"{n}.png").stat().st_size for n in (1, 5)}) == 2


JOURNAL = [
    {"step": 0, "device": "cpu", "parameters": 1000},
    {"step": 10, "loss": 2.0, "psnr": 12.0, "seconds": 3.0},
    {"step": 20, "loss": 1.0, "psnr": 15.0, "eval/loss": 1.5, "eval/seconds": 1.0},
    {"step": 30, "loss": float("nan"), "psnr": 18.0, "note": "text", "done": True},
]


def test_series_are_the_numbers_of_the_journal() -> None:
    assert read_series(JOURNAL) == {
        "loss": ([10.0, 20.0], [2.0, 1.0]),
        "psnr": ([10.0, 20.0, 30.0], [12.0, 15.0, 18.0]),
        "eval/loss": ([20.0], [1.5]),
    }


def test_curves_are_drawn_the_same_each_time(tmp_path: Path) -> None:
    one = curves(JOURNAL, tmp_path / "one.png", title="runs/vae")
    with Image.open(one) as picture:
        assert picture.width > 800  # two panels side by side: loss and psnr
        assert len(picture.convert("RGB").getcolors(100_000)) > 20
    assert one.read_bytes() == curves(JOURNAL, tmp_path / "two.png", title="runs/vae").read_bytes()


def test_an_empty_journal_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TheseusError, match="no numbers"):
        curves(JOURNAL[:1], tmp_path / "curves.png")


def test_smoothing_bends_no_straight_line() -> None:
    line = [3.0 * index - 7 for index in range(400)]
    assert smoothed(line) == pytest.approx(line)
    noisy = [value + (-1) ** index for index, value in enumerate(line)]
    assert np.abs(np.subtract(smoothed(noisy), line))[10:-10].max() < 0.2


def test_the_axis_is_logarithmic_where_values_span_decades() -> None:
    falling = [10 ** (-index / 20) for index in range(80)]
    assert needs_log_scale(falling)
    assert not needs_log_scale([20.0, 25.0, 30.0])
    assert not needs_log_scale([*falling, -1.0])
