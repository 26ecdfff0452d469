"""`theseus train`: a dataset becomes a video autoencoder, and both become a transformer that words steer."""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from theseus_cli import console
from theseus_cli.epochs import in_steps
from theseus_cli.options import Quantize
from theseus_core.errors import TheseusError

if TYPE_CHECKING:
    from theseus_core.train.runs import Outcome, Report, TransformerRun, VaeRun

app = typer.Typer(no_args_is_help=True, help="Train a model on a prepared dataset.")


class Optimizer(StrEnum):
    """What turns gradients into steps."""

    muon = "muon"
    adamw = "adamw"
    adamw8bit = "adamw8bit"


class TrainDType(StrEnum):
    """Precision of the computation."""

    auto = "auto"
    bf16 = "bf16"
    fp32 = "fp32"


TRAINING, RUN = "Training", "Run"
DataOption = Annotated[
    Path, typer.Option("--data", help='A prepared dataset; or "world", to draw clips while training.', rich_help_panel=RUN)
]
ScenesOption = Annotated[
    str | None,
    typer.Option("--scenes", help="Of the world: kinds of clips, with commas between them: shapes,nature.", rich_help_panel=RUN),
]
HoldOutOption = Annotated[
    list[str] | None,
    typer.Option("--hold-out", help='Of the world: never show "circle moving up-right". May be given again.', rich_help_panel=RUN),
]
OnlyOption = Annotated[
    list[str] | None,
    typer.Option("--only", help='Of the world: show nothing but "red star". May be given again.', rich_help_panel=RUN),
]
PresetOption = Annotated[
    str,
    typer.Option(
        "--preset",
        help="debug, tiny, small, base; ten-clips; codes; of the world scenes, world, shapes, sprites, two-sprites, shapes-codes; "
        "of transformers alone turning, ...-last, scenes-hardest, ddpm-shapes, ddpm-sprites, ddpm-turning.",
        rich_help_panel=RUN,
    ),
]
VaeOption = Annotated[
    Path | None,
    typer.Option(
        "--vae",
        help="A trained tokenizer: a run or a model folder.",
        rich_help_panel=RUN,
        show_default="runs/vae, or that of --init",
    ),
]
TextOption = Annotated[
    str | None,
    typer.Option("--text", help="builtin; or frozen: clip, bert, t5, ..., a hub name or a folder.", rich_help_panel=RUN),
]
ConfigOption = Annotated[
    Path | None, typer.Option("--config", help="A YAML file laid over the preset; every key is obeyed.", rich_help_panel=RUN)
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="A.B=C", help="One setting over all others, such as model.width=256.", rich_help_panel=RUN),
]
ResumeOption = Annotated[
    bool, typer.Option("--resume/--no-resume", help="Go on where the run stopped, or start it anew.", rich_help_panel=RUN)
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the outcome as JSON on stdout.", rich_help_panel=RUN)]
StepsOption = Annotated[int | None, typer.Option("--steps", min=1, help="Optimizer steps in all.", rich_help_panel=TRAINING)]
EpochsOption = Annotated[float | None, typer.Option("--epochs", help="Instead of --steps.", rich_help_panel=TRAINING)]
BatchOption = Annotated[int | None, typer.Option("--batch-size", min=1, help="Clips a step.", rich_help_panel=TRAINING)]
LrOption = Annotated[float | None, typer.Option("--lr", help="Peak learning rate.", rich_help_panel=TRAINING)]
SeedOption = Annotated[int | None, typer.Option("--seed", min=0, help="Of every random draw.", rich_help_panel=TRAINING)]
DeviceOption = Annotated[str | None, typer.Option("--device", help="auto, cpu, cuda, cuda:1, mps.", rich_help_panel=TRAINING)]
DTypeOption = Annotated[TrainDType | None, typer.Option("--dtype", help="Precision.", rich_help_panel=TRAINING)]
OptimizerOption = Annotated[Optimizer | None, typer.Option("--optimizer", help="The optimizer.", rich_help_panel=TRAINING)]
CompileOption = Annotated[
    bool, typer.Option("--compile", help="torch.compile: slow to start, faster steps.", rich_help_panel=TRAINING)
]
ReplicasOption = Annotated[
    int | None,
    typer.Option(
        "--replicas", min=1, help="Processes that train on chunks of their own and are averaged.", rich_help_panel=TRAINING
    ),
]
MergeEveryOption = Annotated[
    float | None, typer.Option("--merge-every", help="Epochs from one averaging of replicas to the next.", rich_help_panel=TRAINING)
]
WorkersOption = Annotated[
    int | None, typer.Option("--workers", min=1, help="Threads that draw batches ahead.", rich_help_panel=TRAINING)
]


@app.command()
def vae(
    data: DataOption = Path("dataset"),
    output: Annotated[Path, typer.Option("-o", "--output", help="The run's folder.", rich_help_panel=RUN)] = Path("runs/vae"),
    family: Annotated[
        str | None,
        typer.Option(
            "--family", help="causal_vae; vqvae: codes; sprites: flat shapes; eigenframes: clips alike.", rich_help_panel=RUN
        ),
    ] = None,
    preset: PresetOption = "small",
    config: ConfigOption = None,
    settings: SetOption = None,
    scenes: ScenesOption = None,
    hold_out: HoldOutOption = None,
    only: OnlyOption = None,
    steps: StepsOption = None,
    epochs: EpochsOption = None,
    batch_size: BatchOption = None,
    lr: LrOption = None,
    seed: SeedOption = None,
    device: DeviceOption = None,
    dtype: DTypeOption = None,
    optimizer: OptimizerOption = None,
    compile: CompileOption = False,
    workers: WorkersOption = None,
    replicas: ReplicasOption = None,
    merge_every: MergeEveryOption = None,
    resume: ResumeOption = True,
    as_json: JsonOption = False,
) -> None:
    """Train a video autoencoder: clips to small latents and back."""
    flags = _flags(family, steps, batch_size, lr, seed, device, dtype, optimizer, compile, workers, replicas)
    flags |= _world_flags(scenes, hold_out, only)
    run = _configured("vae", preset, config, flags, settings, data, epochs, merge_every)
    outcome = _in_ranks(run, _train_vae, data, output, resume)
    following = "theseus train transformer" + _changed("--data", data, "dataset") + _changed("--vae", output, "runs/vae")
    _tell(outcome, as_json, following)


@app.command()
def transformer(
    data: DataOption = Path("dataset"),
    vae: VaeOption = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            help="The run's folder.",
            rich_help_panel=RUN,
            show_default="runs/transformer, or runs/lora with --lora",
        ),
    ] = None,
    init: Annotated[
        str | None,
        typer.Option("--init", help="A model to go on from: a run, a folder, a bundled or a hub name.", rich_help_panel=RUN),
    ] = None,
    lora: Annotated[
        int | None,
        typer.Option("--lora", min=1, help="Train differences of this rank to the model of --init.", rich_help_panel=RUN),
    ] = None,
    family: Annotated[
        str | None, typer.Option("--family", help="dit, ddpm; autoregressive: of codes.", rich_help_panel=RUN)
    ] = None,
    text: TextOption = None,
    quantize: Annotated[
        Quantize | None,
        typer.Option(
            "--quantize", help="Bits of what is frozen: the text encoder, and with --lora the model.", rich_help_panel=TRAINING
        ),
    ] = None,
    preset: PresetOption = "small",
    config: ConfigOption = None,
    settings: SetOption = None,
    scenes: ScenesOption = None,
    hold_out: HoldOutOption = None,
    only: OnlyOption = None,
    steps: StepsOption = None,
    epochs: EpochsOption = None,
    batch_size: BatchOption = None,
    lr: LrOption = None,
    seed: SeedOption = None,
    device: DeviceOption = None,
    dtype: DTypeOption = None,
    optimizer: OptimizerOption = None,
    compile: CompileOption = False,
    workers: WorkersOption = None,
    replicas: ReplicasOption = None,
    merge_every: MergeEveryOption = None,
    resume: ResumeOption = True,
    as_json: JsonOption = False,
) -> None:
    """Train a generator: words to latents, which the autoencoder turns into a video."""
    flags = _flags(family, steps, batch_size, lr, seed, device, dtype, optimizer, compile, workers, replicas)
    flags |= _world_flags(scenes, hold_out, only)
    if quantize is not None:
        flags["quantize"] = quantize.value
    flags |= _text_flags(text)
    flags |= {key: value for key, value in {"init": init, "lora": lora}.items() if value is not None}
    run = _configured("transformer", preset, config, flags, settings, data, epochs, merge_every)
    vae = _tokenizer_of(run, vae)
    output = output or Path("runs/lora" if run.lora else "runs/transformer")
    outcome = _in_ranks(run, _train_transformer, data, vae, output, resume)
    _tell(outcome, as_json, f'theseus generate "your words"{_changed("--model", output, "runs/transformer")} -o out.mp4')


def _in_ranks(run: VaeRun | TransformerRun, train: Callable[..., Outcome], *arguments: Any) -> Outcome:
    """Train here, or in as many processes as there are to be replicas; under torchrun this is one of them already."""
    if run.train.replicas == 1 or "RANK" in os.environ:
        return train(run, *arguments)
    from theseus_core.train.replicas import in_processes

    return in_processes(run.train.replicas, train, run, *arguments)


def _train_vae(run: VaeRun, data: Path, output: Path, resume: bool) -> Outcome:
    from theseus_core.train.tokenizer import train_tokenizer

    with _reported("training") as report:
        report.note(f"training {run.family} ({run.model_preset}) on {data}, {_how_long(run)}, into {output}")
        return train_tokenizer(run, data, output, report, resume)


def _train_transformer(run: TransformerRun, data: Path, vae: Path | None, output: Path, resume: bool) -> Outcome:
    from theseus_core.train.generator import train_generator

    what = run.init or f"{run.family} ({run.model_preset})"
    what = f"differences of rank {run.lora} to {what}" if run.lora else what
    with _reported("training") as report:
        report.note(f"training {what} on {data}{_and(vae)}, {_how_long(run)}, into {output}")
        return train_generator(run, data, vae, output, report, resume)


def _how_long(run: VaeRun | TransformerRun) -> str:
    train = run.train
    if train.replicas == 1:
        return f"{train.steps} steps" + (f" or {train.minutes:g} minutes" if train.minutes else "")
    return (
        f"{train.steps} steps of {train.replicas} replicas, averaged every {train.merge_every}, the last {train.last_pass} together"
    )


@app.command()
def gan(
    data: DataOption = Path("dataset"),
    vae: VaeOption = None,
    output: Annotated[Path, typer.Option("-o", "--output", help="The run's folder.", rich_help_panel=RUN)] = Path("runs/gan"),
    text: TextOption = None,
    preset: Annotated[
        str,
        typer.Option(
            "--preset",
            help="small, for any dataset; shapes, shapes-128, classic; sprites and classic-sprites, on what the vae's two-sprites "
            "and sprites give; debug.",
            rich_help_panel=RUN,
        ),
    ] = "small",
    config: ConfigOption = None,
    settings: SetOption = None,
    scenes: ScenesOption = None,
    hold_out: HoldOutOption = None,
    only: OnlyOption = None,
    steps: StepsOption = None,
    epochs: EpochsOption = None,
    batch_size: BatchOption = None,
    lr: LrOption = None,
    seed: SeedOption = None,
    device: DeviceOption = None,
    dtype: DTypeOption = None,
    optimizer: OptimizerOption = None,
    workers: WorkersOption = None,
    resume: ResumeOption = True,
    as_json: JsonOption = False,
) -> None:
    """Train a generative adversarial network: words to a video in one evaluation."""
    from theseus_core.train.generator import train_generator

    flags = _flags(None, steps, batch_size, lr, seed, device, dtype, optimizer, False, workers, None)
    flags |= _world_flags(scenes, hold_out, only) | _text_flags(text)
    run = _configured("gan", preset, config, flags, settings, data, epochs, None)
    vae = _tokenizer_of(run, vae)
    with _reported("training") as report:
        report.note(f"training {run.family} ({run.model_preset}) on {data}{_and(vae)}, {_how_long(run)}, into {output}")
        outcome = train_generator(run, data, vae, output, report, resume)
    _tell(outcome, as_json, f'theseus generate "your words" --model {shlex.quote(str(output))} -o out.mp4')


def _tokenizer_of(run: TransformerRun, vae: Path | None) -> Path | None:
    """Where the tokenizer of a run is, unless it begins with a model, which has its own, or makes pixels."""
    from theseus_core.train.runs import needs

    if run.init and vae is not None:
        raise TheseusError(f"the model of --init brings its own tokenizer, and it cannot be: --vae {vae}", hint="leave it out")
    return Path("runs/vae") if vae is None and not run.init and needs(run) != "pixels" else vae


def _and(vae: Path | None) -> str:
    return f" and {vae}" if vae else ""


def _flags(
    family: str | None,
    steps: int | None,
    batch_size: int | None,
    lr: float | None,
    seed: int | None,
    device: str | None,
    dtype: TrainDType | None,
    optimizer: Optimizer | None,
    compile: bool,
    workers: int | None,
    replicas: int | None,
) -> dict[str, Any]:
    train = {
        "steps": steps,
        "batch_size": batch_size,
        "lr": lr,
        "seed": seed,
        "device": device,
        "dtype": dtype,
        "optimizer": optimizer,
        "compile": compile or None,
        "workers": workers,
        "replicas": replicas,
    }
    flags: dict[str, Any] = {"train": {key: str(v) if isinstance(v, StrEnum) else v for key, v in train.items() if v is not None}}
    return flags | ({"family": family} if family is not None else {})


def _world_flags(scenes: str | None, hold_out: list[str] | None, only: list[str] | None) -> dict[str, Any]:
    named = [name.strip() for name in scenes.split(",")] if scenes else None
    given = {"scenes": named, "hold_out": hold_out, "only": only}
    chosen = {key: value for key, value in given.items() if value is not None}
    return {"world": chosen} if chosen else {}


def _text_flags(text: str | None) -> dict[str, Any]:
    """`builtin`, a preset of the frozen encoders (clip, t5, ...), or the name or folder of one."""
    from theseus_core.registry import family

    if text is None:
        return {}
    if text == "builtin":
        return {"text_family": "builtin"}
    if text in family("text", "hub").PRESETS and not Path(text).exists():
        return {"text_family": "hub", "text_preset": text}
    return {"text_family": "hub", "text_preset": "small", "text": {"source": text}}


def _configured(
    kind: str,
    preset: str,
    config: Path | None,
    flags: dict[str, Any],
    settings: list[str] | None,
    data: Path,
    epochs: float | None,
    merge_every: float | None,
) -> Any:
    """The run's settings: over the preset the YAML file, the flags and `--set`, the strongest last; epochs become steps."""
    from theseus_core.config import assignments, read_yaml
    from theseus_core.train.runs import configure_run, is_world

    given = [read_yaml(config) if config is not None else {}, flags, assignments(settings or [])]
    of_world = [tree["world"] for tree in given if tree.get("world")]
    if of_world and not is_world(data):
        hint = "--data world draws clips; what a dataset of drawn clips shows is decided by theseus synth"
        if any(isinstance(tree, dict) and "hold_out" in tree for tree in of_world):
            hint = "--data world draws clips; of a dataset the share that is held out is set so: --set hold_out=0.25"
        raise TheseusError(f"settings of the world are given, and the data is a dataset: {data}", hint=hint)
    run = configure_run(kind, preset, *given)
    given_in_steps = {key for tree in given for key in tree.get("train") or {}}
    counted = in_steps(run, data, given_in_steps, epochs, merge_every)
    return configure_run(kind, preset, *given, {"train": counted}) if counted else run


@contextmanager
def _reported(label: str) -> Iterator[Report]:
    """Progress on stderr: a bar on a terminal, a line every half minute elsewhere."""
    from theseus_core.train.runs import Report

    if not _speaks():
        yield Report()
        return
    last = time.monotonic()
    with console.progress("encoding") as encoding, console.progress(label) as advance:

        def step(done: int, total: int, scores: dict[str, float]) -> None:
            nonlocal last
            advance(done, total)
            if not console.err.is_terminal and (time.monotonic() - last > 30 or done == total):
                last = time.monotonic()
                console.say(f"step {done}/{total}", " ".join(f"{name} {value:.4g}" for name, value in scores.items()))

        yield Report(step=step, encoding=encoding, note=console.say)


def _speaks() -> bool:
    """Under torchrun one process speaks for all; errors are every process's own."""
    return os.environ.get("RANK", "0") == "0"


def _tell(outcome: Outcome, as_json: bool, following: str) -> None:
    if not _speaks():
        return
    if outcome.scores:
        console.table(["score", "value"], [[name, value] for name, value in outcome.scores.items() if name != "seconds"])
    console.say(f"journal, curves and samples: {outcome.folder}")
    if as_json:
        console.emit({"run": str(outcome.folder), "model": str(outcome.model), "scores": outcome.scores})
    else:
        console.emit(outcome.model)
    console.say_next(following)


def _changed(flag: str, value: Path, default: str) -> str:
    return "" if value == Path(default) else f" {flag} {shlex.quote(str(value))}"
