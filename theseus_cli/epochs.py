"""What a training is asked for in epochs, in the steps that its settings are in."""

from __future__ import annotations

import math
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from theseus_core.errors import TheseusError

if TYPE_CHECKING:
    from theseus_core.train.runs import TransformerRun, VaeRun

SAYS = {"--epochs": "how long to train", "--merge-every": "when to average"}


def in_steps(
    run: VaeRun | TransformerRun, data: Path, given: Collection[str], epochs: float | None, merge_every: float | None
) -> dict[str, int]:
    """Those of the trainer's settings that are asked for in epochs; replicas merge every epoch, and take the last one together.

    Args:
        given: the names of settings that are given in steps.

    Raises:
        TheseusError: one is given in both, is no number above 0, or has no effect.
    """
    if merge_every is not None and run.train.replicas == 1:
        raise TheseusError(f"there is nothing to average without --replicas: --merge-every {merge_every:g}")
    counts = {"steps": _checked("--epochs", epochs, "steps" in given)}
    counts["merge_every"] = _checked("--merge-every", merge_every, "merge_every" in given)
    if run.train.replicas > 1:
        counts |= {key: counts.get(key) or 1.0 for key in ("merge_every", "last_pass") if key not in given}
    asked = {key: count for key, count in counts.items() if count is not None}
    if not asked:
        return {}
    steps = _steps_of_an_epoch(run, data)
    return {key: max(1, round(count * steps)) for key, count in asked.items()}


def _checked(flag: str, count: float | None, in_steps: bool) -> float | None:
    if count is not None and in_steps:
        raise TheseusError(f"the steps are given too, and both say {SAYS[flag]}: {flag} {count:g}", hint="give one of them")
    if count is not None and not (math.isfinite(count) and count > 0):
        raise TheseusError(f"{flag} must be a number above 0, not: {count:g}")
    return count


def _steps_of_an_epoch(run: VaeRun | TransformerRun, data: Path) -> float:
    """In which every clip is seen once; by replicas, each of its own, which are found to be there before any is started."""
    from theseus_core.data.loader import split
    from theseus_core.train.replicas import own_chunks
    from theseus_core.train.runs import open_clips

    clips = open_clips(data, run, Path())
    trained, _ = split(clips, run.hold_out)
    if run.train.replicas > 1:
        own_chunks(clips, trained, run.train.replicas)
    return len(trained) / run.train.batch_size
