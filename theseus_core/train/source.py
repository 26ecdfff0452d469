"""Where batches come from: a pure function of the step, drawn one step ahead by a background thread."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

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
        in a background thread: it must not draw from torch's, numpy's or Python's global generator.
        """


def ahead(source: BatchSource, steps: range, accumulate: int, rank: int, world: int) -> Iterator[list[Batch]]:
    """The micro-batches of each step, those of the next step drawn while the caller works on this one.

    What the source raises is raised here.
    """

    def draw(step: int) -> list[Batch]:
        return [source.batch(step, micro, rank, world) for micro in range(accumulate)]

    if not steps:
        return
    with ThreadPoolExecutor(1, thread_name_prefix="batches") as pool:
        coming = pool.submit(draw, steps[0])
        for step in steps:
            batches = coming.result()
            if step != steps[-1]:
                coming = pool.submit(draw, step + 1)
            yield batches
