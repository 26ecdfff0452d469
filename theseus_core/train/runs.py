"""What a run is: the settings of both trainings, whom to tell, and what comes of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from theseus_core.config import Config, Tree, dump, merge, validate
from theseus_core.contracts import Consumes
from theseus_core.contracts import Progress as CountProgress
from theseus_core.data.shards import Clips, Dataset
from theseus_core.data.sources.world import NAME as WORLD
from theseus_core.data.sources.world import Drawn, WorldClips
from theseus_core.errors import TheseusError, nearest
from theseus_core.model_folder import CodeSettings, describe, find_model
from theseus_core.presets import PRESETS
from theseus_core.registry import Group, configure, family
from theseus_core.render.plots import curves, read_series
from theseus_core.train.checkpoint import Note
from theseus_core.train.config import TrainConfig
from theseus_core.train.finetune import with_model
from theseus_core.train.journal import read_journal
from theseus_core.train.trainer import Progress, Scores
from theseus_core.versions import versions

PIXELS: Consumes = "pixels"  # and the tokenizer of this name, which is not trained
DRAWN = frozenset({"pictures", "prompts", "sampling"})  # what is drawn on the way decides nothing that is learned


def _vae_training() -> TrainConfig:
    return TrainConfig(steps=3000, batch_size=8, optimizer="muon", lr=2e-3, weight_decay=0.0, evaluate_every=500)


def _transformer_training() -> TrainConfig:
    return TrainConfig(steps=5000, batch_size=16, optimizer="muon", lr=2e-3, evaluate_every=500)


class Sampling(CodeSettings):
    """How videos are made of the trained model, unless the user says otherwise."""

    steps: int = Field(20, ge=1, description="evaluations of the generator")
    guidance_scale: float = Field(4.0, ge=1, description="how strictly to follow the prompt; 1 for no guidance")
    sampler: str = Field("dpmpp_2m", description="the algorithm that turns noise into a video")


class Run(Config):
    """Settings that both trainings have."""

    model_preset: str = Field("small", description="the family's preset")
    model: dict[str, Any] = Field(default_factory=dict, description="changes to the family's preset")
    frames: int = Field(17, ge=1, description="T, frames of a training window; shorter clips hold their last frame")
    hold_out: float = Field(0.05, ge=0, lt=1, description="share of the sources kept from training, to measure on")
    world: Drawn = Field(default_factory=Drawn, description="what is drawn where the data is the world, and no dataset")


class VaeRun(Run):
    """Settings of `train vae`."""

    kind: ClassVar[str] = "vae"

    family: str = Field("causal_vae", description="which tokenizer")
    max_stride: int = Field(1, ge=1, description="windows take every frame, or every second, up to this many")
    pictures: int = Field(8, ge=1, description="clips that are measured and drawn while it trains")
    train: TrainConfig = Field(default_factory=_vae_training, description="the trainer's settings")


class TransformerRun(Run):
    """Settings of `train transformer`."""

    kind: ClassVar[str] = "transformer"

    init: str = Field(
        "", description="the model that training begins with: a run, a folder, a bundled or a hub name; none for anew"
    )
    lora: int = Field(
        0, ge=0, description="rank of low-rank differences that are trained beside the frozen model; 0 trains all of it"
    )
    family: str = Field("dit", description="which generator")
    windows: int = Field(4, ge=1, description="windows of a clip that are encoded, evenly spread over it")
    text_family: str = Field("builtin", description="builtin (trained along) or hub (frozen, by name or folder)")
    text_preset: str = Field("small", description="the text encoder's preset")
    text: dict[str, Any] = Field(default_factory=dict, description="changes to the text encoder's preset")
    quantize: Literal["none", "int8", "nf4", "fp4"] = Field(
        "none",
        description="bits of linear layers that are frozen: the text encoder's, and with lora the generator's; kept whole on disk",
    )
    caption_dropout: float = Field(0.1, ge=0, lt=1, description="share of captions left out, which guidance needs")
    prompts: int = Field(4, ge=1, description="captions that sample videos are made of while it trains")
    sampling: Sampling = Field(default_factory=Sampling, description="how the samples, and later videos, are made")
    train: TrainConfig = Field(default_factory=_transformer_training, description="the trainer's settings")


class GanRun(TransformerRun):
    """Settings of `train gan`."""

    kind: ClassVar[str] = "gan"

    family: str = Field("gan", description="which generator")


GROUPS: dict[str, Group] = {"vae": "tokenizers", "transformer": "generators", "gan": "generators"}
RUNS: dict[str, type[VaeRun] | type[TransformerRun]] = {"vae": VaeRun, "transformer": TransformerRun, "gan": GanRun}


def configure_run(kind: str, preset: str, *changes: Tree) -> Any:
    """A run's settings: the defaults, those of the family (its `RUN`), a preset over them, and every change, in order.

    See also `finetune.with_model`.

    Raises:
        TheseusError: no such preset or family, an unknown key, or a value out of its range.
    """
    if preset not in PRESETS[kind]:
        raise TheseusError(f"train {kind} has no preset: {preset}", hint=nearest(preset, sorted(PRESETS[kind])))
    run, chosen = RUNS[kind], PRESETS[kind][preset]
    defaults = dump(run())
    encoder = merge({}, *changes).get("text_family")
    if encoder and encoder != merge(defaults, chosen).get("text_family"):  # what the preset says of the text is for another encoder
        chosen = {key: value for key, value in chosen.items() if key not in ("text", "text_preset")}
    own = getattr(family(GROUPS[kind], str(merge(defaults, chosen, *changes)["family"])), "RUN", {})
    settings = with_model(kind, merge(defaults, own), chosen, changes)
    if settings.get("init"):
        _refuse_another_command(kind, settings["init"])
    return validate(run, settings)


def _refuse_another_command(kind: str, name: str) -> None:
    """A model whose two sides balance each other goes on with the settings of its own command."""
    own = describe(find_model(name))["parts"]["generator"]
    takes = "gan" if len(family("generators", own).Model.phases) > 1 else "transformer"
    if kind != takes:
        flag = f"--init {name}" if takes == "transformer" else f"--set init={name}"
        message = f"train {kind} cannot go on with a model of the family {own}: {name}"
        raise TheseusError(message, hint=f"theseus train {takes} {flag}")


def needs(run: TransformerRun) -> Consumes:
    """What the generator of a run is trained on; the settings of a family that has the choice say it as `consumes`."""
    config = configure("generators", run.family, run.model_preset, run.model, prefix="model.")
    consumes: Consumes = getattr(config, "consumes", family("generators", run.family).Model.consumes)
    return consumes


@dataclass(frozen=True)
class Report:
    """Whom to tell how it goes; by default nobody.

    Attributes:
        step: called after every training step with (done, total, scalars).
        encoding: called with (done, total) while latents and text are encoded.
        note: called with a sentence for the user.
    """

    step: Progress | None = None
    encoding: CountProgress | None = None
    note: Note = field(default=lambda message: None)


@dataclass(frozen=True)
class Outcome:
    """What a training gave: the run's folder, its model, and the last scores."""

    folder: Path
    model: Path
    scores: Scores


def is_world(data: Path) -> bool:
    """Whether this names the procedural world; where a dataset of that name is here, it is meant."""
    return data == Path(WORLD) and not (data / "dataset.json").exists()


def open_clips(data: Path, run: Run, output: Path) -> Clips:
    """A prepared dataset, or the clips of the world; what is computed of the latter goes into the folder `output`.

    Raises:
        TheseusError: see `Dataset.open` and `WorldClips`.
    """
    if not is_world(data):
        return Dataset.open(data)
    return WorldClips(run.world.model_copy(update={"frames": max(run.world.frames, run.frames)}), output)


def say_what_is_measured(report: Report, held: Sequence[int], hold_out: float) -> None:
    if held:
        report.note(f"held out from training, and measured on: {len(held)} clips")
    else:
        report.note(f"nothing is held out of so few clips (hold_out {hold_out:g}): scores are on the clips that are trained on")


def described(run: VaeRun | TransformerRun) -> Tree:
    tree = dump(run)
    del tree["train"]  # the trainer writes and compares its settings itself
    for later in ("init", "lora"):  # runs that know nothing of them go on
        if not tree.get(later, True):
            del tree[later]
    return {"kind": run.kind, **tree}


def made_by(dataset: Clips, run: VaeRun | TransformerRun) -> Tree:
    settings = dump(run)
    if not isinstance(dataset, WorldClips):
        del settings["world"]  # which decided nothing
    return {"dataset": dataset.fingerprint, "settings": settings, "versions": versions(), "seed": run.train.seed}


def plot(output: Path) -> None:
    journal = read_journal(output / "metrics.jsonl")
    if read_series(journal):  # an evaluation may come before the first line of the training
        curves(journal, output / "curves.png")


def sample_name(number: int, height: int, width: int) -> str:
    """The file of a sample video: of an odd size no .mp4 can be."""
    return f"{number:04d}.{'webm' if height % 2 or width % 2 else 'mp4'}"


def last_scores(output: Path) -> Scores:
    lines = read_journal(output / "metrics.jsonl")
    scored = [line for line in lines if any(key.startswith("eval/") for key in line)]
    return {key.removeprefix("eval/"): value for key, value in scored[-1].items() if key.startswith("eval/")} if scored else {}
