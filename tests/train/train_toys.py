"""Toy families for the trainer's tests, and a program that trains one of them, to be killed by a test.

    python train_toys.py FOLDER '{"family": "gan", "steps": 20, ...}'

Everything is a field of `TrainConfig` but these: `family`; `noise`, 0 for a training without random numbers; `pause`, the seconds
that a batch takes; `stall`, the step whose batch never comes, so that a run that is to be killed cannot end before; `die_at_sync`,
the call of fsync in which the process kills itself; `die_at_evaluation`, the step in whose evaluation it does.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from theseus_core.config import Config
from theseus_core.contracts import Batch, Trainable
from theseus_core.errors import TheseusError
from theseus_core.train.config import TrainConfig
from theseus_core.train.source import BatchSource
from theseus_core.train.trainer import Evaluate, Trainer

WIDTH = 16
Start = Callable[..., BaseProcess]  # the fixture `start`: folder, rank, port and wishes to a process
Ranks = Callable[..., list[BaseProcess]]  # the fixture `two_ranks`: folder and wishes to two of them


class Block(nn.Module):
    gradient_checkpointing = False

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.norm = nn.LayerNorm(width)
        self.attend = nn.Linear(width, 3 * width, bias=False)  # a bias of the keys has no gradient but noise
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:  # (B, N, D)
        if self.gradient_checkpointing and torch.is_grad_enabled():
            mixed: Tensor = torch.utils.checkpoint.checkpoint(self.mix, x, use_reentrant=False)
            return mixed
        return self.mix(x)

    def mix(self, x: Tensor) -> Tensor:
        q, k, v = self.attend(self.norm(x))[:, None].chunk(3, dim=-1)
        x = x + F.scaled_dot_product_attention(q, k, v)[:, 0]
        return x + self.mlp(F.dropout(x, self.dropout, self.training))


class Toy(Trainable):
    """Reconstructs its input from noise; has everything that needs care: blocks, a convolution, an embedding, a buffer."""

    def __init__(self, width: int = WIDTH, depth: int = 2, noise: float = 0.1) -> None:
        super().__init__()
        self.config = Config()
        self.noise = noise
        self.near = nn.Conv2d(3, 3, 3, padding=1, groups=3)  # the gradient of its second axis, of length 1, has a stride of its own
        self.into = nn.Conv3d(3, width, 1)
        self.places = nn.Embedding(64, width)
        self.blocks = nn.ModuleList(Block(width, noise) for _ in range(depth))
        self.out = nn.Linear(width, 3)
        self.register_buffer("seen", torch.zeros(()))

    def shard_units(self) -> list[nn.Module]:
        return list(self.blocks)

    def losses(self, batch: Batch, phase: str) -> dict[str, Tensor]:
        assert batch.video is not None
        clean = batch.video
        noisy = clean + self.noise * torch.randn_like(clean)
        smooth = self.near(noisy.flatten(2, 3)).view_as(noisy)
        x = self.into(smooth).flatten(2).mT  # (B, N, D)
        x = x + self.places(torch.arange(x.shape[1], device=x.device))
        for block in self.blocks:
            x = block(x)
        error = (self.out(x).mT.float() - clean.flatten(2)).square().mean()
        if self.training:
            self.seen += 1
        return {"loss": error, "size": x.detach().float().abs().mean()}


class ToyGan(Trainable):
    """Two phases, whose losses each run through the other's parameters."""

    phases = ("discriminator", "generator")

    def __init__(self, noise: float = 1.0) -> None:
        super().__init__()
        self.config = Config()
        self.noise = noise
        self.generator = nn.ModuleDict({"first": nn.Linear(4, 8), "block": nn.Linear(8, 12)})
        self.discriminator = nn.ModuleDict({"block": nn.Linear(12, 8), "last": nn.Linear(8, 1)})

    def shard_units(self) -> list[nn.Module]:
        return [self.generator["block"], self.discriminator["block"]]

    def phase_parameters(self, phase: str) -> list[tuple[str, nn.Parameter]]:
        return [(name, p) for name, p in self.named_parameters() if name.startswith(phase)]

    def losses(self, batch: Batch, phase: str) -> dict[str, Tensor]:
        assert batch.video is not None
        real = batch.video.flatten(1)[:, :12]
        fake = self.generator["block"](self.generator["first"](real[:, :4] + self.noise * torch.randn(len(real), 4)).relu())
        difference = self._score(real) - self._score(fake)
        sign = 1 if phase == "generator" else -1
        return {"loss": F.softplus(sign * difference).mean(), "gap": difference.detach().mean()}

    def _score(self, x: Tensor) -> Tensor:
        score: Tensor = self.discriminator["last"](self.discriminator["block"](x).relu())
        return score


@dataclass
class Clips:
    """Eight-token clips, a function of the step and the place in the global batch: the same for any number of ranks."""

    batch_size: int
    accumulate: int = 1
    fail_at: int | None = None  # the step whose clips are not numbers
    pause: float = 0.0
    stall: int | None = None
    fingerprint: str = "clips-1"

    def batch(self, step: int, micro: int, rank: int, world: int) -> Batch:
        time.sleep(self.pause)
        if step == self.stall:
            threading.Event().wait()
        each = self.batch_size // self.accumulate // world
        first = (micro * world + rank) * each
        videos = [self._clip(step, first + i) for i in range(each)]
        video = torch.stack(videos)
        return Batch(video=video * float("nan") if step == self.fail_at else video)

    def _clip(self, step: int, place: int) -> Tensor:
        generator = torch.Generator().manual_seed(1000 * step + place)
        return torch.rand(3, 2, 2, 2, generator=generator) * 2 - 1


def make(family: str, noise: float = 0.1) -> Trainable:
    torch.manual_seed(0)
    return ToyGan(noise) if family == "gan" else Toy(noise=noise)


def score(model: Trainable, step: int) -> dict[str, float]:
    torch.manual_seed(99)
    total = sum(p.double().sum().item() for p in model.parameters())
    return {"sum": total, "drawn": torch.rand(()).item()}


def settings(**changes: Any) -> TrainConfig:
    small = {
        "steps": 6,
        "batch_size": 8,
        "lr": 1e-2,
        "warmup": 2,
        "checkpoint_every": 2,
        "log_every": 2,
        "ema": 0.9,
        "dtype": "fp32",
    }
    return TrainConfig.model_validate({**small, "device": "cpu", "threads": 1, **changes})


def trainer(folder: Path, family: str = "toy", noise: float = 0.1, source: BatchSource | None = None, **changes: Any) -> Trainer:
    """A trainer of a toy with everything that can go wrong in it; `changes` are settings."""
    config = settings(**changes)
    source = source or Clips(config.batch_size, config.accumulate)
    return Trainer(make(family, noise), source, config, folder, evaluate=score, describe={"family": family})


def main(folder: str, wishes: str) -> None:
    wanted: dict[str, Any] = json.loads(wishes)
    family, noise = wanted.pop("family", "toy"), wanted.pop("noise", 0.1)
    pause, stall = wanted.pop("pause", 0.0), wanted.pop("stall", None)
    die_at_sync, die_at_evaluation = wanted.pop("die_at_sync", None), wanted.pop("die_at_evaluation", None)
    config = settings(**wanted)
    clips = Clips(config.batch_size, config.accumulate, pause=pause, stall=stall)
    running = trainer(Path(folder), family, noise, clips, **wanted)
    if die_at_sync is not None:
        _die_at_sync(die_at_sync)
    if die_at_evaluation is not None:
        running.evaluate = _dying_at(die_at_evaluation)
    try:
        running.fit()
    except TheseusError as error:
        Path(f"{folder}.error").write_text(error.message)
        sys.exit(1)


def _die_at_sync(number: int) -> None:
    """Kill this process in its `number`-th fsync, which is to say somewhere in the writing of a checkpoint."""
    calls = iter(range(1, 10**6))

    def fsync(descriptor: int) -> None:
        if next(calls) == number:
            os.kill(os.getpid(), signal.SIGKILL)

    os.fsync = fsync


def _dying_at(last: int) -> Evaluate:
    """An evaluation that kills its process in that of step `last`."""

    def evaluate(model: Trainable, step: int) -> dict[str, float]:
        if step == last:
            os.kill(os.getpid(), signal.SIGKILL)
        return score(model, step)

    return evaluate


def rank(number: int, port: int, folder: str, wishes: str) -> None:
    """`main` as one of two ranks, as torchrun would start it; `port` is that of its store."""
    os.environ.update(RANK=str(number), LOCAL_RANK=str(number), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    os.environ["TORCHELASTIC_USE_AGENT_STORE"] = "True"  # which it has opened, instead of one that rank 0 opens
    warnings.filterwarnings("error", message="Grad strides do not match")
    main(folder, wishes)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
