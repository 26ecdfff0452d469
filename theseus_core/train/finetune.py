"""Fine-tuning: training that begins with a model that is there, of all its weights, or of low-rank differences to them alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor, nn

from theseus_core.config import Tree, dump, merge
from theseus_core.contracts import Batch, Conditioned, Generator, Trainable, VideoTokenizer
from theseus_core.data.loader import common_size
from theseus_core.data.shards import Clips
from theseus_core.errors import TheseusError
from theseus_core.model_folder import Parts, describe, find_model, load_model, stands_on
from theseus_core.nn.lora import LowRank
from theseus_core.pretrained.lora import attach
from theseus_core.quantize import check_mode, quantize, quantize_encoder

if TYPE_CHECKING:
    from theseus_core.train.runs import TransformerRun

BEGIN: Tree = {"steps": 1000, "batch_size": 2, "optimizer": "adamw", "ema": 0.99, "evaluate_every": 250}
LR = {True: 1e-3, False: 1e-4}  # of differences, which begin at zero, and of all weights, which are to stay near where they are
ONE_SIZE = ("latent_frames", "latent_height", "latent_width")  # settings of families that make one size alone
OF_THE_MODEL = ("family", "model_preset", "model", "text_family", "text_preset", "text")


class Adapters(Trainable):
    """Low-rank differences to a frozen generator. For the trainer, its averages and its checkpoints there is nothing else."""

    def __init__(self, generator: Generator, pairs: Mapping[str, LowRank]) -> None:
        super().__init__()
        self.config, self.phases = generator.config, generator.phases  # type: ignore[misc]
        self.pairs = nn.ModuleDict({name.replace(".", "/"): pair for name, pair in pairs.items()})
        self._beside = (generator,)  # in a tuple, so that it is no part of this module: its weights are in no checkpoint
        self._half = any(weight.dtype == torch.bfloat16 for weight in generator.parameters())

    @property
    def generator(self) -> Generator:
        return self._beside[0]

    def named_pairs(self) -> dict[str, nn.Module]:
        """The differences by diffusers' names of the layers that they are for."""
        return {name.replace("/", "."): pair for name, pair in self.pairs.items()}

    def losses(self, batch: Batch, phase: str) -> dict[str, Tensor]:
        assert batch.latents is not None
        with torch.autocast(
            batch.latents.device.type, enabled=torch.is_autocast_enabled(batch.latents.device.type) and not self._half
        ):
            return self.generator.losses(batch, phase)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """What `to` does, for the generator too: under torchrun each rank has its own device."""
        self.generator._apply(fn, recurse)  # type: ignore[no-untyped-call]
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def train(self, mode: bool = True) -> Self:
        self.generator.train(mode)
        return super().train(mode)

    def shard_units(self) -> list[nn.Module]:
        return self.generator.shard_units()


def with_model(kind: str, defaults: Tree, preset: Tree, changes: Sequence[Tree]) -> Tree:
    """The settings of a run, less those of a model where it begins with one: that one's size in time and its sampling.

    Raises:
        TheseusError: there is no such model, or something of it is asked to be another.
    """
    asked = merge({}, *changes)
    settings = merge(defaults, preset, *changes)
    if kind == "vae" or not settings["init"]:
        return settings
    fixed = [key for key in OF_THE_MODEL if asked.get(key)]
    if fixed:
        raise TheseusError(
            f"the model of --init brings its own, and it cannot be another: {fixed[0]}", hint="leave one of them out"
        )
    found = describe(find_model(settings["init"])).get("defaults")
    if not found:
        raise TheseusError(f"this holds a tokenizer and no generator: {settings['init']}", hint="--vae takes it")
    brought = {"frames": found["frames"], "sampling": {key: found[key] for key in defaults["sampling"] if key in found}}
    # where two sides balance each other by their settings, they do so here too
    begun: Tree = {"train": {**BEGIN, "lr": LR[bool(settings["lora"])]}} if kind == "transformer" else {}
    own = {key: defaults[key] for key in OF_THE_MODEL}
    return {**merge(defaults, begun, preset, brought, *changes), **own}


def begin(run: TransformerRun, dataset: Clips, device: torch.device, dtype: torch.dtype) -> Parts:
    """The parts of the model that a run begins with; where differences are trained they are frozen, and quantized if asked for.

    Args:
        run: one that has an `init`.

    Raises:
        TheseusError: there is no such model, or it cannot be trained in this way.
    """
    if run.quantize != "none":
        check_mode(run.quantize, device)
    parts = load_model(find_model(run.init), dtype if run.lora else torch.float32)
    parts.tokenizer.float()
    height, width = common_size(dataset)
    refuse_uneven(run.frames, parts.generator, parts.tokenizer)
    _refuse_another_size((run.frames, height, width), parts)
    size = {"frames": run.frames, "height": height, "width": width, "fps": median(record.fps for record in dataset.records)}
    defaults = parts.defaults.model_copy(update={**size, **dump(run.sampling)})
    if run.lora:
        for part in (parts.generator, parts.text_encoder, parts.tokenizer):
            part.requires_grad_(False)
        if run.quantize != "none":
            quantize(parts.generator, run.quantize, device, dtype)
            quantize_encoder(parts.text_encoder, run.quantize, device, dtype)
    else:
        parts.generator.requires_grad_(True)
    return Parts(parts.tokenizer, parts.text_encoder, parts.generator, defaults, parts.knows)


def refuse_what_cannot_be(run: TransformerRun, output: Path) -> None:
    """Refuse flags of fine-tuning that say nothing without others, and a run in the folder of the model that it begins with.

    Raises:
        TheseusError: saying what would do.
    """
    if run.init and (output / "model").resolve() in [folder.resolve() for folder in stands_on(find_model(run.init))]:
        raise TheseusError(f"the model that training begins with would be overwritten: {output}", hint="give another -o")
    if run.lora and not run.init:
        raise TheseusError(f"differences need a model that they are to: --lora {run.lora}", hint="--init MODEL names it")
    if run.init and run.quantize != "none" and not run.lora:
        hint = "--lora 64 trains differences beside quantized weights"
        raise TheseusError(f"weights that are trained cannot be quantized: --quantize {run.quantize}", hint=hint)
    if run.lora and run.quantize == "int8":
        hint = "nf4, with --lora: its weights are rounded, and what goes through them is not"
        raise TheseusError(f"int8 rounds what goes through the layers too, and no gradient comes back: {run.quantize}", hint=hint)
    if run.lora and run.train.distributed == "fsdp":
        raise TheseusError(f"differences are too small to be sharded: {run.train.distributed}", hint="train.distributed=ddp")


def trainable(run: TransformerRun, parts: Parts) -> Trainable:
    """What the trainer trains: differences, or a generator, with its text encoder where that is trained along."""
    if not run.lora:
        return Conditioned.of(parts.generator, parts.text_encoder)
    torch.manual_seed(run.train.seed + 1)
    return Adapters(parts.generator, attach(parts.generator, run.lora))


def _refuse_another_size(size: tuple[int, int, int], parts: Parts) -> None:
    """Of a family that makes one size alone: its own, as its settings say it."""
    there = dict(zip(ONE_SIZE, parts.tokenizer.latent_shape(*size)[1:], strict=True))
    own = {key: value for key, value in dump(parts.generator.config).items() if key in ONE_SIZE}
    if own and any(own[key] != there[key] for key in own):
        defaults = parts.defaults
        raise TheseusError(
            f"this model makes {defaults.frames} frames of {defaults.width}x{defaults.height} and no others, and cannot go on"
            f" with {size[0]} of {size[2]}x{size[1]}",
            hint="give it clips of its size and its `frames`, or train without `init`",
        )


def refuse_uneven(frames: int, generator: Generator, tokenizer: VideoTokenizer) -> None:
    """Refuse a number of frames whose latents do not make whole patches in time.

    Raises:
        TheseusError: saying which numbers would do.
    """
    several, factor = generator.patch_frames, tokenizer.time_factor
    latents = (frames - 1) // factor + 1
    if latents % several:
        near = [1 + factor * (count - 1) for count in (latents - latents % several, latents + -latents % several) if count]
        good = " or ".join(str(count) for count in near)
        raise TheseusError(
            f"this model is trained on {several} latent frames at once, and there are {latents}: frames {frames}",
            hint=f"frames={good} would do",
        )
