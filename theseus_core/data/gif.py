"""GIF, as a browser shows it: the file's blocks are walked here, and only the pictures are left to FFmpeg's decoder.

Walking finds what decoders pass over in silence (a file that ends early, blocks that lead nowhere) and gives the exact number of
frames and their delays before any is decoded.

Where browsers leave the canvas transparent, FFmpeg paints the file's background colour. So every picture is handed on with a
palette of its own, and the palette of the file is made white: what is transparent becomes white in the decoder, at no cost.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

TRAILER, EXTENSION, IMAGE, CONTROL = 0x3B, 0x21, 0x2C, 0xF9
OVER_WHITE = {"trans_color": str(0xFFFFFFFF)}  # options of the decoder that takes the packets


class DamagedGif(ValueError):
    """The blocks of the file do not lead from its header to its trailer."""


@dataclass(frozen=True, slots=True)
class Picture:
    """One frame: where its bytes lie, and how it is to be shown."""

    control: bytes  # the graphic control extension, whole, or b""
    descriptor: int  # offset of the image descriptor
    pixels: int  # offset of the compressed pixels
    stop: int
    delay: int  # hundredths of a second, as browsers count them


class Gif:
    """The structure of a GIF file.

    Attributes:
        width, height: of the canvas, in pixels.
        pictures: in order.

    Raises:
        DamagedGif: from the constructor.
    """

    def __init__(self, data: bytes) -> None:
        self.data = data
        try:
            self.width, self.height, self._flags = struct.unpack_from("<HHB", data, 6)
            start = 13 + _palette_size(self._flags)
            self._palette = data[13:start]
            self.pictures = list(_pictures(data, start))
        except (IndexError, struct.error):
            raise DamagedGif("the file ends before its trailer") from None
        if not self.pictures:
            raise DamagedGif("no picture in it")
        self._fit_canvas()

    def _fit_canvas(self) -> None:
        first = _box(self.data, self.pictures[0])
        self.width, self.height = max(self.width, first[0] + first[2]), max(self.height, first[1] + first[3])
        for picture in self.pictures:
            _, _, width, height = _box(self.data, picture)
            if not 0 < width <= self.width or not 0 < height <= self.height:
                raise DamagedGif(f"a picture of {width}x{height} on a canvas of {self.width}x{self.height}")

    @property
    def seconds(self) -> float:
        return sum(picture.delay for picture in self.pictures) / 100

    def packets(self) -> Iterator[tuple[bytes, int]]:
        """What the decoder is given for each frame, and the frame's delay in hundredths of a second.

        Raises:
            DamagedGif: a picture has no colours.
        """
        header = b"GIF89a" + struct.pack("<HHBBB", self.width, self.height, 0x80, 0, 0) + b"\xff" * 6
        for picture in self.pictures:
            flags = self.data[picture.descriptor + 9]
            descriptor, palette = self.data[picture.descriptor : picture.descriptor + 9], b""
            if not flags & 0x80:
                flags, palette = 0x80 | flags & 0x40 | self._flags & 7, self._palette
                if not palette:
                    raise DamagedGif("a picture without a palette")
            own = self.data[picture.descriptor + 10 : picture.stop]
            yield header + picture.control + descriptor + bytes([flags]) + palette + own, picture.delay
            header = b""


def _palette_size(flags: int) -> int:
    return 3 * (2 << (flags & 7)) if flags & 0x80 else 0


def _box(data: bytes, picture: Picture) -> tuple[int, int, int, int]:
    x, y, width, height = struct.unpack_from("<HHHH", data, picture.descriptor + 1)
    return x, y, width, height


def _pictures(data: bytes, position: int) -> Iterator[Picture]:
    control = b""
    while (kind := data[position]) != TRAILER:
        if kind == EXTENSION:
            stop = _skip(data, position + 2)
            if data[position + 1] == CONTROL and data[position + 2] == 4:
                control = data[position:stop]
        elif kind == IMAGE:
            pixels = position + 10 + _palette_size(data[position + 9])
            stop = _skip(data, pixels + 1)
            yield Picture(control, position, pixels, stop, _delay(control))
            control = b""
        else:
            raise DamagedGif(f"no block begins with {kind:#04x}, at byte {position}")
        position = stop


def _skip(data: bytes, position: int) -> int:
    """Past the sub-blocks that begin here."""
    while size := data[position]:
        position += size + 1
    return position + 1


def _delay(control: bytes) -> int:
    delay = int.from_bytes(control[4:6], "little") if control else 0
    return delay if delay >= 2 else 10  # what every browser does with 0 and 1
