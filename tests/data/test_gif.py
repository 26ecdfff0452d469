"""GIFs as a browser shows them, and damaged ones found out."""

from pathlib import Path

import av
import numpy as np
import pytest
from prep_clips import PALETTE, Picture, Pixels, gif, moving_gif

from theseus_core.data.decode import open_film
from theseus_core.data.filters import PrepSettings, Rejected, cut
from theseus_core.data.gif import DamagedGif, Gif
from theseus_core.data.resize import Resizer

WHITE = np.full(3, 255, np.uint8)


def shown(path: Path, size: tuple[int, int]) -> Pixels:
    settings = PrepSettings(width=size[0], height=size[1], min_frames=1, max_frames=100)
    with open_film(path) as film:
        ((frames, _),) = cut(film, Resizer(size, "crop").of(film), settings)
        return frames


def browser(canvas: tuple[int, int], pictures: list[Picture], palette: Pixels) -> Pixels:
    """The specification and the habits of browsers, pixel by pixel: disposal clears to transparent, which lies over white."""
    screen = np.repeat(WHITE[None], canvas[0] * canvas[1], 0).reshape(canvas[1], canvas[0], 3).copy()
    frames = []
    for picture in pictures:
        before = screen.copy()
        height, width = picture.indices.shape
        colours = (palette if picture.palette is None else picture.palette)[picture.indices]
        area = screen[picture.y : picture.y + height, picture.x : picture.x + width]
        drawn = picture.indices != (-1 if picture.transparent is None else picture.transparent)
        area[drawn] = colours[: area.shape[0], : area.shape[1]][drawn]
        frames.append(screen.copy())
        if picture.disposal == 2:
            area[:] = WHITE
        elif picture.disposal == 3:
            screen = before
    return np.stack(frames)


@pytest.mark.parametrize("seed", range(6))
def test_disposal_transparency_and_background_are_the_browsers(tmp_path: Path, seed: int) -> None:
    random = np.random.default_rng(seed)
    pictures = []
    for number in range(12):
        height, width = random.integers(2, 9, 2)
        x, y = random.integers(0, 12 - width + 4), random.integers(0, 12 - height + 4)
        indices = random.integers(0, 4 if number % 2 else 100, (height, width)).astype(np.uint8)
        transparent = int(random.integers(0, 4)) if random.random() < 0.6 else None
        palette = random.integers(0, 256, (128, 3)).astype(np.uint8) if random.random() < 0.3 else None
        pictures.append(Picture(indices, int(x), int(y), 10, int(random.integers(0, 4)), transparent, palette))
    path = tmp_path / "a.gif"
    path.write_bytes(gif((16, 16), pictures, background=int(random.integers(0, 4))))
    np.testing.assert_array_equal(shown(path, (16, 16)), browser((16, 16), pictures, PALETTE))


def test_transparency_is_laid_over_white_before_anything_is_scaled(tmp_path: Path) -> None:
    indices = np.full((32, 32), 9, np.uint8)
    indices[::2, ::2] = 3  # a quarter of each 2x2 block is seen
    path = tmp_path / "a.gif"
    path.write_bytes(gif((32, 32), [Picture(indices, transparent=9)]))
    expected = (PALETTE[3].astype(float) + 3 * 255) / 4
    assert np.abs(shown(path, (16, 16)).astype(float) - expected).max() <= 2


def test_delays_count_as_in_browsers() -> None:
    delays = [0, 1, 2, 3, 10, 300]
    pictures = [Picture(np.zeros((2, 2), np.uint8), delay=delay) for delay in delays]
    pictures.append(Picture(np.zeros((2, 2), np.uint8), control=False))
    walked = Gif(gif((2, 2), pictures))
    assert [picture.delay for picture in walked.pictures] == [10, 10, 2, 3, 10, 300, 10]
    assert walked.seconds == pytest.approx(3.45)


def test_a_first_picture_beyond_the_screen_widens_it(tmp_path: Path) -> None:
    indices = np.arange(64, dtype=np.uint8).reshape(8, 8)
    path = tmp_path / "a.gif"
    path.write_bytes(gif((0, 0), [Picture(indices)]))
    np.testing.assert_array_equal(shown(path, (8, 8))[0], PALETTE[indices])
    with pytest.raises(DamagedGif, match="16x16 on a canvas of 8x8"):
        Gif(gif((8, 8), [Picture(indices), Picture(np.zeros((16, 16), np.uint8))]))


def test_every_truncation_is_found_out(tmp_path: Path) -> None:
    whole = moving_gif(5, size=8)
    path = tmp_path / "a.gif"
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(Rejected) as caught:
            shown(path, (8, 8))
        assert caught.value.reason == ("empty" if length == 0 else "not_video" if length < 6 else "damaged")
    path.write_bytes(whole + b"what comes after the trailer does not matter")
    assert len(shown(path, (8, 8))) == 5


def test_pixels_that_do_not_unpack_are_found_in_the_decoders_log(tmp_path: Path) -> None:
    whole = moving_gif(5, size=8)
    at = whole.rindex(b"\x80", 0, whole.rindex(b",")) + 3
    path = tmp_path / "a.gif"
    path.write_bytes(whole[:at] + b"\xff" + whole[at + 1 :])  # a code that the table cannot hold yet
    with av.open(str(path)) as container:
        assert len(list(container.decode(video=0))) == 5, "the decoder conceals it"
    with pytest.raises(Rejected) as caught:
        shown(path, (8, 8))
    assert caught.value.reason == "damaged"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (gif((8, 8), []), "no picture"),
        (gif((8, 8), [Picture(np.zeros((8, 8), np.uint8))]).replace(b"\0;", b"\0\x77"), "no block begins with 0x77"),
        (gif((8, 8), [Picture(np.zeros((8, 8), np.uint8))], palette=None), "without a palette"),
    ],
)
def test_blocks_that_lead_nowhere(tmp_path: Path, data: bytes, reason: str) -> None:
    path = tmp_path / "a.gif"
    path.write_bytes(data)
    with pytest.raises(Rejected, match=reason):
        shown(path, (8, 8))


def test_a_small_file_with_an_enormous_canvas_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    path = tmp_path / "a.gif"
    path.write_bytes(gif((65535, 65535), [Picture(np.zeros((2, 2), np.uint8))]))
    with pytest.raises(Rejected) as caught:
        shown(path, (8, 8))
    assert caught.value.reason == "too_large"


def test_the_count_rejects_before_anything_is_decoded(tmp_path: Path) -> None:
    path = tmp_path / "a.gif"
    path.write_bytes(moving_gif(41, size=4))
    with open_film(path) as film, pytest.raises(Rejected) as caught:
        next(cut(film, lambda frame, out: pytest.fail("a frame was decoded"), PrepSettings()))
    assert caught.value.reason == "too_long"
