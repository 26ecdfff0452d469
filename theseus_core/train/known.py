"""What a trained generator knows: examples of the captions that it was trained on, for `knows.json`."""

from __future__ import annotations

from collections.abc import Sequence

from theseus_core import world
from theseus_core.data.shards import Record
from theseus_core.model_folder import Knows
from theseus_core.words import choose_examples

DRAWN_FROM = "grammar"  # where the captions of the world come from


def known_prompts(records: Sequence[Record]) -> Knows:
    """Groups of prompts, out of the captions of the clips that were trained on: of the world, a group for each kind of clip."""
    chosen = choose_examples(caption for record in records for caption in record.captions)
    if not all(record.caption_from == DRAWN_FROM for record in records):
        return {"captions": chosen}
    groups: Knows = {}
    for caption in chosen:
        said = world.parse(caption)
        groups.setdefault(said.kind if said else "others", []).append(caption)
    return dict(sorted(groups.items(), key=lambda group: (-len(group[1]), group[0])))
