"""Models side by side: each makes clips of the same prompts, the same judge looks at all, and what each costs stands beside."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean

import torch

from theseus_core.config import Tree, validate
from theseus_core.contracts import Progress
from theseus_core.data.clip import Clip, spread
from theseus_core.errors import TheseusError
from theseus_core.evaluate.cost import Memory, Trained, count_weights, how_trained, measure_memory
from theseus_core.evaluate.report import Report
from theseus_core.evaluate.run import check_frames, count_clips, evaluate, in_words
from theseus_core.evaluate.scores import ALL_SCENES, ALL_THREE, TOGETHER
from theseus_core.evaluate.suites import Prompt, Suite, held_out_of
from theseus_core.files import replacing, write_json
from theseus_core.model_folder import find_model, load_model, summary
from theseus_core.pipeline import TextToVideo
from theseus_core.recipe import Recipe
from theseus_core.recipe import describe as describe_shared
from theseus_core.render.bars import Panel, bars
from theseus_core.render.sheets import matrix
from theseus_core.render.video import read

HEADLINES = {"shapes": (*TOGETHER, ALL_THREE), "scenes": (ALL_SCENES,)}  # of the scores of a suite
COLUMNS = 3  # of the sheet: prompts of what may be seen, and as many of what is held out
UNKNOWN = "-"
MIB = 2**20


@dataclass(frozen=True)
class How:
    """How all clips are made; see `TextToVideo.load`.

    Attributes:
        frames: of a clip; None for as many as each model makes.
    """

    device: str = "auto"
    dtype: str = "auto"
    quantize: str = "none"
    frames: int | None = None


@dataclass(frozen=True)
class Contender:
    """A model that takes part.

    Attributes:
        name: as it was named: a run, a model folder, a bundled or a hub name.
        label: what it is called in tables and pictures, and its folder's name.
        families: of its parts.
        weights: how many each part has, and all together; see `count_weights`.
        bytes: on the disk.
    """

    name: str
    label: str
    folder: Path
    families: Tree
    weights: dict[str, int]
    trained: Trained
    bytes: int


@dataclass(frozen=True)
class Standing:
    """What was found of a contender."""

    contender: Contender
    report: Report
    memory: Memory

    def tree(self) -> Tree:
        """All but the single prompts, as plain values."""
        plain = {**asdict(self.contender), "folder": str(self.contender.folder)}
        plain["trained"] |= {"total": self.contender.trained.total}
        return {**plain, "memory": asdict(self.memory), "evaluation": self.report.summary()}


@dataclass(frozen=True)
class Comparison:
    """Models, and what was found of each, in the order in which they were named."""

    suite: Suite
    standings: Sequence[Standing]

    def tree(self) -> Tree:
        """All of it but the single prompts, as plain values."""
        asked = {"suite": self.suite.name, "seed": self.suite.seed, "objects": self.suite.objects}
        asked |= {"hold_out": list(self.suite.hold_out), "prompts": _counted(self.suite)}
        return {**asked, "models": [standing.tree() for standing in self.standings]}

    def labels(self) -> list[str]:
        return [standing.contender.label for standing in self.standings]

    def table(self) -> list[tuple[str, list[str]]]:
        """(what was measured, a cell for each model), for people."""
        return [(name, [cell(standing) for standing in self.standings]) for name, cell in _rows(self.suite)]


# --- who takes part ---


def line_up(names: Sequence[str], how: How) -> list[Contender]:
    """Read every model once, before any of them makes a clip.

    Raises:
        TheseusError: one is not there, is damaged, is named twice, or cannot make clips that can be judged.
    """
    folders = [find_model(name).resolve() for name in names]
    for place, folder in enumerate(folders):
        if folder in folders[:place]:
            raise TheseusError(f"the same model is named twice: {names[place]}", hint="name every run once; one alone will do")
    labels = _short([_parts(name, folder) for name, folder in zip(names, folders, strict=True)])
    return [_contender(name, label, how) for name, label in zip(names, labels, strict=True)]


def _parts(name: str, folder: Path) -> tuple[str, ...]:
    """Of the path of a run or a model folder; of a bundled or a hub name."""
    if not Path(name).exists():
        return Path(name).parts
    return (folder.parent if folder.name == "model" else folder).parts[1:]


def _short(paths: Sequence[tuple[str, ...]]) -> list[str]:
    """The shortest end of each path that tells it from the others."""
    lengths = [1] * len(paths)
    for _ in range(max(map(len, paths))):
        ends = ["-".join(path[-length:]) for path, length in zip(paths, lengths, strict=True)]
        if len(set(ends)) == len(ends):
            return ends
        lengths = [length + (ends.count(end) > 1) for length, end in zip(lengths, ends, strict=True)]
    return [f"{number}-{end}" for number, end in enumerate(ends, 1)]


def _contender(name: str, label: str, how: How) -> Contender:
    folder = find_model(name)
    parts = load_model(folder)
    check_frames(TextToVideo(parts, torch.device("cpu"), torch.float32).settings(frames=how.frames).frames)
    described = summary(name, folder)
    return Contender(name, label, folder, described["parts"], count_weights(parts), how_trained(folder), described["bytes"])


def held_out_of_all(contenders: Sequence[Contender], suite: str) -> tuple[list[str], list[str]]:
    """What none of the models was shown in training, as far as they say so; and what only some of them were not shown."""
    each = [held_out_of(contender.name, suite) for contender in contenders]
    anywhere = list(dict.fromkeys(text for held in each for text in held))
    everywhere = [text for text in anywhere if all(text in held for held in each)]
    return everywhere, [text for text in anywhere if text not in everywhere]


# --- what they do ---


def compare(contenders: Sequence[Contender], suite: Suite, folder: Path, how: How, progress: Progress | None = None) -> Comparison:
    """Evaluate every model on the same prompts, and measure what it costs.

    Writes a folder of an evaluation for each model, by its label (see `evaluate`), `comparison.json`, `comparison.md`,
    `comparison.png` and `contact_sheet.png`. A second start makes only the clips that are missing; another model may join.

    Args:
        progress: called with (done, total) after each clip of all.

    Raises:
        TheseusError: see `evaluate`.
    """
    each = count_clips(suite)

    def moved(number: int) -> Progress | None:
        return (lambda done, _: progress(number * each + done, len(contenders) * each)) if progress else None

    standings = [_stand(one, suite, folder / one.label, how, moved(number)) for number, one in enumerate(contenders)]
    found = Comparison(suite, standings)
    write_json(folder / "comparison.json", found.tree())
    with replacing(folder / "comparison.md") as part:
        part.write_text(markdown(found), encoding="utf-8")
    bars(found.labels(), _panels(found), folder / "comparison.png")
    _draw(found, folder)
    return found


def _stand(contender: Contender, suite: Suite, folder: Path, how: How, progress: Progress | None) -> Standing:
    pipe = TextToVideo.load(contender.name, how.device, how.dtype, how.quantize)
    shared = describe_shared(pipe, contender.name, pipe.settings(frames=how.frames), how.quantize, "none", False)
    report = evaluate(pipe, suite, folder, shared, progress)
    del pipe  # there may not be room for two
    first = suite.prompts[0]
    memory = measure_memory(validate(Recipe, shared | {"prompt": first.text, "seed": first.seed}), folder / "memory.json")
    return Standing(contender, report, memory)


# --- what is shown of it ---


def _counted(suite: Suite) -> dict[str, int]:
    held = sum(prompt.held_out for prompt in suite.prompts)
    return {"seen": len(suite.prompts) - held, "held_out": held}


def _rows(suite: Suite) -> list[tuple[str, Callable[[Standing], str]]]:
    keys = HEADLINES[suite.name]
    rows = [(f"{key}, % right", _share(key, False)) for key in keys]
    rows += [(f"{key}, % right of what was never shown", _share(key, True)) for key in keys if suite.hold_out]
    return [
        ("generator", lambda one: str(one.contender.families["generator"])),
        ("tokenizer", lambda one: str(one.contender.families["tokenizer"])),
        *rows,
        ("pairs of seeds that differ visibly", lambda one: "{visibly_different} of {pairs}".format(**_diversity(one))),
        ("by, of 255", lambda one: f"{_diversity(one)['mean']:.1f}"),
        ("blank and frozen clips", lambda one: "{blank} and {frozen} of {clips}".format(**one.report.summary())),
        ("flicker, of 255", lambda one: f"{one.report.summary()['flicker']:.3f}"),
        ("parameters, millions", lambda one: f"{one.contender.weights['total'] / 1e6:.2f}"),
        ("of them the generator", lambda one: f"{one.contender.weights['generator'] / 1e6:.2f}"),
        ("of them for training alone", lambda one: f"{one.contender.weights['training'] / 1e6:.2f}"),
        ("steps of training", lambda one: _known(one.contender.trained.steps, ",")),
        ("minutes of training", lambda one: _known(one.contender.trained.total, ".1f")),
        ("of them before the generator", lambda one: _known(one.contender.trained.before, ".1f")),
        ("seconds a clip", lambda one: _known(one.report.seconds, ".2f")),
        ("peak memory, MiB", lambda one: f"{one.memory.peak / MIB:,.0f}"),
        ("of it before the model is read", lambda one: f"{one.memory.libraries / MIB:,.0f}"),
        ("on the disk, MiB", lambda one: f"{one.contender.bytes / MIB:.1f}"),
    ]


def _share(key: str, held_out: bool) -> Callable[[Standing], str]:
    return lambda one: f"{100 * one.report.scores(held_out)[key].share:.1f}"


def _diversity(one: Standing) -> Tree:
    found: Tree = one.report.summary()["diversity"]
    return found


def _known(value: float | None, form: str) -> str:
    return UNKNOWN if value is None else format(value, form)


def markdown(found: Comparison) -> str:
    """The table, and what it is about, as Markdown."""
    rows = [["", *found.labels()], ["---"] * (1 + len(found.standings)), *([name, *cells] for name, cells in found.table())]
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    counts = _counted(found.suite)
    about = f"{counts['seen']} prompts of {found.suite.name}"
    if counts["held_out"]:
        about += f", and {counts['held_out']} of what was never shown: {'; '.join(found.suite.hold_out)}"
    return "\n".join(lines) + f"\n\n{about}. A `{UNKNOWN}` is unknown.\n"


def _panels(found: Comparison) -> list[Panel]:
    panels = [_scores(found, key) for key in HEADLINES[found.suite.name]]
    measures: dict[str, Callable[[Standing], float | None]] = {
        "difference of two seeds, of 255": lambda one: fmean(pair.difference for pair in one.report.pairs),
        "flicker, of 255": lambda one: float(one.report.summary()["flicker"]),
        "parameters, millions": lambda one: one.contender.weights["total"] / 1e6,
        "minutes of training": lambda one: one.contender.trained.total,
        "seconds a clip": lambda one: one.report.seconds,
        "peak memory, MiB": lambda one: one.memory.peak / MIB,
    }
    return panels + [Panel(title, {"": [of(one) for one in found.standings]}) for title, of in measures.items()]


def _scores(found: Comparison, key: str) -> Panel:
    series: dict[str, list[float | None]] = {}
    for name, held_out in (("seen", False), ("never shown", True)):
        scores = [one.report.scores(held_out).get(key) for one in found.standings]
        if any(scores):
            series[name] = [100 * score.share if score else None for score in scores]
    return Panel(f"{key}, % right", series, most=100)


def _draw(found: Comparison, folder: Path) -> None:
    """A row for each model, a column for each of a few prompts."""
    shown = [prompt for held in (False, True) for prompt in spread([p for p in found.suite.prompts if p.held_out == held], COLUMNS)]
    verdicts = [{verdict.name: verdict for verdict in one.report.verdicts} for one in found.standings]
    matrix(
        [[_clip(folder / one.contender.label, prompt, one.report.asked["frames"]) for prompt in shown] for one in found.standings],
        folder / "contact_sheet.png",
        rows=found.labels(),
        columns=[f"{prompt.text} [never shown]" if prompt.held_out else prompt.text for prompt in shown],
        labels=[[in_words(by_name[prompt.name]) for prompt in shown] for by_name in verdicts],
    )


def _clip(folder: Path, prompt: Prompt, frames: int) -> Clip:
    return read(folder / "clips" / f"{prompt.name}.mp4", frames)
