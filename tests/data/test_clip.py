"""Choosing some of many."""

from theseus_core.data.clip import spread


def test_what_is_spread_is_even_and_never_twice_the_same() -> None:
    assert spread("abc", 5) == spread("abc", 3) == ["a", "b", "c"]
    assert spread(range(10), 4) == [0, 2, 5, 7]
    assert spread(range(10), 1) == [0]
    assert spread([], 3) == []
