"""Small files made on the spot: GIFs written byte by byte, videos by PyAV."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.stream import VideoStream
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
CORPUS = Path(__file__).parents[3] / "shared" / "corpus"


@dataclass
class Picture:
    """A GIF frame: numbers of colours below 126, (h, w), placed at (x, y)."""

    indices: Pixels
    x: int = 0
    y: int = 0
    delay: int = 10
    disposal: int = 0
    transparent: int | None = None
    palette: Pixels | None = None
    control: bool = True


PALETTE = np.random.default_rng(7).integers(0, 256, (128, 3)).astype(np.uint8)


def gif(canvas: tuple[int, int], pictures: list[Picture], background: int = 5, palette: Pixels | None = PALETTE) -> bytes:
    """A GIF file. With 128 colours an LZW code is a byte for as long as the table is cleared often enough, so no LZW is needed."""
    data = b"GIF89a" + struct.pack("<HHBBB", *canvas, 0x86 if palette is not None else 0, background, 0)
    data += b"" if palette is None else palette.tobytes()
    for picture in pictures:
        if picture.control:
            flags = picture.disposal << 2 | (picture.transparent is not None)
            data += b"\x21\xf9\x04" + struct.pack("<BHB", flags, picture.delay, picture.transparent or 0) + b"\0"
        height, width = picture.indices.shape
        data += b"," + struct.pack("<HHHHB", picture.x, picture.y, width, height, 0x86 if picture.palette is not None else 0)
        data += b"" if picture.palette is None else picture.palette.tobytes()
        data += b"\x07" + _blocks(picture.indices.astype(np.uint8).tobytes()) + b"\0"
    return data + b";"


def _blocks(indices: bytes) -> bytes:
    runs = [indices[at : at + 120] for at in range(0, len(indices), 120)]
    return b"".join(bytes([len(run) + 1]) + b"\x80" + run for run in runs) + b"\x01\x81"


def moving_gif(frames: int, seed: int = 0, size: int = 16, delay: int = 10) -> bytes:
    """A dot that walks over a texture; another seed is another clip."""
    texture = np.random.default_rng(seed).integers(0, 120, (size, size)).astype(np.uint8)
    pictures = []
    for number in range(frames):
        indices = texture.copy()
        indices[number % size, (seed + number) % size] = 121
        pictures.append(Picture(indices, delay=delay))
    return gif((size, size), pictures)


def moving_pictures(frames: int, height: int = 32, width: int = 48, seed: int = 0) -> Pixels:
    """(T, H, W, 3): a white block that walks over a smooth ramp."""
    y, x = np.mgrid[:height, :width]
    ramp = np.stack([x * 255 // width, y * 255 // height, (x + y + 40 * seed) % 256], -1).astype(np.uint8)
    clip = np.repeat(ramp[None], frames, 0)
    for number in range(frames):
        clip[number, 8:16, number % (width - 8) : number % (width - 8) + 8] = 255
    return clip


def video(
    path: Path,
    clip: Pixels,
    codec: str = "libx264",
    pixels: str = "yuv420p",
    rate: int = 10,
    times: list[int] | None = None,
    aspect: Fraction | None = None,
    metadata: dict[str, str] | None = None,
    container_format: str | None = None,
) -> Path:
    """Write a clip, (T, H, W, 3) or with alpha (T, H, W, 4); `times` are in thousandths of a second."""
    with av.open(f"file:{path}", "w", format=container_format) as container:
        container.metadata.update(metadata or {})
        stream = container.add_stream(codec, rate=rate)
        assert isinstance(stream, VideoStream)
        stream.height, stream.width = clip.shape[1:3]
        stream.pix_fmt = pixels
        if times is not None:
            stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        if aspect is not None:
            stream.codec_context.sample_aspect_ratio = aspect
        for number, picture in enumerate(clip):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24" if clip.shape[3] == 3 else "rgba")
            if times is not None:
                frame.pts, frame.time_base = times[number], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path
