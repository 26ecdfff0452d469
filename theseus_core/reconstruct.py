"""A clip through a tokenizer and back, and how much of it came through."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from theseus_core.contracts import VideoTokenizer
from theseus_core.data.clip import Clip
from theseus_core.device import autocast
from theseus_core.errors import TheseusError
from theseus_core.losses import psnr, ssim
from theseus_core.pipeline import to_frames, to_video

CHUNK = 4  # latent frames at a time, so that memory does not grow with the clip; the result is the same


@dataclass(frozen=True)
class Reconstruction:
    """What came back, and its likeness to what went in: PSNR in dB, SSIM at most 1."""

    clip: Clip
    psnr: float
    ssim: float


@torch.inference_mode()
def reconstruct(tokenizer: VideoTokenizer, clip: Clip, device: torch.device, dtype: torch.dtype) -> Reconstruction:
    """Encode and decode a clip whose size the tokenizer can take; see `nearest_size`."""
    video = to_video(clip.frames).unsqueeze(0)  # (1, 3, T, H, W)
    tokenizer.to(device)
    with autocast(device, dtype):
        chunk = CHUNK if tokenizer.exact_in_chunks else None
        latents = tokenizer.encode(video.to(device), chunk=chunk)
        decoded = tokenizer.decode(latents, chunk=chunk, size=clip.frames.shape[1:3]).float().cpu()
    frames = to_frames(decoded[0])
    shown = to_video(frames).unsqueeze(0)  # what is measured is what the file will hold
    return Reconstruction(Clip(frames, clip.fps, clip.caption), float(psnr(shown, video)), float(ssim(shown, video)))


def nearest_size(tokenizer: VideoTokenizer, frames: int, height: int, width: int) -> tuple[int, int, int]:
    """The largest number of frames, height and width that the tokenizer takes and that are no larger than these.

    Raises:
        TheseusError: they are too small.
    """
    multiple = tokenizer.space_factor
    if min(height, width) < multiple:
        raise TheseusError(f"the tokenizer takes frames of at least {multiple}x{multiple}, not: {width}x{height}")
    return frames - (frames - 1) % tokenizer.time_factor, height - height % multiple, width - width % multiple
