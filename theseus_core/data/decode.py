"""One file to frames, or to the reason why not: type by content, nothing concealed, no thread, no name taken for a protocol.

A decoder's own word that all is well is not enough: FFmpeg shows a bit-flipped GIF without any error and mends a damaged video as
best it can. So its log is read, frames are asked whether they are corrupt, and whatever it would conceal is made an error.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.logging
from av.container import InputContainer
from av.video.codeccontext import VideoCodecContext
from av.video.stream import VideoStream

from theseus_core.data.filters import MAX_PIXELS, Rejected
from theseus_core.data.gif import OVER_WHITE, DamagedGif, Gif
from theseus_core.data.pictures import FRAME_RATE, FrameFilm

HEAD = 400  # bytes that tell a format
Shown = tuple[av.VideoFrame, float, float]  # a frame, when it appears, when it disappears: seconds from the first frame

_QUICKTIME = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot")
_ATTACHED_PICTURE = 0x400  # the disposition of cover art


def sniff(head: bytes) -> str | None:
    """FFmpeg's name for the format that a file's first bytes tell, or None."""
    starts = {b"GIF87a": "gif", b"GIF89a": "gif", b"\x1a\x45\xdf\xa3": "matroska", b"FLV\x01": "flv", b"OggS": "ogg"}
    starts |= {b"\x30\x26\xb2\x75\x8e\x66\xcf\x11": "asf", b"\x00\x00\x01\xba": "mpeg"}
    for start, name in starts.items():
        if head.startswith(start):
            return name
    if head[:4] == b"RIFF" and head[8:11] == b"AVI":
        return "avi"
    if head[4:8] in _QUICKTIME:
        return "mov"
    return "mpegts" if head[:1] == b"G" and head[188:189] == b"G" and head[376:377] == b"G" else None


@contextmanager
def open_film(path: Path, frame_rate: float = FRAME_RATE) -> Iterator[GifFilm | VideoFilm | FrameFilm]:
    """Open a regular file, or a folder of pictures, for decoding; what the decoder complains about inside the block is an error.

    Args:
        frame_rate: of a folder of pictures, in frames a second.

    Raises:
        Rejected: empty, not_video, no_video, too_large or damaged, here or while the film is read.
        OSError: the file cannot be read.
    """
    kind, data = ("frames", b"") if path.is_dir() else _read(path)
    with _listening() as complaints:
        try:
            if kind == "frames":
                yield FrameFilm(path, frame_rate, complaints)
            elif kind == "gif":
                yield GifFilm(data, complaints)
            else:
                with _open(path, kind) as container:
                    yield VideoFilm(container, complaints)
        except DamagedGif as error:
            raise Rejected("damaged", str(error)) from error
        except MemoryError:
            raise
        except (av.FFmpegError, EOFError) as error:  # some come as PermissionError or EOFError, and name the whole path
            raise Rejected("damaged", _first(complaints) or getattr(error, "strerror", None) or type(error).__name__) from error


def _read(path: Path) -> tuple[str, bytes]:
    """The format of a file, and its bytes where it is a GIF."""
    with path.open("rb") as file:
        kind = sniff(head := file.read(HEAD))
        if not head:
            raise Rejected("empty", "0 bytes")
        if kind is None:
            raise Rejected("not_video", f"unknown content, it begins with {head[:8].hex(' ')}")
        return kind, head + file.read() if kind == "gif" else b""


@contextmanager
def _listening() -> Iterator[list[Any]]:
    """FFmpeg's error log of this thread, as it grows."""
    level, skipping = av.logging.get_level(), av.logging.get_skip_repeated()
    av.logging.set_level(av.logging.ERROR)
    av.logging.set_skip_repeated(False)
    try:
        with av.logging.Capture(local=True) as complaints:
            yield complaints
    finally:
        av.logging.set_level(level)
        av.logging.set_skip_repeated(skipping)


def _first(complaints: list[Any]) -> str:
    return f"{complaints[0][1]}: {' '.join(complaints[0][2].split())}" if complaints else ""


def _check(complaints: list[Any]) -> None:
    if complaints:
        raise Rejected("damaged", _first(complaints))


class GifFilm:
    """A GIF, frame by frame.

    Attributes:
        length: its frames and seconds, known before any is decoded.
    """

    pixel_aspect = Fraction(1)  # browsers do not read the header's
    opaque = True  # by OVER_WHITE

    def __init__(self, data: bytes, complaints: list[Any]) -> None:
        self._gif, self._complaints = Gif(data), complaints
        self.length: tuple[int, float] | None = len(self._gif.pictures), self._gif.seconds
        _check_size(self._gif.width, self._gif.height)

    def __iter__(self) -> Iterator[Shown]:
        decoder = av.CodecContext.create("gif", "r")
        assert isinstance(decoder, VideoCodecContext)
        decoder.thread_type, decoder.options = "NONE", OVER_WHITE
        now = 0
        for packet, delay in self._gif.packets():
            frames = decoder.decode(av.Packet(packet))
            _check(self._complaints)
            if len(frames) != 1:
                raise Rejected("damaged", f"a picture decodes to {len(frames)} frames")
            yield frames.pop(), now / 100, (now + delay) / 100
            now += delay


class VideoFilm:
    """A video file, frame by frame; how many there are is known at its end, whatever its header says."""

    opaque = False
    length: tuple[int, float] | None = None

    def __init__(self, container: InputContainer, complaints: list[Any]) -> None:
        streams = [s for s in container.streams.video if s.codec_context is not None and not int(s.disposition) & _ATTACHED_PICTURE]
        if not streams:
            raise Rejected("no_video", "no stream of pictures that can be decoded")
        self._container, self._stream, self._complaints = container, streams[0], complaints
        _check_size(self._stream.width, self._stream.height)
        self.pixel_aspect = self._stream.sample_aspect_ratio or Fraction(1)
        self._step = 1 / float(self._stream.average_rate or self._stream.guessed_rate or 25)

    def __iter__(self) -> Iterator[Shown]:
        held, begin, appears = None, 0.0, 0.0
        for frame in self._frames():
            time = self._time(frame)
            if held is None:
                begin = time or 0.0
            else:
                next_appears = appears + self._step if time is None or time - begin <= appears else time - begin
                yield held, appears, next_appears
                self._step, appears = next_appears - appears, next_appears
            held = frame
        if held is None:
            raise Rejected("damaged", "no frame can be decoded")
        yield held, appears, appears + self._last_step(held)

    def _time(self, frame: av.VideoFrame) -> float | None:
        base = self._stream.time_base
        return None if frame.pts is None or base is None else float(frame.pts * base)

    def _last_step(self, frame: av.VideoFrame) -> float:
        return float((frame.duration or 0) * (self._stream.time_base or 0)) or self._step

    def _frames(self) -> Iterator[av.VideoFrame]:
        decoder = _decoder(self._stream)
        for packet in self._container.demux(self._stream):
            if packet.size == 0 and packet.dts is not None:
                continue  # AVI says so that a frame stays on the screen; as a packet it would end the decoding
            if packet.is_corrupt:
                raise Rejected("damaged", _first(self._complaints) or "a packet is incomplete")
            for frame in decoder.decode(packet):
                if frame.is_corrupt:
                    raise Rejected("damaged", _first(self._complaints) or "a frame is corrupt")
                _check(self._complaints)
                yield frame
        _check(self._complaints)


def _decoder(stream: VideoStream) -> VideoCodecContext:
    decoder, with_alpha = stream.codec_context, f"libvpx-{stream.codec_context.name}"
    has_alpha = "1" in (stream.metadata.get("alpha_mode"), stream.metadata.get("ALPHA_MODE"))
    if has_alpha and with_alpha in av.codecs_available:  # FFmpeg's own VP8 and VP9 drop that layer
        decoder = av.CodecContext.create(with_alpha, "r")  # type: ignore[assignment]
    decoder.thread_type, decoder.thread_count = "NONE", 1
    decoder.options = {"err_detect": "explode", "max_pixels": str(MAX_PIXELS)}
    return decoder


def _open(path: Path, kind: str) -> InputContainer:
    name = f"file:{os.path.abspath(path)}"  # or `concat:a.gif` would be a protocol, and not a name
    options: dict[str, Any] = {"options": {"max_pixels": str(MAX_PIXELS)}, "container_options": {"protocol_whitelist": "file"}}
    if int(av.__version__.split(".")[0]) < 19:  # later versions do so by themselves
        options["metadata_errors"] = "ignore"
    container: InputContainer = av.open(name, "r", format=kind, **options)
    return container


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise Rejected("too_large", f"{width}x{height} pixels")
