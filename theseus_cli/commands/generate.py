"""`theseus generate`: words become a video, or many."""

from __future__ import annotations

import shlex
from itertools import compress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from theseus_cli import console
from theseus_cli.options import (
    MACHINE,
    CompileOption,
    DeviceOption,
    DType,
    DTypeOption,
    Offload,
    OffloadOption,
    Quantize,
    QuantizeOption,
    SeedOption,
    TilingOption,
    parse_size,
)
from theseus_cli.prediction import predict
from theseus_core.errors import TheseusError

if TYPE_CHECKING:
    from theseus_core.pipeline import TextToVideo
    from theseus_core.recipe import Recipe

READ_AHEAD = 64  # prompts encoded at once, before the text encoder is let go
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
    lora: Annotated[
        list[str] | None,
        typer.Option(
            "--lora", metavar="FILE:SCALE", help="Differences to the model, as a LoRA file; may be given again.", show_default=False
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
    frames: Annotated[
        int | None, typer.Option("--frames", help="Number of frames.", show_default="the model's; with a clip to continue, more")
    ] = None,
    size: Annotated[str | None, typer.Option("--size", help="128, or WIDTHxHEIGHT: 720x480.", show_default="the model's")] = None,
    fps: Annotated[float | None, typer.Option("--fps", help="Frames a second of the file.", show_default="the model's")] = None,
    seconds: Annotated[
        float | None, typer.Option("--seconds", help="Instead of --frames: how long the video is.", show_default=False)
    ] = None,
    image: Annotated[Path | None, typer.Option("--image", help="The first frame, for a model that continues one.")] = None,
    video: Annotated[Path | None, typer.Option("--video", help="A video to begin from, in place of noise alone.")] = None,
    strength: Annotated[
        float | None, typer.Option("--strength", help="How much of that video changes, above 0, up to 1.", show_default="0.8")
    ] = None,
    cache: Annotated[
        float | None,
        typer.Option(
            "--cache", help="Leave steps out where that costs no more than this error; 0.02 halves the time.", show_default="none"
        ),
    ] = None,
    cache_check: Annotated[
        bool, typer.Option("--cache-check", help="Make each video without --cache too, and say how far off it is.")
    ] = False,
    dynamic_guidance: Annotated[
        bool, typer.Option("--dynamic-guidance", help="Guidance grows with the steps, as the 5b was shown.", show_default=False)
    ] = False,
    device: DeviceOption = "auto",
    dtype: DTypeOption = DType.auto,
    quantize: QuantizeOption = Quantize.none,
    offload: OffloadOption = Offload.none,
    compile: CompileOption = False,
    tiling: TilingOption = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Predict memory, time and disk; nothing is made.", rich_help_panel=MACHINE)
    ] = False,
) -> None:
    """Make a video of each prompt, and beside it a JSON file from which `theseus replay` makes it again."""
    asked = [*(prompts or []), *(read_prompts(prompts_file) if prompts_file else [])]
    several = len(asked) * num_videos > 1 or prompts_file is not None
    target = choose_output(output, asked, several)
    files = [str(path) for path in (target, image, video, first_frames) if path]
    if frames is not None and seconds is not None:
        raise TheseusError(f"the frames are given too, and both say how long it is: --seconds {seconds:g}", hint="give one of them")
    refuse_to_overwrite(target, len(asked) * num_videos if several else 0, [path for path in (image, video, first_frames) if path])
    refuse_undecodable(*asked, negative_prompt, *files, *(lora or []))
    height, width = parse_size(size) if size else (None, None)
    changes = {"frames": frames, "height": height, "width": width, "fps": fps, "steps": steps, "sampler": sampler}
    changes |= {"guidance_scale": guidance, "dynamic_guidance": dynamic_guidance or None, "cache": cache}
    changes |= {"temperature": temperature, "top_k": top_k, "top_p": top_p}

    from theseus_core.config import validate
    from theseus_core.estimate import plan_for
    from theseus_core.model_folder import default_model
    from theseus_core.pipeline import TextToVideo
    from theseus_core.recipe import Recipe, describe, describe_given, fit_to_first_frames, fit_to_video
    from theseus_core.render.video import check

    name = model or default_model(asked)
    if dry_run:
        plan = plan_for(device, dtype.value, quantize.value, offload.value, compile, tiling)
        unseen: dict[str, object] = {"--lora": lora, "--image": image, "--video": video, "--first-frames": first_frames}
        unseen |= {"--cache": cache, "--seconds": seconds}
        predict(name, changes, plan, len(asked) * num_videos, [flag for flag, value in unseen.items() if value])
        return
    pipe = TextToVideo.load(name, device, dtype.value, quantize.value, offload.value, compile, tiling, lora or ())
    if seconds is not None:
        frames = changes["frames"] = pipe.frames_of(seconds, fps)[1]
    settings = pipe.settings(**changes)
    given = describe_given(pipe, image, video, first_frames, strength)
    if video:
        settings = fit_to_video(pipe, settings, video, frames)
    if first_frames:
        settings, used = fit_to_first_frames(pipe, settings, first_frames, frames)
        length = settings.frames if seconds is None else pipe.frames_of(seconds, fps)[0]
        console.say(f"continuing the first {used} frames of {first_frames}, {length - used} are new")
    if cache_check and not settings.cache:
        raise TheseusError("without a cache there is nothing to check: --cache-check", hint="--cache 0.02")
    common = given | {"seconds": seconds} | describe(pipe, name, settings, quantize.value, offload.value, compile)
    recipes = [
        validate(Recipe, common | {"prompt": prompt, "negative_prompt": negative_prompt, "seed": seed + number})
        for prompt in asked
        for number in range(num_videos)
    ]
    check(Path("0000.mp4") if several else target, recipes[0].height, recipes[0].width, recipes[0].fps)
    introduce(pipe, recipes[0], asked)
    if several:
        make_all(pipe, recipes, target, cache_check)
    else:
        make_one(pipe, recipes[0], target, check=cache_check)
        console.say_next(f"theseus replay {shlex.quote(f'{target}.json')}")
    console.emit(target)


def refuse_to_overwrite(target: Path, several: int, given: list[Path]) -> None:
    """Refuse to write over what a video is to begin from.

    Args:
        several: how many videos are written into the folder `target`; 0 where it is the one video.
    """
    for path in given:
        here = path.resolve()
        inside = here.parent == target.resolve() and path.stem.isdecimal() and int(path.stem) < several
        frames = not several and not target.suffix and target.resolve() in here.parents  # PNGs, replaced as a whole
        if inside or frames or here == target.resolve():
            raise TheseusError(f"this would overwrite what the video begins from: {path}", hint="choose another name with -o")


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
    from theseus_core.beginnings import windows
    from theseus_core.model_folder import find_model, unfinished
    from theseus_core.quantize import what_it_gains

    kept = recipe.frames if recipe.seconds is None else pipe.frames_of(recipe.seconds, recipe.fps)[0]
    shape = f"{kept} frames of {recipe.width}x{recipe.height} at {recipe.fps:g} fps"
    steps = "" if recipe.sampler in pipe.generator.stepless else f"{recipe.steps} steps of "
    how = f"{steps}{recipe.sampler}, guidance {recipe.guidance_scale:g}"
    at_once = pipe.defaults.frames
    parts = f", in windows of {at_once}" if len(windows(pipe.tokenizer, pipe.generator, recipe.frames, at_once)) > 1 else ""
    console.say(f"model: {recipe.model} on {recipe.device} in {recipe.dtype}: {shape}{parts}, {how}")
    if kept < recipe.frames:
        console.say(f"it makes {recipe.frames} frames, of which the last {recipe.frames - kept} are cut off")
    if recipe.image:
        console.say(f"the first frame: the middle of {recipe.image} at {recipe.width}x{recipe.height}")
    if recipe.video:
        console.say(f"it begins from {recipe.video}, of which {recipe.strength:.0%} of the steps change something")
    if so_far := unfinished(find_model(recipe.model)):
        console.say(f"its training has not ended, this is how it is after {so_far}")
    if pipe.quantized:
        before, after = (
            sum(sizes) / 2**20 for sizes in zip(*[(q.bytes_before, q.bytes_after) for q in pipe.quantized], strict=True)
        )
        gain = what_it_gains(recipe.quantize, pipe.device)
        console.say(f"{recipe.quantize}: {before:.1f} MiB of weights became {after:.1f}; {gain}")
    for each, keys in pipe.loras:
        where = "added to the weights" if recipe.quantize == "none" else "beside the quantized weights"
        console.say(f"LoRA {each.path}: {keys} of {keys} keys matched, {where} at {each.scale:g} of its strength")
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


def make_one(pipe: TextToVideo, recipe: Recipe, output: Path, label: str = "generating", check: bool = False) -> None:
    """Make one video and its sidecar.

    Args:
        check: make it without a cache too, and say how far off it is.
    """
    from theseus_core.recipe import cost_of_cache, is_uniform, make, write_made
    from theseus_core.render.video import timing_note

    with console.progress(label) as advance:
        clip = make(pipe, recipe, progress=advance)
    if pipe.cached is not None:
        console.say(pipe.cached.report())
    if check:
        with console.progress("without a cache") as advance:
            console.say(f"against the same without a cache: {cost_of_cache(pipe, recipe, clip, advance):.1f} dB PSNR")
    if is_uniform(clip.frames):
        console.warn(f"every frame is nearly one colour; {why_uniform(recipe)}: {output}")
    if note := timing_note(output, recipe.fps):
        console.say(note)
    write_made(clip, output, recipe)


def why_uniform(recipe: Recipe) -> str:
    """What is likely to be wrong where nothing is to be seen."""
    if recipe.dtype == "fp16":
        return "its numbers may be too large for fp16 (--dtype bf16), or the model is trained too little"
    if recipe.quantize != "none":
        return f"{recipe.quantize} may be too coarse for it (leave --quantize out), or the model is trained too little"
    return "the model is trained too little, or has diverged"


def make_all(pipe: TextToVideo, recipes: list[Recipe], folder: Path, check: bool = False) -> None:
    """Make what is missing of `0000.mp4, 0001.mp4, ...`, and keep `index.jsonl` in step."""
    from theseus_core.recipe import append_to_index, is_made, write_index

    videos = [folder / f"{number:04d}.mp4" for number in range(len(recipes))]
    there = [is_made(video, recipe) for video, recipe in zip(videos, recipes, strict=True)]
    missing = [number for number, made in enumerate(there) if not made]
    write_index(folder, list(compress(videos, there)), list(compress(recipes, there)))
    for place, number in enumerate(missing):
        video, recipe = videos[number], recipes[number]
        if place % READ_AHEAD == 0:
            pipe.remember([recipe.negative_prompt, *(recipes[next_].prompt for next_ in missing[place : place + READ_AHEAD])])
        make_one(pipe, recipe, video, label=f"{number + 1} of {len(recipes)}", check=check)
        append_to_index(folder, video, recipe)
    write_index(folder, videos, recipes)  # in order, where what was missing lay between
    console.say(f"{there.count(False)} made, {there.count(True)} were there already")
