"""A recipe: everything that a generated video was made from, kept beside it, and enough to make it again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from theseus_core.config import Config, Tree, dump, validate
from theseus_core.contracts import Progress
from theseus_core.data.clip import Clip
from theseus_core.device import dtype_name
from theseus_core.errors import TheseusError
from theseus_core.files import read_json, read_lines, replacing, write_json
from theseus_core.model_folder import CodeSettings, Settings, find_model, fingerprint
from theseus_core.pipeline import TextToVideo
from theseus_core.render.video import read, sidecar_path
from theseus_core.versions import versions


class Recipe(CodeSettings):
    """What decides a video."""

    prompt: str
    negative_prompt: str = ""
    seed: int = Field(ge=0, lt=2**63, description="at most 2^63 - 1")
    frames: int
    height: int
    width: int
    fps: float
    steps: int
    guidance_scale: float
    sampler: str
    first_frames: str = Field("", description="the file of a clip that it begins with")
    first_frames_hash: str = Field("", description="`content_hash` of that file")
    model: str = Field(description="as it was named: a run, a folder, a bundled or a hub name")
    model_hash: str = Field(description="`model_folder.fingerprint` of its weights and configurations")
    device: str
    dtype: str
    quantize: str = "none"
    offload: str = "none"
    compile: bool = False


class Sidecar(Config):
    """The file beside a video: the recipe, what it gave, and with which versions."""

    file: str
    sha256: str = Field(description="of the video file, or of all PNGs one after the other")
    recipe: Recipe
    versions: dict[str, str]


def describe(pipe: TextToVideo, model: str, settings: Settings, quantize: str, offload: str, compile: bool) -> Tree:
    """The part of a recipe that the prompts and seeds of one start share."""
    return settings.model_dump() | {
        "model": model,
        "model_hash": fingerprint(find_model(model)),
        "device": str(pipe.device),
        "dtype": dtype_name(pipe.dtype),
        "quantize": quantize,
        "offload": offload,
        "compile": compile,
    }


def load(recipe: Recipe) -> TextToVideo:
    """The pipeline that a recipe was made with.

    Raises:
        TheseusError: the model is not the one of the recipe, or the machine cannot do what the recipe did.
    """
    found = fingerprint(find_model(recipe.model))
    if found != recipe.model_hash:
        hint = "it was trained on, or is another; name the right one with --model"
        raise TheseusError(f"the model has changed since (hash {recipe.model_hash} then, {found} now): {recipe.model}", hint=hint)
    return TextToVideo.load(recipe.model, recipe.device, recipe.dtype, recipe.quantize, recipe.offload, recipe.compile)


def first_frames(pipe: TextToVideo, recipe: Recipe) -> NDArray[np.uint8] | None:
    """Those (T', H, W, 3) that the clip of a recipe begins with: as many as fit of the file that it names; None without one.

    Raises:
        TheseusError: the file is no video or is another than then, or the model continues no clips.
    """
    if not recipe.first_frames:
        return None
    path = Path(recipe.first_frames)
    frames = read(path, recipe.frames, (recipe.height, recipe.width)).frames
    if content_hash(path) != recipe.first_frames_hash:
        raise TheseusError(f"the clip to continue has changed since: {path}", hint=f"its hash was {recipe.first_frames_hash}")
    return frames[: pipe.can_be_given(len(frames), recipe.frames)]


def make(pipe: TextToVideo, recipe: Recipe, progress: Progress | None = None) -> Clip:
    """The clip that a recipe describes, by a pipeline loaded as the recipe says."""
    return pipe.generate(
        recipe.prompt,
        seed=recipe.seed,
        frames=recipe.frames,
        height=recipe.height,
        width=recipe.width,
        fps=recipe.fps,
        steps=recipe.steps,
        guidance_scale=recipe.guidance_scale,
        sampler=recipe.sampler,
        negative_prompt=recipe.negative_prompt,
        progress=progress,
        first_frames=first_frames(pipe, recipe),
        temperature=recipe.temperature,
        top_k=recipe.top_k,
        top_p=recipe.top_p,
    )


def write_sidecar(video: Path, recipe: Recipe) -> Path:
    """Write the recipe beside a video that was made from it."""
    sidecar = Sidecar(file=video.name, sha256=content_hash(video), recipe=recipe, versions=versions())
    return write_json(sidecar_path(video), dump(sidecar))


def read_sidecar(path: Path) -> Sidecar:
    """Read what `write_sidecar` wrote.

    Raises:
        TheseusError: there is no such file, or it is something else.
    """
    tree: Tree = read_json(path)
    if not isinstance(tree, dict) or "recipe" not in tree:
        raise TheseusError(
            f"not the sidecar of a generated video: {path}", hint="theseus generate writes one beside each: out.mp4.json"
        )
    return validate(Sidecar, tree)


def is_made(video: Path, recipe: Recipe) -> bool:
    """Whether the video is there already, whole, and made from this very recipe.

    Raises:
        TheseusError: what is there was made from another recipe, and is not to be overwritten.
    """
    path = sidecar_path(video)
    if not video.exists() or not path.exists():
        return False
    sidecar = read_sidecar(path)
    if sidecar.recipe != recipe:
        raise TheseusError(f"made from another recipe, and not overwritten: {video}", hint="choose another folder with -o")
    return sidecar.sha256 == content_hash(video)


def write_index(folder: Path, videos: Sequence[Path], recipes: Sequence[Recipe]) -> Path:
    """Write `index.jsonl`: file, prompt and seed of each video, a line each."""
    with replacing(folder / "index.jsonl") as part:
        part.write_text("".join(_row(*made) for made in zip(videos, recipes, strict=True)), encoding="utf-8")
    return folder / "index.jsonl"


def append_to_index(folder: Path, video: Path, recipe: Recipe) -> None:
    """Add a video to `index.jsonl`.

    Raises:
        TheseusError: the disk is full.
    """
    path = folder / "index.jsonl"
    try:
        with path.open("a", encoding="utf-8") as index:
            index.write(_row(video, recipe))
    except OSError as error:
        raise TheseusError(f"cannot write: {path}", hint=error.strerror) from error


def _row(video: Path, recipe: Recipe) -> str:
    return json.dumps({"file": video.name, "prompt": recipe.prompt, "seed": recipe.seed}, ensure_ascii=False) + "\n"


def read_index(folder: Path) -> list[tuple[Path, str]]:
    """The videos of a folder that `write_index` lists, each with its prompt.

    Raises:
        TheseusError: the index is damaged.
    """
    path = folder / "index.jsonl"
    try:
        rows = [json.loads(line) for line in read_lines(path)]
        return [(folder / row["file"], row["prompt"]) for row in rows]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TheseusError(f"not an index of generated videos: {path}", hint=str(error)) from error


def content_hash(video: Path) -> str:
    """sha256 of a file, or of the files of a folder in the order of their names."""
    digest = hashlib.sha256()
    for path in sorted(video.iterdir()) if video.is_dir() else [video]:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def is_uniform(frames: NDArray[np.uint8], least: float = 2.0) -> bool:
    """Whether every frame is nearly one colour: its values spread by less than `least` of 255."""
    return bool(frames.reshape(len(frames), -1, 3).std(axis=1).max() < least)
