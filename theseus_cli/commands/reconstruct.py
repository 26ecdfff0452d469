"""`theseus reconstruct`: a clip through a tokenizer and back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from theseus_cli import console
from theseus_cli.options import DeviceOption, DType, DTypeOption, JsonOption, VaeOption, parse_size
from theseus_core.errors import TheseusError


def reconstruct(
    clip: Annotated[Path, typer.Argument(help="A video file.", show_default=False)],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Where to write.", show_default="CLIP-reconstruction.mp4, here")
    ] = None,
    vae: VaeOption = Path("runs/vae"),
    size: Annotated[str | None, typer.Option("--size", help="128, or WIDTHxHEIGHT: 720x480.", show_default="the file's")] = None,
    max_frames: Annotated[int, typer.Option("--max-frames", min=1, help="Later frames are left out.")] = 121,
    sheet: Annotated[Path | None, typer.Option("--sheet", help="Draw both, frame by frame, into this .png file.")] = None,
    device: DeviceOption = "auto",
    dtype: DTypeOption = DType.auto,
    json: JsonOption = False,
) -> None:
    """Encode and decode a clip, and say how much of it came through."""
    from theseus_core.device import pick_device, pick_dtype
    from theseus_core.model_folder import load_tokenizer
    from theseus_core.reconstruct import nearest_size, reconstruct
    from theseus_core.render.sheets import comparison
    from theseus_core.render.video import check_ending, read, write

    target = output or Path(f"{clip.stem}-reconstruction.mp4")
    check_ending(target)
    for written in filter(None, (target, sheet)):
        if written.exists() and clip.exists() and written.samefile(clip):
            raise TheseusError(f"this would overwrite the clip itself: {written}", hint="choose another name")
    if sheet and (sheet.suffix.lower() != ".png" or sheet.is_dir()):
        raise TheseusError(f"a picture is written as a .png file, not as: {sheet}", hint="for example --sheet both.png")
    where = pick_device(device)
    precision = pick_dtype(dtype.value, where)
    tokenizer = load_tokenizer(vae)
    asked = parse_size(size) if size else None
    original = read(clip, max_frames, asked)
    frames, height, width = nearest_size(tokenizer, *original.frames.shape[:3])
    shape = (frames, *(asked or (height, width)))  # a size that was asked for and does not fit is refused, not changed
    if shape != original.frames.shape[:3]:
        were, are = ("{0} frames of {2}x{1}".format(*numbers) for numbers in (original.frames.shape, shape))
        console.say(f"cut from {were} to {are}, the nearest that this tokenizer takes")
        original = read(clip, frames, asked or (height, width))
    result = reconstruct(tokenizer, original, where, precision)
    write(result.clip, target)
    console.say(f"PSNR {result.psnr:.2f} dB, SSIM {result.ssim:.4f}")
    if sheet:
        comparison([original], [result.clip], sheet, labels=[f"{clip.name}: {result.psnr:.2f} dB"])
    console.emit({"file": str(target), "psnr": result.psnr, "ssim": result.ssim} if json else target)
