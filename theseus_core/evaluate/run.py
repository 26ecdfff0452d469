"""One evaluation: every prompt becomes a video file, every file is read back and measured."""

from __future__ import annotations

from pathlib import Path
from statistics import median
from time import perf_counter

from theseus_core.config import Tree, validate
from theseus_core.contracts import Progress
from theseus_core.data.clip import spread
from theseus_core.errors import TheseusError
from theseus_core.evaluate.report import Pair, Report
from theseus_core.evaluate.scores import MIN_FRAMES, Verdict, difference, examine
from theseus_core.evaluate.suites import Prompt, Suite
from theseus_core.files import read_json, write_json
from theseus_core.pipeline import TextToVideo
from theseus_core.recipe import Recipe, is_made, make, write_index, write_made
from theseus_core.render.sheets import contact_sheet
from theseus_core.render.video import check, read

PAIRS = 8  # prompts of which a second clip is made, from another seed
AGAIN = "again-"  # before the name of that clip
OTHER_SEED = 1_000_000  # is added to a clip's seed for that
SHOWN = 40  # clips on the contact sheet


def evaluate(pipe: TextToVideo, suite: Suite, folder: Path, shared: Tree, progress: Progress | None = None) -> Report:
    """Make a clip of every prompt, and measure what the files show.

    Writes `clips/` (the videos, each with its sidecar, and `index.jsonl`), `report.json` and `contact_sheet.png`. A second start
    makes only the clips that are missing.

    Args:
        shared: what all clips are made with; see `recipe.describe`.
        progress: called with (done, total) after each clip.

    Raises:
        TheseusError: too few frames to judge, sizes that no video file holds, or clips in the folder that were made otherwise.
    """
    check_frames(shared["frames"])
    clips = folder / "clips"
    check(clips / "clip.mp4", shared["height"], shared["width"], shared["fps"])
    verdicts, seconds = _make_and_examine(pipe, suite, _recipes(suite, shared), clips, progress)
    asked = {"suite": suite.name, "seed": suite.seed, "objects": suite.objects, "hold_out": list(suite.hold_out), **shared}
    report = Report(asked, verdicts, _pairs(suite, clips, shared), seconds or _seconds_before(folder / "report.json"))
    write_json(folder / "report.json", report.tree())
    _draw(report, folder)
    return report


def check_frames(frames: int) -> None:
    """Refuse clips that are too short to be judged.

    Raises:
        TheseusError: the hint names how many would do.
    """
    if frames < MIN_FRAMES:
        message = f"what moves in a clip can be judged from {MIN_FRAMES} frames, not from: {frames}"
        raise TheseusError(message, hint=f"--frames {MIN_FRAMES}")


def count_clips(suite: Suite) -> int:
    """How many clips an evaluation makes."""
    return len(suite.prompts) + len(_twice(suite))


def _recipes(suite: Suite, shared: Tree) -> dict[str, Recipe]:
    """By the names of their files: one for every prompt, and the second ones."""
    wanted = {prompt.name: (prompt.text, prompt.seed) for prompt in suite.prompts}
    wanted |= {f"{AGAIN}{prompt.name}": (prompt.text, prompt.seed + OTHER_SEED) for prompt in _twice(suite)}
    return {name: validate(Recipe, shared | {"prompt": text, "seed": seed}) for name, (text, seed) in wanted.items()}


def _twice(suite: Suite) -> list[Prompt]:
    return [prompt for prompt in suite.prompts if not prompt.held_out][:PAIRS]


def _make_and_examine(
    pipe: TextToVideo, suite: Suite, recipes: dict[str, Recipe], folder: Path, progress: Progress | None
) -> tuple[list[Verdict], float | None]:
    """The verdicts, and the median of the seconds from words to frames: None where no clip is missing.

    Clips are made one after the other: together their bytes would depend on what is beside them, and no sidecar could make them
    again.
    """
    videos = {name: folder / f"{name}.mp4" for name in recipes}
    missing = {name for name, recipe in recipes.items() if not is_made(videos[name], recipe)}
    prompts = {prompt.name: prompt for prompt in suite.prompts}
    verdicts, seconds = [], []
    for done, (name, recipe) in enumerate(recipes.items(), 1):
        if name in missing:
            seconds.append(_make(pipe, recipe, videos[name]))
        if name in prompts:
            verdicts.append(examine(prompts[name], read(videos[name], recipe.frames)))
        if progress:
            progress(done, len(recipes))
    write_index(folder, list(videos.values()), list(recipes.values()))
    return verdicts, round(median(seconds), 3) if seconds else None


def _make(pipe: TextToVideo, recipe: Recipe, video: Path) -> float:
    start = perf_counter()
    clip = make(pipe, recipe)
    seconds = perf_counter() - start
    write_made(clip, video, recipe)
    return seconds


def _seconds_before(path: Path) -> float | None:
    """What the last report says of the very same clips."""
    seconds: float | None = read_json(path).get("seconds_per_clip") if path.exists() else None
    return seconds


def _pairs(suite: Suite, clips: Path, shared: Tree) -> list[Pair]:
    pairs = []
    for prompt in _twice(suite):
        names = (prompt.name, f"{AGAIN}{prompt.name}")
        one, other = (read(clips / f"{name}.mp4", shared["frames"]).frames for name in names)
        pairs.append(Pair(names, prompt.text, round(difference(one, other), 3)))
    return pairs


def _draw(report: Report, folder: Path) -> None:
    shown = spread(report.verdicts, SHOWN)
    clips = [read(folder / "clips" / f"{verdict.name}.mp4", report.asked["frames"]) for verdict in shown]
    contact_sheet(clips, folder / "contact_sheet.png", labels=[_label(verdict) for verdict in shown], height=64)


def _label(verdict: Verdict) -> str:
    return f"{verdict.text} [{verdict.name}: {in_words(verdict)}]"


def in_words(verdict: Verdict) -> str:
    """What is wrong with a clip, or that nothing is."""
    wrong = [key for key, right in verdict.right.items() if not right]
    faults = [*wrong, *(["blank"] if verdict.blank else []), *(["frozen"] if verdict.frozen else [])]
    return f"wrong: {', '.join(faults)}" if faults else "right"
