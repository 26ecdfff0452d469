"""What a training writes down as known."""

from __future__ import annotations

from dataclasses import replace

from theseus_core.data.shards import Record
from theseus_core.train.known import known_prompts

CLIP = Record("", "", ("a red circle moving up", "a circle"), "grammar", 17, 8.0, 128, 128, 0, 0, 0, 0)


def test_captions_of_the_world_are_grouped_by_what_they_show() -> None:
    water = replace(CLIP, captions=("a waterfall at night",))
    assert known_prompts([water, CLIP, water]) == {
        "shapes": ["a circle", "a red circle moving up"],
        "waterfall": ["a waterfall at night"],
    }


def test_other_captions_are_one_group() -> None:
    film = replace(CLIP, captions=("a dog", "a dog"), caption_from="sidecar")
    assert known_prompts([film, CLIP]) == {"captions": ["a circle", "a dog", "a red circle moving up"]}
