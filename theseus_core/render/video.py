"""Clips as files: H.264, VP9, MPEG-4, GIF, or a folder of PNGs. The same clip gives the same bytes, whatever the machine's load."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import av.filter
import numpy as np
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter
from av.video.stream import VideoStream
from numpy.typing import NDArray
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo

from theseus_core.data.clip import Clip
from theseus_core.data.decode import open_film
from theseus_core.data.filters import Rejected, ticks
from theseus_core.data.resize import Resizer
from theseus_core.errors import TheseusError, nearest
from theseus_core.files import replacing

GIF_MAX_FPS = 50.0  # browsers play any frame shorter than 0.02 s at 0.1 s


@dataclass(frozen=True)
class Codec:
    """How one container is written: the encoders to try, the best first, with their options."""

    container: str
    encoders: dict[str, dict[str, str]]
    even: bool  # 4:2:0 chroma in this codec needs even sizes
    colorspace: Colorspace


CODECS = {
    ".mp4": Codec(
        "mp4",
        # x264's macroblock tree reads memory that nobody has written: with it, the bytes depend on what lay there before.
        {"libx264": {"crf": "16", "preset": "medium", "x264-params": "mbtree=0"}, "mpeg4": {"qmin": "2", "qmax": "2"}},
        even=True,
        colorspace=Colorspace.ITU709,
    ),
    ".webm": Codec(
        "webm",
        {"libvpx-vp9": {"crf": "20", "b": "0", "deadline": "good", "cpu-used": "2"}},
        even=False,
        colorspace=Colorspace.ITU709,
    ),
    ".avi": Codec(
        "avi", {"mpeg4": {"qmin": "2", "qmax": "2"}}, even=True, colorspace=Colorspace.ITU601
    ),  # players take an untagged avi for BT.601
}
ENDINGS = [*CODECS, ".gif"]


def write(clip: Clip, path: Path) -> Path:
    """Write a clip under the format that the name's ending asks for; see `written`.

    Returns:
        `path`.
    """
    with written(clip, path):
        return path


@contextmanager
def written(clip: Clip, path: Path) -> Iterator[Path]:
    """A clip in the format that the name's ending asks for, a folder of PNGs where it has none; it takes its place with the block.

    The caption goes with it as the title (`comment` in a GIF, `Description` in a PNG).

    Yields:
        where the file lies until the block ends.

    Raises:
        TheseusError: an ending that is not known, a size or a rate that the format cannot hold, no encoder, no room, or a folder by
            that name that is neither empty nor one of PNGs with its sidecar.
    """
    check(path, clip.frames.shape[1], clip.frames.shape[2], clip.fps)
    assert clip.frames.dtype == np.uint8, clip.frames.dtype
    assert clip.frames.ndim == 4, clip.frames.shape
    assert len(clip.frames) > 0, "a clip without frames"
    with replacing(path) as part:
        _writer(path)(clip, part)
        yield part


def read(path: Path, max_frames: int, size: tuple[int, int] | None = None, fps: float | None = None) -> Clip:
    """Read a video file, turned upright, transparent pixels over white.

    Args:
        max_frames: later ones are left out.
        size: (H, W) to cut and scale to; else as the file has it.
        fps: frames a second, for which frames are left out or repeated; else as the file has them.

    Raises:
        TheseusError: it is no video, or is damaged.
    """
    frames: list[NDArray[np.uint8]] = []
    seconds = 0.0
    try:
        with open_film(path) as film:
            resize = None
            for frame, begin, end in film:
                times = 1 if fps is None else ticks(end, fps) - ticks(begin, fps)
                if not times:
                    continue
                height, width = size or _upright_size(frame, film.pixel_aspect)
                resize = resize or Resizer((width, height), "crop").of(film)
                out = np.empty((height, width, 3), np.uint8)
                resize(frame, out)
                frames += [out] * times
                seconds = float(end)
                if len(frames) >= max_frames:
                    break
    except Rejected as rejected:
        raise TheseusError(f"cannot read the video ({rejected.reason}, {rejected.detail}): {path}") from rejected
    except OSError as error:
        raise TheseusError(f"cannot read the video: {path}", hint=error.strerror) from error
    if not frames:
        raise TheseusError(f"a video without frames: {path}")
    return Clip(np.stack(frames[:max_frames]), fps=fps or len(frames) / seconds, caption=path.stem)


def read_image(path: Path, size: tuple[int, int]) -> NDArray[np.uint8]:
    """A picture, turned upright, transparent pixels over white, its middle cut out and scaled to `size`: (H, W, 3).

    Raises:
        TheseusError: it is no picture, or is damaged.
    """
    height, width = size
    try:
        with Image.open(path) as file:
            picture = ImageOps.exif_transpose(file).convert("RGBA")
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        hint = getattr(error, "strerror", None) or "a .png, .jpg or .webp file"
        raise TheseusError(f"cannot read the image: {path}", hint=hint) from error
    white = Image.new("RGBA", picture.size, "white")
    picture = Image.alpha_composite(white, picture).convert("RGB")
    return np.array(ImageOps.fit(picture, (width, height), Image.Resampling.LANCZOS))


def _upright_size(frame: av.VideoFrame, pixel_aspect: Fraction) -> tuple[int, int]:
    height, width = frame.height, max(1, round(frame.width * pixel_aspect))
    return (width, height) if round(frame.rotation / 90) % 2 else (height, width)


def check_ending(path: Path) -> None:
    """Refuse a name whose ending is no format that can be written."""
    if path.suffix.lower() not in ["", *ENDINGS]:
        hint = f"{nearest(path.suffix, ENDINGS)}, or no ending for a folder of PNGs"
        raise TheseusError(f"not a video format: {path.name}", hint=hint)


def check(path: Path, height: int, width: int, fps: float) -> None:
    """Refuse at once what `write` could not do later.

    Raises:
        TheseusError: see `write`.
    """
    check_ending(path)
    if path.is_dir() and (path.suffix or not _may_replace(path)):
        raise TheseusError(f"there is a folder of other files by that name: {path}", hint="choose another name")
    if not 0 < fps <= 1000:
        raise TheseusError(f"frames a second must be above 0 and at most 1000: {fps:g}")
    if path.suffix.lower() == ".gif" and fps > GIF_MAX_FPS:
        raise TheseusError(
            f"a GIF plays at most {GIF_MAX_FPS:g} frames a second: {fps:g}", hint="lower --fps, or write .mp4 or .webm"
        )
    codec = CODECS.get(path.suffix.lower())
    if codec and codec.even and (height % 2 or width % 2):
        raise TheseusError(
            f"{path.suffix} needs an even width and height: {width}x{height}", hint=".webm, .gif or PNGs take any size"
        )


def sidecar_path(video: Path) -> Path:
    """The file beside a video that says how it was made: `out.mp4` -> `out.mp4.json`."""
    return video.with_name(f"{video.name}.json")


def _may_replace(folder: Path) -> bool:
    """Whether a folder is empty, or one that was generated: numbered PNGs without a gap, and their sidecar beside it."""
    names = {file.name for file in folder.iterdir()}
    return not names or (names == {png_name(index, len(names)) for index in range(len(names))} and sidecar_path(folder).is_file())


def timing_note(path: Path, fps: float) -> str | None:
    """What the user should know about the rate of this format, if anything: a GIF counts in hundredths of a second."""
    delays = {end - start for start, end in itertools.pairwise(gif_times(101, fps))}
    if path.suffix.lower() != ".gif" or len(delays) == 1:
        return None
    return f"a GIF counts in hundredths of a second: {fps:g} frames a second last {min(delays)} or {max(delays)} of them in turn"


def gif_times(frames: int, fps: float) -> list[int]:
    """When each frame begins, in hundredths of a second, so that rounding never adds up."""
    return [round(100 * index / fps) for index in range(frames)]


def _writer(path: Path) -> Callable[[Clip, Path], None]:
    suffix = path.suffix.lower()
    if not suffix:
        return _write_pngs
    return _write_gif if suffix == ".gif" else lambda clip, part: _write_stream(clip, part, CODECS[suffix])


def _write_stream(clip: Clip, part: Path, codec: Codec) -> None:
    encoder = next((name for name in codec.encoders if can_encode(name)), None)
    if encoder is None:
        wanted = ", ".join(codec.encoders)
        raise TheseusError(
            f"this build of PyAV has no encoder for .{codec.container}: {wanted}", hint="write .gif or PNGs, or reinstall av"
        )
    options = {"fflags": "bitexact"} | ({"movflags": "faststart"} if codec.container == "mp4" else {})
    with av.open(f"file:{part.absolute()}", "w", format=codec.container, options=options) as container:
        container.metadata["title"] = clip.caption
        stream = _stream(container, encoder, clip, codec)
        scaler = VideoReformatter()
        for array in clip.frames:
            frame = scaler.reformat(
                av.VideoFrame.from_ndarray(np.ascontiguousarray(array), format="rgb24"),
                format="yuv420p",
                dst_colorspace=codec.colorspace,
                dst_color_range=ColorRange.MPEG,
                interpolation=Interpolation.AREA,
                threads=1,
            )
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def _stream(container: av.container.OutputContainer, encoder: str, clip: Clip, codec: Codec) -> VideoStream:
    options = codec.encoders[encoder] | {"flags": "+bitexact"}
    stream = cast(VideoStream, container.add_stream(encoder, rate=Fraction(clip.fps).limit_denominator(1001), options=options))
    stream.height, stream.width = clip.frames.shape[1:3]
    stream.pix_fmt = "yuv420p"
    context = stream.codec_context
    context.thread_count = 1  # the bytes depend on the number of threads
    context.color_range = ColorRange.MPEG
    if codec.colorspace == Colorspace.ITU709:
        context.colorspace = context.color_primaries = context.color_trc = int(Colorspace.ITU709)
    return stream


def can_encode(name: str) -> bool:
    """Whether this build of PyAV has an encoder."""
    try:
        av.Codec(name, "w")
    except av.codec.codec.UnknownCodecError:
        return False
    return True


def _write_gif(clip: Clip, part: Path) -> None:
    """One palette of 256 colours for the whole clip, made for it, and error-diffusion dithering."""
    height, width = clip.frames.shape[1:3]
    times = gif_times(len(clip.frames) + 1, clip.fps)
    options = {"fflags": "bitexact", "final_delay": str(times[-1] - times[-2])}
    with av.open(f"file:{part.absolute()}", "w", format="gif", options=options) as container:
        stream = container.add_stream("gif", rate=100, options={"flags": "+bitexact"})
        stream.height, stream.width, stream.pix_fmt = height, width, "pal8"
        for frame, time in zip(_with_palette(clip), times[:-1], strict=True):
            frame.pts, frame.time_base = time, Fraction(1, 100)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    if clip.caption:
        _add_gif_comment(part, clip.caption)


def _with_palette(clip: Clip) -> Iterable[av.VideoFrame]:
    graph = av.filter.Graph()
    height, width = clip.frames.shape[1:3]
    source = graph.add_buffer(width=width, height=height, format=av.VideoFormat("rgb24"), time_base=Fraction(1, 100))
    split, palette, use = (
        graph.add("split"),
        graph.add("palettegen", "stats_mode=full"),
        graph.add("paletteuse", "dither=sierra2_4a"),
    )
    sink = graph.add("buffersink")
    source.link_to(split)
    split.link_to(use, 0, 0)
    split.link_to(palette, 1, 0)
    palette.link_to(use, 0, 1)
    use.link_to(sink)
    graph.configure()
    for index, array in enumerate(clip.frames):
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(array), format="rgb24")
        frame.pts, frame.time_base = index, Fraction(1, 100)
        source.push(frame)
    source.push(None)
    for _ in clip.frames:
        yield cast(av.VideoFrame, sink.pull())


def _add_gif_comment(path: Path, text: str) -> None:
    words = text.encode()
    blocks = b"".join(bytes([len(block)]) + block for block in (words[i : i + 255] for i in range(0, len(words), 255)))
    data = path.read_bytes()
    assert data.endswith(b";"), "a GIF ends in its trailer"
    path.write_bytes(data[:-1] + b"\x21\xfe" + blocks + b"\x00;")


def _write_pngs(clip: Clip, part: Path) -> None:
    part.mkdir()
    for index, array in enumerate(clip.frames):
        notes = PngInfo()
        notes.add_itxt("Description", clip.caption)
        Image.fromarray(array).save(part / png_name(index, len(clip.frames)), pnginfo=notes)


def png_name(index: int, frames: int) -> str:
    """A frame's file in a folder of PNGs: at least four digits, and as many for all."""
    return f"{index:0{max(4, len(str(frames - 1)))}d}.png"
