"""From a decoded frame of any size and format to the pixels of a clip.

The way was chosen by measurement: FFmpeg's area scaler into planar RGB with chroma at full resolution is about twice as fast as
packed RGB with FFmpeg's defaults, and nearer to the exact mean of the pixels. The picture is cropped before it is scaled, which
costs nothing: only the planes' pointers move.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from functools import partial
from typing import NamedTuple, Protocol

import av
import numpy as np
from av.filter import Graph
from av.filter.context import FilterContext

from theseus_core.data.filters import Fit
from theseus_core.data.shards import Frames

SCALERS = 16  # kept at most
Size = tuple[int, int]  # width, height in pixels


class Pixels(Protocol):
    """What a film says of all its frames.

    Attributes:
        pixel_aspect: width of a pixel over its height.
        opaque: no pixel is transparent, whatever the format.
    """

    pixel_aspect: Fraction
    opaque: bool


class _Kind(NamedTuple):
    """Frames that one scaler can take."""

    width: int
    height: int
    format: str
    quarter_turns: int  # counter-clockwise
    pixel_aspect: Fraction


class _Scaler(NamedTuple):
    graph: Graph  # what owns the two ends
    source: FilterContext
    sink: FilterContext


class Resizer:
    """Draws frames at one size; to be kept for many films, because those of one kind share a scaler.

    Args:
        size: (W, H) of the clips.
        fit: "crop" the middle, "letterbox" with black, or "stretch".
    """

    def __init__(self, size: Size, fit: Fit) -> None:
        self.size, self.fit = size, fit
        self._scalers: dict[_Kind, _Scaler] = {}

    def of(self, film: Pixels) -> Callable[[av.VideoFrame, Frames], None]:
        """What draws the frames of this film; see `draw`."""
        return partial(self.draw, film.pixel_aspect, film.opaque)

    def draw(self, pixel_aspect: Fraction, opaque: bool, frame: av.VideoFrame, out: Frames) -> None:
        """Draw `frame`, turned as its rotation says, into `out` (H, W, 3) uint8.

        Transparent pixels are laid over white, at full size, before anything is scaled.
        """
        turns = round(frame.rotation / 90)
        if not opaque and _may_be_transparent(frame):
            frame = over_white(frame)
        scaler = self._scaler(_Kind(frame.width, frame.height, frame.format.name, turns, pixel_aspect))
        scaler.source.push(frame)
        small = scaler.sink.pull()
        assert isinstance(small, av.VideoFrame)
        upright = np.rot90(out, -turns) if turns else out  # a view: what is drawn in it upright lies turned in the clip
        if self.fit == "letterbox":
            upright[:] = 0
        y, x = (upright.shape[0] - small.height) // 2, (upright.shape[1] - small.width) // 2
        upright[y : y + small.height, x : x + small.width] = _pixels(small, 3)

    def _scaler(self, kind: _Kind) -> _Scaler:
        if kind not in self._scalers:
            if len(self._scalers) == SCALERS:
                self._scalers.clear()
            target = self.size if kind.quarter_turns % 2 == 0 else self.size[::-1]
            self._scalers[kind] = _build(kind, *_geometry((kind.width, kind.height), target, self.fit, kind.pixel_aspect))
        return self._scalers[kind]


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


def _build(kind: _Kind, cut: Size, scaled: Size) -> _Scaler:
    graph = Graph()
    graph.threads = 1
    pixels = av.VideoFormat(kind.format, kind.width, kind.height)
    steps = [graph.add_buffer(width=kind.width, height=kind.height, format=pixels, time_base=Fraction(1, 1000))]
    if cut != (kind.width, kind.height):
        steps.append(graph.add("crop", f"{cut[0]}:{cut[1]}"))
    size = f"{scaled[0]}:{scaled[1]}"
    steps += [graph.add("scale", f"{size}:flags=area+full_chroma_inp"), graph.add("format", "gbrp")]
    steps += [graph.add("scale", f"{size}:flags=neighbor"), graph.add("format", "rgb24")]  # only packs the planes
    steps.append(graph.add("buffersink"))
    graph.link_nodes(*steps).configure()
    return _Scaler(graph, steps[0], steps[-1])


def _may_be_transparent(frame: av.VideoFrame) -> bool:
    return frame.format.name == "pal8" or any(component.is_alpha for component in frame.format.components)


def over_white(frame: av.VideoFrame) -> av.VideoFrame:
    """The frame as bgra, with whatever is transparent in it laid over white."""
    if frame.format.name != "bgra":
        frame = frame.reformat(format="bgra", threads=1)
    pixels = _pixels(frame, 4)
    if pixels[..., 3].min() == 255:
        return frame
    alpha = pixels[..., 3:].astype(np.uint16)
    mixed = pixels * alpha + 255 * (255 - alpha) + np.uint16(128)  # at most 65153, and (m + m / 256) / 256 is m / 255 rounded
    flat = (mixed + (mixed >> 8) >> 8).astype(np.uint8)
    flat[..., 3] = 255
    return av.VideoFrame.from_ndarray(flat, format="bgra")


def _pixels(frame: av.VideoFrame, channels: int) -> Frames:
    """The pixels of a packed frame: (H, W, channels), a view."""
    plane = frame.planes[0]
    rows = np.frombuffer(plane, np.uint8).reshape(frame.height, plane.line_size)  # type: ignore[call-overload]
    pixels: Frames = rows[:, : frame.width * channels].reshape(frame.height, frame.width, channels)
    return pixels
