"""The two trainings on a small dataset: from clips to words that make a video; killed and resumed; refused."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from theseus_core.config import assignments
from theseus_core.contracts import Text, TextEncoder
from theseus_core.data.clip import Clip
from theseus_core.data.encode import CaptionCache, LatentCache, LatentSource
from theseus_core.data.loader import Draw, VideoSource, common_size, split, window, window_starts
from theseus_core.data.shards import Dataset
from theseus_core.data.writer import write_dataset
from theseus_core.errors import TheseusError
from theseus_core.model_folder import unfinished
from theseus_core.pipeline import TextToVideo
from theseus_core.registry import build
from theseus_core.train.generator import train_generator
from theseus_core.train.runs import Report, configure_run
from theseus_core.train.tokenizer import train_tokenizer

CPU = torch.device("cpu")
COLOURS = {"red": (220, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 220), "white": (240, 240, 240)}


def moving_square(colour: str, frames: int) -> Clip:
    pixels = np.full((frames, 32, 32, 3), 40, np.uint8)
    for t in range(frames):
        pixels[t, 8:20, t : t + 12] = COLOURS[colour]
    return Clip(pixels, 8.0, f"a {colour} square moving right")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    clips = [moving_square(colour, frames) for colour in COLOURS for frames in (4, 7, 11)]
    return write_dataset(tmp_path_factory.mktemp("data") / "dataset", clips, {"size": [32, 32]})


@pytest.fixture(scope="module")
def trained(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both trainings, from the presets for debugging."""
    runs = tmp_path_factory.mktemp("runs")
    train_tokenizer(configure_run("vae", "debug"), dataset.path, runs / "vae")
    train_generator(configure_run("transformer", "debug"), dataset.path, runs / "vae", runs / "transformer")
    return runs


# --- the loader ---


def test_every_clip_comes_once_an_epoch_whatever_the_ranks_and_micro_steps() -> None:
    draw = Draw(tuple(range(10, 22)), batch_size=4, accumulate=2, seed=3)
    epoch = [clip for step in range(3) for micro in range(2) for clip, _ in draw.places(step, micro, 0, 1)]
    assert sorted(epoch) == list(range(10, 22)) and epoch != list(range(10, 22))
    shared = [clip for step in range(3) for micro in range(2) for rank in range(2) for clip, _ in draw.places(step, micro, rank, 2)]
    assert shared == epoch
    following = [clip for step in range(3, 6) for micro in range(2) for clip, _ in draw.places(step, micro, 0, 1)]
    assert sorted(following) == sorted(epoch) and following != epoch
    other = Draw(draw.clips, 4, 2, seed=4)
    assert [clip for clip, _ in other.places(0, 0, 0, 1)] != epoch[:2] or [clip for clip, _ in other.places(0, 1, 0, 1)] != epoch[
        2:4
    ]


def test_a_batch_is_a_function_of_seed_and_step(dataset: Dataset) -> None:
    def source(seed: int) -> VideoSource:
        return VideoSource(dataset, Draw(tuple(range(12)), 4, 1, seed), frames=5, max_stride=2)

    first, again, other = source(0).batch(7, 0, 0, 1).video, source(0).batch(7, 0, 0, 1).video, source(1).batch(7, 0, 0, 1).video
    assert first is not None and again is not None and other is not None
    assert first.shape == (4, 3, 5, 32, 32) and first.abs().max() <= 1
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert source(0).fingerprint == source(0).fingerprint != source(1).fingerprint


def test_windows_hold_the_last_frame_of_short_clips_and_spread_over_long_ones() -> None:
    frames = np.arange(3, dtype=np.uint8)[:, None, None, None] * np.ones((3, 2, 2, 3), np.uint8)
    values = ((window(frames, 5)[0, :, 0, 0] + 1) * 127.5).round().tolist()
    assert values == [0, 1, 2, 2, 2]
    assert window_starts(40, 17, 4) == [0, 8, 15, 23]
    assert window_starts(17, 17, 4) == window_starts(9, 17, 4) == [0]
    assert window_starts(40, 17, 1) == [0]


def test_a_source_is_on_one_side_only_and_stays_there(dataset: Dataset) -> None:
    trained, held = split(dataset, 0.4)
    assert held and sorted(trained + held) == list(range(12))
    bigger_trained, bigger_held = split(dataset, 0.7)
    assert set(held) <= set(bigger_held) and set(bigger_trained) <= set(trained)
    assert split(dataset, 0.9999) == (list(range(12)), [])  # there must be something to train on
    assert common_size(dataset) == (32, 32)


# --- the caches ---


def test_latents_come_from_the_cache_and_another_tokenizer_has_another(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    tokenizer = build("tokenizers", "causal_vae", "debug")
    cache = LatentCache(dataset, tokenizer, 5, 2, CPU, torch.float32)
    clip = 2  # 11 frames: windows at 0 and 6
    expected = tokenizer.encode(torch.stack([window(dataset.read(clip).frames, 5, start) for start in (0, 6)]))
    torch.testing.assert_close(torch.stack([cache.read(clip, 0.0), cache.read(clip, 0.99)]), expected, atol=2e-3, rtol=2e-3)
    assert cache.read(0, 0.99).shape == expected[0].shape  # 4 frames: one window

    monkeypatch.setattr(tokenizer, "encode", lambda *_: pytest.fail("encoded again"))
    assert LatentCache(dataset, tokenizer, 5, 2, CPU, torch.float32).folder == cache.folder
    monkeypatch.undo()
    half = LatentCache(dataset, tokenizer, 5, 2, CPU, torch.bfloat16)
    assert half.folder != cache.folder
    assert half.fingerprint == cache.fingerprint, "a training may go on where another precision is fast"
    with torch.no_grad():
        next(tokenizer.parameters()).add_(1e-3)
    assert LatentCache(dataset, tokenizer, 5, 2, CPU, torch.float32).folder != cache.folder


def test_a_damaged_cache_is_named(dataset: Dataset) -> None:
    torch.manual_seed(5)
    cache = LatentCache(dataset, build("tokenizers", "causal_vae", "debug"), 5, 1, CPU, torch.float32)
    path = cache.folder / "00000.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(TheseusError, match="damaged cache"):
        cache.read(0, 0.0)


def test_frozen_text_is_embedded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    encoder = build("text", "builtin", "debug", {"vocabulary": ["a", "red", "blue", "square"]})
    captions = ["a red square", "", "a blue square"]
    cache = CaptionCache(tmp_path, captions, encoder, CPU, torch.float32)
    text, direct = cache.read(["", "a red square"]), encoder.encode(["", "a red square"])
    monkeypatch.setattr(encoder, "encode", lambda *_: pytest.fail("embedded again"))
    assert CaptionCache(tmp_path, captions, encoder, CPU, torch.float32).folder == cache.folder
    monkeypatch.undo()
    encoder.numbers["red"], encoder.numbers["blue"] = encoder.numbers["blue"], encoder.numbers["red"]  # type: ignore[union-attr, operator, index]
    assert CaptionCache(tmp_path, captions, encoder, CPU, torch.float32).folder != cache.folder, "other tokens, equal weights"
    assert torch.equal(text.mask, direct.mask)
    assert text.embeddings is not None and direct.embeddings is not None
    torch.testing.assert_close(text.embeddings, direct.embeddings, atol=2e-3, rtol=2e-3)


def test_captions_are_dropped_as_often_as_asked(dataset: Dataset) -> None:
    torch.manual_seed(0)
    cache = LatentCache(dataset, build("tokenizers", "causal_vae", "debug"), 5, 1, CPU, torch.float32)

    def read(captions: object) -> Text:
        return Text(mask=torch.ones(1, 1, dtype=torch.bool))

    source = LatentSource(cache, Draw(tuple(range(12)), 6, 1, 0), read, "", caption_dropout=0.3)
    captions = [caption for step in range(100) for caption in source.batch(step, 0, 0, 1).captions]
    assert captions.count("") / len(captions) == pytest.approx(0.3, abs=0.06)
    assert all(caption == "" or caption.endswith("square moving right") for caption in captions)


def test_a_batch_has_no_padding_that_all_its_captions_share(dataset: Dataset) -> None:
    cache = LatentCache(dataset, build("tokenizers", "causal_vae", "debug"), 5, 1, CPU, torch.float32)
    encoder = build("text", "builtin", "debug", {"vocabulary": ["a", "red", "square", "moving", "right"], "max_tokens": 32})
    batch = LatentSource(cache, Draw(tuple(range(12)), 6, 1, 0), encoder.tokenize, "", caption_dropout=0.3).batch(0, 0, 0, 1)
    assert batch.text is not None and batch.text.mask.shape == (6, batch.text.mask.sum(1).max()) and len(batch.text.mask[0]) < 32


def test_what_is_trimmed_off_is_padding_alone() -> None:
    mask = torch.tensor([[True, False, False, False], [True, True, True, False]])
    text = Text(mask=mask, ids=torch.arange(8).view(2, 4), embeddings=torch.arange(16.0).view(2, 4, 2))
    trimmed = text.trimmed()
    assert trimmed.ids is not None and trimmed.embeddings is not None
    assert torch.equal(trimmed.mask, mask[:, :3]) and torch.equal(trimmed.ids, torch.tensor([[0, 1, 2], [4, 5, 6]]))
    assert trimmed.embeddings.shape == (2, 3, 2)
    ahead = Text(mask=mask.flip(1), ids=text.ids)  # some tokenizers pad before
    assert torch.equal(ahead.trimmed().mask, ahead.mask)


# --- the trainings ---


def test_the_runs_hold_what_they_promise(trained: Path) -> None:
    for run, picture in (("vae", "reconstructions.png"), ("transformer", "samples.png")):
        folder = trained / run
        for name in ("config.json", "metrics.jsonl", "curves.png", "model/model.json", f"samples/step-000020/{picture}"):
            assert (folder / name).stat().st_size > 0, name
        assert (folder / "samples/step-000010/0001.mp4").exists()
        assert not list((folder / "model").rglob("*.pt")) and not list((folder / "model").rglob("*.bin"))
    lines = [json.loads(line) for line in (trained / "vae/metrics.jsonl").read_text().splitlines()]
    assert any({"eval/psnr", "eval/ssim"} <= line.keys() for line in lines)
    assert any({"loss", "l1", "mse", "kl", "psnr"} <= line.keys() for line in lines)


def test_words_make_a_video(trained: Path) -> None:
    pipe = TextToVideo.load(trained / "transformer", device="cpu", dtype="fp32")
    clip, other = pipe.generate("a red square moving right", seed=1), pipe.generate("a blue square moving right", seed=1)
    assert clip.frames.shape == (5, 32, 32, 3) and clip.fps == 8.0
    assert not np.array_equal(clip.frames, other.frames)
    assert np.array_equal(clip.frames, pipe.generate("a red square moving right", seed=1).frames)
    assert pipe.text_encoder.unknown_words("a purple square") == ["purple"]
    assert set(pipe.knows["captions"]) <= {f"a {colour} square moving right" for colour in COLOURS}
    assert "a red square moving right" in pipe.knows["captions"]


def test_a_finished_run_started_again_changes_nothing(trained: Path, dataset: Dataset) -> None:
    before = hashes(trained / "vae")
    train_tokenizer(configure_run("vae", "debug"), dataset.path, trained / "vae")
    assert hashes(trained / "vae") == before


def test_another_dataset_or_other_settings_are_refused(trained: Path, dataset: Dataset, tmp_path: Path) -> None:
    other = write_dataset(tmp_path / "other", [moving_square("red", 9), moving_square("blue", 9)], {"size": [32, 32]})
    with pytest.raises(TheseusError, match="dataset is not the one"):
        train_tokenizer(configure_run("vae", "debug"), other.path, trained / "vae")
    with pytest.raises(TheseusError, match=r"another model\.width"):
        train_tokenizer(configure_run("vae", "debug", {"model": {"width": 48}}), dataset.path, trained / "vae")
    with pytest.raises(TheseusError, match="no prepared dataset"):
        train_tokenizer(configure_run("vae", "debug"), tmp_path / "nothing", tmp_path / "run")
    run = configure_run("transformer", "debug", {"model": {"latent_channels": 5}})
    with pytest.raises(TheseusError, match="latent_channels"):
        train_generator(run, dataset.path, trained / "vae", tmp_path / "run")


def test_settings_are_laid_over_one_another_and_unknown_ones_refused() -> None:
    run = configure_run("vae", "debug", {"train": {"steps": 7}}, assignments(["train.lr=1e-3", "model.width=64", "frames=9"]))
    assert (run.train.steps, run.train.lr, run.model["width"], run.frames, run.model_preset) == (7, 1e-3, 64, 9, "debug")
    with pytest.raises(TheseusError) as caught:
        configure_run("vae", "debug", {"train": {"stesp": 7}})
    assert caught.value.message == "unknown key: train.stesp" and "steps" in (caught.value.hint or "")
    with pytest.raises(TheseusError, match="train is a group of settings and cannot be: None"):
        configure_run("vae", "debug", {"train": None})
    with pytest.raises(TheseusError, match="not a value"):
        assignments(["x={"])
    with pytest.raises(TheseusError, match="no preset: smal"):
        configure_run("transformer", "smal")


def test_what_cannot_be_trained_is_said_before_it_is(trained: Path, dataset: Dataset, tmp_path: Path) -> None:
    odd = write_dataset(tmp_path / "odd", [Clip(np.zeros((9, 40, 40, 3), np.uint8), 8.0, "a wall")], {"size": [40, 40]})
    with pytest.raises(TheseusError, match="multiples of 16, not: 40x40"):
        train_generator(configure_run("transformer", "debug"), odd.path, trained / "vae", tmp_path / "run")
    with pytest.raises(TheseusError, match=r"1 \+ 4 k frames, not: 8"):
        train_tokenizer(configure_run("vae", "debug", {"frames": 8}), dataset.path, tmp_path / "run")
    run = configure_run("transformer", "debug", {"sampling": {"sampler": "foo"}})
    with pytest.raises(TheseusError, match="no sampler: foo"):
        train_generator(run, dataset.path, trained / "vae", tmp_path / "run")
    with pytest.raises(TheseusError, match=r"unknown key: model\.widht"):
        train_tokenizer(configure_run("vae", "debug", {"model": {"widht": 3}}), dataset.path, tmp_path / "run")
    run = configure_run("transformer", "debug", {"frames": 9, "model": {"patch_frames": 2}})
    with pytest.raises(TheseusError, match="trained on 2 latent frames at once, and there are 3: frames 9") as caught:
        train_generator(run, dataset.path, trained / "vae", tmp_path / "run")
    assert caught.value.hint == "frames=5 or 13 would do"
    assert not (tmp_path / "run").exists()
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign/my.txt").touch()
    with pytest.raises(TheseusError, match="not a run folder"):
        train_generator(configure_run("transformer", "debug"), Path("world"), trained / "vae", tmp_path / "foreign")
    assert [path.name for path in (tmp_path / "foreign").iterdir()] == ["my.txt"]


def test_an_evaluation_may_come_before_the_first_line_of_the_journal(dataset: Dataset, tmp_path: Path) -> None:
    run = configure_run("vae", "debug", {"train": {"steps": 2, "evaluate_every": 1, "log_every": 1000}})
    train_tokenizer(run, dataset.path, tmp_path / "run")
    assert (tmp_path / "run/curves.png").exists()


def test_samples_of_an_odd_size_are_no_mp4(tmp_path: Path) -> None:
    pixels = np.full((5, 33, 33, 3), 40, np.uint8)
    for t in range(5):
        pixels[t, 8:20, t : t + 12] = 220
    odd = write_dataset(tmp_path / "odd", [Clip(pixels, 8.0, "a white square")] * 2, {"size": [33, 33]})
    run = configure_run("vae", "debug", {"family": "sprites", "train": {"steps": 1, "evaluate_every": 1}})
    train_tokenizer(run, odd.path, tmp_path / "run")
    assert (tmp_path / "run/samples/step-000001/0000.webm").exists() and (tmp_path / "run/model").exists()


def test_what_a_preset_says_of_the_text_is_not_for_another_encoder() -> None:
    assert configure_run("transformer", "sprites").text == {"max_tokens": 24, "lr_ratio": 0.1}
    another = configure_run("transformer", "sprites", {"text_family": "hub", "text_preset": "clip"}, {"text": {"max_tokens": 9}})
    assert (another.text, another.text_preset) == ({"max_tokens": 9}, "clip")


def test_single_frames_can_be_trained_on(dataset: Dataset, tmp_path: Path) -> None:
    run = configure_run("vae", "debug", {"frames": 1, "train": {"steps": 2}})
    assert train_tokenizer(run, dataset.path, tmp_path / "run").scores["psnr"] > 5


def test_what_is_drawn_may_change_when_a_run_goes_on(trained: Path, dataset: Dataset) -> None:
    run = configure_run("transformer", "debug", {"prompts": 1, "sampling": {"guidance_scale": 2.5}})
    train_generator(run, dataset.path, trained / "vae", trained / "transformer")
    assert TextToVideo.load(trained / "transformer", device="cpu").defaults.guidance_scale == 2.5


def test_a_model_can_be_tried_before_its_training_has_ended(dataset: Dataset, trained: Path, tmp_path: Path) -> None:
    def stop(done: int, total: int, scores: dict[str, float]) -> None:
        if done == 15:
            raise KeyboardInterrupt

    run = configure_run("transformer", "debug")
    with pytest.raises(KeyboardInterrupt):
        train_generator(run, dataset.path, trained / "vae", tmp_path / "run", Report(step=stop))
    assert unfinished(tmp_path / "run/model") == "step 10 of 20"
    early = TextToVideo.load(tmp_path / "run", device="cpu", dtype="fp32").generate("a red square", seed=0)
    train_generator(run, dataset.path, trained / "vae", tmp_path / "run")
    assert unfinished(tmp_path / "run/model") == unfinished(trained / "vae/model") == ""
    late = TextToVideo.load(tmp_path / "run", device="cpu", dtype="fp32").generate("a red square", seed=0)
    assert (early.frames != late.frames).any()


def test_a_frozen_text_encoder_trains_from_its_cache(dataset: Dataset, trained: Path, tmp_path: Path) -> None:
    """A tiny random CLIP, saved on the spot and read through transformers."""
    source = tiny_clip(tmp_path / "clip")
    run = configure_run(
        "transformer",
        "debug",
        {"text_family": "hub", "text_preset": "small", "text": {"source": str(source), "max_tokens": 8}, "train": {"steps": 4}},
    )
    train_generator(run, dataset.path, trained / "vae", tmp_path / "run")
    pipe = TextToVideo.load(tmp_path / "run", device="cpu", dtype="fp32")
    assert isinstance(pipe.text_encoder, TextEncoder) and not pipe.text_encoder.trained_along
    assert pipe.generate("a red square", seed=0).frames.shape == (5, 32, 32, 3)


def test_a_frozen_text_encoder_may_be_quantized_and_is_kept_whole(dataset: Dataset, trained: Path, tmp_path: Path) -> None:
    source = tiny_clip(tmp_path / "clip")
    words = {"text_family": "hub", "text_preset": "small", "text": {"source": str(source), "max_tokens": 8}}
    notes: list[str] = []
    run = configure_run("transformer", "debug", words, {"quantize": "int8", "train": {"steps": 2}})
    train_generator(run, dataset.path, trained / "vae", tmp_path / "run", Report(note=notes.append))
    whole, kept = build("text", "hub", "small", words["text"]), TextToVideo.load(tmp_path / "run", device="cpu").text_encoder
    for a, b in zip(whole.state_dict().values(), kept.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    assert not any("cut" in note for note in notes)
    with pytest.raises(TheseusError, match="only a frozen text encoder"):
        train_generator(
            configure_run("transformer", "debug", {"quantize": "int8"}), dataset.path, trained / "vae", tmp_path / "other"
        )


def test_captions_that_are_cut_are_said(dataset: Dataset, trained: Path, tmp_path: Path) -> None:
    notes: list[str] = []
    run = configure_run("transformer", "debug", {"text": {"max_tokens": 4}, "train": {"steps": 1}})
    train_generator(run, dataset.path, trained / "vae", tmp_path / "run", Report(note=notes.append))
    assert any(note.startswith("captions cut to 4 tokens: 12 of 12") for note in notes)


def tiny_clip(folder: Path) -> Path:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import CLIPTextConfig, CLIPTextModel, PreTrainedTokenizerFast

    words = ["<pad>", "<start>", "<end>", "<unk>", "a", "red", "green", "blue", "white", "square", "moving", "right"]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing("<start> $A <end>", special_tokens=[("<start>", 1), ("<end>", 2)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<start>", eos_token="<end>", unk_token="<unk>"
    )
    fast.save_pretrained(folder)
    config = CLIPTextConfig(
        vocab_size=len(words), hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=16, bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    CLIPTextModel(config).save_pretrained(folder)
    return folder


# --- killed and started again ---


def hashes(run: Path) -> dict[str, str]:
    """Of everything in a run but what says when it ran."""
    names = [path for path in sorted(run.rglob("*")) if path.is_file() and path.suffix in (".safetensors", ".mp4")]
    names += [run / "model/model.json"]
    return {path.relative_to(run).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in names}


def command(kind: str, data: Path, output: Path, *more: str) -> list[str]:
    size = [
        "--preset",
        "debug",
        "--steps",
        "40",
        "--batch-size",
        "4",
        "--set",
        "train.checkpoint_every=7",
        "--set",
        "train.log_every=1",
    ]
    return [sys.executable, "-m", "theseus_cli.main", "train", kind, "--data", str(data), "-o", str(output), *size, *more]


def killed_until_done(arguments: list[str], run: Path, seed: int) -> None:
    """Kill at a random moment after a random step, twice, then let it end; a training was under way at each kill."""
    moments = random.Random(seed)
    for goal in (moments.randrange(8, 20), moments.randrange(22, 32)):
        process = subprocess.Popen(arguments, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env=environment())
        while process.poll() is None and last_step(run) < goal:
            time.sleep(0.005)
        time.sleep(moments.uniform(0, 0.02))
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, "the training ended before it could be killed"
        assert list((run / "checkpoints").glob("step-*")), "nothing to go on from"
    subprocess.run(arguments, check=True, capture_output=True, env=environment())


def last_step(run: Path) -> int:
    try:
        lines = (run / "metrics.jsonl").read_text().splitlines()
        return int(json.loads(lines[-1])["step"]) if lines else -1
    except (OSError, ValueError):  # not there yet, or a line half written
        return -1


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1])}


def test_both_trainings_killed_at_random_moments_end_identical(dataset: Dataset, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    subprocess.run(command("vae", dataset.path, whole / "vae"), check=True, capture_output=True, env=environment())
    killed_until_done(command("vae", dataset.path, killed / "vae"), killed / "vae", seed=0)
    assert hashes(whole / "vae") == hashes(killed / "vae")

    vae = ["--vae", str(whole / "vae")]
    subprocess.run(command("transformer", dataset.path, whole / "t", *vae), check=True, capture_output=True, env=environment())
    killed_until_done(command("transformer", dataset.path, killed / "t", *vae), killed / "t", seed=1)
    assert hashes(whole / "t") == hashes(killed / "t")


def test_a_gan_killed_at_random_moments_ends_identical_with_both_its_optimizers(dataset: Dataset, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    subprocess.run(command("gan", dataset.path, whole), check=True, capture_output=True, env=environment())
    killed_until_done(command("gan", dataset.path, killed), killed, seed=2)
    assert hashes(whole) == hashes(killed)
    last = max((killed / "checkpoints").iterdir())
    with safe_open(last / "optimizer.safetensors", "pt") as file:
        names = file.keys()
    assert {name.split(".")[0] for name in names} == {"generator", "discriminator"}
