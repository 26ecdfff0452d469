"""`theseus generate`: words become a video, or many."""

from __future__ import annotations

import shlex
from itertools import compress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from theseus_cli import console
from theseus_cli.options import (
    CompileOption,
    DeviceOption,
    DType,
    DTypeOption,
    Offload,
    OffloadOption,
    Quantize,
    QuantizeOption,
    SeedOption,
    parse_size,
)
from theseus_core.errors import TheseusError

if TYPE_CHECKING:
    from theseus_core.config import Tree
    from theseus_core.pipeline import TextToVideo
    from theseus_core.recipe import Recipe


CODES = "Models that write codes"  # a panel of the help text


def generate(
    prompts: Annotated[
        list[str] | None, typer.Argument(metavar="PROMPT...", help="What the video should show.", show_default=False)
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="A .mp4, .gif, .webm or .avi file, or a name without ending: a folder of PNGs, or of several videos.",
            show_default="out.mp4, or out for several",
        ),
    ] = None,
    prompts_file: Annotated[Path | None, typer.Option("--prompts", help="A text file with a prompt on each line.")] = None,
    num_videos: Annotated[
        int, typer.Option("--num-videos", min=1, help="Videos of each prompt, with seeds SEED, SEED + 1, ...")
    ] = 1,
    model: Annotated[
        str | None,
        typer.Option(
            "--model", help="A run, a model folder, a bundled or a hub name.", show_default="runs/transformer, else bundled"
        ),
    ] = None,
    negative_prompt: Annotated[str, typer.Option("--negative-prompt", help="What to lead away from.", show_default=False)] = "",
    seed: SeedOption = 0,
    steps: Annotated[int | None, typer.Option("--steps", help="Steps from noise to video.", show_default="the model's")] = None,
    guidance: Annotated[
        float | None, typer.Option("--guidance", help="How strictly to follow the prompt; 1 is none.", show_default="the model's")
    ] = None,
    sampler: Annotated[
        str | None,
        typer.Option(
            "--sampler", "--decoder", help="The sampling algorithm; of codes: masked, causal.", show_default="the model's"
        ),
    ] = None,
    first_frames: Annotated[
        Path | None, typer.Option("--first-frames", help="A clip to continue, by a model that writes codes.", show_default=False)
    ] = None,
    temperature: Annotated[
        float | None, typer.Option("--temperature", help="How freely codes are drawn: 1 as learned, 0 not.", rich_help_panel=CODES)
    ] = None,
    top_k: Annotated[
        int | None, typer.Option("--top-k", help="Draw from so many likeliest codes; 0 from all.", rich_help_panel=CODES)
    ] = None,
    top_p: Annotated[
        float | None, typer.Option("--top-p", help="Draw from the codes that together are so likely.", rich_help_panel=CODES)
    ] = None,
    frames: Annotated[int | None, typer.Option("--frames", help="Number of frames.", show_default="the model's")] = None,
    size: Annotated[str | None, typer.Option("--size", help="128, or WIDTHxHEIGHT: 720x480.", show_default="the model's")] = None,
    fps: Annotated[float | None, typer.Option("--fps", help="Frames a second of the file.", show_default="the model's")] = None,
    device: DeviceOption = "auto",
    dtype: DTypeOption = DType.auto,
    quantize: QuantizeOption = Quantize.none,
    offload: OffloadOption = Offload.none,
    compile: CompileOption = False,
) -> None:
    """Make a video of each prompt, and beside it a JSON file from which `theseus replay` makes it again."""
    asked = [*(prompts or []), *(read_prompts(prompts_file) if prompts_file else [])]
    several = len(asked) * num_videos > 1 or prompts_file is not None
    target = choose_output(output, asked, several)
    refuse_undecodable(*asked, negative_prompt, str(target))
    height, width = parse_size(size) if size else (None, None)
    changes = {"frames": frames, "height": height, "width": width, "fps": fps, "steps": steps, "sampler": sampler}
    changes |= {"guidance_scale": guidance, "temperature": temperature, "top_k": top_k, "top_p": top_p}

    from theseus_core.config import validate
    from theseus_core.model_folder import default_model
    from theseus_core.pipeline import TextToVideo
    from theseus_core.recipe import Recipe, describe
    from theseus_core.render.video import check

    name = model or default_model()
    pipe = TextToVideo.load(name, device, dtype.value, quantize.value, offload.value, compile)
    common = describe(pipe, name, pipe.settings(**changes), quantize.value, offload.value, compile)
    if first_frames is not None:
        common |= continued(pipe, first_frames, common)
    recipes = [
        validate(Recipe, common | {"prompt": prompt, "negative_prompt": negative_prompt, "seed": seed + number})
        for prompt in asked
        for number in range(num_videos)
    ]
    check(Path("0000.mp4") if several else target, recipes[0].height, recipes[0].width, recipes[0].fps)
    introduce(pipe, recipes[0], asked)
    if several:
        make_all(pipe, recipes, target)
    else:
        make_one(pipe, recipes[0], target)
        console.say_next(f"theseus replay {shlex.quote(f'{target}.json')}")
    console.emit(target)


def choose_output(output: Path | None, prompts: list[str], several: bool) -> Path:
    """Where to write: a file for one video, a folder for several."""
    if not prompts:
        raise TheseusError("no prompt", hint='theseus generate "a waterfall" -o out.mp4, or --prompts FILE')
    output = output or Path("out" if several else "out.mp4")

    from theseus_core.data.sources.folders import ENDINGS
    from theseus_core.render.video import check_ending

    if not several:
        check_ending(output)
    elif output.suffix.lower() in ENDINGS:
        hint = f"-o {shlex.quote(str(output.with_suffix('')))}"
        raise TheseusError(f"several videos go into a folder, and this names a file: {output}", hint=hint)
    return output


def continued(pipe: TextToVideo, path: Path, settings: Tree) -> Tree:
    """What a recipe says of a clip to continue; says how much of it will be."""
    from theseus_core.recipe import content_hash
    from theseus_core.render.video import read

    refuse_undecodable(str(path))
    size = settings["height"], settings["width"]
    found = len(read(path, settings["frames"], size).frames)
    used = pipe.can_be_given(found, settings["frames"])
    console.say(f"continuing the first {used} frames of {path}, {settings['frames'] - used} are new")
    return {"first_frames": str(path), "first_frames_hash": content_hash(path)}


def refuse_undecodable(*words: str) -> None:
    """Refuse, before any work is done, what could not be written into the JSON beside a video: bytes that are not UTF-8."""
    from theseus_core.files import printable

    for text in words:
        if printable(text) != text:
            raise TheseusError(f"not UTF-8: {printable(text)}", hint="save the words, or name the file, as UTF-8")


def read_prompts(path: Path) -> list[str]:
    """A prompt of each line that is not empty."""
    from theseus_core.files import read_lines

    try:
        lines = read_lines(path, encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise TheseusError(f"cannot read the prompts: {path}", hint=str(error)) from error
    prompts = [line.strip() for line in lines if line.strip()]
    if not prompts:
        raise TheseusError(f"the file holds no prompts: {path}", hint="one on each line")
    return prompts


def introduce(pipe: TextToVideo, recipe: Recipe, prompts: list[str]) -> None:
    """Say what works with what, and which words it cannot know."""
    from theseus_core.model_folder import find_model, unfinished

    shape = f"{recipe.frames} frames of {recipe.width}x{recipe.height} at {recipe.fps:g} fps"
    steps = "" if recipe.sampler in pipe.generator.stepless else f"{recipe.steps} steps of "
    how = f"{steps}{recipe.sampler}, guidance {recipe.guidance_scale:g}"
    console.say(f"model: {recipe.model} on {recipe.device} in {recipe.dtype}: {shape}, {how}")
    if so_far := unfinished(find_model(recipe.model)):
        console.say(f"its training has not ended, this is how it is after {so_far}")
    if pipe.quantized:
        before, after = (
            sum(sizes) / 2**20 for sizes in zip(*[(q.bytes_before, q.bytes_after) for q in pipe.quantized], strict=True)
        )
        console.say(f"{recipe.quantize}: {before:.1f} MiB of weights became {after:.1f}")
    for prompt in dict.fromkeys(prompts):
        admit_unknown_words(pipe, prompt)
        tokens, most = pipe.text_encoder.count_tokens(prompt), pipe.text_encoder.max_tokens
        if tokens > most:
            console.warn(f"the model reads {most} tokens, what follows has no effect: {tokens} tokens (in: {prompt})")


def admit_unknown_words(pipe: TextToVideo, prompt: str) -> None:
    """Say which words of a prompt the model has never seen, and what it knows that is nearest; function words are not worth it."""
    from theseus_core.words import FUNCTION_WORDS, nearest, words

    found = [word for word in dict.fromkeys(words(prompt)) if word not in FUNCTION_WORDS]
    unseen = pipe.text_encoder.unknown_words(prompt)
    unknown = [word for word in found if word in unseen]
    if not unknown:
        return
    if unknown == found:
        console.warn(f"the model has never seen any of these words, the video will show something arbitrary: {prompt}")
    else:
        console.warn(f"words that the model has never seen have no effect: {', '.join(unknown)} (in: {prompt})")
    known = [text for group in pipe.knows.values() for text in group]
    if known:
        console.say(f"nearest that it knows: {'; '.join(nearest(prompt, known))}")


def make_one(pipe: TextToVideo, recipe: Recipe, output: Path, label: str = "generating") -> None:
    """Make one video and its sidecar."""
    from theseus_core.recipe import is_uniform, make, write_sidecar
    from theseus_core.render.video import timing_note, write

    with console.progress(label) as advance:
        clip = make(pipe, recipe, progress=advance)
    if is_uniform(clip.frames):
        console.warn(f"every frame is nearly one colour; the model is trained too little, or has diverged: {output}")
    if note := timing_note(output, recipe.fps):
        console.say(note)
    write_sidecar(write(clip, output), recipe)


def make_all(pipe: TextToVideo, recipes: list[Recipe], folder: Path) -> None:
    """Make what is missing of `0000.mp4, 0001.mp4, ...`, and keep `index.jsonl` in step."""
    from theseus_core.recipe import append_to_index, is_made, write_index

    videos = [folder / f"{number:04d}.mp4" for number in range(len(recipes))]
    there = [is_made(video, recipe) for video, recipe in zip(videos, recipes, strict=True)]
    write_index(folder, list(compress(videos, there)), list(compress(recipes, there)))
    for number, (video, recipe) in enumerate(zip(videos, recipes, strict=True)):
        if not there[number]:
            make_one(pipe, recipe, video, label=f"{number + 1} of {len(recipes)}")
            append_to_index(folder, video, recipe)
    write_index(folder, videos, recipes)  # in order, where what was missing lay between
    console.say(f"{there.count(False)} made, {there.count(True)} were there already")
