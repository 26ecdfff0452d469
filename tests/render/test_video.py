"""Video files: what is written is what a player shows, in the same bytes each time."""

from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from theseus_core.data.clip import Clip
from theseus_core.errors import TheseusError
from theseus_core.render.plots import curves
from theseus_core.render.video import check, gif_times, read_image, sidecar_path, timing_note, write
from theseus_core.render.video import read as read_clip

ENDINGS = [".mp4", ".webm", ".avi", ".gif"]


def moving_square(frames: int = 9, height: int = 32, width: int = 48, fps: float = 12.0) -> Clip:
    """Flat colours that survive 4:2:0: a red square walks to the right over blue, on even pixels."""
    pictures = np.zeros((frames, height, width, 3), np.uint8)
    pictures[..., 2] = 200
    for index in range(frames):
        pictures[index, 8:24, 2 * index : 2 * index + 16] = (220, 30, 20)
    return Clip(pictures, fps, 'a "red" square; walks = right, größer ✓')


def read(path: Path) -> tuple[np.ndarray, list[float], dict[str, str]]:
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
        return (
            np.stack([frame.to_ndarray(format="rgb24") for frame in frames]),
            [frame.time for frame in frames],
            container.metadata,
        )


@pytest.mark.parametrize("ending", ENDINGS)
def test_every_frame_comes_back_at_its_time(tmp_path: Path, ending: str) -> None:
    clip = moving_square()
    frames, times, _ = read(write(clip, tmp_path / f"clip{ending}"))
    assert frames.shape == clip.frames.shape
    assert np.abs(frames.astype(int) - clip.frames).mean() < 3
    step = 0.011 if ending == ".gif" else 0.002
    assert times == pytest.approx([index / clip.fps for index in range(9)], abs=step)


@pytest.mark.parametrize("ending", [*ENDINGS, ""])
def test_the_same_clip_gives_the_same_bytes(tmp_path: Path, ending: str) -> None:
    def files(name: str) -> list[bytes]:
        path = write(moving_square(), tmp_path / f"{name}{ending}")
        sidecar_path(path).touch()
        return [file.read_bytes() for file in sorted(path.iterdir())] if path.is_dir() else [path.read_bytes()]

    first = files("one")
    assert first == files("two")
    assert first == files("one")  # over the older one
    names = {f"one{ending}", f"two{ending}"}
    assert {path.name for path in tmp_path.iterdir()} == names | {f"{name}.json" for name in names}


@pytest.mark.parametrize(("ending", "key"), [(".mp4", "title"), (".webm", "title"), (".avi", "title"), (".gif", "comment")])
def test_the_caption_is_in_the_file(tmp_path: Path, ending: str, key: str) -> None:
    clip = moving_square()
    _, _, notes = read(write(clip, tmp_path / f"clip{ending}"))
    assert {name.lower(): text for name, text in notes.items()}[key] == clip.caption


def test_the_bytes_do_not_depend_on_what_memory_held_before(tmp_path: Path) -> None:
    """With x264's macroblock tree, some of these were others."""
    frames = np.full((5, 32, 64, 3), 40, np.uint8)
    for t in range(5):
        frames[t, 8:20, t : t + 12] = frames[t, 7:21, t + 31 : t + 44] = (220, 30, 30)
    rng, seen = np.random.default_rng(0), set()
    frames[:, :, 32:] += rng.integers(0, 12, frames[:, :, 32:].shape, dtype=np.uint8)
    for i in range(60):
        if i % 12 == 0:  # a plot leaves memory of many sizes behind
            curves([{"step": s, "loss": float(rng.random())} for s in range(20)], tmp_path / "plot.png")
        seen.add(Clip(frames, 8.0).save(tmp_path / "clip.mp4").read_bytes())
    assert len(seen) == 1


def test_a_long_caption_fits_into_a_gif(tmp_path: Path) -> None:
    clip = moving_square()
    path = write(Clip(clip.frames, clip.fps, "word " * 200), tmp_path / "clip.gif")
    with Image.open(path) as picture:
        assert picture.n_frames == 9
    assert len(read(path)[0]) == 9


def test_flat_colours_are_exact_in_a_gif_and_in_pngs(tmp_path: Path) -> None:
    clip = moving_square()
    frames, _, _ = read(write(clip, tmp_path / "clip.gif"))
    assert np.abs(frames.astype(int) - clip.frames).max() <= 4
    folder = write(clip, tmp_path / "pngs")
    loaded = []
    for path in sorted(folder.glob("*.png")):
        with Image.open(path) as picture:
            loaded.append(np.asarray(picture))
            assert picture.text["Description"] == clip.caption
    assert np.array_equal(np.stack(loaded), clip.frames)


def test_gif_delays_keep_the_rate_to_the_last_frame(tmp_path: Path) -> None:
    clip = moving_square(frames=13, fps=24.0)
    with Image.open(write(clip, tmp_path / "clip.gif")) as picture:
        delays = []
        for index in range(picture.n_frames):
            picture.seek(index)
            delays.append(picture.info["duration"])
        assert picture.info["loop"] == 0
    assert len(delays) == 13
    assert sum(delays) == pytest.approx(13 * 1000 / 24, abs=10)
    assert set(delays) == {40, 50}


def test_what_a_gif_rounds_is_said() -> None:
    assert timing_note(Path("a.gif"), 10) is None
    assert timing_note(Path("a.mp4"), 24) is None
    assert "24 frames a second last 4 or 5" in (timing_note(Path("a.gif"), 24) or "")
    assert gif_times(5, 24) == [0, 4, 8, 12, 17]


def test_colours_are_tagged_as_they_were_computed(tmp_path: Path) -> None:
    for ending in (".mp4", ".webm"):
        with av.open(str(write(moving_square(), tmp_path / f"clip{ending}"))) as container:
            frame = next(container.decode(video=0))
            assert (int(frame.colorspace), int(frame.color_range)) == (1, 1)  # BT.709, limited


def test_odd_sizes(tmp_path: Path) -> None:
    clip = Clip(moving_square().frames[:, :31, :45], 12.0)
    for ending in (".webm", ".gif", ""):
        write(clip, tmp_path / f"odd{ending}")
    assert read(tmp_path / "odd.webm")[0].shape == clip.frames.shape
    for ending in (".mp4", ".avi"):
        with pytest.raises(TheseusError, match="even width and height: 45x31"):
            write(clip, tmp_path / f"odd{ending}")
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize(
    ("name", "fps", "message"),
    [
        ("clip.mov", 10, "not a video format: clip.mov"),
        ("clip.gif", 60, "at most 50 frames a second: 60"),
        ("clip.mp4", 0, "must be above 0"),
        ("clip.mp4", float("nan"), "must be above 0"),
    ],
)
def test_what_cannot_be_written_is_refused(name: str, fps: float, message: str) -> None:
    with pytest.raises(TheseusError, match=message):
        check(Path(name), 32, 32, fps)


def test_a_folder_of_other_files_is_not_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "thesis"
    folder.mkdir()
    (folder / "chapter.txt").write_text("years of work")
    with pytest.raises(TheseusError, match="folder of other files"):
        write(moving_square(), folder)
    assert (folder / "chapter.txt").read_text() == "years of work"


@pytest.mark.parametrize(
    ("names", "sidecar"), [(["holiday.png"], True), (["0000.png", "0002.png"], True), (["0000.png", "0001.png"], False)]
)
def test_pictures_that_were_not_generated_are_not_replaced(tmp_path: Path, names: list[str], sidecar: bool) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in names:
        (folder / name).write_bytes(b"a holiday")
    if sidecar:
        sidecar_path(folder).write_text("{}")
    for attempt in (lambda: check(folder, 32, 48, 12.0), lambda: write(moving_square(), folder)):
        with pytest.raises(TheseusError, match="folder of other files"):
            attempt()
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == dict.fromkeys(names, b"a holiday")


def test_an_empty_folder_is_taken(tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    assert len(list(write(moving_square(), tmp_path / "new").iterdir())) == 9


def test_names_that_look_like_protocols_are_names(tmp_path: Path) -> None:
    path = write(moving_square(), tmp_path / "concat:a|b.mp4")
    assert path.stat().st_size > 0


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(TheseusError, match="cannot write"):
        write(moving_square(), tmp_path / "file" / "clip.mp4")


def test_one_frame_and_a_single_pixel_row(tmp_path: Path) -> None:
    clip = Clip(moving_square(frames=1).frames, 10.0)
    for ending in (*ENDINGS, ""):
        write(clip, tmp_path / f"one{ending}")
    assert len(read(tmp_path / "one.mp4")[0]) == 1


def test_a_video_is_read_at_another_rate(tmp_path: Path) -> None:
    clip = moving_square(frames=12, fps=12)
    write(clip, tmp_path / "clip.avi")
    assert len(read_clip(tmp_path / "clip.avi", 100).frames) == 12
    for fps, count in ((6, 6), (24, 24), (12, 12)):
        found = read_clip(tmp_path / "clip.avi", 100, fps=fps)
        assert (len(found.frames), found.fps) == (count, fps)
        left = [int(np.flatnonzero(frame[16, :, 0] > 110)[0]) for frame in found.frames]
        assert left == [2 * int(index * 12 / fps) for index in range(count)]
    assert len(read_clip(tmp_path / "clip.avi", 5, fps=24).frames) == 5


def test_a_picture_is_cut_in_the_middle_and_laid_over_white(tmp_path: Path) -> None:
    pixels = np.zeros((20, 60, 4), np.uint8)
    pixels[:, 20:40] = (10, 200, 30, 255)
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    found = read_image(tmp_path / "wide.png", (20, 20))
    assert found.shape == (20, 20, 3) and (found == (10, 200, 30)).all()
    assert (read_image(tmp_path / "wide.png", (20, 60))[:, :20] == 255).all(), "what is transparent is white"
    (tmp_path / "text.png").write_text("no picture")
    for name in ("text.png", "nothing.png"):
        with pytest.raises(TheseusError, match=f"cannot read the image: .*{name}"):
            read_image(tmp_path / name, (8, 8))
