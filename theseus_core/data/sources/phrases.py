"""What the name of a class says: "SoccerJuggling" or "juggling soccer ball" as "a person juggling a soccer ball"."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

from theseus_core.errors import TheseusError

PERSON = "a person"
TEMPLATE = "{subject} {action}"
_PARTS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z']+|\d+")
_VOWEL = re.compile(r"(?!uni|uku)[aeiou]")
_DOING = re.compile(r"[a-z]{2,}ing")
_NO_DOING = {"string", "wing", "ring", "king", "thing", "spring", "ceiling", "evening", "something", "morning"}


@cache
def _known() -> dict[str, Any]:
    known: dict[str, Any] = json.loads((Path(__file__).parent / "phrases.json").read_text(encoding="utf-8"))
    return known


@cache
def _ucf101() -> dict[str, str]:
    return {name.lower(): phrase for name, phrase in _known()["ucf101"].items()}


def ucf101_caption(name: str, template: str = TEMPLATE) -> str:
    """Of a class of UCF-101, written by hand; of another name in CamelCase, its words."""
    words = " ".join(_PARTS.findall(name)).lower() or name
    phrase = _ucf101().get(name.lower())
    said = (PERSON if _doing(words) else "", words) if phrase is None else _subject_and_action(phrase)
    return _fill(template, said, words)


def kinetics_caption(label: str, template: str = TEMPLATE) -> str:
    """Of a label of Kinetics: with articles, without what stands in brackets, "doing" before what is no verb."""
    plain = " ".join(re.sub(r"\(.*?\)", " ", label.replace("_", " ")).split()) or label
    phrase = _known()["kinetics"].get(plain.lower())
    if phrase is None:
        phrase = _with_article(plain) if _doing(plain) else f"doing {plain}"
    return _fill(template, _subject_and_action(phrase), plain)


def _subject_and_action(phrase: str) -> tuple[str, str]:
    subject, bar, action = phrase.partition(" | ")
    return (subject, action) if bar else (PERSON, phrase)


def check_template(template: str) -> str:
    """The template, if it can be used.

    Raises:
        TheseusError: it names something else than {subject}, {action} and {label}, or none of them.
    """
    fields = "{subject} (a person), {action} (juggling a soccer ball), {label} (the words of the class)"
    try:
        if _fill(template, ("1", "2"), "3") == _fill(template, ("", ""), ""):
            raise KeyError
    except (KeyError, IndexError, ValueError, AttributeError) as error:
        raise TheseusError(f"not a template of a caption: {template}", hint=f"it holds {fields}") from error
    return template


def _fill(template: str, said: tuple[str, str], label: str) -> str:
    return " ".join(template.format(subject=said[0], action=said[1], label=label).split())


def _doing(words: str) -> bool:
    return any(_DOING.fullmatch(word) and word not in _NO_DOING for word in words.lower().split())


def _with_article(words: str) -> str:
    """ "juggling soccer ball" with its "a": after the last verb, where what is done to is one thing that can be counted."""
    split = words.split()
    verb = max(place for place, word in enumerate(split) if _DOING.fullmatch(word.lower()) and word not in _NO_DOING)
    things, known = split[verb + 1 :], _known()
    if not things or things[-1].lower() not in known["countable"] or any(word in known["no_article_after"] for word in things):
        return words
    article = "an" if _VOWEL.match(things[0].lower()) else "a"
    return " ".join([*split[: verb + 1], article, *things])
