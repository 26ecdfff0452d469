"""`train transformer`: a dataset and a tokenizer become a generator that words steer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from theseus_core.config import dump, merge
from theseus_core.contracts import Conditioned, Generator, TextEncoder, Trainable, VideoTokenizer
from theseus_core.data.clip import spread
from theseus_core.data.encode import CaptionCache, LatentCache, LatentSource, Pixels, weights_hash
from theseus_core.data.loader import common_size, split, window
from theseus_core.data.shards import Clips
from theseus_core.device import autocast, pick_dtype
from theseus_core.errors import TheseusError
from theseus_core.model_folder import (
    CodeSettings,
    Parts,
    Settings,
    base_of,
    check_kind,
    check_match,
    find_model,
    load_model,
    load_tokenizer,
    save_adapters,
    save_model,
    widths_of,
)
from theseus_core.pipeline import TextToVideo
from theseus_core.quantize import check_mode, quantize_encoder
from theseus_core.registry import build, configure, family
from theseus_core.render.sheets import contact_sheet
from theseus_core.train.distributed import find_world
from theseus_core.train.finetune import ONE_SIZE, Adapters, begin, refuse_uneven, refuse_what_cannot_be, trainable
from theseus_core.train.known import known_prompts
from theseus_core.train.provenance import refuse_foreign_folder
from theseus_core.train.replicas import draw_of
from theseus_core.train.runs import (
    DRAWN,
    PIXELS,
    Outcome,
    Report,
    Sampling,
    TransformerRun,
    described,
    last_scores,
    made_by,
    needs,
    open_clips,
    plot,
    sample_name,
    say_what_is_measured,
)
from theseus_core.train.trainer import Scores, Trainer, device_of


def train_generator(
    run: TransformerRun, data: Path, vae: Path | None, output: Path, report: Report | None = None, resume: bool = True
) -> Outcome:
    """Train a text-to-video generator on a prepared dataset, in the latents of a trained tokenizer or in pixels.

    Args:
        vae: where the tokenizer is; None where the run begins with a model, which has its own, or makes pixels.

    Raises:
        TheseusError: see `Trainer`; or dataset, tokenizer and settings do not fit together.
    """
    report = report or Report()
    refuse_foreign_folder(output)  # before hours of encoding go into it
    refuse_what_cannot_be(run, output)
    base = base_of(run.init) if run.init else None
    dataset = open_clips(data, run, output)
    trained, held = split(dataset, run.hold_out)
    device = device_of(run.train.device, find_world(run.train.distributed, run.train.replicas))
    dtype = pick_dtype(run.train.dtype, device)

    parts = begin(run, dataset, device, dtype) if run.init else _build(run, dataset, vae, trained)
    parts.tokenizer.check_size(run.frames, *common_size(dataset), parts.generator.patch)
    _check_sampling(run.sampling, parts.generator)
    say_what_is_measured(report, held, run.hold_out)
    _say_what_a_clip_is(report, parts.tokenizer, run.frames, *common_size(dataset))
    _say_what_is_not_read(report, parts.text_encoder, dataset, begun=bool(run.init))
    if run.quantize != "none" and not run.lora:
        _quantize_text(parts.text_encoder, run.quantize, device, dtype)
    source = _source(run, dataset, parts, trained, device, dtype, report)
    shown = [_Shown.of(dataset, clip, parts.generator) for clip in spread(held or trained, run.prompts)]
    measured = list(source.held_out(spread(held or trained, 64), 8))

    known = known_prompts([dataset.records[clip] for clip in trained])

    def save(model: Trainable, step: int) -> None:
        whence = {**made_by(dataset, run), "tokenizer": str(vae or run.init or PIXELS), "steps": step}
        if isinstance(model, Adapters):
            assert base is not None
            save_adapters(output / "model", base, model.named_pairs(), parts.defaults, whence, known)
            return
        found = _with_trained(parts, model)
        if run.quantize != "none":  # the model keeps the encoder as it was
            found = replace(found, text_encoder=_text_encoder(run, dataset, trained))
        elif base and not found.text_encoder.trained_along:  # which has given its memory back
            found = replace(found, text_encoder=load_model(find_model(run.init)).text_encoder)
        save_model(output / "model", found.tokenizer, found.text_encoder, found.generator, found.defaults, whence, known)

    def evaluate(model: Trainable, step: int) -> Scores:
        with autocast(device, dtype):
            losses = [model.losses(batch.to(device), model.phases[-1]) for batch in measured]
        pipe = TextToVideo(_with_trained(parts, model), device, dtype)
        _draw_samples(pipe, shown, output / "samples" / f"step-{step:06d}")
        save(model, step)  # to try what is trained so far
        plot(output)
        return {name: sum(each[name].item() for each in losses) / len(losses) for name in losses[0]}

    trainer = Trainer(
        trainable(run, parts),
        source,
        run.train,
        output,
        evaluate=evaluate,
        progress=report.step,
        note=report.note,
        describe={
            **({"begun_with": base.hash} if base else {}),
            **described(run),
            "tokenizer": weights_hash(parts.tokenizer),
        },
        free=DRAWN,
        resume=resume,
    )
    model = trainer.fit()
    if trainer.world.is_main:
        save(model, trainer.step)
        plot(output)
    return Outcome(output, output / "model", last_scores(output))


# --- what is trained ---


def _build(run: TransformerRun, dataset: Clips, vae: Path | None, trained: Sequence[int]) -> Parts:
    tokenizer = _tokenizer(run, vae)
    text_encoder = _text_encoder(run, dataset, trained)
    generator = _generator(run, tokenizer, text_encoder, (run.frames, *common_size(dataset)))
    check_match(generator, tokenizer, text_encoder)
    refuse_uneven(run.frames, generator, tokenizer)
    height, width = common_size(dataset)
    fps = median(record.fps for record in dataset.records)
    defaults = Settings(frames=run.frames, height=height, width=width, fps=fps, **dump(run.sampling))
    return Parts(tokenizer, text_encoder, generator, defaults)


def _check_sampling(sampling: Sampling, generator: Generator) -> None:
    """Refuse what the samples could not be made with: now, and not after the first evaluation's worth of training."""
    if sampling.sampler not in generator.samplers:
        hint = f"sampling.sampler is one of {', '.join(generator.samplers)}"
        raise TheseusError(f"the generator has no sampler: {sampling.sampler}", hint=hint)
    if sampling.guidance_scale != 1 and not generator.guided:
        message = f"the generator knows no guidance, and it cannot be: {sampling.guidance_scale:g}"
        raise TheseusError(message, hint="sampling.guidance_scale=1")
    for name in CodeSettings.model_fields:
        if getattr(sampling, name) is not None and name not in generator.takes:
            raise TheseusError(f"the generator draws no codes, and takes no: sampling.{name}", hint="leave it out")


def _tokenizer(run: TransformerRun, vae: Path | None) -> VideoTokenizer:
    if needs(run) == PIXELS:
        if vae is not None:
            raise TheseusError(f"{run.family} makes pixels, and takes no tokenizer: --vae {vae}", hint="leave it out")
        return build("tokenizers", PIXELS)
    if vae is None:
        raise TheseusError(
            "a new generator needs a tokenizer: --vae", hint="--vae RUN names one, or --init MODEL what to begin with"
        )
    return load_tokenizer(vae)


def _text_encoder(run: TransformerRun, dataset: Clips, trained: Sequence[int]) -> TextEncoder:
    fit = getattr(family("text", run.text_family), "fit", None)  # a family may take a part of its settings from the captions
    captions = (caption for clip in trained for caption in dataset.records[clip].captions)
    changes = merge(fit(captions), run.text) if fit else run.text
    configure("text", run.text_family, run.text_preset, changes, prefix="text.")
    torch.manual_seed(run.train.seed)
    return build("text", run.text_family, run.text_preset, changes)


def _quantize_text(text_encoder: TextEncoder, mode: str, device: torch.device, dtype: torch.dtype) -> None:
    if text_encoder.trained_along:
        raise TheseusError(f"only a frozen text encoder can be quantized, the built-in one is trained: {mode}", hint="--text NAME")
    check_mode(mode, device)
    quantize_encoder(text_encoder, mode, device, dtype)


def _generator(run: TransformerRun, tokenizer: VideoTokenizer, text_encoder: TextEncoder, size: tuple[int, int, int]) -> Generator:
    module = family("generators", run.family)
    check_kind(needs(run), tokenizer)
    _, t, h, w = tokenizer.latent_shape(*size)
    decided = {**widths_of(tokenizer), "text_width": text_encoder.width}
    decided |= dict(zip(ONE_SIZE, (t, h, w), strict=True))
    fitting = {key: value for key, value in decided.items() if key in module.Config.model_fields}
    for key, value in run.model.items():
        if key in fitting and value != fitting[key]:
            raise TheseusError(f"model.{key} is set by what feeds the generator, {fitting[key]}, and cannot be: {value}")
    configure("generators", run.family, run.model_preset, merge(run.model, fitting), prefix="model.")
    torch.manual_seed(run.train.seed + 1)
    return build("generators", run.family, run.model_preset, merge(run.model, fitting))


def _with_trained(parts: Parts, model: Trainable) -> Parts:
    """The parts with what the trainer holds in place of what it was given: under FSDP that is another copy."""
    if isinstance(model, Conditioned):
        return replace(parts, text_encoder=model.text_encoder, generator=model.generator)
    if isinstance(model, Adapters):
        return replace(parts, generator=model.generator)
    assert isinstance(model, Generator)
    return replace(parts, generator=model)


# --- what it is trained on, and what is shown ---


def _source(
    run: TransformerRun,
    dataset: Clips,
    parts: Parts,
    trained: Sequence[int],
    device: torch.device,
    dtype: torch.dtype,
    report: Report,
) -> LatentSource:
    encoder = parts.text_encoder
    if parts.tokenizer.produces == PIXELS:
        latents: LatentCache | Pixels = Pixels(dataset, run.frames, run.windows)
    else:
        latents = LatentCache(dataset, parts.tokenizer, run.frames, run.windows, device, dtype, report.encoding)
    draw = draw_of(dataset, trained, run.train)
    if encoder.trained_along and not run.lora:
        return LatentSource(latents, draw, encoder.tokenize, str(dump(encoder.config)), run.caption_dropout)
    captions = ["", *(caption for record in dataset.records for caption in record.captions)]
    cache = CaptionCache(dataset.path, captions, encoder, device, dtype, report.encoding)
    encoder.free()
    return LatentSource(latents, draw, cache.read, cache.fingerprint, run.caption_dropout)


def _say_what_a_clip_is(report: Report, tokenizer: VideoTokenizer, frames: int, height: int, width: int) -> None:
    _, t, h, w = tokenizer.latent_shape(frames, height, width)
    report.note(f"a clip of {frames} frames of {width}x{height} is {t} x {h} x {w} {tokenizer.produces}")


def _say_what_is_not_read(report: Report, text_encoder: TextEncoder, dataset: Clips, begun: bool) -> None:
    counts = [text_encoder.count_tokens(caption) for record in dataset.records for caption in record.captions]
    cut = sum(count > text_encoder.max_tokens for count in counts)
    if cut:
        most = text_encoder.token_limit
        more = "" if begun else "; --set text.max_tokens=N takes more"
        more = more if most is None or text_encoder.max_tokens < most else "; the text encoder takes no more"
        report.note(f"captions cut to {text_encoder.max_tokens} tokens: {cut} of {len(counts)}{more}")
    unknown = sorted({word for r in dataset.records for caption in r.captions for word in text_encoder.unknown_words(caption)})
    if unknown and begun:
        some = ", ".join(unknown[:8]) + (", ..." if len(unknown) > 8 else "")
        report.note(f"words of the captions that the model has never seen, and that have no effect: {some} ({len(unknown)} in all)")


@dataclass(frozen=True)
class _Shown:
    """What a sample is made of while it trains: a caption, and the first frame (1, C, H, W) where the generator continues one."""

    prompt: str
    image: Tensor | None

    @classmethod
    def of(cls, dataset: Clips, clip: int, generator: Generator) -> _Shown:
        image = window(dataset.read(clip).frames, 1)[:, 0][None] if "image" in generator.takes else None
        return cls(dataset.records[clip].captions[0], image)


def _draw_samples(pipe: TextToVideo, shown: Sequence[_Shown], folder: Path) -> None:
    clips = [pipe.generate(each.prompt, seed=i, image=each.image) for i, each in enumerate(shown)]
    for i, clip in enumerate(clips):
        clip.save(folder / sample_name(i, *clip.frames.shape[1:3]))
    contact_sheet(clips, folder / "samples.png")
