"""`theseus generate --dry-run`: what a video would take here, as a table and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from theseus_cli import console

if TYPE_CHECKING:
    from theseus_core.estimate import Estimate, Plan

MIB = 2**20
WORDS = {"load": "reading the weights", "text": "reading the prompt", "steps": "the steps", "decode": "decoding"}


def predict(name: str, changes: dict[str, Any], plan: Plan, videos: int, unseen: Sequence[str] = ()) -> None:
    """Say what so many videos would take, and which flags would make them fit.

    Args:
        unseen: flags that were given, and that no prediction knows of.
    """
    from theseus_core import estimate
    from theseus_core.device import dtype_name, free_memory

    folder, fetched = estimate.locate(name)
    settings, model = estimate.examine(folder, changes, plan)
    rates, free = estimate.measure_rates(plan), free_memory(plan.device)
    made = estimate.predict(model, plan, rates, free)
    shape = f"{settings.frames} frames of {settings.width}x{settings.height}"
    how = f"{'' if model.stepless else f'{settings.steps} steps of '}{settings.sampler}, guidance {settings.guidance_scale:g}"
    console.say(f"model: {name} on {plan.device} in {dtype_name(plan.dtype)}: {shape}, {how}")
    show(made, videos)
    if unseen:
        console.warn(f"the prediction is that without: {', '.join(unseen)}")
    fetch = "how much is unknown" if fetched is None else f"{fetched / MIB:,.0f} MiB"
    console.say(f"to fetch: {fetch}" if fetched != 0 else "nothing to fetch")
    ways = [] if made.fits else estimate.what_would_fit(folder, changes, plan, model, rates, free)
    if not made.fits:
        console.warn(f"it does not fit: {made.peak / MIB:,.0f} MiB at its peak, and free are: {free / MIB:,.0f}")
        tried = "a smaller --size or fewer --frames" if not ways else "; or ".join(way.flags() for way in ways)
        console.say(f"{'these flags would make it fit' if ways else 'no flag would make it fit, but perhaps'}: {tried}")
    console.emit(
        {
            "peak_bytes": made.peak,
            "free_bytes": free,
            "fits": made.fits,
            "main_memory_bytes": made.main_memory,
            "fetch_bytes": fetched,
            "seconds": round(videos * sum(made.seconds.values()), 1),
            "memory_bytes": made.memory,
            "would_fit": [way.flags() for way in ways],
        }
    )


def show(made: Estimate, videos: int) -> None:
    rows = [[WORDS[part], round(size / MIB), round(videos * made.seconds.get(part, 0.0), 1)] for part, size in made.memory.items()]
    rows.append(["at the peak, and in all", round(made.peak / MIB), round(videos * sum(made.seconds.values()), 1)])
    console.table(["part", "memory in MiB", "seconds"], rows, title="predicted, nothing was read; seconds without the loading")
    if made.main_memory is not None:
        console.say(f"main memory: {made.main_memory / MIB:,.0f} MiB")
    console.say(f"free on the device now: {made.free / MIB:,.0f} MiB")
