"""Words, and the prompts that are nearest."""

from __future__ import annotations

import pytest

from theseus_core.words import choose_examples, content, nearest, words

KNOWN = [
    "a circle moving up",
    "the circle, moving up",
    "a circle moving down",
    "a square moving down",
    "a red square",
    "a waterfall",
    "a beautiful waterfall in a forest",
    "a campfire at night",
    "snow",
    "golden fireworks",
]


def test_only_words_that_show_something_are_content() -> None:
    assert words("A red-hot circle, moving up; don't stop") == ["a", "red-hot", "circle", "moving", "up", "don't", "stop"]
    assert content("the hot-air balloon is over a sea without waves") == {
        "hot",
        "air",
        "balloon",
        "over",
        "sea",
        "without",
        "waves",
    }
    assert content("of the") == frozenset()


@pytest.mark.parametrize(
    ("prompt", "first"),
    [
        ("waterfall", "a waterfall"),
        ("the forest, beautiful", "a beautiful waterfall in a forest"),
        ("zebra circle moving down", "a circle moving down"),  # every word that is shared counts
        ("a red circle", "a red square"),  # the rare word more than the common one
        ("a watrefall", "a waterfall"),
        ("fire in the dark", "a campfire at night"),
        ("snowing", "snow"),
    ],
)
def test_the_nearest_prompt_comes_first(prompt: str, first: str) -> None:
    assert nearest(prompt, KNOWN)[0] == first


def test_a_word_within_another_by_chance_is_not_it() -> None:
    assert nearest("a train", ["moon", "heavy rain"], count=1) == ["moon"]
    assert nearest("a horse", ["moon", "a house"], count=1) == ["moon"]


def test_no_two_say_the_same() -> None:
    found = nearest("a circle moving up", KNOWN, count=len(KNOWN))
    assert len(found) == len({content(text) for text in found}) == len(KNOWN) - 1


def test_what_is_met_already_counts_less() -> None:
    known = ["golden fireworks", "golden snow", "a circle moving up", "a circle moving down", "a circle"]
    assert nearest("a golden circle", known, count=2) == ["golden fireworks", "a circle"]


def test_where_nothing_is_shared_they_come_from_all_over() -> None:
    numbers = [f"thing{index} there" for index in range(9)]
    assert nearest("zebra", numbers) == [numbers[0], numbers[3], numbers[6]]
    assert nearest("", numbers) == [numbers[0], numbers[3], numbers[6]]
    assert nearest("zebra", []) == []
    assert nearest("zebra", ["one"]) == ["one"]


def test_examples_are_chosen_by_captions_and_seed_alone() -> None:
    captions = [f"a {colour} {shape} moving {way}" for colour in ("red", "blue") for shape in ("box", "dot") for way in "12345"]
    captions += [f"{caption} over a very long and winding road of many colours" for caption in captions] + ["", "of the"]
    found = choose_examples(captions, most=10)
    assert found == choose_examples(captions[::-1] * 3, most=10) == sorted(found)
    assert found != choose_examples(captions, most=10, seed=1)
    assert len(set(found)) == 10 and set(found) <= set(captions)
    assert {"red", "blue", "box", "dot", *"12345"} <= {word for caption in found for word in content(caption)}
    assert sum("winding" in caption for caption in found) <= 1, "short ones, but for the one that brings the words"
    assert choose_examples(captions, most=1000) == sorted(set(captions) - {"", "of the"})
