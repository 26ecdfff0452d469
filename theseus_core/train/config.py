"""How a family is trained: every setting of the one trainer, described where it stands."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from theseus_core.config import Config

# What may differ when a run is resumed: it decides how fast, where and how often, not what is learned. `steps` and
# `minutes` may grow.
_WHERE = ("device", "threads", "workers", "deterministic", "compile", "gradient_checkpointing", "distributed")
_HOW_OFTEN = ("steps", "minutes", "checkpoint_every", "keep", "best", "log_every", "evaluate_every")
FREE = frozenset(_WHERE + _HOW_OFTEN)


class TrainConfig(Config):
    """Settings of `Trainer`."""

    steps: int = Field(1000, ge=1, description="optimizer steps in all; may be raised when a run is resumed, the schedule follows")
    batch_size: int = Field(16, ge=1, description="clips a step, over all ranks and micro-steps")
    accumulate: int = Field(1, ge=1, description="micro-steps a step: the batch goes through the network in this many pieces")
    optimizer: Literal["muon", "adamw", "adamw8bit"] = Field(
        "adamw", description="muon (matrices of the repeated blocks, AdamW for the rest), adamw, or adamw8bit (bitsandbytes)"
    )
    lr: float = Field(3e-4, gt=0, description="peak learning rate")
    muon_lr_ratio: float = Field(
        1.0, gt=0, description="Muon's learning rate in units of lr; its updates are scaled to AdamW's size"
    )
    weight_decay: float = Field(
        0.01, ge=0, description="decoupled weight decay of matrices and kernels; never of norms, biases, embeddings"
    )
    betas: tuple[float, float] = Field((0.9, 0.95), description="AdamW's decay rates of the gradient's mean and square")
    warmup: int = Field(100, ge=0, description="steps in which the learning rate grows from zero, at most a fifth of all steps")
    schedule: Literal["constant-linear", "cosine", "constant"] = Field(
        "constant-linear", description="after the warm-up: constant then linear to zero, cosine to zero, or constant"
    )
    decay: float = Field(0.2, gt=0, le=1, description="the last share of the steps in which constant-linear falls to zero")
    minutes: float = Field(
        0.0,
        ge=0,
        description="end with the step in which so many minutes of training are spent, over all starts, if `steps` do not end "
        "before; 0 for no such end. How many steps that makes is up to the machine, and no second run of it ends with the same",
    )
    clip: float = Field(1.0, ge=0, description="largest norm of the gradient, over all parameters of a phase; 0 for no clipping")
    skip_limit: int = Field(10, ge=0, description="steps in a row that may be skipped for a gradient that is not finite")
    ema: float = Field(0.999, ge=0, lt=1, description="decay of the averaged weights, warmed up; 0 keeps the last weights instead")
    dtype: Literal["auto", "bf16", "fp32"] = Field(
        "auto", description="what the network computes in, over fp32 weights; auto takes bf16 where the machine is fast at it"
    )
    seed: int = Field(0, ge=0, lt=2**63, description="seed of every random draw of the training")
    device: str = Field("auto", description="auto (cuda, then mps, then cpu), or a device such as cuda:1")
    threads: int = Field(0, ge=0, description="CPU threads; 0 leaves torch's own choice")
    workers: int = Field(1, ge=1, description="threads that draw batches, each a step ahead of the one before")
    deterministic: bool = Field(True, description="only repeatable kernels, so that a resumed run is bit-identical on CUDA too")
    compile: bool = Field(False, description="compile the network with torch.compile")
    gradient_checkpointing: bool = Field(
        False, description="recompute activations in the backward pass: less memory, about a third slower"
    )
    distributed: Literal["auto", "ddp", "fsdp"] = Field(
        "auto", description="under torchrun: ddp (a copy of the model on each rank) or fsdp (sharded); auto takes ddp"
    )
    replicas: int = Field(
        1, ge=1, description="ranks that each train on chunks of their own and are averaged, instead of exchanging gradients"
    )
    merge_every: int = Field(100, ge=1, description="of replicas: steps from one averaging to the next")
    last_pass: int = Field(0, ge=0, description="of replicas: last steps, which all take together on all chunks")
    checkpoint_every: int = Field(200, ge=1, description="steps from one checkpoint to the next; the last step always has one")
    keep: int = Field(2, ge=1, description="how many checkpoints stay, besides the best")
    best: str = Field("", description="the evaluation's score whose best checkpoint is kept too; -score where lower is better")
    log_every: int = Field(10, ge=1, description="steps that a line of the journal averages over")
    evaluate_every: int = Field(
        0, ge=0, description="steps from one evaluation to the next, each with a checkpoint; 0 for one at the end"
    )

    @field_validator("muon_lr_ratio")
    @classmethod
    def _needs_muon(cls, ratio: float, info: ValidationInfo) -> float:
        if ratio != 1 and info.data.get("optimizer") != "muon":
            raise PydanticCustomError("no_effect", "it has an effect only with optimizer muon")
        return ratio

    @field_validator("minutes")
    @classmethod
    def _needs_a_constant_rate(cls, minutes: float, info: ValidationInfo) -> float:
        if minutes and info.data.get("schedule") != "constant":
            raise PydanticCustomError("no_end", "the other schedules go by `steps`, it needs schedule constant")
        return minutes

    @field_validator("replicas")
    @classmethod
    def _can_be_averaged(cls, replicas: int, info: ValidationInfo) -> int:
        if replicas > 1 and info.data.get("distributed") in ("ddp", "fsdp"):
            raise PydanticCustomError("contrary", "replicas are not {kind}", {"kind": info.data["distributed"]})
        if replicas > 1 and info.data.get("optimizer") == "adamw8bit":
            raise PydanticCustomError("contrary", "a state in 8 bits has no average: optimizer adamw or muon")
        if replicas > 1 and info.data.get("minutes"):
            raise PydanticCustomError("contrary", "replicas count their passes in steps, and have no end by minutes")
        return replicas

    @field_validator("merge_every", "last_pass")
    @classmethod
    def _needs_replicas(cls, steps: int, info: ValidationInfo) -> int:
        assert info.field_name is not None
        if steps != cls.model_fields[info.field_name].default and info.data.get("replicas") == 1:
            raise PydanticCustomError("no_effect", "it has an effect only with replicas")
        if info.field_name == "last_pass" and steps >= info.data.get("steps", steps + 1):
            raise PydanticCustomError("too_long", "it must be below the steps in all: {steps}", {"steps": info.data["steps"]})
        return steps

    @field_validator("accumulate")
    @classmethod
    def _divides_the_batch(cls, accumulate: int, info: ValidationInfo) -> int:
        if info.data.get("batch_size", accumulate) % accumulate:
            raise PydanticCustomError("uneven", "it must divide batch_size {size}", {"size": info.data["batch_size"]})
        return accumulate

    @field_validator("betas")
    @classmethod
    def _are_decay_rates(cls, betas: tuple[float, float]) -> tuple[float, float]:
        if not all(0 <= beta < 1 for beta in betas):
            raise PydanticCustomError("range", "both must be at least 0 and below 1")
        return betas
