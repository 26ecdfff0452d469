"""The `ddpm` family: its paths and samplers against diffusers' schedulers, its weights of errors, and what its words can see."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from theseus_core.contracts import Batch, Text
from theseus_core.diffusion import samplers
from theseus_core.diffusion.caching import Cache
from theseus_core.diffusion.discrete import DiscretePath
from theseus_core.errors import TheseusError
from theseus_core.generators.ddpm import Model
from theseus_core.nn.cross import CrossAttention
from theseus_core.nn.spectrum import spectrum
from theseus_core.registry import build

CPU = torch.device("cpu")
SCHEDULES = {"cosine": "squaredcos_cap_v2", "linear": "linear"}
PREDICTIONS = {"v": "v_prediction", "epsilon": "epsilon", "clean": "sample"}
SAME_AS = {"ddpm": "DDPMScheduler", "ddim": "DDIMScheduler", "dpmpp_2m": "DPMSolverMultistepScheduler"}
CASES = [
    (schedule, prediction, zero)
    for schedule in SCHEDULES
    for prediction in PREDICTIONS
    for zero in (True, False)
    if not (zero and prediction == "epsilon")
]


def small(**changes: object) -> Model:
    """A small network in which every weight has its effect."""
    torch.manual_seed(0)
    model = build("generators", "ddpm", "debug", changes)
    assert isinstance(model, Model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def words(batch: int = 2, length: int = 6) -> Text:
    torch.manual_seed(1)
    mask = torch.arange(length) < torch.tensor([[2], [4]])[:batch]
    return Text(mask=mask, embeddings=torch.randn(batch, length, 32))


# --- against diffusers ---


def scheduler_of(name: str, schedule: str, prediction: str, zero: bool) -> Any:
    diffusers = pytest.importorskip("diffusers")
    settings = {"beta_schedule": SCHEDULES[schedule], "prediction_type": PREDICTIONS[prediction], "rescale_betas_zero_snr": zero}
    if name != "dpmpp_2m":
        settings["clip_sample"] = False
    return getattr(diffusers, SAME_AS[name])(timestep_spacing="trailing", beta_start=1e-4, beta_end=0.02, **settings)


@pytest.mark.parametrize(("schedule", "prediction", "zero"), CASES)
@pytest.mark.parametrize("sampler", list(SAME_AS))
def test_samplers_are_those_of_diffusers(sampler: str, schedule: str, prediction: str, zero: bool) -> None:
    model = build("generators", "ddpm", "debug", {"schedule": schedule, "prediction": prediction, "zero_terminal_snr": zero})
    assert isinstance(model, Model)
    for steps in (1, 4, 20):
        scheduler = scheduler_of(sampler, schedule, prediction, zero)
        scheduler.set_timesteps(steps)
        torch.manual_seed(0)
        start, given = torch.randn(1, 3, 2, 4, 4), torch.randn(steps, 1, 3, 2, 4, 4)
        expected = by_diffusers(scheduler, start, given)
        path = model.path_in_log_snr if sampler in samplers.IN_LOG_SNR else model.path
        visited = path.times(steps, CPU)
        assert path.clock(visited[:-1]).tolist() == scheduler.timesteps.tolist()
        found = by_us(sampler, path, start, visited, given)
        error = (found - expected).abs().max() / expected.abs().max().clamp_min(1)
        assert error < 1e-5, (steps, float(error))


def by_us(sampler: str, path: DiscretePath, start: Tensor, visited: Tensor, given: Tensor) -> Tensor:
    left, draws = list(given), torch.Generator().manual_seed(5)
    fresh = {"fresh": lambda: torch.randn(start.shape, generator=draws)} if sampler == "ddpm" else {}
    made: Tensor = getattr(samplers, sampler)(lambda x, t: path.split(x, left.pop(0), t), start, visited, path, **fresh)
    return made


def by_diffusers(scheduler: Any, x: Tensor, given: Tensor) -> Tensor:
    draws = {"generator": torch.Generator().manual_seed(5)} if type(scheduler).__name__ == "DDPMScheduler" else {}
    for t, predicted in zip(scheduler.timesteps, given, strict=True):
        x = scheduler.step(predicted, t, x, return_dict=False, **draws)[0]
    return x


@pytest.mark.parametrize(("schedule", "prediction", "zero"), CASES)
def test_noise_and_targets_are_those_of_diffusers(schedule: str, prediction: str, zero: bool) -> None:
    scheduler = scheduler_of("ddpm", schedule, prediction, zero)
    path = small(schedule=schedule, prediction=prediction, zero_terminal_snr=zero).path
    clean, noise, steps = torch.randn(4, 3, 4), torch.randn(4, 3, 4), torch.tensor([0, 10, 500, 999])
    t = (steps + 1) / 1000
    close: dict[str, Any] = {"atol": 1e-4, "rtol": 0}  # at the first level 1 - alpha^2 is what rounding to fp32 leaves of it
    torch.testing.assert_close(path.add_noise(clean, noise, t), scheduler.add_noise(clean, noise, steps), **close)
    wanted = {"v": scheduler.get_velocity(clean, noise, steps), "epsilon": noise, "clean": clean}[prediction]
    torch.testing.assert_close(path.target(clean, noise, t), wanted, **close)


# --- the path and the errors ---


@pytest.mark.parametrize("schedule", list(SCHEDULES))
def test_the_last_level_is_pure_noise_if_that_is_asked_for(schedule: str) -> None:
    last = torch.ones(1)
    assert small(schedule=schedule).path.alpha(last) == 0
    assert 0 < small(schedule=schedule, zero_terminal_snr=False).path.alpha(last) < 0.01


def test_epsilon_is_refused_where_all_is_noise() -> None:
    with pytest.raises(TheseusError, match=r"zero_terminal_snr: .*epsilon says nothing of the clip: True"):
        build("generators", "ddpm", "debug", {"prediction": "epsilon"})
    build("generators", "ddpm", "debug", {"prediction": "epsilon", "zero_terminal_snr": False})


@pytest.mark.parametrize("shift", [1.0, 16.0])
def test_a_shift_divides_the_ratio_of_signal_to_noise(shift: float) -> None:
    t = torch.tensor([0.1, 0.5, 0.9])
    plain, moved = (small(zero_terminal_snr=False, snr_shift=s).path for s in (1.0, shift))
    ratios = [(path.alpha(t) / path.sigma(t)).square() for path in (plain, moved)]
    torch.testing.assert_close(ratios[0], shift * ratios[1])


@pytest.mark.parametrize("prediction", list(PREDICTIONS))
@pytest.mark.parametrize("least", [0.0, 1.0])
def test_errors_count_by_the_ratio_of_signal_to_noise_within_bounds(prediction: str, least: float) -> None:
    """Whatever is predicted, an error of the clean clip counts by it, or by the bound that it lies beyond."""
    path = small(prediction=prediction, zero_terminal_snr=prediction != "epsilon").path
    t = torch.tensor([0.05, 0.3, 0.6, 0.95])
    alpha, sigma = path.alpha(t), path.sigma(t)
    off = {"v": 1 / sigma, "epsilon": alpha / sigma, "clean": torch.ones(4)}[prediction]  # by so much per error of the clean clip
    found = path.snr_weights(t, least, 5.0) * off.square()
    torch.testing.assert_close(found, torch.tensor([min(max(float(ratio), least), 5.0) for ratio in (alpha / sigma) ** 2]))
    assert path.snr_weights(torch.ones(1), least, 5.0).isfinite().all()


def test_the_bounds_of_the_weights_are_in_order() -> None:
    with pytest.raises(TheseusError, match=r"least_snr: .*must not be more than min_snr_gamma, 1"):
        build("generators", "ddpm", "debug", {"min_snr_gamma": 1.0, "least_snr": 2.0})


def test_the_weights_are_used_in_the_loss() -> None:
    losses = {}
    for gamma in (5.0, 0.0):
        model = small(min_snr_gamma=gamma)
        torch.manual_seed(2)
        losses[gamma] = model.losses(Batch(latents=torch.randn(2, 4, 2, 4, 4), text=words()), "model")
    assert losses[5.0]["mse"] == losses[0.0]["loss"] and losses[5.0]["loss"] < losses[5.0]["mse"]


# --- the network ---


def test_masked_words_leak_nothing() -> None:
    model, text = small(), words()
    noisy, t = torch.randn(2, 4, 3, 8, 4), torch.tensor([0.3, 0.8])
    assert text.embeddings is not None
    hidden = text.embeddings.masked_fill(~text.mask.unsqueeze(-1), 100.0)
    before = model.predict(noisy, t, text)
    torch.testing.assert_close(before, model.predict(noisy, t, Text(mask=text.mask, embeddings=hidden)))
    seen = text.embeddings.masked_fill(text.mask.unsqueeze(-1), 0.5)
    assert not torch.allclose(before, model.predict(noisy, t, Text(mask=text.mask, embeddings=seen)), atol=1e-3)
    short = Text(mask=text.mask[:1, :2], embeddings=text.embeddings[:1, :2])
    torch.testing.assert_close(model.predict(noisy[:1], t[:1], short), before[:1])


def test_attention_to_words_is_that_of_torch() -> None:
    torch.manual_seed(0)
    layer = CrossAttention(32, 2)
    x, said, mask = torch.randn(2, 5, 32), torch.randn(2, 6, 32), words().mask
    q = layer.query_norm(layer.query(x).view(2, 5, 2, 16)).transpose(1, 2)
    k, v = layer.key_value(said).view(2, 6, 2, 2, 16).unbind(2)
    k, v = layer.key_norm(k).transpose(1, 2), v.transpose(1, 2)
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v, mask[:, None, None])
    torch.testing.assert_close(layer(x, said, mask), layer.out(expected.transpose(1, 2).reshape(2, 5, 32)))


def test_blocks_look_at_space_and_at_time_in_turn() -> None:
    model, text = small(layers=1), words()
    assert [block.along_time for block in model.blocks] == [False, True]
    x = torch.randn(2, 3, 4, 32)
    time, said, mask = torch.randn(2, 32), torch.randn(2, 6, 32), text.mask
    for block in model.blocks:
        changed = x.clone()
        changed[:, 1, 2] = torch.randn(32)
        size = (3, 1, 1) if block.along_time else (1, 2, 2)
        rotation = torch.ones(size[0] * size[1] * size[2], 16), torch.zeros(size[0] * size[1] * size[2], 16)
        differ = (block(x, said, mask, time, rotation) - block(changed, said, mask, time, rotation)).abs().amax((0, 3)) > 1e-6
        expected = torch.zeros(3, 4, dtype=torch.bool)
        expected[:, 2] |= block.along_time
        expected[1] |= not block.along_time
        assert torch.equal(differ, expected)


def test_the_convolutions_see_the_frames_around() -> None:
    """With tokens of their own silenced, what is left is the 3D encoder and decoder."""
    model = small(encoder_blocks=1)
    torch.nn.init.zeros_(model.patch_out.weight)
    torch.nn.init.zeros_(model.patch_out.bias)
    clip, t = torch.randn(1, 4, 9, 4, 4), torch.tensor([0.5])
    changed = clip.clone()
    changed[:, :, 4] += 1.0
    differ = (model.predict(clip, t, words(1)) - model.predict(changed, t, words(1))).abs().amax((0, 1, 3, 4)) > 1e-6
    assert differ.tolist() == [False, *[True] * 7, False], "three convolutions see three frames on each side"


@pytest.mark.parametrize("sampler", sorted(samplers.SAMPLERS))
def test_a_clip_follows_from_its_noise_alone(sampler: str) -> None:
    model, text, noise = small().eval(), words(), torch.randn(2, 4, 2, 4, 4)
    ways: dict[str, Any] = {"steps": 3, "guidance_scale": 2.0, "sampler": sampler}
    assert text.embeddings is not None
    both = model.sample(noise, text, text, **ways)
    one = Text(mask=text.mask[1:], embeddings=text.embeddings[1:])
    torch.testing.assert_close(model.sample(noise[1:], one, one, **ways), both[1:], atol=1e-4, rtol=1e-4)
    assert torch.equal(model.sample(noise, text, text, **ways), both)


@torch.no_grad()
def test_tokens_may_stand_for_frequencies() -> None:
    plain, other = small(), small(frequencies=True)
    for p in plain.parameters():
        p.add_(0.05 * torch.randn_like(p))
    other.load_state_dict(plain.state_dict())
    clip, t = torch.randn(2, 4, 5, 4, 4), torch.tensor([0.3, 0.8])
    found, expected = spectrum(other.predict(clip, t, words())), plain.predict(spectrum(clip), t, words())
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(other.predict(clip, t, words()), plain.predict(clip, t, words()), atol=1e-2)


@torch.no_grad()
def test_sines_may_stand_beside_cosines() -> None:
    model, clip, t = small(frequencies=True, sines=True), torch.randn(2, 4, 5, 4, 4), torch.tensor([0.3, 0.8])
    for p in model.parameters():
        p.add_(0.05 * torch.randn_like(p))
    before = model.predict(clip, t, words())
    assert before.shape == clip.shape
    model.conv_in.weight[:, 4:] = 0  # what it sees of the sines
    assert not torch.allclose(model.predict(clip, t, words()), before, atol=1e-3)
    with pytest.raises(TheseusError, match="sines: sines stand beside cosines: with them frequencies must be on"):
        small(sines=True)


def test_pixels_are_seen_in_squares_and_sizes_that_do_not_fit_are_refused() -> None:
    model = small(consumes="pixels", latent_channels=3, stride=4, patch=2, patch_frames=2)
    assert (model.consumes, model.patch, model.patch_frames) == ("pixels", 8, 2)
    t = torch.tensor([0.5])
    assert model.predict(torch.randn(1, 3, 4, 16, 24), t, words(1)).shape == (1, 3, 4, 16, 24)
    with pytest.raises(TheseusError, match=r"stride \* patch = 8, not: 20x16") as caught:
        model.predict(torch.randn(1, 3, 4, 16, 20), t, words(1))
    assert caught.value.hint == "16x16 would do"
    with pytest.raises(TheseusError, match="takes 2 pixels frames at once, not: 3"):
        model.predict(torch.randn(1, 3, 3, 16, 24), t, words(1))


def test_guidance_may_grow_and_steps_be_left_out() -> None:
    model, text, noise = small().eval(), words(), torch.randn(2, 4, 2, 4, 4)
    torch.manual_seed(3)
    other = Text(mask=text.mask, embeddings=torch.randn(2, 6, 32))
    ways: dict[str, Any] = {"steps": 12, "guidance_scale": 4.0, "sampler": "ddim"}
    plain = model.sample(noise, text, other, **ways)
    assert not torch.allclose(plain, model.sample(noise, text, other, **ways, dynamic_guidance=True), atol=1e-3)
    cache = Cache(0.2)
    model.sample(noise, text, other, **ways, cache=cache)
    assert cache.continued > 0 and cache.evaluated + cache.continued == 12


def test_the_path_in_log_snr_differs_only_where_there_is_no_signal() -> None:
    model = small()
    t = torch.arange(1001) / 1000
    plain, other = model.path.alpha(t), model.path_in_log_snr.alpha(t)
    assert torch.equal(plain[:-1], other[:-1]) and plain[-1] == 0 and other[-1] == 2**-12
    assert isinstance(model.path, DiscretePath)
