"""The words of prompts and captions: which of them carry meaning, and which known prompts are nearest to another one."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from difflib import SequenceMatcher, get_close_matches
from math import log
from random import Random

from theseus_core.data.clip import spread

FUNCTION_WORDS = frozenset(  # they hold a sentence together and show nothing; "no" and "without" do not belong: they turn it round
    word
    for line in (
        "a an the this that these those there it its their some and or of on in at to by for from with as into through along",
        "is are be was were has have which while whose who very",
    )
    for word in line.split()
)
ALIKE = 0.81  # from where on two words are taken for one: cirlce and circle are, horse and house are not


def words(text: str) -> list[str]:
    """Lower-case words and numbers of a text; punctuation is dropped, apostrophes and inner hyphens stay.

    >>> words("A red-hot circle, moving up.")
    ['a', 'red-hot', 'circle', 'moving', 'up']
    """
    return re.findall(r"\w+(?:['’-]\w+)*", text.lower())


def content(text: str) -> frozenset[str]:
    """The words of a text that show something; of a word with a hyphen, its parts.

    >>> sorted(content("a hot-air balloon in the sky"))
    ['air', 'balloon', 'hot', 'sky']
    """
    return frozenset(part for word in words(text) for part in word.split("-") if part not in FUNCTION_WORDS)


# --- the nearest of known prompts ---


def nearest(prompt: str, known: Sequence[str], count: int = 3) -> list[str]:
    """The known prompts that share the most words with a prompt, rare words counting for more, and words spelt alike too.

    What one of them shares counts half for the next, so that all of the prompt is met; of equals the shorter comes first; no two
    differ in function words alone. Where nothing is shared, they are taken from all over the list.

    Args:
        known: a few hundred at most.
    """
    by_content: dict[frozenset[str], str] = {}
    for text in sorted(known, key=_shorter_first):
        by_content.setdefault(content(text), text)
    frequency = Counter(word for group in by_content for word in group)
    weights = {word: log(1 + len(by_content) / times) for word, times in frequency.items()}
    wanted = [_alike(word, weights) for word in sorted(content(prompt))]
    chosen: list[str] = []
    while by_content and len(chosen) < count:
        worth = {group: sum(_best(group, likes) for likes in wanted) for group in by_content}
        if not chosen and not any(worth.values()):
            return spread([text for text in known if text in by_content.values()], count)
        best = max(worth, key=lambda group: worth[group])  # of equals the first, which is the shortest
        chosen.append(by_content.pop(best))
        wanted = [{word: like / 2 if _best(best, likes) else like for word, like in likes.items()} for likes in wanted]
    return chosen


def _best(group: frozenset[str], likes: dict[str, float]) -> float:
    return max((likes[word] for word in group & likes.keys()), default=0.0)


def _alike(word: str, weights: dict[str, float]) -> dict[str, float]:
    """What it is worth to have each of the known words that `word` may stand for."""
    if word in weights:
        return {word: weights[word]}
    same_start = [other for other in weights if other[0] == word[0]]  # a slip hardly ever hits the first letter: train is no rain
    similar = get_close_matches(word, same_start, n=3, cutoff=ALIKE)
    related = [other for other in weights if _is_part(*sorted((word, other), key=len))]
    return {other: weights[other] * SequenceMatcher(None, other, word).ratio() for other in (*similar, *related)}


def _is_part(short: str, long: str) -> bool:
    """Whether a word is in another as snow is in snowing and fire in campfire, and rain not in train."""
    return len(short) > 3 and (long.startswith(short) or long[3:].endswith(short))


def _shorter_first(text: str) -> tuple[int, str]:
    return len(words(text)), text


# --- examples of what captions are about ---


def choose_examples(captions: Iterable[str], most: int = 400, seed: int = 0) -> list[str]:
    """Some of the distinct captions, a function of the captions and the seed alone, in the order of the alphabet.

    At most three quarters of them are the shortest that bring in a new word; the rest is taken evenly from the shorter half of
    the others, which read well.
    """
    shown = {caption: content(caption) for caption in sorted(set(captions))}
    distinct = [caption for caption, telling in shown.items() if telling]
    Random(seed).shuffle(distinct)
    distinct.sort(key=lambda caption: caption.count(" "))
    chosen: dict[str, None] = {}
    seen: set[str] = set()
    for caption in distinct:
        if len(chosen) < 3 * most // 4 and not shown[caption] <= seen:
            chosen[caption] = None
            seen |= shown[caption]
    others = [caption for caption in distinct if caption not in chosen]
    return sorted([*chosen, *spread(others[: max(most, len(others) // 2)], most - len(chosen))])
