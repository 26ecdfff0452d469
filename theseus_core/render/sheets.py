"""Contact sheets: many clips in one picture, each as a strip of frames with its caption below."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from theseus_core.data.clip import Clip
from theseus_core.files import replacing

BACKGROUND, INK, FAINT = (250, 249, 246), (32, 32, 36), (120, 120, 128)
GAP, MARGIN, FONT_SIZE, LINE = 2, 18, 14, 19  # pixels
MAX_LINES = 3

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def contact_sheet(
    clips: Sequence[Clip],
    path: Path,
    columns: int | None = None,
    frames_per_clip: int = 6,
    labels: Sequence[str] | None = None,
    height: int = 128,
) -> Path:
    """Draw every clip as a strip of frames, evenly spaced in time, with a label below.

    Args:
        columns: strips side by side; by default as many as make the sheet about 1.6 times as wide as it is high.
        frames_per_clip: frames in a strip; a shorter clip shows all of its frames.
        labels: one text a clip, instead of its caption.
        height: of the frames in the picture, in pixels.
    """
    assert clips, "a sheet of nothing"
    texts = list(labels) if labels is not None else [clip.caption for clip in clips]
    cells = [_labelled(_strip(clip.frames, frames_per_clip, height), text) for clip, text in zip(clips, texts, strict=True)]
    columns = columns or max(1, round((1.6 * len(cells) * cells[0].height / cells[0].width) ** 0.5))
    rows = [cells[start : start + columns] for start in range(0, len(cells), columns)]
    return _save(_stack([_beside(row, MARGIN) for row in rows], MARGIN), path)


def comparison(
    originals: Sequence[Clip],
    reconstructions: Sequence[Clip],
    path: Path,
    frames_per_clip: int = 6,
    labels: Sequence[str] | None = None,
    height: int = 128,
    titles: tuple[str, str] = ("original", "reconstruction"),
) -> Path:
    """Draw every original above its reconstruction, frame by frame, with a label below each pair.

    Args:
        titles: what stands beside the two rows.
        labels: one text a pair, instead of the original's caption: its PSNR, for example.
    """
    assert originals, "a sheet of nothing"
    texts = list(labels) if labels is not None else [clip.caption for clip in originals]
    pairs = []
    for original, reconstruction, text in zip(originals, reconstructions, texts, strict=True):
        rows = [
            _titled(titles[0], _strip(original.frames, frames_per_clip, height)),
            _titled(titles[1], _strip(reconstruction.frames, frames_per_clip, height)),
        ]
        pairs.append(_labelled(_stack(rows, GAP), text))
    return _save(_stack(pairs, MARGIN), path)


def matrix(
    clips: Sequence[Sequence[Clip]],
    path: Path,
    rows: Sequence[str],
    columns: Sequence[str],
    labels: Sequence[Sequence[str]],
    frames_per_clip: int = 4,
    height: int = 64,
) -> Path:
    """Draw a table of clips, each as a strip of frames: those of a row are by one maker, those of a column of one thing.

    Args:
        clips: those of each row, one for each column.
        rows, columns: what stands beside each row, and above each column.
        labels: one text a clip, to stand below it.
    """
    assert clips and columns, "a sheet of nothing"
    strips = [[_strip(clip.frames, frames_per_clip, height) for clip in row] for row in clips]
    widths = [max(strip.width for strip in column) for column in zip(*strips, strict=True)]
    beside = max(round(_font().getlength(word)) for text in rows for word in text.split()) + MARGIN
    lines = [_beside([_heading(text, width) for text, width in zip(["", *columns], [beside, *widths], strict=True)], MARGIN)]
    for title, row, texts in zip(rows, strips, labels, strict=True):
        cells = [
            _labelled(_stack([strip, Image.new("RGB", (width, 1), BACKGROUND)], 0), text)
            for strip, width, text in zip(row, widths, texts, strict=True)
        ]
        lines.append(_beside([_heading(title, beside), *cells], MARGIN))
    return _save(_stack(lines, MARGIN), path)


def _heading(text: str, width: int) -> Image.Image:
    """A text in a field of this width and of its own height."""
    return _labelled(Image.new("RGB", (width, 1), BACKGROUND), text)


def _strip(frames: NDArray[np.uint8], count: int, height: int) -> Image.Image:
    chosen = np.linspace(0, len(frames) - 1, min(count, len(frames))).round().astype(int)
    width = max(1, round(frames.shape[2] * height / frames.shape[1]))
    # Small frames are enlarged without smoothing, so that a pixel is seen for what it is.
    resample = Image.Resampling.NEAREST if height >= 2 * frames.shape[1] else Image.Resampling.LANCZOS
    return _beside([Image.fromarray(frames[index]).resize((width, height), resample) for index in chosen], GAP)


def _titled(title: str, strip: Image.Image) -> Image.Image:
    """The strip with its title to the left, in a column wide enough for both titles of a pair."""
    column = Image.new("RGB", (110, strip.height), BACKGROUND)
    ImageDraw.Draw(column).text((102, strip.height // 2), title, fill=FAINT, font=_font(), anchor="rm")
    return _beside([column, strip], 0)


def _labelled(picture: Image.Image, text: str) -> Image.Image:
    lines = wrap(text, picture.width)
    if not lines:
        return picture
    label = Image.new("RGB", (picture.width, LINE * len(lines) + 4), BACKGROUND)
    draw = ImageDraw.Draw(label)
    for row, line in enumerate(lines):
        draw.text((0, 4 + row * LINE), line, fill=INK, font=_font())
    return _stack([picture, label], 0)


def wrap(text: str, width: int) -> list[str]:
    """Break a text into lines of at most `width` pixels; what does not fit on three lines ends in an ellipsis."""
    lines: list[str] = []
    words = text.split()
    while words:
        count = 1  # a word longer than the line stays whole and is cut at the edge
        while count < len(words) and _font().getlength(" ".join(words[: count + 1])) <= width:
            count += 1
        lines.append(" ".join(words[:count]))
        words = words[count:]
    if len(lines) > MAX_LINES:
        lines = [*lines[: MAX_LINES - 1], lines[MAX_LINES - 1].rsplit(" ", 1)[0] + " ..."]
    return lines


@cache
def _font() -> Font:
    return ImageFont.load_default(FONT_SIZE)


def _beside(pictures: Sequence[Image.Image], gap: int) -> Image.Image:
    return _join(pictures, gap, across=True)


def _stack(pictures: Sequence[Image.Image], gap: int) -> Image.Image:
    return _join(pictures, gap, across=False)


def _join(pictures: Sequence[Image.Image], gap: int, across: bool) -> Image.Image:
    lengths = [picture.width if across else picture.height for picture in pictures]
    breadth = max(picture.height if across else picture.width for picture in pictures)
    total = sum(lengths) + gap * (len(pictures) - 1)
    joined = Image.new("RGB", (total, breadth) if across else (breadth, total), BACKGROUND)
    offset = 0
    for picture, length in zip(pictures, lengths, strict=True):
        joined.paste(picture, (offset, 0) if across else (0, offset))
        offset += length + gap
    return joined


def _save(picture: Image.Image, path: Path) -> Path:
    sheet = Image.new("RGB", (picture.width + 2 * MARGIN, picture.height + 2 * MARGIN), BACKGROUND)
    sheet.paste(picture, (MARGIN, MARGIN))
    with replacing(path) as part:
        sheet.save(part, format="PNG", optimize=True)
    return path
