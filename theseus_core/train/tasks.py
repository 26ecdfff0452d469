"""The two trainings: a dataset becomes a tokenizer, a dataset and a tokenizer become a generator.

Here data, family and trainer meet; each is named once and knows nothing of the others.
"""

from __future__ import annotations

import math
import platform
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from theseus_core import __version__
from theseus_core.config import Config, Tree, dump, merge, validate
from theseus_core.contracts import Conditioned, Generator, TextEncoder, Trainable, VideoTokenizer
from theseus_core.contracts import Progress as CountProgress
from theseus_core.data.clip import Clip
from theseus_core.data.encode import CaptionCache, LatentCache, LatentSource, weights_hash
from theseus_core.data.loader import Draw, VideoSource, common_size, split, stack_windows
from theseus_core.data.shards import Dataset
from theseus_core.device import autocast, pick_device, pick_dtype
from theseus_core.errors import TheseusError, nearest
from theseus_core.losses import psnr, ssim
from theseus_core.model_folder import Parts, Settings, check_match, load_tokenizer, save_model, save_tokenizer
from theseus_core.pipeline import TextToVideo, to_frames
from theseus_core.presets import PRESETS
from theseus_core.quantize import check_mode, quantize
from theseus_core.registry import build
from theseus_core.render.plots import curves
from theseus_core.render.sheets import comparison, contact_sheet
from theseus_core.text.builtin import vocabulary_of
from theseus_core.train.checkpoint import Note
from theseus_core.train.config import TrainConfig
from theseus_core.train.journal import read_journal
from theseus_core.train.trainer import Progress, Scores, Trainer


def _vae_training() -> TrainConfig:
    return TrainConfig(steps=3000, batch_size=8, optimizer="muon", lr=2e-3, weight_decay=0.0, evaluate_every=500)


def _transformer_training() -> TrainConfig:
    return TrainConfig(steps=5000, batch_size=16, optimizer="muon", lr=2e-3, evaluate_every=500)


class Sampling(Config):
    """How videos are made of the trained model, unless the user says otherwise."""

    steps: int = Field(20, ge=1, description="evaluations of the generator")
    guidance_scale: float = Field(4.0, ge=1, description="how strictly to follow the prompt; 1 for no guidance")
    sampler: str = Field("dpmpp_2m", description="the algorithm that turns noise into a video")


class Run(Config):
    """Settings that both trainings have."""

    model_preset: str = Field("small", description="the family's preset")
    model: dict[str, Any] = Field(default_factory=dict, description="changes to the family's preset")
    frames: int = Field(17, ge=1, description="T, frames of a training window; shorter clips hold their last frame")
    hold_out: float = Field(0.05, ge=0, lt=1, description="share of the sources kept from training, to measure on")


class VaeRun(Run):
    """Settings of `train vae`."""

    family: str = Field("causal_vae", description="which tokenizer")
    max_stride: int = Field(1, ge=1, description="windows take every frame, or every second, up to this many")
    pictures: int = Field(8, ge=1, description="clips that are measured and drawn while it trains")
    train: TrainConfig = Field(default_factory=_vae_training, description="the trainer's settings")


class TransformerRun(Run):
    """Settings of `train transformer`."""

    family: str = Field("dit", description="which generator")
    windows: int = Field(4, ge=1, description="windows of a clip that are encoded, evenly spread over it")
    text_family: str = Field("builtin", description="builtin (trained along) or hub (frozen, by name or folder)")
    text_preset: str = Field("small", description="the text encoder's preset")
    text: dict[str, Any] = Field(default_factory=dict, description="changes to the text encoder's preset")
    quantize: Literal["none", "int8", "nf4", "fp4"] = Field(
        "none", description="bits of a frozen text encoder's linear layers while captions are embedded; the model keeps it whole"
    )
    caption_dropout: float = Field(0.1, ge=0, lt=1, description="share of captions left out, which guidance needs")
    prompts: int = Field(4, ge=1, description="captions that sample videos are made of while it trains")
    sampling: Sampling = Field(default_factory=Sampling, description="how the samples, and later videos, are made")
    train: TrainConfig = Field(default_factory=_transformer_training, description="the trainer's settings")


RUNS: dict[str, type[VaeRun] | type[TransformerRun]] = {"vae": VaeRun, "transformer": TransformerRun}


def configure_run(kind: str, preset: str, *changes: Tree) -> Any:
    """A run's settings: the defaults, a preset over them, and every change over that, in order.

    Raises:
        TheseusError: no such preset, an unknown key, or a value out of its range.
    """
    if preset not in PRESETS[kind]:
        raise TheseusError(f"train {kind} has no preset: {preset}", hint=nearest(preset, sorted(PRESETS[kind])))
    run = RUNS[kind]
    return validate(run, merge(dump(run()), PRESETS[kind][preset], *changes))


@dataclass(frozen=True)
class Report:
    """Whom to tell how it goes; by default nobody.

    Attributes:
        step: called after every training step with (done, total, scalars).
        encoding: called with (done, total) while latents and text are encoded.
        note: called with a sentence for the user.
    """

    step: Progress | None = None
    encoding: CountProgress | None = None
    note: Note = field(default=lambda message: None)


@dataclass(frozen=True)
class Outcome:
    """What a training gave: the run's folder, its model, and the last scores."""

    folder: Path
    model: Path
    scores: Scores


# --- train vae ---


def train_tokenizer(run: VaeRun, data: Path, output: Path, report: Report | None = None, resume: bool = True) -> Outcome:
    """Train a video autoencoder on a prepared dataset; a second start of the same goes on, or ends at once.

    Raises:
        TheseusError: see `Trainer`; or the dataset does not fit the settings.
    """
    report = report or Report()
    dataset = Dataset.open(data)
    common_size(dataset)
    trained, held = split(dataset, run.hold_out)
    shown = _spread(held or trained, run.pictures)
    _say_what_is_measured(report, held, run.hold_out)
    device = pick_device(run.train.device)
    dtype = pick_dtype(run.train.dtype, device)

    torch.manual_seed(run.train.seed)
    model = build("tokenizers", run.family, run.model_preset, run.model)
    draw = Draw(tuple(trained), run.train.batch_size, run.train.accumulate, run.train.seed)
    source = VideoSource(dataset, draw, run.frames, run.max_stride)
    model.initialize(_windows(dataset, _spread(trained, 64), run.frames))

    def evaluate(tokenizer: Trainable, step: int) -> Scores:
        assert isinstance(tokenizer, VideoTokenizer)
        with autocast(device, dtype):
            scores = _draw_reconstructions(tokenizer, dataset, shown, run.frames, output, step)
        _plot(output)
        return scores

    trainer = Trainer(
        model,
        source,
        run.train,
        output,
        evaluate=evaluate,
        progress=report.step,
        note=report.note,
        describe=_described("vae", run),
        resume=resume,
    )
    tokenizer = trainer.fit()
    assert isinstance(tokenizer, VideoTokenizer)
    if trainer.world.is_main:
        with autocast(device, dtype):
            tokenizer.calibrate(video.to(device) for video in _windows(dataset, _spread(trained, 256), run.frames))
        save_tokenizer(output / "model", tokenizer, _made_by(dataset, run))
        _plot(output)
    return Outcome(output, output / "model", _last_scores(output))


def _windows(dataset: Dataset, clips: Sequence[int], frames: int, at_once: int = 4) -> Iterator[Tensor]:
    for i in range(0, len(clips), at_once):
        yield stack_windows(dataset, clips[i : i + at_once], frames)


def _draw_reconstructions(
    tokenizer: VideoTokenizer, dataset: Dataset, clips: Sequence[int], frames: int, output: Path, step: int
) -> Scores:
    """Take clips through the tokenizer and back: pictures and videos into the run, PSNR and SSIM back."""
    device = next(tokenizer.parameters()).device
    originals, outputs, ratios, likenesses = [], [], [], []
    for clip in clips:
        video = stack_windows(dataset, [clip], frames)
        back = tokenizer.decode(tokenizer.encode(video.to(device))).float().cpu()
        ratios.append(psnr(back, video).item())
        likenesses.append(ssim(back, video).item())
        record = dataset.records[clip]
        originals.append(Clip(to_frames(video[0]), record.fps, record.captions[0]))
        outputs.append(Clip(to_frames(back[0]), record.fps, record.captions[0]))
    folder = output / "samples" / f"step-{step:06d}"
    labels = [f"{ratio:.1f} dB  {clip.caption}" for ratio, clip in zip(ratios, originals, strict=True)]
    comparison(originals, outputs, folder / "reconstructions.png", labels=labels)
    for i, (original, back_clip) in enumerate(zip(originals, outputs, strict=True)):
        _side_by_side(original, back_clip).save(folder / f"{i:04d}.mp4")
    return {"psnr": sum(ratios) / len(ratios), "ssim": sum(likenesses) / len(likenesses)}


def _side_by_side(left: Clip, right: Clip) -> Clip:
    return Clip(np.concatenate([left.frames, right.frames], axis=2), left.fps, left.caption)


# --- train transformer ---


def train_generator(
    run: TransformerRun, data: Path, vae: Path, output: Path, report: Report | None = None, resume: bool = True
) -> Outcome:
    """Train a text-to-video generator on a prepared dataset, in the latents of a trained tokenizer.

    Raises:
        TheseusError: see `Trainer`; or dataset, tokenizer and settings do not fit together.
    """
    report = report or Report()
    dataset = Dataset.open(data)
    tokenizer = load_tokenizer(vae)
    trained, held = split(dataset, run.hold_out)
    _say_what_is_measured(report, held, run.hold_out)
    device = pick_device(run.train.device)
    dtype = pick_dtype(run.train.dtype, device)

    text_encoder = _text_encoder(run, dataset, trained)
    _say_what_is_cut(report, text_encoder, dataset)
    if run.quantize != "none":
        _quantize_text(text_encoder, run.quantize, device, dtype)
    generator = _generator(run, tokenizer, text_encoder)
    check_match(generator, tokenizer, text_encoder)
    settings = _settings(run, dataset)
    latents = LatentCache(dataset, tokenizer, run.frames, run.windows, device, dtype, report.encoding)
    draw = Draw(tuple(trained), run.train.batch_size, run.train.accumulate, run.train.seed)
    if text_encoder.trained_along:
        source = LatentSource(latents, draw, text_encoder.tokenize, str(dump(text_encoder.config)), run.caption_dropout)
    else:
        captions = ["", *(caption for record in dataset.records for caption in record.captions)]
        cache = CaptionCache(dataset.path, captions, text_encoder, device, dtype, report.encoding)
        source = LatentSource(latents, draw, cache.read, cache.fingerprint, run.caption_dropout)

    shown = [dataset.records[clip].captions[0] for clip in _spread(held or trained, run.prompts)]
    measured = list(source.held_out(_spread(held or trained, 64), 8))
    parts = Parts(tokenizer, text_encoder, generator, settings)

    def evaluate(model: Trainable, step: int) -> Scores:
        with autocast(device, dtype):
            losses = [model.losses(batch.to(device), model.phases[-1])["loss"].item() for batch in measured]
        _draw_samples(TextToVideo(_parts_of(model, parts), device, dtype), shown, output, step)
        _plot(output)
        return {"loss": sum(losses) / len(losses)}

    trainer = Trainer(
        Conditioned.of(generator, text_encoder),
        source,
        run.train,
        output,
        evaluate=evaluate,
        progress=report.step,
        note=report.note,
        describe={**_described("transformer", run), "tokenizer": weights_hash(tokenizer)},
        resume=resume,
    )
    model = trainer.fit()
    if trainer.world.is_main:
        found = _parts_of(model, parts)
        if run.quantize != "none":
            found = replace(found, text_encoder=_text_encoder(run, dataset, trained))
        made_by = {**_made_by(dataset, run), "tokenizer": str(vae)}
        save_model(output / "model", found.tokenizer, found.text_encoder, found.generator, settings, made_by)
        _plot(output)
    return Outcome(output, output / "model", _last_scores(output))


def _text_encoder(run: TransformerRun, dataset: Dataset, trained: Sequence[int]) -> TextEncoder:
    changes = run.text
    if run.text_family == "builtin":
        captions = (caption for clip in trained for caption in dataset.records[clip].captions)
        changes = merge({"vocabulary": list(vocabulary_of(captions))}, run.text)
    torch.manual_seed(run.train.seed)
    return build("text", run.text_family, run.text_preset, changes)


def _quantize_text(text_encoder: TextEncoder, mode: str, device: torch.device, dtype: torch.dtype) -> None:
    if text_encoder.trained_along:
        raise TheseusError(f"only a frozen text encoder can be quantized, the built-in one is trained: {mode}", hint="--text NAME")
    check_mode(mode, device)
    quantize(text_encoder, mode, device, dtype)


def _generator(run: TransformerRun, tokenizer: VideoTokenizer, text_encoder: TextEncoder) -> Generator:
    fitting = {"latent_channels": tokenizer.latent_channels, "text_width": text_encoder.width}
    for key, value in run.model.items():
        if key in fitting and value != fitting[key]:
            raise TheseusError(f"model.{key} is set by what feeds the generator, {fitting[key]}, and cannot be: {value}")
    torch.manual_seed(run.train.seed + 1)
    return build("generators", run.family, run.model_preset, merge(run.model, fitting))


def _settings(run: TransformerRun, dataset: Dataset) -> Settings:
    height, width = common_size(dataset)
    fps = median(record.fps for record in dataset.records)
    return Settings(frames=run.frames, height=height, width=width, fps=fps, **dump(run.sampling))


def _parts_of(model: Trainable, parts: Parts) -> Parts:
    """The parts with the trained ones in place of those that training began with."""
    if isinstance(model, Conditioned):
        return Parts(parts.tokenizer, model.text_encoder, model.generator, parts.defaults)
    assert isinstance(model, Generator)
    return Parts(parts.tokenizer, parts.text_encoder, model, parts.defaults)


def _draw_samples(pipe: TextToVideo, prompts: Sequence[str], output: Path, step: int) -> None:
    folder = output / "samples" / f"step-{step:06d}"
    clips = [pipe.generate(prompt, seed=i) for i, prompt in enumerate(prompts)]
    for i, clip in enumerate(clips):
        clip.save(folder / f"{i:04d}.mp4")
    contact_sheet(clips, folder / "samples.png")


# --- both ---


def _spread(clips: Sequence[int], count: int) -> list[int]:
    """At most `count` of the clips, evenly spread."""
    return [clips[math.floor(i * len(clips) / count)] for i in range(count)] if len(clips) > count else list(clips)


def _say_what_is_measured(report: Report, held: Sequence[int], hold_out: float) -> None:
    if held:
        report.note(f"held out from training, and measured on: {len(held)} clips")
    else:
        report.note(f"nothing is held out of so few clips (hold_out {hold_out:g}): scores are on the clips that are trained on")


def _say_what_is_cut(report: Report, text_encoder: TextEncoder, dataset: Dataset) -> None:
    counts = [text_encoder.count_tokens(caption) for record in dataset.records for caption in record.captions]
    cut = sum(count > text_encoder.max_tokens for count in counts)
    if cut:
        report.note(f"captions cut to {text_encoder.max_tokens} tokens: {cut} of {len(counts)}; text.max_tokens sets more")


def _described(kind: str, run: Run) -> Tree:
    tree = dump(run)
    del tree["train"]  # the trainer writes and compares its settings itself
    return {"kind": kind, **tree}


def _made_by(dataset: Dataset, run: VaeRun | TransformerRun) -> Tree:
    versions = {"theseus": __version__, "torch": torch.__version__, "python": platform.python_version()}
    return {"dataset": dataset.fingerprint, "settings": dump(run), "versions": versions, "seed": run.train.seed}


def _plot(output: Path) -> None:
    curves(read_journal(output / "metrics.jsonl"), output / "curves.png")


def _last_scores(output: Path) -> Scores:
    lines = read_journal(output / "metrics.jsonl")
    scored = [line for line in lines if any(key.startswith("eval/") for key in line)]
    return {key.removeprefix("eval/"): value for key, value in scored[-1].items() if key.startswith("eval/")} if scored else {}
