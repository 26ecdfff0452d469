"""From a decoded frame of any size and format to the pixels of a clip.

The way was chosen by measurement: FFmpeg's area scaler into planar RGB with chroma at full resolution is about twice as fast as
packed RGB with FFmpeg's defaults, and nearer to the exact mean of the pixels. The picture is cropped before it is scaled, which
costs nothing: only the planes' pointers move.
"""

from __future__ import annotations

from fractions import Fraction
from typing import NamedTuple

import av
import numpy as np
from av.filter import Graph
from av.filter.context import FilterContext
from numpy.typing import NDArray

from theseus_core.data.filters import Fit
from theseus_core.data.shards import Frames

Size = tuple[int, int]  # width, height in pixels

_PLANES = (2, 0, 1)  # where red, green and blue lie in planar gbr
_OPAQUE, _WHITE = 0xFF000000, np.uint32(0xFFFFFFFF)  # of a bgra pixel read as one little-endian number


class _Scaler(NamedTuple):
    kind: tuple[int, int, str, int]  # width, height, format and rotation of the frames it takes
    graph: Graph  # what owns the two ends
    source: FilterContext
    sink: FilterContext


class Resizer:
    """Draws frames of one film at one size.

    Args:
        size: (W, H) of the clip.
        fit: "crop" the middle, "letterbox" with black, or "stretch".
        pixel_aspect: width of a source pixel over its height.
        opaque: the frames are known to have no transparent pixel, whatever their format.
    """

    def __init__(self, size: Size, fit: Fit, pixel_aspect: Fraction = Fraction(1), opaque: bool = False) -> None:
        self.size, self.fit, self.pixel_aspect, self.opaque = size, fit, pixel_aspect, opaque
        self._scaler: _Scaler | None = None

    def __call__(self, frame: av.VideoFrame, out: Frames) -> None:
        """Draw `frame`, turned as its rotation says, into `out` (H, W, 3) uint8.

        Transparent pixels are laid over white, at full size, before anything is scaled.
        """
        turns = round(frame.rotation / 90)  # counter-clockwise
        if not self.opaque and _may_be_transparent(frame):
            frame = over_white(frame)
        scaler = self._scaler_for(frame, turns)
        scaler.source.push(frame)
        small = scaler.sink.pull()
        assert isinstance(small, av.VideoFrame)
        upright = np.rot90(out, -turns)  # a view: what is drawn in it upright lies turned in the clip
        if self.fit == "letterbox":
            upright[:] = 0
        y, x = (upright.shape[0] - small.height) // 2, (upright.shape[1] - small.width) // 2
        for channel, plane in enumerate(_PLANES):
            upright[y : y + small.height, x : x + small.width, channel] = _plane(small, plane, 1)

    def _scaler_for(self, frame: av.VideoFrame, turns: int) -> _Scaler:
        kind = (frame.width, frame.height, frame.format.name, turns)
        if self._scaler is None or self._scaler.kind != kind:
            target = self.size if turns % 2 == 0 else self.size[::-1]
            self._scaler = _scaler(frame, kind, *_geometry((frame.width, frame.height), target, self.fit, self.pixel_aspect))
        return self._scaler


def _geometry(source: Size, target: Size, fit: Fit, pixel_aspect: Fraction) -> tuple[Size, Size]:
    """What to cut from the middle of the source, and what to scale that to."""
    (width, height), (wide, high) = source, target
    ratio = Fraction(width, height) * pixel_aspect * high / wide  # above 1: the source is the wider one
    wider, higher = max(ratio, Fraction(1)), max(1 / ratio, Fraction(1))
    if fit == "crop":
        return (max(1, round(width / wider)), max(1, round(height / higher))), target
    if fit == "letterbox":
        return source, (max(1, round(wide / higher)), max(1, round(high / wider)))
    return source, target


def _scaler(frame: av.VideoFrame, kind: tuple[int, int, str, int], cut: Size, scaled: Size) -> _Scaler:
    graph = Graph()
    graph.threads = 1
    source = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=Fraction(1, 1000))
    steps = [source]
    if cut != (frame.width, frame.height):
        steps.append(graph.add("crop", f"{cut[0]}:{cut[1]}"))
    steps.append(graph.add("scale", f"{scaled[0]}:{scaled[1]}:flags=area+full_chroma_inp"))
    steps += [graph.add("format", "gbrp"), graph.add("buffersink")]
    graph.link_nodes(*steps).configure()
    return _Scaler(kind, graph, source, steps[-1])


def _may_be_transparent(frame: av.VideoFrame) -> bool:
    return frame.format.name == "pal8" or any(component.is_alpha for component in frame.format.components)


def over_white(frame: av.VideoFrame) -> av.VideoFrame:
    """The frame as bgra, with whatever is transparent in it laid over white."""
    if frame.format.name != "bgra":
        frame = frame.reformat(format="bgra", threads=1)
    packed = _plane(frame, 0, 4).view("<u4")
    if packed.min() >= _OPAQUE:
        return frame
    clear = packed < 1 << 24
    if bool((clear | (packed >= _OPAQUE)).all()):
        flat = np.where(clear, _WHITE, packed).view(np.uint8).reshape(frame.height, frame.width, 4)
    else:
        pixels = packed.view(np.uint8).reshape(frame.height, frame.width, 4).astype(np.uint32)
        alpha = pixels[..., 3:]
        flat = ((pixels * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
        flat[..., 3] = 255
    return av.VideoFrame.from_ndarray(flat, format="bgra")


def _plane(frame: av.VideoFrame, number: int, bytes_per_pixel: int) -> NDArray[np.uint8]:
    """A plane's bytes without the padding at the end of each row: (H, W * bytes_per_pixel), a view."""
    plane = frame.planes[number]
    rows = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)  # type: ignore[call-overload]
    view: NDArray[np.uint8] = rows[: frame.height, : frame.width * bytes_per_pixel]
    return view
