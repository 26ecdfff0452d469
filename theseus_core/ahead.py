"""What a thread prepares while the caller is busy with what came before."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


@contextmanager
def ahead(work: Callable[[Item], Result], items: Sequence[Item], count: int, threads: int) -> Iterator[Iterator[Result]]:
    """The results of `work` for each of the items in order, the next `count` of which are in work by `threads` background threads.

    What `work` raises is raised where its result is taken. The threads end with the block: were they left to the garbage collector,
    it could wait for them while it interrupts the start of another thread, whose locks their end needs, and so for ever.
    """

    def results(pool: ThreadPoolExecutor) -> Iterator[Result]:
        coming = deque(pool.submit(work, item) for item in items[:count])
        for place in range(len(items)):
            result = coming.popleft().result()
            coming.extend(pool.submit(work, item) for item in items[place + count : place + count + 1])
            yield result

    pool = ThreadPoolExecutor(threads, thread_name_prefix="ahead")
    try:
        yield results(pool)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
