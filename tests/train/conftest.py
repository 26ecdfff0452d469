"""Processes for the trainer's tests: started in milliseconds from a server that has torch loaded, and killed without regard."""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
from collections.abc import Iterator
from multiprocessing.context import ForkServerProcess
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
from torch.distributed import TCPStore

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import train_toys  # noqa: E402
from train_toys import Ranks, Start  # noqa: E402


@pytest.fixture(scope="session")
def start() -> Iterator[Start]:
    """Start the toy training of `train_toys.main` (or one rank of it) in a process of its own."""
    paths = [str(HERE), str(HERE.parent.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("PYTHONPATH", os.pathsep.join(paths))
        environment.setenv("OMP_WAIT_POLICY", "passive")  # two threads that wait for one another on a busy machine
        yield from _starter()


def _starter() -> Iterator[Start]:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["train_toys", "torch._inductor", "bitsandbytes"])  # what a training imports on its way
    started: list[ForkServerProcess] = []

    def begin(folder: Path, rank: int | None = None, port: int = 0, **wishes: Any) -> ForkServerProcess:
        wanted = json.dumps(wishes)
        target, arguments = train_toys.main, (str(folder), wanted)
        if rank is not None:
            target, arguments = train_toys.rank, (rank, port, str(folder), wanted)
        process = context.Process(target=target, args=arguments)
        process.start()
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.join(60)


@pytest.fixture
def two_ranks(start: Start) -> Ranks:
    """Start two ranks, which find one another by a store that is kept here, as torchrun keeps it."""
    stores: list[TCPStore] = []

    def begin(folder: Path, **wishes: Any) -> list[BaseProcess]:
        stores.append(TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False))
        return [start(folder, rank=number, port=stores[-1].port, **wishes) for number in range(2)]

    return begin
