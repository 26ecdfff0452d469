"""A model on disk: a folder with `model.json` and one folder for each part, safe to open and complete in itself.

A released CogVideoX in the diffusers layout is one too. One of low-rank differences is small, and names the model that they are to.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field
from torch import nn

import theseus_core.bundled
from theseus_core.config import Config, Tree, dump, merge, validate
from theseus_core.contracts import Consumes, Generator, TextEncoder, VideoTokenizer
from theseus_core.device import DTYPES
from theseus_core.errors import TheseusError, nearest
from theseus_core.files import read_json, replacing, write_json
from theseus_core.nn.lora import merge as merge_differences
from theseus_core.pretrained import lora
from theseus_core.pretrained.folder import (
    FAMILIES,
    INDEX,
    check_index,
    is_released,
    load_released,
    released_defaults,
    released_files,
    sample_of,
    save_released,
)
from theseus_core.pretrained.vae import load_vae
from theseus_core.registry import HALVES, Group, blueprint, family, halve_weights, load_part, names, save_part
from theseus_core.words import content

FORMAT = 1
GROUPS: dict[str, Group] = {"tokenizer": "tokenizers", "text_encoder": "text", "generator": "generators"}
PARTS = (*GROUPS, "transformer", "vae", "scheduler")  # folders of a model, in our layout and in that of diffusers
KNOWS = "knows.json"  # groups of prompts that the model was trained on
BASE = "base.json"  # the model that low-rank differences are to
CARD = "CARD.md"  # what there is to say about it, for people
Kind = Literal["model", "tokenizer"]
Knows = dict[str, list[str]]
TO_TRAIN: dict[Kind, str] = {
    "model": "theseus prep gifs/, then theseus train vae, then theseus train transformer",
    "tokenizer": "theseus prep gifs/, then theseus train vae",
}


class CodeSettings(Config):
    """How codes are drawn, of models that write codes; None leaves it to the model."""

    temperature: float | None = Field(None, ge=0, description="how freely: 1 as they were learned, 0 always the likeliest")
    top_k: int | None = Field(None, ge=0, description="one of so many likeliest codes; 0 of all")
    top_p: float | None = Field(None, gt=0, le=1, description="one of the likeliest codes that together are so likely")


class Settings(CodeSettings):
    """How a video is made unless the caller says otherwise; kept with the model, as it was trained."""

    frames: int = Field(ge=1, description="T, number of frames")
    height: int = Field(ge=1, description="H in pixels")
    width: int = Field(ge=1, description="W in pixels")
    fps: float = Field(gt=0, description="frames a second")
    steps: int = Field(ge=1, description="evaluations of the generator")
    guidance_scale: float = Field(ge=0, description="how strictly to follow the prompt; 1 for no guidance")
    sampler: str = Field(description="the algorithm that turns noise into a video")
    dynamic_guidance: bool = Field(
        False, description="guidance grows with the steps, from none, as some models were released to run"
    )
    cache: float = Field(0.0, ge=0, lt=1, description="error that a step may have where the generator is not evaluated; 0 for none")


class Base(Config):
    """The model that low-rank differences are to."""

    model: str = Field(description="a folder, or a bundled or a hub name")
    hash: str = Field(description="its `fingerprint`, without which they would be differences to something else")


@dataclass(frozen=True)
class Parts:
    """What `load_model` reads."""

    tokenizer: VideoTokenizer
    text_encoder: TextEncoder
    generator: Generator
    defaults: Settings
    knows: Knows = field(default_factory=dict)


def save_model(
    folder: Path,
    tokenizer: VideoTokenizer,
    text_encoder: TextEncoder,
    generator: Generator,
    defaults: Settings,
    made_by: Tree,
    knows: Mapping[str, Sequence[str]] | None = None,
) -> Path:
    """Write a model folder under a temporary name and put it in place whole; an older one is replaced.

    Args:
        made_by: what it came from: dataset fingerprint, configuration, versions, seed.
        knows: prompts that it can be expected to obey, a few hundred at most, in groups with names.
    """
    check_match(generator, tokenizer, text_encoder)
    parts = {"tokenizer": tokenizer, "text_encoder": text_encoder, "generator": generator}
    return _save(folder, parts, {"defaults": dump(defaults), "made_by": made_by}, knows)


def base_of(name: str) -> Base:
    """A model as it is now, wherever it is named from later."""
    folder = find_model(name)
    return Base(model=str(folder.resolve()) if Path(name).exists() else name, hash=fingerprint(folder))


def save_adapters(
    folder: Path,
    base: Base,
    pairs: Mapping[str, nn.Module],
    defaults: Settings,
    made_by: Tree,
    knows: Mapping[str, Sequence[str]] | None = None,
) -> Path:
    """Write a model folder of low-rank differences (`pretrained.lora.FILE`, as diffusers reads them), and nothing of their model.

    Args:
        pairs: as `pretrained.lora.attach` gives them.
    """
    described = {"defaults": dump(defaults), "made_by": made_by}
    with replacing(folder) as part:
        part.mkdir()
        lora.save_lora(pairs, part / lora.FILE)
        write_json(part / BASE, dump(base))
        _describe_in(part, describe(find_model(base.model))["parts"], described, knows)
    return folder


def save_tokenizer(folder: Path, tokenizer: VideoTokenizer, made_by: Tree) -> Path:
    """Write a model folder that holds a tokenizer and nothing else."""
    return _save(folder, {"tokenizer": tokenizer}, {"made_by": made_by})


def _save(folder: Path, parts: Mapping[str, nn.Module], described: Tree, knows: Mapping[str, Sequence[str]] | None = None) -> Path:
    with replacing(folder) as part:
        for name, module in parts.items():
            save_part(module, GROUPS[name], part / name)
        families = {name: type(module).__module__.rsplit(".", 1)[-1] for name, module in parts.items()}
        _describe_in(part, families, described, knows)
    return folder


def _describe_in(folder: Path, families: Tree, described: Tree, knows: Mapping[str, Sequence[str]] | None) -> None:
    write_json(folder / "model.json", {"format": FORMAT, "parts": families, **described})
    if knows:
        write_json(folder / KNOWS, {group: list(prompts) for group, prompts in knows.items()})


def export_model(folder: Path, target: Path, dtype: str = "bf16", size: tuple[int, int] | None = None) -> Path:
    """A copy of a model folder with weights of half the size: to ship, and not to train on with.

    Args:
        dtype: bf16 or fp16. It is read back as fp32, rounded.
        size: (height, width) of the videos that the copy makes unless asked otherwise; None for what the model makes.

    Raises:
        TheseusError: the folder is damaged, it cannot make that size, its weights do not fit into `dtype`, or there is something
            at `target` already.
    """
    describe(folder)
    if is_released(folder):
        raise TheseusError(f"a released model stays in the layout it has: {folder}", hint="--layout diffusers")
    if dtype not in HALVES:
        raise TheseusError(f"not half a precision: {dtype}", hint=nearest(dtype, list(HALVES)))
    _refuse_what_is_there(target)
    described = _resized(folder, size) if size is not None else None  # before anything is written
    with replacing(target) as part:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            copy = part / path.relative_to(folder)
            copy.parent.mkdir(parents=True, exist_ok=True)
            if path.suffix == ".safetensors":
                halve_weights(path, copy, dtype)
            else:
                shutil.copyfile(path, copy)
        if described is not None:
            write_json(part / "model.json", described)
    return target


def _resized(folder: Path, size: tuple[int, int]) -> Tree:
    """`model.json` of a model folder, with another size of its videos, which it can make."""
    tree = describe(folder)
    if tree.get("defaults") is None:
        raise TheseusError(f"a tokenizer alone makes no videos, of no size: {folder}", hint="leave out --size")
    settings = validate(Settings, merge(tree["defaults"], {"height": size[0], "width": size[1]}))
    whole = base_folder(folder) if is_adapted(folder) else folder
    tokenizer, generator = (blueprint(whole / part, GROUPS[part]) for part in ("tokenizer", "generator"))
    assert isinstance(tokenizer, VideoTokenizer) and isinstance(generator, Generator)
    tokenizer.check_size(settings.frames, *size, generator.patch)
    return {**tree, "defaults": dump(settings)}


def export_released(folder: Path, target: Path, dtype: str = "bf16") -> Path:
    """A copy of a model folder in the diffusers layout, which diffusers' CogVideoX pipelines read.

    Args:
        dtype: bf16, fp16 or fp32: of the weights.

    Raises:
        TheseusError: the model has what CogVideoX has not, the folder is damaged, or there is something at `target` already.
    """
    _refuse_what_is_there(target)
    if dtype not in DTYPES:
        raise TheseusError(f"no such dtype: {dtype}", hint=nearest(dtype, list(DTYPES)))
    parts = load_model(folder)
    return save_released(target, parts.tokenizer, parts.text_encoder, parts.generator, parts.defaults.sampler, DTYPES[dtype])


def _refuse_what_is_there(target: Path) -> None:
    if target.exists():
        raise TheseusError(f"there is something already: {target}", hint="name a folder that is not there yet")


def load_model(folder: Path, dtype: torch.dtype | None = None, merged: bool = True) -> Parts:
    """Read what `save_model` wrote, or a released CogVideoX, in evaluation mode, on the CPU.

    Args:
        dtype: of a released model's weights in memory; None keeps them as they are stored. Our own are always fp32.
        merged: False leaves low-rank differences beside the weights, which may then be quantized; else they are one with them.

    Raises:
        TheseusError: something is missing, damaged, or does not fit together.
    """
    if is_adapted(folder):
        return _load_adapted(folder, dtype, merged)
    if is_released(folder):
        found = load_released(folder, dtype)
        check_match(found.generator, found.tokenizer, found.text_encoder)
        return Parts(found.tokenizer, found.text_encoder, found.generator, validate(Settings, found.defaults))
    described = describe(folder)
    if "generator" not in described["parts"]:
        raise TheseusError(
            f"this holds a tokenizer and no generator: {folder}", hint="theseus train transformer makes the other half"
        )
    tokenizer, text_encoder, generator = (load_part(folder / name, group) for name, group in GROUPS.items())
    assert isinstance(tokenizer, VideoTokenizer)
    assert isinstance(text_encoder, TextEncoder)
    assert isinstance(generator, Generator)
    check_match(generator, tokenizer, text_encoder)
    return Parts(tokenizer, text_encoder, generator, validate(Settings, described["defaults"]), read_knows(folder))


def _load_adapted(folder: Path, dtype: torch.dtype | None, merged: bool) -> Parts:
    described = describe(folder)
    parts = load_model(base_folder(folder), dtype)
    lora.apply(parts.generator, lora.Lora(folder / lora.FILE))
    if merged:
        merge_differences(parts.generator)
    return replace(parts, defaults=validate(Settings, described["defaults"]), knows=read_knows(folder))


def is_adapted(folder: Path) -> bool:
    """Whether a model folder holds low-rank differences to another model."""
    return (folder / BASE).is_file()


def base_folder(folder: Path) -> Path:
    """The folder of the model that low-rank differences are to.

    Raises:
        TheseusError: there is no such model, or it has changed since.
    """
    base = validate(Base, read_json(folder / BASE), f"{BASE}: ")
    found = find_model(base.model)
    if (now := fingerprint(found)) != base.hash:
        hint = f"differences to one model do little good in another; --lora {folder} with --model tries"
        raise TheseusError(f"the model of {folder} has changed since (hash {base.hash} then, {now} now): {base.model}", hint=hint)
    return found


def stands_on(folder: Path) -> list[Path]:
    """A model's folder, and where it holds differences alone those of the models that they are to, one to the other.

    Raises:
        TheseusError: see `base_folder`.
    """
    folders = [folder]
    while is_adapted(folders[-1]):
        folders.append(base_folder(folders[-1]))
    return folders


def load_tokenizer(path: str | Path) -> VideoTokenizer:
    """The tokenizer of a run or of a model folder, in evaluation mode, on the CPU."""
    folder = find_model(path, "tokenizer")
    if is_adapted(folder):
        return load_tokenizer(base_folder(folder))
    if is_released(folder):
        return load_vae(folder / "vae", torch.float32)
    describe(folder)
    tokenizer = load_part(folder / "tokenizer", "tokenizers")
    assert isinstance(tokenizer, VideoTokenizer)
    return tokenizer


def describe(folder: Path) -> Tree:
    """`model.json` of a model folder, or what it would be of a released CogVideoX.

    Raises:
        TheseusError: it is missing, damaged, or of a format that this version does not know.
    """
    if is_released(folder):
        return {"format": FORMAT, "parts": dict(FAMILIES), "defaults": released_defaults(folder), "made_by": {}}
    described = read_json(folder / "model.json")
    if not isinstance(described, dict) or not isinstance(described.get("parts"), dict):
        raise TheseusError(f"damaged model folder: {folder / 'model.json'}")
    if described.get("format") != FORMAT:
        hint = f"this version reads format {FORMAT}; a newer Theseus may read it"
        raise TheseusError(f"a model folder of another format: {described.get('format')}", hint=hint)
    if "generator" in described["parts"]:
        try:
            validate(Settings, described.get("defaults") or {})
        except TheseusError as error:
            raise TheseusError(f"damaged model folder: {folder / 'model.json'}", hint=f"defaults.{error.message}") from error
    return described


def check_match(generator: Generator, tokenizer: VideoTokenizer, text_encoder: TextEncoder | None = None) -> None:
    """Refuse parts that cannot work together.

    Raises:
        TheseusError: naming what would fit.
    """
    check_kind(generator.consumes, tokenizer)
    widths = widths_of(tokenizer) | ({"text_width": text_encoder.width} if text_encoder else {})
    for name, width in widths.items():
        wanted_width = getattr(generator.config, name, width)  # a family without that setting takes any
        if wanted_width != width:
            hint = "the generator was trained with another tokenizer or text encoder"
            raise TheseusError(f"the generator's {name} is {wanted_width}, and the other part's: {width}", hint=hint)


def check_kind(wanted: Consumes, tokenizer: VideoTokenizer) -> None:
    """Refuse a tokenizer that does not make what a generator needs."""
    if wanted != tokenizer.produces:
        hint = f"tokenizers that do: {', '.join(tokenizers_for(wanted)) or 'none'}"
        raise TheseusError(f"the generator needs {wanted}, and the tokenizer makes: {tokenizer.produces}", hint=hint)


def widths_of(tokenizer: VideoTokenizer) -> dict[str, int]:
    """What a tokenizer decides of a generator's configuration."""
    return {"latent_channels": tokenizer.latent_channels, "codebook_size": tokenizer.codebook_size}


def tokenizers_for(kind: Consumes) -> list[str]:
    """The families of tokenizers that produce this kind."""
    return [name for name in names("tokenizers") if family("tokenizers", name).Model.produces == kind]


def find_model(name: str | Path, kind: Kind = "model") -> Path:
    """The model folder that a run, a model folder, a bundled name or a hub name stands for.

    Args:
        kind: what is wanted of it, for the hint.

    Raises:
        TheseusError: there is none; the hint says what to run.
    """
    path = Path(name)
    for folder in (path / "model", path):
        if (folder / "model.json").is_file() or is_released(folder):
            return folder
    if str(name) in bundled():
        return _bundled(str(name))
    if path.is_dir():
        raise TheseusError(
            f"no model in this folder yet: {path}", hint="a run has one after its first evaluation; start it again to go on"
        )
    if str(name).count("/") == 1 and not str(name).startswith((".", "/", "runs/")):
        return _from_hub(str(name))
    raise TheseusError(f"no such {kind}: {name}", hint=_what_there_is(str(name), kind))


def _what_there_is(name: str, kind: Kind) -> str:
    """A hint: the runs in the current folder and the bundled models that would do, the most similar first, or how to make one."""
    there = [
        m["name"] for m in available(Path("runs")) if "damaged" not in m and ("generator" in m["parts"] or kind == "tokenizer")
    ]
    if not there:
        return f"name a run or a model folder, or make one: {TO_TRAIN[kind]}"
    close = get_close_matches(name, there, n=1)
    listed = f"a run or a model folder; here are: {', '.join(there)}; or make one: {TO_TRAIN[kind]}"
    return (f"did you mean {close[0]}? " if close else "") + listed


def default_model(prompts: Sequence[str] = ()) -> str:
    """The run in the current folder if there is one, else the bundled model that knows most of the words of these prompts.

    Of those that know as many, it is the one that knows fewest others, for it was made for such prompts.

    Raises:
        TheseusError: there is neither; the hint says what to run.
    """
    if (Path("runs/transformer/model") / "model.json").is_file():
        return "runs/transformer"
    if not bundled():
        hint = f"{TO_TRAIN['model']}; or name a model with --model"
        raise TheseusError("nothing is trained here, and no model came with the package: runs/transformer", hint=hint)
    asked = [word for prompt in prompts for word in content(prompt)]

    def fits(name: str) -> tuple[int, int]:
        known = content(" ".join(vocabulary(_bundled(name)) or ()))
        return sum(word in known for word in asked), -len(known)

    return max(bundled(), key=fits)


def bundled() -> list[str]:
    """Names of the models that came with the package."""
    return sorted(path.parent.name for path in Path(theseus_core.bundled.__path__[0]).glob("*/model.json"))


def _bundled(name: str) -> Path:
    return Path(theseus_core.bundled.__path__[0]) / name


def available(runs: Path) -> list[Tree]:
    """A `summary` of every model in the runs of a folder, and of those that came with the package.

    A damaged one has no parts and no defaults, and says under "damaged" what is wrong.
    """
    found = {str(path.parent.parent): path.parent for path in sorted(runs.glob("*/model/model.json"))}
    return [_summary_or_damage(name, folder) for name, folder in (found | {name: _bundled(name) for name in bundled()}).items()]


def _summary_or_damage(name: str, folder: Path) -> Tree:
    try:
        return summary(name, folder)
    except TheseusError as error:
        return {"name": name, "folder": str(folder), "parts": {}, "defaults": None, "bytes": 0, "damaged": error.message}


def summary(name: str, folder: Path) -> Tree:
    """What a user asks first about a model: its parts, what it makes by default, how large it is."""
    described = describe(folder)
    files = released_files(folder) if is_released(folder) else [path for path in folder.rglob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in files)
    return {"name": name, "folder": str(folder), "parts": described["parts"], "defaults": described.get("defaults"), "bytes": size}


def unfinished(folder: Path) -> str:
    """How far the training of a model has come, in words, where it is known not to have ended: "step 500 of 2000"; else ""."""
    made = describe(folder).get("made_by") or {}
    try:
        train = made["settings"]["train"]
        steps, of, minutes = int(made["steps"]), int(train["steps"]), float(train.get("minutes", 0))
    except (KeyError, TypeError, ValueError):  # of a model that says nothing about it
        return ""
    if minutes:  # then the clock alone knew which step is the last
        return ""
    return f"step {steps} of {of}" if steps < of else ""


def vocabulary(folder: Path) -> list[str] | None:
    """The words that a model was trained on, the commonest first; None where its text encoder reads any word."""
    if is_adapted(folder):
        return vocabulary(base_folder(folder))
    path = folder / "text_encoder/config.json"
    words = read_json(path)["config"].get("vocabulary") if path.is_file() and not is_released(folder) else None
    return list(words) if words is not None else None


def read_knows(folder: Path) -> Knows:
    """Groups of prompts that a model was trained on; none where it does not say.

    Raises:
        TheseusError: the file is damaged.
    """
    path = folder / KNOWS
    found = read_json(path) if path.is_file() else {}
    if not isinstance(found, dict) or not all(isinstance(group, list) for group in found.values()):
        raise TheseusError(f"damaged model folder: {path}", hint='it should read {"a group": ["a prompt", ...], ...}')
    if not all(isinstance(prompt, str) for group in found.values() for prompt in group):
        raise TheseusError(f"damaged model folder, not all prompts are words: {path}")
    return found


def card(folder: Path) -> Path | None:
    """What the makers of a model say about it, if they do."""
    return folder / CARD if (folder / CARD).is_file() else None


def _from_hub(name: str) -> Path:
    """The folder that a model was fetched to; a download that was broken off goes on where it stopped."""
    first = _fetched(name, ["model.json", INDEX])
    if is_released(first):
        check_index(first)  # before gigabytes are fetched for nothing
    elif not (first / "model.json").is_file():
        raise TheseusError(f"neither a model of Theseus nor a CogVideoX: {name}", hint=f"it has no model.json and no {INDEX}")
    inside = [f"{part}/*{ending}" for part in PARTS for ending in (".json", ".safetensors", ".txt", ".model")]
    return _fetched(name, ["model.json", INDEX, KNOWS, CARD, BASE, lora.FILE, *inside])


def _fetched(name: str, files: list[str]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=files))
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise TheseusError(f"no such model, neither as a folder here nor on the hub: {name}", hint=_short(error)) from error
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        hint = f"is there a network? a download goes on where it stopped, and the path of a copy will do as well: {_short(error)}"
        raise TheseusError(f"no such model here, and the hub could not be asked: {name}", hint=hint) from error


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def fingerprint(folder: Path) -> str:
    """A hash of everything that decides what a model makes: its weights and its configurations.

    Of a released model's large files, gigabytes that never change, samples stand for the whole.
    """
    released = is_released(folder)
    digest = hashlib.sha256()
    for path in released_files(folder) if released else sorted(folder.rglob("*")):
        if path.is_file() and path.name not in ("model.json", KNOWS, CARD):
            digest.update(path.relative_to(folder).as_posix().encode() + b"\0")
            digest.update(hashlib.sha256(sample_of(path)).digest() if released else _sha256(path))
    return digest.hexdigest()[:16]


def _sha256(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
