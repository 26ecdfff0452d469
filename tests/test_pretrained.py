"""Whole released CogVideoX folders: the same videos as diffusers on tiny random weights, and what is said of damaged ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from theseus_core import model_folder
from theseus_core.config import dump
from theseus_core.diffusion import samplers
from theseus_core.errors import TheseusError
from theseus_core.files import write_json
from theseus_core.model_folder import Settings, export_released, fingerprint, load_model, load_tokenizer, save_model
from theseus_core.nn.packed import Packed, can_pack
from theseus_core.pipeline import TextToVideo, to_video
from theseus_core.pretrained import text as pretrained_text
from theseus_core.pretrained.folder import released_defaults, sample_of
from theseus_core.quantize import weight_bytes
from theseus_core.registry import build

diffusers = pytest.importorskip("diffusers")
from released import FRAMES, HEIGHT, TOKENS, VARIANTS, WIDTH, pipeline, save  # noqa: E402

COLOURS, SHAPES = ("red", "blue", "green"), ("circle", "square", "star")
PROMPT, NEGATIVE = "a red circle moves", "a waterfall"
HOW = {"num_inference_steps": 10, "guidance_scale": 6.0, "max_sequence_length": TOKENS, "height": HEIGHT, "width": WIDTH}


@pytest.fixture(scope="session")
def pipes() -> dict[str, Any]:
    return {variant: pipeline(variant) for variant in VARIANTS}


@pytest.fixture(scope="session")
def folders(pipes: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = tmp_path_factory.mktemp("released")
    return {variant: save(pipe, made / variant) for variant, pipe in pipes.items()}


@pytest.fixture(autouse=True)
def means(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let diffusers take the mean of what it encodes, as is done here, and not draw."""
    for name in ("image2video", "video2video"):
        module = getattr(diffusers.pipelines.cogvideo, f"pipeline_cogvideox_{name}")
        monkeypatch.setattr(module, "retrieve_latents", lambda encoded, generator=None: encoded.latent_dist.mode())


def picture(seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8))


def as_tensor(*pictures: Image.Image) -> Tensor:
    """(C, T, H, W)."""
    return to_video(np.stack([np.asarray(each) for each in pictures]))


def turned(x: Tensor) -> Tensor:
    """(B, Z, t, h, w) to the (B, t, Z, h, w) of diffusers, and back."""
    return x.transpose(1, 2)


def fresh_as_theirs(generator: torch.Generator) -> Callable[[Tensor], Callable[[], Tensor]]:
    """New noise as the scheduler of diffusers draws it: in every step but the first and the last twice, the first for nothing."""

    def noise_after(start: Tensor) -> Callable[[], Tensor]:
        calls = [0]

        def fresh() -> Tensor:
            calls[0] += 1
            for _ in range(1 if calls[0] == 1 else 2):
                noise = torch.randn(turned(start).shape, generator=generator)
            return turned(noise)

        return fresh

    return noise_after


def worst(found: Tensor, theirs: Tensor) -> float:
    """The largest difference in [0, 1] of (B, C, T, H, W) in [-1, 1] from the (B, T, C, H, W) in [0, 1] of diffusers."""
    assert found.shape == turned(theirs).shape
    assert theirs.std() > 0.05
    return float(((found + 1) / 2 - turned(theirs)).abs().max())


@torch.no_grad()
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_whole_is_that_of_diffusers(
    variant: str, pipes: dict[str, Any], folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    latent_frames = 4 if "1.5" in variant else 3  # of patches of two the first half is thrown away
    noise = torch.randn(1, 4, latent_frames, HEIGHT // 8, WIDTH // 8, generator=torch.Generator().manual_seed(1))
    given = {"image": picture()} if "i2v" in variant else {}
    theirs = pipes[variant](
        prompt=PROMPT,
        negative_prompt=NEGATIVE,
        num_frames=FRAMES,
        latents=turned(noise),
        generator=torch.Generator().manual_seed(5),
        output_type="pt",
        **HOW,
        **given,
    ).frames
    monkeypatch.setattr(samplers, "noise_after", fresh_as_theirs(torch.Generator().manual_seed(5)))
    pipe = TextToVideo.load(folders[variant], "cpu", "fp32")
    given = {"image": as_tensor(picture()).transpose(0, 1)} if "i2v" in variant else {}
    found = pipe.sample([PROMPT], noise, steps=10, guidance_scale=6.0, negative_prompt=NEGATIVE, frames=FRAMES, **given)
    assert worst(found, theirs) < 1e-3


@pytest.mark.skipif(not can_pack(torch.device("cpu")), reason="oneDNN multiplies no bf16 on this CPU")
def test_layers_are_packed_once_there_are_steps_enough(folders: dict[str, Path]) -> None:
    pipe = TextToVideo.load(folders["2b"], "cpu", "bf16")
    size = {"frames": FRAMES, "height": HEIGHT, "width": WIDTH}

    def packed() -> int:
        return sum(isinstance(layer, Packed) for layer in pipe.generator.modules())

    made = []
    start = torch.rand(1, 3, FRAMES, HEIGHT, WIDTH)
    for few in ({"steps": 7}, {"steps": 8, "video": start, "strength": 0.8}):
        made.append(pipe.sample([PROMPT], **size, **few))  # type: ignore[arg-type]
        assert packed() == 0
    many = pipe.sample([PROMPT], steps=8, **size)
    assert packed() > 10
    again = pipe.sample([PROMPT], steps=7, **size)
    assert 0 < (again - made[0]).abs().mean() < (many - made[0]).abs().mean()


@torch.no_grad()
@pytest.mark.parametrize(("variant", "strength"), [("2b", 0.8), ("2b", 0.55), ("5b", 0.8)])
def test_from_a_video_comes_that_of_diffusers(
    variant: str, strength: float, pipes: dict[str, Any], folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    film = [picture(seed) for seed in range(FRAMES)]
    pipe = diffusers.CogVideoXVideoToVideoPipeline(**pipes[variant].components)
    pipe.set_progress_bar_config(disable=True)
    theirs = pipe(
        video=film, prompt=PROMPT, strength=strength, generator=torch.Generator().manual_seed(5), output_type="pt", **HOW
    ).frames
    generator = torch.Generator().manual_seed(5)
    noise = turned(torch.randn(1, 3, 4, HEIGHT // 8, WIDTH // 8, generator=generator))
    monkeypatch.setattr(samplers, "noise_after", fresh_as_theirs(generator))
    ours = TextToVideo.load(folders[variant], "cpu", "fp32")
    seen: list[tuple[int, int]] = []
    found = ours.sample(
        [PROMPT],
        noise,
        steps=10,
        guidance_scale=6.0,
        video=as_tensor(*film).unsqueeze(0),
        strength=strength,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert worst(found, theirs) < 1e-3
    assert seen[-1] == (int(10 * strength),) * 2


@torch.no_grad()
def test_a_video_of_an_odd_length_fills_up_patches_in_time(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    film = as_tensor(*[picture(seed) for seed in range(FRAMES)]).unsqueeze(0)
    pipe = TextToVideo.load(folders["1.5-5b"], "cpu", "fp32")
    given: dict[str, Tensor] = {}
    sample = pipe.generator.sample

    def watched(noise: Tensor, *arguments: Any, **options: Any) -> Tensor:
        given.update(noise=noise, start=options["start"])
        return sample(noise, *arguments, **options)

    monkeypatch.setattr(pipe.generator, "sample", watched)
    assert pipe.sample([PROMPT], steps=2, video=film, strength=0.5).shape == film.shape
    assert given["noise"].shape == given["start"].shape == (1, 4, 4, HEIGHT // 8, WIDTH // 8)
    assert torch.equal(given["start"][:, :, 1:], pipe.tokenizer.encode(film))
    assert torch.equal(given["start"][:, :, 0], given["start"][:, :, 1]), "in front stands the first once more"


@torch.no_grad()
def test_tiles_are_those_of_diffusers(pipes: dict[str, Any], folders: dict[str, Path]) -> None:
    noise = torch.randn(1, 4, 3, HEIGHT // 8, WIDTH // 8, generator=torch.Generator().manual_seed(1))
    pipes["2b"].vae.enable_tiling()
    theirs = pipes["2b"](prompt=PROMPT, num_frames=FRAMES, latents=turned(noise), output_type="pt", **HOW).frames
    pipes["2b"].vae.disable_tiling()
    found = TextToVideo.load(folders["2b"], "cpu", "fp32", tiling=True).sample([PROMPT], noise, steps=10)
    assert worst(found, theirs) < 1e-3
    plain = TextToVideo.load(folders["2b"], "cpu", "fp32").sample([PROMPT], noise, steps=10)
    assert (found - plain).abs().max() > 1e-3, "there was more than one tile"


@torch.no_grad()
def test_words_are_read_as_by_diffusers_and_again_once_freed(pipes: dict[str, Any], folders: dict[str, Path]) -> None:
    pipe = TextToVideo.load(folders["5b"], "cpu", "fp32")
    encoder: Any = pipe.text_encoder
    for prompt in (PROMPT, "", "a " * 1000):
        theirs, _ = pipes["5b"].encode_prompt(prompt, do_classifier_free_guidance=False, max_sequence_length=TOKENS)
        assert encoder.network is not None
        text = encoder.encode([prompt])
        assert text.mask.all()
        torch.testing.assert_close(text.embeddings, theirs, atol=1e-5, rtol=0)
    first = pipe.sample([PROMPT], steps=1)
    assert encoder.network is None, "its memory is given back"
    assert torch.equal(first, pipe.sample([PROMPT], steps=1)), "what was read is remembered"
    assert encoder.network is None
    pipe.remember(["a waterfall"])
    assert torch.equal(first, pipe.sample([PROMPT], steps=1)), "and read again where it was not"


@torch.no_grad()
@pytest.mark.parametrize("mode", ["int8", "nf4"])
def test_quantized_words_give_their_memory_back_too(folders: dict[str, Path], mode: str) -> None:
    pipe = TextToVideo.load(folders["5b"], "cpu", "fp32", mode)
    encoder: Any = pipe.text_encoder
    layers, size = {type(module) for module in encoder.modules()}, weight_bytes(encoder)
    first = pipe.sample([PROMPT], steps=1)
    assert encoder.network is None
    pipe.remember(["a waterfall"])
    assert encoder.network is None
    assert torch.equal(first, pipe.sample([PROMPT], steps=1)), "read and quantized again"
    encoder(encoder.tokenize([PROMPT]))
    assert ({type(module) for module in encoder.modules()}, weight_bytes(encoder)) == (layers, size)


@torch.no_grad()
def test_guidance_may_rise_with_the_steps(folders: dict[str, Path]) -> None:
    pipe = TextToVideo.load(folders["5b"], "cpu", "fp32")
    constant, rising = (pipe.sample([PROMPT], steps=3, dynamic_guidance=dynamic) for dynamic in (False, True))
    assert (constant - rising).abs().max() > 1e-3
    pipe.generator.config = pipe.generator.config.model_copy(update={"dynamic_guidance": True})
    assert torch.equal(pipe.sample([PROMPT], steps=3), rising)
    with pytest.raises(TheseusError, match="without guidance nothing can rise"):
        pipe.sample([PROMPT], guidance_scale=1.0, dynamic_guidance=True)


@torch.no_grad()
def test_half_precision_is_in_the_weights(pipes: dict[str, Any], folders: dict[str, Path], tmp_path: Path) -> None:
    exact = TextToVideo.load(folders["5b"], "cpu", "fp32").sample([PROMPT], steps=4)
    pipe = pipeline("5b")
    half = TextToVideo.load(save(pipe.to(dtype=torch.float16), tmp_path / "fp16"), "cpu", "bf16")
    parts = (half.generator, half.tokenizer, half.text_encoder)
    assert {weight.dtype for part in parts for weight in part.parameters()} == {torch.bfloat16}
    assert 0 < (half.sample([PROMPT], steps=4) - exact).abs().mean() < 0.05
    kept = load_model(tmp_path / "fp16")
    assert {weight.dtype for weight in kept.generator.parameters()} == {torch.float16}


def test_a_batch_of_prompts_is_each_of_them(folders: dict[str, Path]) -> None:
    pipe = TextToVideo.load(folders["5b-i2v"], "cpu", "fp32")
    image = as_tensor(picture()).transpose(0, 1)
    both = pipe.sample([PROMPT, NEGATIVE], steps=2, seed=[1, 2], image=image)
    assert torch.allclose(both[1], pipe.sample([NEGATIVE], steps=2, seed=2, image=image)[0], atol=1e-4)
    with pytest.raises(TheseusError, match="one image or video, or one for each of 2 prompts"):
        pipe.sample([PROMPT, NEGATIVE], steps=2, image=image.expand(3, -1, -1, -1))
    with pytest.raises(TheseusError, match="another height, 32, than asked for: 64"):
        pipe.sample([PROMPT], height=64, image=image)


# --- the tokenizer as released: a file of sentencepiece's ---


def test_a_sentencepiece_file_is_read(tmp_path: Path) -> None:
    sentencepiece = pytest.importorskip("sentencepiece")
    pytest.importorskip("google.protobuf")
    sentences = [f"a {colour} {shape} moves {way}" for colour in COLOURS for shape in SHAPES for way in ("left", "right", "up")]
    with (tmp_path / "spiece.model").open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(sentences),
            model_writer=file,
            vocab_size=50,
            hard_vocab_limit=False,
            pad_id=0,
            eos_id=1,
            unk_id=2,
            bos_id=-1,
            minloglevel=2,
        )
    described = {"tokenizer_class": "T5Tokenizer", "model_max_length": 226, "extra_ids": 100, "legacy": True}
    marks = {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    write_json(tmp_path / "tokenizer_config.json", described | marks)
    words = pretrained_text._words(tmp_path)
    reference = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "spiece.model"))
    for prompt in ("a red circle", "a red  square, left!", "", "über zebra"):
        assert words(prompt)["input_ids"] == [*reference.encode(prompt), 1]


def test_what_reads_a_sentencepiece_file_must_be_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "spiece.model").write_bytes(b"pieces")
    monkeypatch.setattr(pretrained_text, "PACKAGES", {"protobuf": "nothing.protobuf"})
    with pytest.raises(TheseusError, match="a package that reads this file is not installed") as caught:
        pretrained_text._words(tmp_path)
    assert caught.value.hint == "pip install protobuf"


# --- what a folder says ---

SIZES = {
    "2b": (49, 480, 720, 8, "ddim"),
    "5b": (49, 480, 720, 8, "dpmpp_2m_sde"),
    "1.5-5b": (81, 768, 1360, 16, "dpmpp_2m_sde"),
    "1.5-5b-i2v": (81, 768, 1360, 16, "dpmpp_2m_sde"),
}


@pytest.mark.parametrize("variant", SIZES)
def test_the_defaults_of_the_released(variant: str, tmp_path: Path) -> None:
    sides = {"1.5-5b": (96, 170, 81), "1.5-5b-i2v": (300, 300, 81)}.get(variant, (60, 90, 49))
    sizes = dict(zip(("sample_height", "sample_width", "sample_frames"), sides, strict=True))
    changes = VARIANTS[variant] | ({"in_channels": 32, "ofs_embed_dim": 512} if "i2v" in variant else {})
    write_json(tmp_path / "transformer/config.json", {"_class_name": "CogVideoXTransformer3DModel", **changes, **sizes})
    name = "CogVideoXDDIMScheduler" if variant == "2b" else "CogVideoXDPMScheduler"
    write_json(tmp_path / "scheduler/scheduler_config.json", {"_class_name": name, "timestep_spacing": "trailing"})
    write_json(tmp_path / "model_index.json", {"_class_name": "CogVideoXPipeline"})
    frames, height, width, fps, sampler = SIZES[variant]
    assert released_defaults(tmp_path) == {
        "frames": frames,
        "height": height,
        "width": width,
        "fps": fps,
        "steps": 50,
        "guidance_scale": 6.0,
        "sampler": sampler,
    }


def test_it_is_a_model_folder(folders: dict[str, Path]) -> None:
    folder = folders["5b"]
    assert model_folder.find_model(folder) == folder
    found = model_folder.summary("5b", folder)
    assert found["parts"] == {"tokenizer": "cogvideox_vae", "text_encoder": "hub", "generator": "dit"}
    assert found["bytes"] > 100_000
    assert model_folder.vocabulary(folder) is None
    assert (model_folder.unfinished(folder), model_folder.read_knows(folder)) == ("", {})
    assert load_tokenizer(folder).latent_channels == 4


def test_the_fingerprint_is_of_its_parts(tmp_path: Path) -> None:
    pipe = pipeline("5b")
    first = fingerprint(save(pipe, tmp_path / "a"))
    (tmp_path / "a/README.md").write_text("of no weight")
    assert fingerprint(tmp_path / "a") == first
    with torch.no_grad():
        pipe.vae.decoder.conv_out.conv.bias.add_(1)
    assert fingerprint(save(pipe, tmp_path / "b")) != first


def test_samples_of_a_large_file_tell_it_from_others(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    data = bytearray(np.random.default_rng(0).bytes(5 * 2**20))
    path.write_bytes(data)
    whole, sampled = sample_of(path), sample_of(path, pieces=3)
    assert whole == data
    assert len(sampled) == 3 * 2**20 + len(str(len(data)))
    data[-1] ^= 1
    path.write_bytes(data)
    assert sample_of(path, pieces=3) != sampled


def test_only_what_is_needed_is_fetched(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub.utils import filter_repo_objects

    needed = sorted(path.relative_to(folders["2b"]).as_posix() for path in folders["2b"].rglob("*") if path.is_file())
    more = ["README.md", "assets/demo.mp4", "transformer/model.bin", "vae/old.pt", "model.safetensors"]
    fetched: list[str] = []

    def snapshot_download(name: str, allow_patterns: list[str]) -> str:
        fetched[:] = filter_repo_objects([*needed, *more], allow_patterns=allow_patterns)
        return str(folders["2b"] if "Cog" in name else folders["2b"].parent)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert model_folder.find_model("THUDM/CogVideoX-2b") == folders["2b"]
    assert sorted(fetched) == needed
    with pytest.raises(TheseusError, match="neither a model of Theseus nor a CogVideoX: someone/else"):
        model_folder.find_model("someone/else")
    assert fetched == ["model_index.json"], "nothing large"


# --- written for diffusers ---


@torch.no_grad()
@pytest.mark.parametrize("variant", ["2b", "1.5-5b-i2v"])
def test_what_is_made_here_is_read_there(variant: str, folders: dict[str, Path], tmp_path: Path) -> None:
    parts = load_model(folders[variant])
    parts.generator.patch_out.weight.mul_(1.5)  # type: ignore[union-attr, operator]  # as if it had been trained here
    own = save_model(tmp_path / "run/model", parts.tokenizer, parts.text_encoder, parts.generator, parts.defaults, {})
    export_released(own, tmp_path / "theirs", "fp32")
    kind = "CogVideoXImageToVideoPipeline" if "i2v" in variant else "CogVideoXPipeline"
    pipe = getattr(diffusers, kind).from_pretrained(tmp_path / "theirs")
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = diffusers.CogVideoXDDIMScheduler.from_config(pipe.scheduler.config)
    noise = torch.randn(1, 4, 4 if "1.5" in variant else 3, HEIGHT // 8, WIDTH // 8)
    given: dict[str, Any] = {"image": picture()} if "i2v" in variant else {}
    theirs = pipe(prompt=PROMPT, num_frames=FRAMES, latents=turned(noise), output_type="pt", **HOW, **given).frames
    given = {"image": as_tensor(picture()).transpose(0, 1)} if "i2v" in variant else {}
    ours = TextToVideo.load(tmp_path / "run", "cpu", "fp32").sample(
        [PROMPT], noise, steps=10, sampler="ddim", frames=FRAMES, **given
    )
    assert worst(ours, theirs) < 1e-3
    again = TextToVideo.load(tmp_path / "theirs", "cpu", "fp32")
    assert torch.equal(again.sample([PROMPT], noise, steps=10, sampler="ddim", frames=FRAMES, **given), ours)
    assert again.defaults == parts.defaults


def test_what_is_not_of_cogvideox_is_named_and_not_written(folders: dict[str, Path], tmp_path: Path) -> None:
    parts = load_model(folders["2b"])
    settings = Settings(**dump(parts.defaults))
    other_curve = build(
        "generators",
        "dit",
        "cogvideox-2b",
        {**dump(parts.generator.config), "betas": {"curve": "cosine"}, "guidance_interval": [0.2, 1.0]},
    )
    cases: list[tuple[dict[str, Any], str]] = [
        ({"tokenizer": build("tokenizers", "causal_vae", "debug")}, "tokenizer causal_vae, not cogvideox_vae"),
        ({"text_encoder": build("text", "builtin", "debug", {"width": 32})}, "text_encoder builtin, not hub"),
        ({"generator": build("generators", "dit", "debug", {"levels": [[16, 1]]})}, "grid, betas, levels, pooled_text"),
        ({"generator": other_curve}, "cannot be written as one: betas.curve, guidance_interval"),
        ({"defaults": settings.model_copy(update={"sampler": "heun"})}, "no such sampler in diffusers: heun"),
    ]
    for number, (change, named) in enumerate(cases):
        made = {name: getattr(parts, name) for name in ("tokenizer", "text_encoder", "generator", "defaults")} | change
        own = save_model(tmp_path / f"run{number}", **made, made_by={})
        with pytest.raises(TheseusError, match=named):
            export_released(own, tmp_path / "theirs", "bf16")
    assert not (tmp_path / "theirs").exists()
    with pytest.raises(TheseusError, match="stays in the layout it has"):
        model_folder.export_model(folders["2b"], tmp_path / "copy")
