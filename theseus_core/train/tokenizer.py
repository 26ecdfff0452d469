"""`train vae`: a dataset becomes a tokenizer. Here data, family and trainer meet, and know nothing of one another."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from theseus_core.colour import colour_difference, saturation
from theseus_core.contracts import Trainable, VideoTokenizer
from theseus_core.data.clip import Clip, spread
from theseus_core.data.loader import VideoSource, common_size, split, stack_windows
from theseus_core.data.shards import Clips
from theseus_core.device import autocast, pick_device, pick_dtype
from theseus_core.errors import TheseusError
from theseus_core.losses import psnr, ssim
from theseus_core.model_folder import save_tokenizer
from theseus_core.pipeline import to_frames
from theseus_core.registry import build, configure
from theseus_core.render.sheets import comparison
from theseus_core.train.provenance import refuse_foreign_folder
from theseus_core.train.replicas import draw_of
from theseus_core.train.runs import (
    DRAWN,
    Outcome,
    Report,
    VaeRun,
    described,
    last_scores,
    made_by,
    open_clips,
    plot,
    sample_name,
    say_what_is_measured,
)
from theseus_core.train.trainer import Scores, Trainer

FEW = 128  # clips that codes are fitted to for a look at them while the training goes on


def train_tokenizer(run: VaeRun, data: Path, output: Path, report: Report | None = None, resume: bool = True) -> Outcome:
    """Train a video autoencoder on a prepared dataset; a second start of the same goes on, or ends at once.

    Raises:
        TheseusError: see `Trainer`; or the dataset does not fit the settings.
    """
    report = report or Report()
    refuse_foreign_folder(output)
    dataset = open_clips(data, run, output)
    trained, held = split(dataset, run.hold_out)
    shown = spread(held or trained, run.pictures)
    device = pick_device(run.train.device)
    dtype = pick_dtype(run.train.dtype, device)

    configure("tokenizers", run.family, run.model_preset, run.model, prefix="model.")
    torch.manual_seed(run.train.seed)
    model = build("tokenizers", run.family, run.model_preset, run.model)
    if not any(p.requires_grad for p in model.parameters()):
        raise TheseusError(f"this tokenizer has nothing to train: {run.family}", hint="generators that make pixels need no --vae")
    model.check_size(run.frames, *common_size(dataset))
    say_what_is_measured(report, held, run.hold_out)

    def calibrate(tokenizer: VideoTokenizer, clips: int) -> None:
        tokenizer.calibrate(video.to(device) for video in _windows(dataset, spread(trained, clips), run.frames))

    def evaluate(tokenizer: Trainable, step: int) -> Scores:
        assert isinstance(tokenizer, VideoTokenizer)
        with autocast(device, dtype):
            if tokenizer.fitted_last:
                tokenizer = copy.deepcopy(tokenizer)  # a look at it leaves no trace in what is trained and saved
                calibrate(tokenizer, FEW if step < run.train.steps else tokenizer.calibrated_on)
            scores = _draw_reconstructions(tokenizer, dataset, shown, run.frames, output / "samples" / f"step-{step:06d}")
        plot(output)
        return scores

    trainer = Trainer(
        model,
        VideoSource(dataset, draw_of(dataset, trained, run.train), run.frames, run.max_stride),
        run.train,
        output,
        evaluate=evaluate,
        progress=report.step,
        note=report.note,
        describe=described(run),
        free=DRAWN,
        initialize=lambda: model.initialize(_windows(dataset, spread(trained, model.fitted_on), run.frames)),
        resume=resume,
    )
    tokenizer = trainer.fit()
    assert isinstance(tokenizer, VideoTokenizer)
    if trainer.world.is_main:
        with autocast(device, dtype):
            calibrate(tokenizer, tokenizer.calibrated_on)
        save_tokenizer(output / "model", tokenizer, made_by(dataset, run))
        plot(output)
    return Outcome(output, output / "model", last_scores(output))


def _windows(dataset: Clips, clips: Sequence[int], frames: int, at_once: int = 4) -> Iterator[Tensor]:
    for i in range(0, len(clips), at_once):
        yield stack_windows(dataset, clips[i : i + at_once], frames)


def _draw_reconstructions(tokenizer: VideoTokenizer, dataset: Clips, clips: Sequence[int], frames: int, folder: Path) -> Scores:
    """Take clips through the tokenizer and back: pictures and videos into the folder, what is measured back.

    Scores: PSNR in dB, SSIM, the mean CIEDE2000 and the saturation that is left, 1 for all; and those of the latents.
    """
    device = next(tokenizer.parameters()).device
    originals, outputs, latents, scores = [], [], [], []
    for clip in clips:
        video = stack_windows(dataset, [clip], frames)
        latents.append(tokenizer.encode(video.to(device)))
        back = tokenizer.decode(latents[-1], size=(video.shape[3], video.shape[4])).float().cpu()
        scores.append(_likeness(back, video))
        record = dataset.records[clip]
        originals.append(Clip(to_frames(video[0]), record.fps, record.captions[0]))
        outputs.append(Clip(to_frames(back[0]), record.fps, record.captions[0]))
    labels = [f"{score['psnr']:.1f} dB  {clip.caption}" for score, clip in zip(scores, originals, strict=True)]
    comparison(originals, outputs, folder / "reconstructions.png", labels=labels)
    for i, (original, output) in enumerate(zip(originals, outputs, strict=True)):
        both = np.concatenate([original.frames, output.frames], axis=2)  # side by side
        Clip(both, original.fps, original.caption).save(folder / sample_name(i, *both.shape[1:3]))
    means = {name: sum(score[name] for score in scores) / len(scores) for name in scores[0]}
    return means | tokenizer.measure(torch.cat(latents))


def _likeness(back: Tensor, video: Tensor) -> Scores:
    shown = back.clamp(-1, 1)
    left = saturation(shown) / saturation(video).clamp_min(1)  # of a grey clip there is none to keep
    return {
        "psnr": psnr(back, video).item(),
        "ssim": ssim(back, video).item(),
        "ciede2000": colour_difference(shown, video).item(),
        "saturation": left.item(),
    }
