"""The released CogVideoX transformers and schedulers, against those of diffusers on tiny random weights."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from theseus_core.config import validate
from theseus_core.contracts import Batch, Text
from theseus_core.diffusion import samplers
from theseus_core.diffusion.discrete import Betas, DiscretePath
from theseus_core.diffusion.guidance import rising
from theseus_core.errors import TheseusError
from theseus_core.generators import dit
from theseus_core.generators.dit import Model, image_latents
from theseus_core.nn.grid import Grid, placed
from theseus_core.pretrained.scheduler import read_scheduler, save_scheduler
from theseus_core.pretrained.transformer import Described, describe, load_transformer, save_transformer, ties
from theseus_core.pretrained.weights import Stored, load_into
from theseus_core.registry import build, configure

diffusers = pytest.importorskip("diffusers")

TINY = {
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "in_channels": 4,
    "out_channels": 4,
    "time_embed_dim": 12,
    "text_embed_dim": 20,
    "num_layers": 2,
    "sample_width": 12,
    "sample_height": 8,
    "sample_frames": 13,
    "max_text_seq_length": 6,
}
PATCHES_IN_TIME = {"patch_size_t": 2, "patch_bias": False, "use_rotary_positional_embeddings": True}
VARIANTS: dict[str, dict[str, Any]] = {
    "2b": {},
    "5b": {"use_rotary_positional_embeddings": True},
    "1.5-5b": PATCHES_IN_TIME,
    "5b-i2v": {"use_rotary_positional_embeddings": True, "use_learned_positional_embeddings": True, "in_channels": 8},
    "1.5-5b-i2v": {**PATCHES_IN_TIME, "in_channels": 8, "ofs_embed_dim": 12},
}
SCHEDULER = {
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "timestep_spacing": "trailing",
    "snr_shift_scale": 3.0,
}
OFFSET = torch.tensor([2.0])


def theirs(variant: str, **changes: Any) -> Any:
    """A transformer of diffusers in which every weight has its effect."""
    torch.manual_seed(0)
    model = diffusers.CogVideoXTransformer3DModel(**(TINY | VARIANTS[variant] | changes)).eval()
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.add_(0.1 * torch.randn_like(tensor))
    return model


def saved(variant: str, folder: Path, **changes: Any) -> tuple[Any, Model]:
    """One of diffusers, and ours as read from what diffusers wrote."""
    reference = theirs(variant, **changes)
    reference.save_pretrained(folder)
    return reference, load_transformer(folder, Betas())


def rotation_of(reference: Any, t: int, h: int, w: int) -> Any:
    if not reference.config.use_rotary_positional_embeddings:
        return None
    owner = SimpleNamespace(vae_scale_factor_spatial=8, transformer=reference)
    prepare = diffusers.CogVideoXPipeline._prepare_rotary_positional_embeddings
    return prepare(owner, 8 * h, 8 * w, t, torch.device("cpu"))


def turned(x: Tensor) -> Tensor:
    """(B, Z, t, h, w) to the (B, t, Z, h, w) of diffusers, and back."""
    return x.transpose(1, 2)


@torch.no_grad()
def forward_of(reference: Any, x: Tensor, timesteps: Tensor, words: Tensor) -> Tensor:
    offset = OFFSET if reference.config.ofs_embed_dim else None
    rotation = rotation_of(reference, *x.shape[2:])
    return turned(reference(turned(x), words, timesteps, ofs=offset, image_rotary_emb=rotation, return_dict=False)[0])


def text_of(words: Tensor) -> Text:
    return Text(mask=torch.ones(words.shape[:2], dtype=torch.bool), embeddings=words)


def inputs(model: Model, size: tuple[int, int, int], seed: int = 1) -> tuple[Tensor, Tensor | None, Tensor]:
    """Latents, an image's latents where the model takes one, and words, for two clips."""
    torch.manual_seed(seed)
    config = model.config
    image = torch.randn(2, config.image_channels, *size) if config.image_channels else None
    return torch.randn(2, config.latent_channels, *size), image, torch.randn(2, 6, config.text_width)


def joined(latents: Tensor, image: Tensor | None) -> Tensor:
    return latents if image is None else torch.cat([latents, image], dim=1)


# --- the transformer ---

SIZES = [(4, 8, 12), (2, 8, 12), (4, 12, 8), (6, 6, 20)]  # that of training, shorter, upright, and longer and wider
SQUEEZED = [(variant, size) for variant in VARIANTS for size in SIZES]


@torch.no_grad()
@pytest.mark.parametrize(("variant", "size"), [case for case in SQUEEZED if case[0] != "5b-i2v" or case[1] == SIZES[0]])
def test_a_forward_is_that_of_diffusers(variant: str, size: tuple[int, int, int], tmp_path: Path) -> None:
    base = {"sample_width": 24, "sample_height": 24} if "1.5" in variant else {}  # diffusers takes no larger ones there
    reference, model = saved(variant, tmp_path / "transformer", **base)
    latents, image, words = inputs(model, size)
    timesteps = torch.tensor([999, 123])
    expected = forward_of(reference, joined(latents, image), timesteps, words)
    found = model.velocity(latents, (timesteps + 1) / 1000, text_of(words), image)
    assert expected.std() > 0.2
    assert (found - expected).abs().max() < 1e-5


@torch.no_grad()
@pytest.mark.parametrize("variant", VARIANTS)
def test_bf16_is_as_near_as_bf16_goes(variant: str, tmp_path: Path) -> None:
    reference, exact = saved(variant, tmp_path / "transformer")
    model = load_transformer(tmp_path / "transformer", Betas(), dtype=torch.bfloat16)
    assert {weight.dtype for weight in model.state_dict().values()} == {torch.bfloat16}
    latents, image, words = inputs(model, SIZES[0])
    t = torch.tensor([1.0, 0.124])
    expected = exact.velocity(latents, t, text_of(words), image)
    half = forward_of(reference.bfloat16(), joined(latents, image).bfloat16(), torch.tensor([999, 123]), words.bfloat16())
    noise = (half - expected).square().mean().sqrt()
    assert (model.velocity(latents, t, text_of(words), image) - expected).square().mean().sqrt() < 1.5 * noise < 0.1


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("shard_bytes", [2**30, 20_000])
def test_what_is_written_is_what_diffusers_wrote(variant: str, shard_bytes: int, tmp_path: Path) -> None:
    reference, model = saved(variant, tmp_path / "theirs")
    save_transformer(model, tmp_path / "ours", shard_bytes)
    files = sorted(path.name for path in (tmp_path / "ours").glob("*.safetensors"))
    assert (len(files) > 2) == (shard_bytes == 20_000)
    again = diffusers.CogVideoXTransformer3DModel.from_pretrained(tmp_path / "ours", low_cpu_mem_usage=False)
    told = {key: value for key, value in reference.config.items() if not key.startswith("_") and key != "patch_bias"}
    assert told.items() <= again.config.items()  # less patch_bias, which models with patches in time do not read
    assert again.state_dict().keys() == reference.state_dict().keys()
    for key, tensor in reference.state_dict().items():
        assert torch.equal(again.state_dict()[key], tensor), key
    ours = load_transformer(tmp_path / "ours", Betas()).state_dict()
    assert all(torch.equal(tensor, ours[key]) for key, tensor in model.state_dict().items())


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_table_of_weights_leaves_nothing_over(variant: str, tmp_path: Path) -> None:
    reference, model = saved(variant, tmp_path)
    table = ties(model.config)
    named = [name for tie in table for name in tie.theirs]
    assert len(named) == len(set(named)) and set(named) == set(reference.state_dict())
    assert sum(p.numel() for p in model.state_dict().values()) == sum(p.numel() for p in reference.state_dict().values())


def test_weights_in_place_of_the_same_are_mapped_not_copied(tmp_path: Path) -> None:
    _, model = saved("2b", tmp_path)
    name, where = "blocks.0.up.weight", tmp_path / "diffusion_pytorch_model.safetensors"
    assert not model.patch_in.weight.is_meta
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("no /proc here")
    address = model.state_dict()[name].data_ptr()
    spans = [line.split() for line in maps.read_text().splitlines() if line.endswith(where.name)]
    bounds = [[int(side, 16) for side in span[0].split("-")] for span in spans]
    assert any(low <= address < high for low, high in bounds)


@pytest.mark.parametrize("variant", VARIANTS)
def test_presets_are_the_released_configurations(variant: str) -> None:
    sizes: dict[str, dict[str, Any]] = {
        "2b": {},
        "5b": {},
        "1.5-5b": {"sample_width": 170, "sample_height": 96, "sample_frames": 81, "max_text_seq_length": 224},
        "5b-i2v": {"in_channels": 32},
        "1.5-5b-i2v": {"in_channels": 32, "sample_width": 300, "sample_height": 300, "sample_frames": 81, "ofs_embed_dim": 512},
    }
    large = {} if variant == "2b" else {"num_layers": 42, "num_attention_heads": 48}
    released = Described(**(VARIANTS[variant] | large | sizes[variant] | {"patch_bias": True}))
    preset = configure("generators", "dit", f"cogvideox{variant}" if "1.5" in variant else f"cogvideox-{variant}")
    assert isinstance(preset, dit.Config)
    assert describe(preset) == released


def test_learned_positions_are_for_what_was_learned() -> None:
    grid = Grid(frames=3, height=4, width=6, text_tokens=2)
    table, words, video = torch.randn(2 + 3 * 6, 8), torch.zeros(1, 2, 8), torch.zeros(1, 12, 8)
    placed_words, placed_video = placed(words, video, table, grid, (2, 2, 3), 2)
    assert torch.equal(placed_words[0], table[:2]) and torch.equal(placed_video[0], table[2:14]), (
        "the beginning, for a shorter clip"
    )
    for size, count in (((2, 3, 2), 2), ((4, 2, 3), 2), ((2, 2, 3), 3)):
        with pytest.raises(TheseusError):
            placed(torch.zeros(1, count, 8), video, table, grid, size, 2)


def test_an_image_stands_at_the_first_frame() -> None:
    first = torch.randn(2, 4, 1, 3, 3)
    made = image_latents(first, 5)
    assert made.shape == (2, 4, 5, 3, 3) and torch.equal(made[:, :, :1], first) and not made[:, :, 1:].any()
    assert torch.equal(image_latents(first, 1), first)


@pytest.mark.parametrize("variant", VARIANTS)
def test_it_can_be_trained(variant: str, tmp_path: Path) -> None:
    _, model = saved(variant, tmp_path)
    latents, _, words = inputs(model, SIZES[0])
    model.losses(Batch(latents=latents, text=text_of(words)), "model")["loss"].backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


# --- the scheduler ---


def levels_of(scheduler: Any, folder: Path) -> tuple[DiscretePath, str]:
    scheduler.save_pretrained(folder)
    betas, sampler = read_scheduler(folder)
    return DiscretePath(betas), sampler


@pytest.mark.parametrize("spacing", ["trailing", "leading", "linspace"])
@pytest.mark.parametrize("steps", [1, 2, 7, 30, 50, 1000])
def test_the_times_are_those_of_diffusers(spacing: str, steps: int, tmp_path: Path) -> None:
    scheduler = diffusers.CogVideoXDDIMScheduler(**(SCHEDULER | {"timestep_spacing": spacing}))
    path, _ = levels_of(scheduler, tmp_path)
    scheduler.set_timesteps(steps)
    visited = path.times(steps, torch.device("cpu"))
    assert path.clock(visited[:-1]).tolist() == scheduler.timesteps.tolist()
    assert visited[-1] == 0
    if spacing == "trailing":
        assert path.alpha(visited[0]) == 0 and path.sigma(visited[-1]) == 0


@pytest.mark.parametrize("prediction", ["v_prediction", "epsilon", "sample"])
@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("name", ["CogVideoXDDIMScheduler", "CogVideoXDPMScheduler"])
def test_every_step_is_that_of_diffusers(name: str, shift: float, prediction: str, tmp_path: Path) -> None:
    changes = {"snr_shift_scale": shift, "prediction_type": prediction, "rescale_betas_zero_snr": prediction != "epsilon"}
    scheduler = getattr(diffusers, name)(**(SCHEDULER | changes))
    path, sampler = levels_of(scheduler, tmp_path)
    assert sampler == {"CogVideoXDDIMScheduler": "ddim", "CogVideoXDPMScheduler": "dpmpp_2m_sde"}[name]
    for steps in (1, 2, 10, 50):
        torch.manual_seed(0)
        start, given = torch.randn(1, 3, 2, 4, 4), torch.randn(steps, 1, 3, 2, 4, 4)
        expected = steps_of(scheduler, start, given)
        seen: list[Tensor] = []

        def predict(x: Tensor, t: Tensor, seen: list[Tensor] = seen, given: Tensor = given) -> tuple[Tensor, Tensor]:
            seen.append(x)
            return path.split(x, given[len(seen) - 1], t)

        visited = path.times(steps, torch.device("cpu"))
        if sampler == "ddim":
            last = samplers.ddim(predict, start, visited, path)
        else:
            last = samplers.dpmpp_2m_sde(predict, start, visited, path, fresh=fresh_as_theirs(start.shape, 5))
        for i, (ours, reference) in enumerate(zip([*seen[1:], last], expected, strict=True)):
            torch.testing.assert_close(ours, reference, atol=2e-5, rtol=1e-5, msg=f"step {i} of {steps}")


def steps_of(scheduler: Any, x: Tensor, given: Tensor) -> list[Tensor]:
    """What the scheduler makes of x, step by step, where the network gives `given`."""
    scheduler.set_timesteps(len(given))
    times, old, found = scheduler.timesteps, None, []
    draws = torch.Generator().manual_seed(5)
    for i, t in enumerate(times):
        if isinstance(scheduler, diffusers.CogVideoXDDIMScheduler):
            x = scheduler.step(given[i], t, x, return_dict=False)[0]
        else:
            x, old = scheduler.step(given[i], old, t, times[i - 1] if i else None, x, generator=draws, return_dict=False)
        found.append(x)
    return found


def fresh_as_theirs(shape: torch.Size, seed: int, turn: bool = False) -> Callable[[], Tensor]:
    """New noise as the scheduler of diffusers draws it: in every step but the first and the last twice, the first for nothing."""
    generator, calls = torch.Generator().manual_seed(seed), [0]

    def fresh() -> Tensor:
        calls[0] += 1
        for _ in range(1 if calls[0] == 1 else 2):
            noise = torch.randn(shape, generator=generator)
        return turned(noise) if turn else noise

    return fresh


def test_a_scheduler_is_written_as_it_was_read(tmp_path: Path) -> None:
    for name in ("CogVideoXDDIMScheduler", "CogVideoXDPMScheduler"):
        for shift, spacing in ((1.0, "trailing"), (3.0, "linspace")):
            reference = getattr(diffusers, name)(**(SCHEDULER | {"snr_shift_scale": shift, "timestep_spacing": spacing}))
            reference.save_pretrained(tmp_path / "theirs")
            save_scheduler(*read_scheduler(tmp_path / "theirs"), tmp_path / "ours")
            again = getattr(diffusers, name).from_pretrained(tmp_path / "ours")
            assert torch.equal(again.alphas_cumprod, reference.alphas_cumprod)
            assert again.config.timestep_spacing == spacing and again.config.prediction_type == "v_prediction"
            assert read_scheduler(tmp_path / "ours") == read_scheduler(tmp_path / "theirs")


def test_the_path_noises_and_splits() -> None:
    path = DiscretePath(Betas())
    clean, noise, t = torch.randn(3, 2, 2), torch.randn(3, 2, 2), torch.tensor([0.001, 0.5, 1.0])
    noisy, target = path.add_noise(clean, noise, t), path.target(clean, noise, t)
    torch.testing.assert_close(noisy[2], noise[2])
    torch.testing.assert_close(target[2], -clean[2])
    for i in range(3):
        found_clean, found_noise = path.split(noisy[i], target[i], t[i])
        torch.testing.assert_close(found_clean, clean[i], atol=1e-5, rtol=0)
        torch.testing.assert_close(found_noise, noise[i], atol=1e-5, rtol=0)
    assert path.snap(torch.tensor([0.0, 0.0004, 0.0011, 1.0])).tolist() == pytest.approx([0.001, 0.001, 0.002, 1.0])
    with pytest.raises(TheseusError, match="1001"):
        path.times(1001, torch.device("cpu"))


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [
        ("beta_schedule", "squaredcos_cap_v2", "beta_schedule"),
        ("prediction_type", "flow", "prediction_type"),
        ("gamma", 1, "gamma"),
        ("_class_name", "EulerDiscreteScheduler", "EulerDiscreteScheduler"),
        ("prediction_type", "epsilon", "epsilon"),
    ],
)
def test_a_scheduler_that_is_not_known_is_refused(key: str, value: object, named: str, tmp_path: Path) -> None:
    diffusers.CogVideoXDDIMScheduler(**SCHEDULER).save_pretrained(tmp_path)
    edit(tmp_path / "scheduler_config.json", key, value)
    with pytest.raises(TheseusError) as caught:
        read_scheduler(tmp_path)
    assert named in caught.value.message


# --- a whole generation ---


def pipeline_of(reference: Any, scheduler: Any, image: Tensor | None, noise: Tensor) -> Any:
    """The pipeline of diffusers without text encoder and autoencoder."""
    if image is None:
        return diffusers.CogVideoXPipeline(tokenizer=None, text_encoder=None, vae=None, transformer=reference, scheduler=scheduler)
    pipe = diffusers.CogVideoXImageToVideoPipeline(
        tokenizer=None, text_encoder=None, vae=None, transformer=reference, scheduler=scheduler
    )
    pipe.prepare_latents = lambda *arguments, **named: (turned(noise), turned(image))
    return pipe


@torch.no_grad()
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", ["CogVideoXDDIMScheduler", "CogVideoXDPMScheduler"])
def test_ten_steps_make_the_same(variant: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scheduler = getattr(diffusers, name)(**(SCHEDULER | {"snr_shift_scale": 3.0 if variant == "2b" else 1.0}))
    reference = theirs(variant)
    reference.save_pretrained(tmp_path / "transformer")
    scheduler.save_pretrained(tmp_path / "scheduler")
    betas, sampler = read_scheduler(tmp_path / "scheduler")
    model = load_transformer(tmp_path / "transformer", betas)
    noise, image, words = inputs(model, SIZES[0])
    negative = torch.randn_like(words)
    pipe = pipeline_of(reference, scheduler, image, noise)
    pipe.set_progress_bar_config(disable=True)
    picture = {} if image is None else {"image": torch.zeros(2, 3, 64, 96)}
    made = pipe(
        **picture,
        prompt_embeds=words,
        negative_prompt_embeds=negative,
        height=64,
        width=96,
        num_frames=13,
        num_inference_steps=10,
        guidance_scale=6.0,
        latents=turned(noise),
        generator=torch.Generator().manual_seed(5),
        output_type="latent",
    ).frames
    monkeypatch.setattr(samplers, "noise_after", lambda x: fresh_as_theirs(turned(noise).shape, 5, turn=True))
    given = {"steps": 10, "guidance_scale": 6.0, "sampler": sampler, "image": image}
    found = model.sample(noise, text_of(words), text_of(negative), **given)
    assert made.std() > 0.2
    assert (found - turned(made)).abs().max() < 1e-3


@torch.no_grad()
def test_dynamic_guidance_goes_by_the_number_of_the_step(tmp_path: Path) -> None:
    reference = theirs("5b")
    reference.save_pretrained(tmp_path)
    scheduler = diffusers.CogVideoXDDIMScheduler(**SCHEDULER)
    model = load_transformer(tmp_path, Betas(), dynamic_guidance=True)
    noise, _, words = inputs(model, SIZES[0])
    negative, x = torch.randn_like(words), noise
    scheduler.set_timesteps(10)
    for i, t in enumerate(scheduler.timesteps):
        scale = 1 + 6.0 * (1 - math.cos(math.pi * (i / 10) ** 5)) / 2
        with_words, without = (forward_of(reference, x, t.expand(2), each) for each in (words, negative))
        x = scheduler.step(without + scale * (with_words - without), t, x, return_dict=False)[0]
    made = model.sample(noise, text_of(words), text_of(negative), steps=10, guidance_scale=6.0, sampler="ddim")
    assert (made - x).abs().max() < 1e-3
    plain = load_transformer(tmp_path, Betas()).sample(
        noise, text_of(words), text_of(negative), steps=10, guidance_scale=6.0, sampler="ddim"
    )
    assert (made - plain).abs().max() > 1e-2


def test_dynamic_guidance_begins_with_none_and_ends_strong() -> None:
    visited = DiscretePath(Betas()).times(50, torch.device("cpu"))
    scales = [rising(6.0, visited)(float(t)) for t in visited]
    assert scales[0] == 1 and scales[-1] == 7 and scales == sorted(scales) and scales[25] < 1.1


def test_an_image_is_needed_where_the_model_continues_one(tmp_path: Path) -> None:
    for variant, image in (("5b", torch.zeros(2, 4, *SIZES[0])), ("5b-i2v", None)):
        _, model = saved(variant, tmp_path / variant)
        noise, _, words = inputs(model, SIZES[0])
        with pytest.raises(TheseusError, match="image"):
            model.sample(noise, text_of(words), text_of(words), steps=1, guidance_scale=1.0, sampler="ddim", image=image)


def test_latent_frames_that_are_no_whole_patches_are_refused(tmp_path: Path) -> None:
    _, model = saved("1.5-5b", tmp_path)
    noise, _, words = inputs(model, (3, 8, 12))
    with pytest.raises(TheseusError) as caught:
        model.velocity(noise, torch.ones(2), text_of(words))
    assert "4" in (caught.value.hint or "")


# --- what is wrong with a folder ---


def edit(path: Path, key: str, value: object) -> None:
    tree = json.loads(path.read_text())
    tree[key] = value
    path.write_text(json.dumps(tree))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """In shards, as diffusers writes them."""
    theirs("5b").save_pretrained(tmp_path / "transformer", max_shard_size="40KB")
    assert len(list((tmp_path / "transformer").glob("*.safetensors"))) > 1
    return tmp_path / "transformer"


def complaint(folder: Path) -> str:
    with pytest.raises(TheseusError) as caught:
        load_transformer(folder, Betas())
    return f"{caught.value.message}\n{caught.value.hint}"


def rewrite(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    path = sorted(folder.glob("*.safetensors"))[0]
    weights = load_file(path)
    change(weights)
    save_file({name: tensor.contiguous().clone() for name, tensor in weights.items()}, path)


def test_shards_are_read_as_one_file_is(folder: Path, tmp_path: Path) -> None:
    theirs("5b").save_pretrained(tmp_path / "single")
    ours, single = (load_transformer(each, Betas()).state_dict() for each in (folder, tmp_path / "single"))
    assert all(torch.equal(tensor, single[key]) for key, tensor in ours.items())


def test_weights_that_are_missing_or_left_over_are_named(folder: Path) -> None:
    rewrite(folder, lambda weights: weights.update({"extra.weight": torch.zeros(1)}))
    assert "extra.weight" in complaint(folder)
    rewrite(folder, lambda weights: (weights.pop("extra.weight"), weights.pop("patch_embed.proj.weight")))
    assert "patch_embed.proj.weight" in complaint(folder)


def test_a_wrong_shape_is_named(folder: Path) -> None:
    rewrite(folder, lambda weights: weights.update({"patch_embed.proj.weight": torch.zeros(32, 4, 1, 1)}))
    assert "(32, 4, 1, 1), and (32, 4, 2, 2)" in complaint(folder) and "patch_embed.proj.weight" in complaint(folder)


def test_many_missing_weights_are_counted(folder: Path) -> None:
    edit(folder / "config.json", "num_layers", 3)
    assert "and 19 more" in complaint(folder)


def test_a_truncated_shard_and_a_missing_one_are_named(folder: Path) -> None:
    path = sorted(folder.glob("*.safetensors"))[1]
    path.write_bytes(path.read_bytes()[:-100])
    assert f"damaged weights: {path}" in complaint(folder)
    path.write_bytes(b"")
    assert f"damaged weights: {path}" in complaint(folder)
    path.unlink()
    assert f"missing: {path}" in complaint(folder)


def test_a_folder_without_weights_or_with_two_sets_is_refused(folder: Path) -> None:
    (folder / "diffusion_pytorch_model.fp16.safetensors.index.json").write_text("{}")
    assert "more than one set" in complaint(folder)
    for path in folder.glob("*.safetensors*"):
        path.unlink()
    assert "no weights" in complaint(folder)
    (folder / "diffusion_pytorch_model.bin").write_bytes(b"\x80")
    assert "never opened" in complaint(folder)


def test_a_shard_outside_the_folder_is_refused(folder: Path) -> None:
    edit(folder / "diffusion_pytorch_model.safetensors.index.json", "weight_map", {"a": "../elsewhere.safetensors"})
    assert "damaged index" in complaint(folder)


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [
        ("activation_fn", "geglu", "transformer.activation_fn"),
        ("norm_eps", 1e-6, "transformer.norm_eps"),
        ("num_layer", 2, "did you mean num_layers"),
        ("ofs_embed_dim", 8, "transformer.ofs_embed_dim"),
        ("in_channels", 2, "transformer.in_channels"),
        ("patch_bias", False, "transformer.patch_bias"),
        ("_class_name", "FluxTransformer2DModel", "FluxTransformer2DModel"),
        ("attention_head_dim", 24, "multiple"),
    ],
)
def test_a_configuration_that_was_never_released_is_refused(key: str, value: object, named: str, folder: Path) -> None:
    edit(folder / "config.json", key, value)
    assert named in complaint(folder)


def test_what_cogvideox_has_not_is_not_written(tmp_path: Path) -> None:
    model = build("generators", "dit", "debug")
    assert isinstance(model, Model)
    with pytest.raises(TheseusError, match="grid, betas, pooled_text, norms_at_end, positions"):
        save_transformer(model, tmp_path / "out")
    assert not list(tmp_path.iterdir()), "nothing is half written"


def test_a_dtype_is_that_asked_for(folder: Path) -> None:
    with torch.device("meta"):
        model = Model(load_transformer(folder, Betas()).config)
    load_into(model, ties(model.config), Stored(folder), torch.float16)
    assert {weight.dtype for weight in model.state_dict().values()} == {torch.float16}


def test_betas_leave_no_room_for_the_straight_path() -> None:
    for changes in ({"shift": 2.0}, {"predicts": "clean"}, {"least_time": 0.1}):
        with pytest.raises(TheseusError, match="straight path"):
            build("generators", "dit", "debug", {"betas": {}, **changes})
    with pytest.raises(TheseusError, match="grid"):
        build("generators", "dit", "debug", {"positions": "learned"})
    with pytest.raises(TheseusError, match="zero_terminal_snr"):
        validate(Betas, {"predicts": "epsilon"})
