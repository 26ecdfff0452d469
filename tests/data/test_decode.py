"""Videos: damage found out, strange names and contents survived, frames upright, in their shape and at their time."""

import os
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from prep_clips import Pixels, moving_gif, moving_pictures, video

from theseus_core.data.decode import open_film, sniff
from theseus_core.data.filters import PrepSettings, Rejected, cut
from theseus_core.data.resize import Resizer


def clips(path: Path, **settings: object) -> list[tuple[Pixels, float]]:
    chosen = PrepSettings(**{"width": 48, "height": 32, "min_frames": 1, **settings})  # type: ignore[arg-type]
    with open_film(path) as film:
        resize = Resizer((chosen.width, chosen.height), chosen.fit).of(film)
        return [(frames.copy(), fps) for frames, fps in cut(film, resize, chosen)]


def reason(path: Path) -> str:
    with pytest.raises(Rejected) as caught:
        clips(path)
    return caught.value.reason


@pytest.mark.parametrize(
    ("name", "codec", "pixels"),
    [("a.mkv", "ffv1", "bgr0"), ("a.mp4", "libx264rgb", "rgb24"), ("a.avi", "png", "rgb24"), ("a.mov", "png", "rgb24")],
)
def test_lossless_videos_come_out_as_they_went_in(tmp_path: Path, name: str, codec: str, pixels: str) -> None:
    clip = moving_pictures(7)
    options = {"qp": "0"} if codec == "libx264rgb" else {}
    with av.open(str(tmp_path / name), "w") as container:
        stream = container.add_stream(codec, rate=10, options=options, width=48, height=32, pix_fmt=pixels)
        for picture in clip:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    ((frames, fps),) = clips(tmp_path / name)
    np.testing.assert_array_equal(frames, clip)
    assert fps == pytest.approx(10)


@pytest.mark.parametrize(("name", "codec"), [("a.mp4", "libx264"), ("a.webm", "libvpx"), ("a.mkv", "libx264"), ("a.avi", "mpeg4")])
def test_truncated_videos_are_damaged(tmp_path: Path, name: str, codec: str) -> None:
    whole = video(tmp_path / name, moving_pictures(30, 64, 96), codec).read_bytes()
    assert len(clips(tmp_path / name)[0][0]) == 30
    for share in (0.35, 0.6, 0.9):
        (tmp_path / name).write_bytes(whole[: int(len(whole) * share)])
        assert reason(tmp_path / name) in ("damaged", "no_video")  # a header cut in two may have lost its streams


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_damage_that_the_decoder_conceals_is_found(tmp_path: Path, share: float) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (12, 64, 96, 3)).astype(np.uint8)
    path = video(tmp_path / "a.avi", noise, "mpeg4")
    whole = path.read_bytes()
    at = int(len(whole) * share)
    path.write_bytes(whole[:at] + np.random.default_rng(1).bytes(24) + whole[at + 24 :])
    with av.open(str(path)) as container:
        container.streams.video[0].thread_type = "NONE"
        assert len(list(container.decode(video=0))) == 12, "without any error"
    assert reason(path) == "damaged"


def test_content_decides_and_not_the_ending(tmp_path: Path) -> None:
    video(tmp_path / "a.mp4", moving_pictures(5)).rename(tmp_path / "a.gif")
    assert len(clips(tmp_path / "a.gif")[0][0]) == 5
    (tmp_path / "b.mp4").write_bytes(moving_gif(5))
    assert len(clips(tmp_path / "b.mp4")[0][0]) == 5
    for data, expected in ((b"", "empty"), (b"\xff\xd8\xff\xe0 a jpeg", "not_video"), (b"#EXTM3U\n/etc/passwd", "not_video")):
        (tmp_path / "c.mp4").write_bytes(data)
        assert reason(tmp_path / "c.mp4") == expected
    assert sniff(b"G" + bytes(187) + b"G" + bytes(187) + b"G") == "mpegts"


def test_a_file_without_pictures_is_no_video(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), layout="mono")
        sound.sample_rate = 8000
        container.mux(stream.encode(sound))
        container.mux(stream.encode())
    assert reason(tmp_path / "a.mkv") == "no_video"


@pytest.mark.parametrize("name", ["concat:x.mp4", "pipe:0.mp4", "a%03d.mp4", "a b#c?d.mp4", "-i.mp4"])
def test_names_are_names(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    video(tmp_path / "a.mp4", moving_pictures(5)).rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    assert len(clips(Path(name))[0][0]) == 5


def test_metadata_that_is_not_utf8(tmp_path: Path) -> None:
    path = video(tmp_path / "a.avi", moving_pictures(5), "mpeg4", metadata={"title": "XXXXXX"})
    data = path.read_bytes()
    assert b"XXXXXX" in data
    path.write_bytes(data.replace(b"XXXXXX", b"caf\xe9\xff\xfe"))
    assert len(clips(path)[0][0]) == 5


@pytest.mark.parametrize(("matrix", "turns"), [((0, 1, -1, 0), -1), ((-1, 0, 0, -1), 2), ((0, -1, 1, 0), 1)])
def test_rotation_is_applied(tmp_path: Path, matrix: tuple[int, int, int, int], turns: int) -> None:
    clip = moving_pictures(5)
    path = video(tmp_path / "a.mov", clip, "png", "rgb24")
    data, start = path.read_bytes(), path.read_bytes().index(b"tkhd") + 44
    a, b, c, d = (value << 16 for value in matrix)
    numbers = [a, b, 0, c, d, 0, 0, 0, 1 << 30]
    path.write_bytes(data[:start] + b"".join(n.to_bytes(4, "big", signed=True) for n in numbers) + data[start + 36 :])
    upright = np.rot90(clip, turns, axes=(1, 2))
    size = {"width": upright.shape[2], "height": upright.shape[1]}
    np.testing.assert_array_equal(clips(path, **size)[0][0], upright)
    ((letterboxed, _),) = clips(path, fit="letterbox", **size)
    np.testing.assert_array_equal(letterboxed, upright)


def test_transparent_videos_lie_over_white(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    clip = random.integers(0, 256, (3, 32, 48, 4)).astype(np.uint8)
    clip[0, ..., 3], clip[1, :16, :, 3] = 255, 0
    path = video(tmp_path / "a.mov", clip, "png", "rgba")
    alpha = clip[..., 3:] / 255.0
    expected = clip[..., :3] * alpha + 255 * (1 - alpha)
    ((frames, _),) = clips(path)
    assert np.abs(frames - expected).max() <= 0.5 + 1e-6
    ((small, _),) = clips(path, width=24, height=16)
    mean = expected.reshape(3, 16, 2, 24, 2, 3).mean((2, 4))
    assert np.abs(small - mean).mean() < 1, "what is hidden may not bleed into what is seen"


def test_webm_with_an_alpha_layer_lies_over_white(tmp_path: Path) -> None:
    path = tmp_path / "a.webm"
    if "libvpx-vp9" not in av.codecs_available:
        pytest.skip("this build of FFmpeg has no libvpx")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libvpx-vp9", rate=10, width=64, height=64, pix_fmt="yuva420p")
        stream.metadata["alpha_mode"] = "1"
        picture = np.zeros((64, 64, 4), np.uint8)
        picture[:, 32:] = (200, 0, 0, 255)
        for _ in range(5):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgba")))
        container.mux(stream.encode())
    ((frames, _),) = clips(path, width=64, height=64)
    assert frames[0, 32, 8].min() > 245
    assert np.abs(frames[0, 32, 56].astype(int) - (200, 0, 0)).max() < 12


def test_pixels_that_are_not_square(tmp_path: Path) -> None:
    white = np.full((3, 32, 32, 3), 255, np.uint8)
    path = video(tmp_path / "a.mp4", white, aspect=Fraction(2, 1))
    ((frames, _),) = clips(path, width=64, height=64, fit="letterbox")
    assert frames[0, :15].max() == frames[0, 49:].max() == 0
    assert frames[0, 17:47].min() > 250


def test_crop_takes_the_middle_and_letterbox_takes_all(tmp_path: Path) -> None:
    clip = moving_pictures(3, 32, 96)
    path = video(tmp_path / "a.mkv", clip, "ffv1", "bgr0")
    np.testing.assert_array_equal(clips(path, width=32, height=32)[0][0], clip[:, :, 32:64])
    ((boxed, _),) = clips(path, width=96, height=64, fit="letterbox")
    np.testing.assert_array_equal(boxed[:, 16:48], clip)
    assert boxed[:, :16].max() == boxed[:, 48:].max() == 0


@pytest.mark.parametrize("size", [(64, 64), (40, 56)])
def test_scaling_down_is_the_mean_of_the_area(tmp_path: Path, size: tuple[int, int]) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (1, 256, 256, 3)).astype(np.uint8)
    path = video(tmp_path / "a.mkv", picture, "ffv1", "bgr0")
    ((frames, _),) = clips(path, width=size[0], height=size[1], fit="stretch")
    mean = np.einsum("hy,yxc,wx->hwc", _area(256, size[1]), picture[0].astype(float), _area(256, size[0]), optimize=True)
    assert 10 * np.log10(255**2 / np.mean((frames[0] - mean) ** 2)) > 45


def _area(source: int, target: int) -> np.ndarray:
    edges = np.arange(target + 1) * source / target
    low, high = edges[:-1, None], edges[1:, None]
    start = np.arange(source)[None]
    return np.clip(np.minimum(high, start + 1) - np.maximum(low, start), 0, None) * target / source


@pytest.mark.parametrize(
    ("fps", "expected"),
    [
        (None, [0, 1, 2, 3, 4, 5]),
        (10.0, [0, 1, 2, 2, 2, 3, 4, 5]),
        (5.0, [0, 2, 2, 4]),
        (20.0, [0, 0, 1, 1, *[2] * 6, 3, 3, 4, 4, 5, 5]),
    ],
)
def test_resampling_holds_each_frame_until_the_next(tmp_path: Path, fps: float | None, expected: list[int]) -> None:
    clip = moving_pictures(6)
    path = video(tmp_path / "a.mkv", clip, "ffv1", "bgr0", times=[0, 100, 200, 500, 600, 700])
    ((frames, rate),) = clips(path, fps=fps)
    assert [int(np.abs(clip.astype(int) - frame).sum((1, 2, 3)).argmin()) for frame in frames] == expected
    assert rate == (fps or pytest.approx(5 / 0.7, abs=1e-3))


@pytest.mark.parametrize(("frames", "kept"), [(14, False), (15, True), (40, True), (41, False)])
@pytest.mark.parametrize("ending", [".gif", ".mkv"])
def test_fifteen_to_forty_frames_inclusive(tmp_path: Path, frames: int, kept: bool, ending: str) -> None:
    path = tmp_path / f"a{ending}"
    if ending == ".gif":
        path.write_bytes(moving_gif(frames, size=8))
    else:
        video(path, moving_pictures(frames), "ffv1", "bgr0")
    if kept:
        assert len(clips(path, min_frames=15)[0][0]) == frames
        assert len(clips(path, min_frames=1, max_frames=2 * frames, fps=20.0)[0][0]) == 2 * frames
    else:
        with pytest.raises(Rejected, match="too_long" if frames > 40 else "too_short"):
            clips(path, min_frames=15)


def test_long_clips_are_trimmed_or_cut_into_windows(tmp_path: Path) -> None:
    clip = moving_pictures(23)
    path = video(tmp_path / "a.mkv", clip, "ffv1", "bgr0")
    assert [len(frames) for frames, _ in clips(path, max_frames=10, long="trim")] == [10]
    cut_up = clips(path, max_frames=10, min_frames=3, long="windows")
    np.testing.assert_array_equal(np.concatenate([frames for frames, _ in cut_up]), clip)
    assert [len(frames) for frames, _ in clips(path, max_frames=10, min_frames=4, long="windows")] == [10, 10]
    with pytest.raises(Rejected, match="too_short"):
        clips(path, min_frames=24, long="windows")


def test_damage_behind_the_limit_does_not_matter_when_trimming(tmp_path: Path) -> None:
    whole = moving_gif(20, size=8)
    at = whole.rindex(b"\x80", 0, whole.rindex(b",")) + 3
    (tmp_path / "a.gif").write_bytes(whole[:at] + b"\xff" + whole[at + 1 :])
    assert len(clips(tmp_path / "a.gif", max_frames=10, long="trim")[0][0]) == 10
    with pytest.raises(Rejected, match="damaged"):
        clips(tmp_path / "a.gif", max_frames=10, long="windows")


def test_the_log_of_another_film_is_not_held_against_this_one(tmp_path: Path) -> None:
    (tmp_path / "bad.mp4").write_bytes(b"\0\0\0\x18ftypisom" + os.urandom(500))
    good = video(tmp_path / "good.mp4", moving_pictures(5))
    assert reason(tmp_path / "bad.mp4") == "damaged"
    assert len(clips(good)[0][0]) == 5
