"""Several processes under torchrun: who am I, wrapping the model, and tensors that are averaged or sharded over ranks.

Weights stay fp32 and the arithmetic is autocast's under DDP and FSDP alike, so that all three ways of running agree.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.algorithms.model_averaging.utils import average_parameters
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from theseus_core.contracts import Trainable
from theseus_core.errors import TheseusError

Kind = Literal["single", "ddp", "fsdp", "replicas"]


@dataclass(frozen=True)
class World:
    """The processes that train together, and which of them this one is."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    kind: Kind = "single"

    @property
    def is_main(self) -> bool:
        """Only the main process writes."""
        return self.rank == 0


def find_world(wanted: Literal["auto", "ddp", "fsdp"] = "auto", replicas: int = 1) -> World:
    """Read torchrun's environment.

    Raises:
        TheseusError: ddp, fsdp or replicas were asked for without torchrun, or there are not as many ranks as replicas.
    """
    if replicas > 1:
        return _find_replicas(replicas)
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        if wanted != "auto":
            raise TheseusError(
                f"not started by torchrun, which is needed for distributed: {wanted}",
                hint="torchrun --nproc-per-node 2 -m theseus_cli.main train ...",
            )
        return World()
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    kind: Kind = ("single" if size == 1 else "ddp") if wanted == "auto" else wanted
    return World(rank, size, int(os.environ.get("LOCAL_RANK", rank)), kind)


def _find_replicas(replicas: int) -> World:
    ranks = int(os.environ.get("WORLD_SIZE", 1))
    if ranks != replicas:
        raise TheseusError(
            f"{replicas} replicas need as many ranks, not: {ranks}",
            hint=f"torchrun --nproc-per-node {replicas}, or the flag --replicas without torchrun, which starts them itself",
        )
    rank = int(os.environ["RANK"])
    return World(rank, replicas, int(os.environ.get("LOCAL_RANK", rank)), "replicas")


@contextmanager
def connected(world: World, device: torch.device) -> Iterator[None]:
    """The process group, for as long as the block runs; one that is already there is used and left alone."""
    if world.kind == "single" or dist.is_initialized():
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def wrap(model: Trainable, world: World, device: torch.device) -> nn.Module:
    """What the trainer calls instead of the model. FSDP shards the model in place: build optimizers afterwards.

    Raises:
        TheseusError: FSDP was asked for a family with several phases.
    """
    if world.kind == "ddp":
        for parameter in model.parameters():
            if parameter.requires_grad and 1 in parameter.shape:
                parameter.register_hook(_row_major)  # type: ignore[no-untyped-call]
        # A phase leaves the parameters of the others without a gradient. The search for them costs a walk through every graph.
        return DistributedDataParallel(model, find_unused_parameters=len(model.phases) > 1)
    if world.kind == "fsdp":
        if len(model.phases) > 1:
            raise TheseusError(f"fsdp trains families with one phase, not: {', '.join(model.phases)}", hint="use ddp")
        for parameter in model.parameters():
            dist.broadcast(parameter.data, src=0)
        mesh = init_device_mesh(device.type, (world.size,))
        for unit in model.shard_units():
            fully_shard(unit, mesh=mesh)
        fully_shard(model, mesh=mesh)
    return model


def _row_major(gradient: Tensor) -> Tensor:
    """The same numbers in the same memory. The stride of an axis of length 1 is arbitrary, and DDP takes another for a mistake."""
    return gradient.reshape(-1).view(gradient.shape)


@contextmanager
def synchronized(wrapped: nn.Module, last: bool) -> Iterator[None]:
    """Exchange gradients in the last micro-step of a step only."""
    if isinstance(wrapped, FSDPModule):
        wrapped.set_requires_gradient_sync(last)
    if isinstance(wrapped, DistributedDataParallel) and not last:
        with wrapped.no_sync():
            yield
    else:
        yield


def mean_over_ranks(values: Tensor, world: World) -> Tensor:
    """The mean of a tensor over the ranks, on each of them."""
    if world.size > 1:
        dist.all_reduce(values)
        values = values / world.size
    return values


@torch.no_grad()
def average(tensors: Iterable[Tensor]) -> None:
    """Give tensors their mean over the ranks; those of whole numbers what the main process has. All in place.

    Every rank must call it, with tensors of the same shapes in the same order.
    """
    by_dtype: dict[torch.dtype, list[Tensor]] = {}
    for tensor in tensors:
        if tensor.is_floating_point():
            by_dtype.setdefault(tensor.dtype, []).append(tensor)
        else:
            dist.broadcast(tensor, src=0)
    for some in by_dtype.values():
        means = [tensor.detach().clone() for tensor in some]  # they become parts of one buffer, and ours stay where they lie
        average_parameters(iter(means), dist.group.WORLD)  # type: ignore[arg-type]
        torch._foreach_copy_(some, means)


def told_by_main(answer: bool, world: World, device: torch.device) -> bool:
    """The main process's answer, on every rank."""
    if world.size == 1:
        return answer
    told = torch.tensor([float(answer)], device=device)
    dist.broadcast(told, src=0)
    return told.item() > 0


def barrier(world: World) -> None:
    """Wait until every rank is here."""
    if world.size > 1:
        dist.barrier()


def gather(tensor: Tensor) -> Tensor:
    """The whole of a tensor that may be sharded. Every rank must call it, in the same order."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def local(tensor: Tensor) -> Tensor:
    """This rank's share of a tensor that may be sharded, in the same memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def place_like(whole: Tensor, like: Tensor) -> Tensor:
    """A whole tensor, the same on every rank, on the device and sharded in the way of another."""
    whole = whole.to(like.device)
    if isinstance(like, DTensor):
        return distribute_tensor(whole, like.device_mesh, like.placements, src_data_rank=None)
    return whole
