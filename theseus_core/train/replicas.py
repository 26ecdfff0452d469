"""Replicas: ranks that train on chunks of their own, and are averaged now and then (McMahan et al. 2017, there with clients).

Each takes its chunks one after the other; between two merges it hears nothing of the others but how they do. After the last merge
all train together on all chunks, as ranks that exchange gradients do.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any, TypeVar

import torch
from torch import multiprocessing
from torch.distributed import TCPStore  # type: ignore[attr-defined]
from torch.multiprocessing.spawn import ProcessException, ProcessExitedException, start_processes

from theseus_core.data.loader import Draw, ReplicaDraw
from theseus_core.data.shards import Clips
from theseus_core.errors import TheseusError
from theseus_core.train.config import TrainConfig

Result = TypeVar("Result")
HOST = "127.0.0.1"


@dataclass(frozen=True)
class Merges:
    """After which steps the ranks of a training are alike: after all of them, unless they are replicas.

    Attributes:
        every: steps from one merge to the next.
        until: the step after which the last merge comes, and all that follow are taken together.
    """

    every: int = 1
    until: int = 0

    @classmethod
    def of(cls, config: TrainConfig) -> Merges:
        return cls(config.merge_every, config.steps - config.last_pass) if config.replicas > 1 else cls()

    def alone(self, step: int) -> bool:
        """Whether each rank takes the step that follows `step` steps by itself."""
        return step < self.until

    def merged(self, step: int) -> bool:
        """Whether the ranks are merged after `step` steps."""
        return step == self.until or (step < self.until and step % self.every == 0)

    def due(self, step: int, every: int) -> bool:
        """Whether it is time after `step` steps for what comes every `every` steps, and for which the ranks must be alike.

        While they are alone, it comes with the first merge that is not before its time.
        """
        if step > self.until:
            return step % every == 0
        before = (step - 1) // self.every * self.every
        return self.merged(step) and step // every > before // every


def draw_of(dataset: Clips, trained: Sequence[int], config: TrainConfig) -> Draw:
    """How a training draws its clips: interleaved over all chunks, or each replica from its own, one after the other.

    Raises:
        TheseusError: there are fewer chunks than replicas.
    """
    plain = Draw(tuple(trained), config.batch_size, config.accumulate, config.seed)
    if config.replicas == 1:
        return plain
    own = own_chunks(dataset, trained, config.replicas)
    return ReplicaDraw(plain.clips, plain.batch_size, plain.accumulate, plain.seed, own, Merges.of(config).until)


def own_chunks(dataset: Clips, trained: Sequence[int], replicas: int) -> tuple[tuple[tuple[int, ...], ...], ...]:
    """For each replica its chunks, each with its clips: every chunk belongs to one, in turn.

    Raises:
        TheseusError: there are fewer chunks with clips to train on than replicas.
    """
    chunks: dict[int, list[int]] = {}
    for clip in trained:
        chunks.setdefault(dataset.records[clip].chunk, []).append(clip)
    if len(chunks) < replicas:
        message = f"{replicas} replicas need a chunk of clips each, and those to train on are in so many chunks: {len(chunks)}"
        raise TheseusError(message, hint=f"theseus prep SOURCE --chunk-size {-(-len(trained) // replicas)}, or fewer replicas")
    clips = [tuple(chunks[number]) for number in sorted(chunks)]
    return tuple(tuple(clips[rank::replicas]) for rank in range(replicas))


# --- the processes ---


def in_processes(count: int, work: Callable[..., Result], *arguments: Any) -> Result:
    """What the first of `count` processes gives that all do `work`, started as torchrun starts them.

    Args:
        work, arguments: a function of a module, and what it is called with; they are pickled.

    Raises:
        TheseusError: what one of the processes raises, or says that it was killed; the others end with it.
    """
    store = TCPStore(HOST, 0, is_master=True, wait_for_workers=False)
    answers = multiprocessing.get_context("spawn").SimpleQueue()
    given = (count, store.port, answers, work, arguments)
    context: Any = start_processes(_as_rank, given, nprocs=count, join=False, start_method="spawn")  # type: ignore[no-untyped-call]
    failure: ProcessException | None = None
    with _passing_on(context.pids()):
        try:
            while not context.join():
                pass
        except ProcessException as error:
            failure = error
    said = []
    while not answers.empty():
        said.append(answers.get())
    for message, hint in (answer for succeeded, answer in said if not succeeded):
        raise TheseusError(message, hint=hint) from failure  # before what the other ranks make of it
    if isinstance(failure, ProcessExitedException):
        raise TheseusError(f"a replica was killed: {failure.signal_name or failure.exit_code}") from failure
    if failure is not None:
        raise failure
    result: Result = next(answer for succeeded, answer in said if succeeded)
    return result


def _as_rank(rank: int, count: int, port: int, answers: Any, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(count), MASTER_ADDR=HOST, MASTER_PORT=str(port))
    os.environ["TORCHELASTIC_USE_AGENT_STORE"] = "True"  # the process that started this one keeps the store
    torch.set_num_threads(max(1, torch.get_num_threads() // count))
    try:
        result = work(*arguments)
    except TheseusError as error:
        answers.put((False, (error.message, error.hint)))
        sys.exit(1)
    if rank == 0:
        answers.put((True, result))


@contextmanager
def _passing_on(processes: Sequence[int]) -> Iterator[None]:
    """Pass SIGTERM on to the first process, which tells the others. SIGINT comes from a terminal, and to all by itself."""

    def pass_on(number: int, frame: FrameType | None) -> None:
        os.kill(processes[0], signal.SIGTERM)

    before = {signal.SIGTERM: signal.signal(signal.SIGTERM, pass_on), signal.SIGINT: signal.signal(signal.SIGINT, signal.SIG_IGN)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
