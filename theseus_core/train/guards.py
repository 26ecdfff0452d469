"""What surrounds a training: repeatable random numbers and kernels, signals that ask it to stop, and failures put into words."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import numpy as np
import torch

from theseus_core.train.config import TrainConfig

_filling: Any = torch.utils.deterministic  # a module whose attribute is a property, unknown to its type


def seed_everything(*parts: int | str) -> None:
    """Seed torch, numpy and Python from a hash of the parts.

    Called before every micro-step with its coordinates: no generator's state then has to survive a restart, and nothing that is
    drawn in between (an evaluation) changes what comes after.
    """
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    seed = int.from_bytes(digest, "little")
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


@contextmanager
def torch_settings(config: TrainConfig) -> Iterator[None]:
    """The settings of torch that a training asks for, for as long as the block runs."""
    threads = torch.get_num_threads()
    strict, warn_only = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    fill = _filling.fill_uninitialized_memory
    if config.threads:
        torch.set_num_threads(config.threads)
    if config.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it when it is first used
        torch.use_deterministic_algorithms(True, warn_only=True)
        _filling.fill_uninitialized_memory = False  # else every new tensor is filled with NaN, for debugging
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(strict, warn_only=warn_only)
        _filling.fill_uninitialized_memory = fill


class StopRequest:
    """Whether SIGINT or SIGTERM has asked the training to stop after the step in hand."""

    received = False


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Catch SIGINT and SIGTERM; a second one acts at once. Only the main thread can, and elsewhere nothing is caught."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def remember(number: int, frame: FrameType | None) -> None:
        request.received = True
        restore()

    for number in before:
        signal.signal(number, remember)
    try:
        yield request
    finally:
        restore()
