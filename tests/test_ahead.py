"""Results in order, prepared ahead of their use, by threads that end with the block."""

from __future__ import annotations

import threading

import pytest

from theseus_core.ahead import ahead


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("ahead")]


@pytest.mark.parametrize("count", [1, 3, 20])
def test_every_result_comes_in_order(count: int) -> None:
    with ahead(lambda number: number**2, range(10), count, threads=2) as results:
        assert list(results) == [number**2 for number in range(10)]


def test_no_more_are_in_work_than_were_asked_for() -> None:
    begun: list[int] = []
    with ahead(begun.append, range(10), count=2, threads=1) as results:
        for taken in range(1, 11):
            next(results)
            assert len(begun) <= taken + 2
    assert begun == list(range(10))


def test_what_work_raises_is_raised_where_its_result_is_taken() -> None:
    def work(number: int) -> int:
        if number == 2:
            raise ValueError("number two")
        return number

    with ahead(work, range(5), count=4, threads=1) as results:
        assert [next(results), next(results)] == [0, 1]
        with pytest.raises(ValueError, match="number two"):
            next(results)


def test_the_threads_end_with_the_block_though_somebody_keeps_the_results() -> None:
    with pytest.raises(KeyError), ahead(str, range(10), count=2, threads=2) as results:  # noqa: PT012
        next(results)
        assert threads()
        raise KeyError
    assert not threads()
    assert results is not None
