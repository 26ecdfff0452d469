"""A recipe: everything that a generated video was made from, kept beside it, and enough to make it again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from theseus_core.beginnings import STRENGTH, can_be_given, check_given, long_enough
from theseus_core.config import Config, Tree, dump, validate
from theseus_core.contracts import Progress
from theseus_core.data.clip import Clip
from theseus_core.device import dtype_name
from theseus_core.errors import TheseusError
from theseus_core.files import read_json, read_lines, replacing, write_json
from theseus_core.losses import psnr
from theseus_core.model_folder import CodeSettings, Settings, find_model, fingerprint
from theseus_core.pipeline import TextToVideo, to_video
from theseus_core.pretrained.lora import parse_lora
from theseus_core.render.video import read, read_image, sidecar_path, written
from theseus_core.versions import versions

LONGEST = 1000  # frames of a clip that is continued, unless a number is asked for


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
    seconds: float | None = Field(None, description="how long the video is; frames beyond are cut off")
    dynamic_guidance: bool = False
    cache: float = 0.0
    image: str | None = Field(None, description="the file that the first frame was read from")
    video: str | None = Field(None, description="the file that it began from")
    first_frames: str | None = Field(None, description="the file of a clip that it continues")
    given_hash: str | None = Field(None, description="`content_hash` of that file")
    strength: float | None = Field(None, description="the share of the steps that changed the video")
    model: str = Field(description="as it was named: a run, a folder, a bundled or a hub name")
    model_hash: str = Field(description="`model_folder.fingerprint` of its weights and configurations")
    lora: tuple[str, ...] = Field((), description="files of low-rank differences, each with its scale: FILE:0.8")
    lora_hashes: tuple[str, ...] = Field((), description="`content_hash` of each of them")
    device: str
    dtype: str
    quantize: str = "none"
    offload: str = "none"
    compile: bool = False
    tiling: bool = False


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
        "lora": tuple(str(each) for each, _ in pipe.loras),
        "lora_hashes": tuple(content_hash(each.path) for each, _ in pipe.loras),
        "device": str(pipe.device),
        "dtype": dtype_name(pipe.dtype),
        "quantize": quantize,
        "offload": offload,
        "compile": compile,
        "tiling": pipe.tiling,
    }


def describe_given(
    pipe: TextToVideo, image: Path | None, video: Path | None, first_frames: Path | None, strength: float | None
) -> Tree:
    """The part of a recipe about an image, a video to begin from, or a clip to continue; no model takes two of them.

    Raises:
        TheseusError: the model takes none, or needs one, or there is no such file.
    """
    check_given(pipe.generator, image is not None, video is not None, first_frames is not None, strength)
    given = image or video or first_frames
    if given is None:
        return {}
    if not given.is_file():
        raise TheseusError(f"no such file: {given}")
    strength = STRENGTH if video is not None and strength is None else strength
    files = {"image": image, "video": video, "first_frames": first_frames}
    named = {name: str(path) if path else None for name, path in files.items()}
    return named | {"given_hash": content_hash(given), "strength": strength}


def fit_to_video(pipe: TextToVideo, settings: Settings, video: Path, frames: int | None) -> Settings:
    """The settings, with as many frames as a video has at their rate, if that is fewer.

    Args:
        frames: the number that was asked for; None for any.

    Raises:
        TheseusError: it cannot be read, or has fewer than were asked for.
    """
    there = len(read(video, settings.frames, (settings.height, settings.width), settings.fps).frames)
    most = there - (there - 1) % pipe.tokenizer.time_factor
    if frames is not None and there < frames:
        raise TheseusError(f"the video has {there} frames at {settings.fps:g} a second, not: {frames}", hint=f"--frames {most}")
    return settings.model_copy(update={"frames": min(settings.frames, most)})


def fit_to_first_frames(pipe: TextToVideo, settings: Settings, clip: Path, frames: int | None) -> tuple[Settings, int]:
    """The settings, with as many frames as leave room to go on from a clip at their rate, unless a number was asked for; and how
    many of the frames are the clip's.

    Raises:
        TheseusError: it cannot be read, is very long, or so few frames were asked for that nothing would be new.
    """
    most = settings.frames if frames is not None else LONGEST + 1
    there = len(read(clip, most, (settings.height, settings.width), settings.fps).frames)
    if frames is None and there > LONGEST:
        hint = "--frames N takes of its first as many as leave something to be made"
        raise TheseusError(f"only a clip of up to {LONGEST} frames is continued as a whole, not: {clip}", hint=hint)
    enough = settings.frames if frames is not None else long_enough(pipe.tokenizer, there, settings.frames)
    return settings.model_copy(update={"frames": enough}), can_be_given(pipe.tokenizer, there, enough)


def load(recipe: Recipe) -> TextToVideo:
    """The pipeline that a recipe was made with.

    Raises:
        TheseusError: the model or a LoRA is not the one of the recipe, or the machine cannot do what the recipe did.
    """
    found = fingerprint(find_model(recipe.model))
    if found != recipe.model_hash:
        hint = "it was trained on, or is another; name the right one with --model"
        raise TheseusError(f"the model has changed since (hash {recipe.model_hash} then, {found} now): {recipe.model}", hint=hint)
    for lora, then in zip(recipe.lora, recipe.lora_hashes, strict=True):
        if content_hash(parse_lora(lora).path) != then:
            raise TheseusError(f"the LoRA is not the one that it was made with: {lora}", hint="it was trained on, or is another")
    return TextToVideo.load(
        recipe.model, recipe.device, recipe.dtype, recipe.quantize, recipe.offload, recipe.compile, recipe.tiling, recipe.lora
    )


def make(pipe: TextToVideo, recipe: Recipe, progress: Progress | None = None) -> Clip:
    """The clip that a recipe describes, by a pipeline loaded as the recipe says.

    Raises:
        TheseusError: the file that it begins from is gone, or is another than it was.
    """
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
        image=_first_frame(recipe),
        video=_beginning(recipe),
        strength=recipe.strength,
        first_frames=_continued(pipe, recipe),
        dynamic_guidance=recipe.dynamic_guidance,
        cache=recipe.cache,
        temperature=recipe.temperature,
        top_k=recipe.top_k,
        top_p=recipe.top_p,
        seconds=recipe.seconds,
        progress=progress,
    )


def _first_frame(recipe: Recipe) -> Tensor | None:
    """(1, C, H, W)."""
    if recipe.image is None:
        return None
    frame = read_image(_unchanged(recipe.image, recipe), (recipe.height, recipe.width))
    return to_video(frame[None]).transpose(0, 1)


def _beginning(recipe: Recipe) -> Tensor | None:
    """(1, C, T, H, W)."""
    if recipe.video is None:
        return None
    clip = read(_unchanged(recipe.video, recipe), recipe.frames, (recipe.height, recipe.width), recipe.fps)
    return to_video(clip.frames).unsqueeze(0)


def _continued(pipe: TextToVideo, recipe: Recipe) -> Tensor | None:
    """(1, C, T', H, W): as many of the first frames as can be given."""
    if recipe.first_frames is None:
        return None
    frames = read(_unchanged(recipe.first_frames, recipe), recipe.frames, (recipe.height, recipe.width), recipe.fps).frames
    return to_video(frames[: can_be_given(pipe.tokenizer, len(frames), recipe.frames)]).unsqueeze(0)


def _unchanged(name: str, recipe: Recipe) -> Path:
    path = Path(name)
    if not path.is_file():
        raise TheseusError(f"no such file: {path}", hint="the video was made from it")
    if content_hash(path) != recipe.given_hash:
        raise TheseusError(f"the file has changed since the video was made from it: {path}")
    return path


def cost_of_cache(pipe: TextToVideo, recipe: Recipe, clip: Clip, progress: Progress | None = None) -> float:
    """How far a clip is from the same without a cache: PSNR in dB."""
    exact = make(pipe, recipe.model_copy(update={"cache": 0.0}), progress)
    return float(psnr(*(to_video(each.frames)[None] for each in (clip, exact))))


def write_made(clip: Clip, video: Path, recipe: Recipe) -> Path:
    """Write a video that was made from a recipe, and the recipe beside it.

    The recipe comes first: a video without one is never ours, whenever the program was stopped.

    Returns:
        the path of the sidecar.
    """
    with written(clip, video) as part:
        sidecar = Sidecar(file=video.name, sha256=content_hash(part), recipe=recipe, versions=versions())
        return write_json(sidecar_path(video), dump(sidecar))


def read_sidecar(path: Path) -> Sidecar:
    """Read what `write_made` wrote beside a video.

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
        TheseusError: what is there was made from another recipe, or by something else, and is not to be overwritten.
    """
    path = sidecar_path(video)
    if not video.exists():
        return False
    if not path.exists():
        raise TheseusError(f"not made by theseus generate, and not overwritten: {video}", hint="choose another folder with -o")
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
