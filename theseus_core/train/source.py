"""Where batches come from: a pure function of the step, drawn ahead by background threads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Protocol

from theseus_core.ahead import ahead
from theseus_core.contracts import Batch


class BatchSource(Protocol):
    """What the trainer asks of the data.

    Attributes:
        fingerprint: of the data and of how it is drawn; a run resumes only with the fingerprint that it began with.
    """

    fingerprint: str

    def batch(self, step: int, micro: int, rank: int, world: int) -> Batch:
        """The clips of one micro-step of one rank: batch_size / accumulate / world of them, on the CPU.

        A pure function of its arguments and the source's own seed, so that the data position is the step number. It is called
        in background threads: it must not draw from torch's, numpy's or Python's global generator.
        """


def drawn_ahead(
    source: BatchSource, steps: range, accumulate: int, rank: int, world: int, workers: int = 1
) -> AbstractContextManager[Iterator[list[Batch]]]:
    """The micro-batches of each step; while the caller works on one, those of the next `workers` steps are drawn, each by a thread.

    What the source raises is raised here.
    """
    return ahead(lambda step: [source.batch(step, micro, rank, world) for micro in range(accumulate)], steps, workers, workers)
