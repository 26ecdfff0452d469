"""A folder of numbered pictures as a film: what many datasets unpack their videos into, and what `generate` writes as PNGs."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from av.video.codeccontext import VideoCodecContext

from theseus_core.data.filters import MAX_PIXELS, Rejected

ENDINGS = (".png", ".jpg", ".jpeg")
FRAME_RATE = 10.0  # frames a second, where nobody says it
_DECODERS = {b"\x89PNG\r\n\x1a\n": "png", b"\xff\xd8\xff": "mjpeg"}
_DIGITS = re.compile(r"(\d+)")


def pictures(folder: Path) -> list[Path]:
    """The pictures that lie in a folder, in the order of the numbers in their names: 2 before 10; none where it cannot be read."""
    try:
        names = [name for name in os.listdir(folder) if name.lower().endswith(ENDINGS) and not name.startswith(".")]
    except OSError:
        return []
    return [path for name in sorted(names, key=_natural) if (path := folder / name).is_file()]


def _natural(name: str) -> tuple[list[tuple[int, str]], str]:
    parts = _DIGITS.split(name)
    return [(int(part), "") if part.isdecimal() and part.isascii() else (-1, part) for part in parts], name


class FrameFilm:
    """The pictures of a folder, frame by frame.

    Attributes:
        length: frames and seconds.
    """

    pixel_aspect = Fraction(1)
    opaque = False

    def __init__(self, folder: Path, rate: float, complaints: list[Any]) -> None:
        self._pictures, self._rate, self._complaints = pictures(folder), rate, complaints
        if not self._pictures:
            raise Rejected("no_video", "a folder without pictures")
        self.length: tuple[int, float] | None = len(self._pictures), len(self._pictures) / rate

    def __iter__(self) -> Iterator[tuple[av.VideoFrame, float, float]]:
        for number, path in enumerate(self._pictures):
            yield self._decode(path), number / self._rate, (number + 1) / self._rate

    def _decode(self, path: Path) -> av.VideoFrame:
        data = path.read_bytes()
        codec = next((name for start, name in _DECODERS.items() if data.startswith(start)), None)
        if codec is None:
            raise Rejected("not_video", f"not a picture: {path.name}")
        decoder = av.CodecContext.create(codec, "r")
        assert isinstance(decoder, VideoCodecContext)
        decoder.thread_type = "NONE"
        decoder.options = {"err_detect": "explode", "max_pixels": str(MAX_PIXELS)}
        try:
            frames = [*decoder.decode(av.Packet(data)), *decoder.decode(None)]
        except MemoryError:
            raise
        except (av.FFmpegError, EOFError) as error:
            raise Rejected("damaged", self._said(path) or f"{path.name}: {type(error).__name__}") from error
        if len(frames) != 1 or frames[0].is_corrupt or self._complaints:
            raise Rejected("damaged", self._said(path) or path.name)
        return frames.pop()

    def _said(self, path: Path) -> str:
        return f"{path.name}: {' '.join(self._complaints[0][2].split())}" if self._complaints else ""
