"""The causal autoencoder: nothing leaks from the future, chunks are exact, and it starts as the best linear codec."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from theseus_core.contracts import Batch
from theseus_core.errors import TheseusError
from theseus_core.losses import psnr
from theseus_core.nn.patching import patchify, unpatchify
from theseus_core.registry import build
from theseus_core.tokenizers.causal_vae import Model


@pytest.fixture(scope="module")
def vae() -> Model:
    torch.manual_seed(0)
    model = build("tokenizers", "causal_vae", "debug", {"encoder_blocks": 2, "decoder_blocks": 2})
    with torch.no_grad():  # blocks start as the identity: stir them, or nothing could leak
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    assert isinstance(model, Model)
    return model.eval()


@pytest.fixture(scope="module")
def video() -> Tensor:
    torch.manual_seed(1)
    return torch.rand(2, 3, 21, 32, 40) * 2 - 1


@torch.no_grad()
@pytest.mark.parametrize("k", [1, 5, 9, 17])
def test_changing_frames_from_k_on_changes_nothing_before(vae: Model, video: Tensor, k: int) -> None:
    changed = video.clone()
    changed[:, :, k:] = -changed[:, :, k:]
    before = (k - 1) // 4 + 1  # latents of frames before k
    latents, after = vae.encode(video), vae.encode(changed)
    assert (latents - after)[:, :, :before].abs().max() == 0.0
    assert (latents - after)[:, :, before:].abs().amax(dim=(0, 1, 3, 4)).min() > 0
    output, output_after = vae.decode(latents), vae.decode(after)
    assert (output - output_after)[:, :, :k].abs().max() == 0.0
    assert (output - output_after)[:, :, k].abs().max() > 0


@torch.no_grad()
@pytest.mark.parametrize("k", [2, 3, 4, 12])
def test_within_a_group_of_four_only_that_group_and_later_ones_change(vae: Model, video: Tensor, k: int) -> None:
    changed = video.clone()
    changed[:, :, k:] += 1
    group = (k + 3) // 4
    latents, after = vae.encode(video), vae.encode(changed)
    assert (latents - after)[:, :, :group].abs().max() == 0.0
    first = 1 + 4 * (group - 1)  # the first frame of the group that holds frame k
    assert (vae.decode(latents) - vae.decode(after))[:, :, :first].abs().max() == 0.0


@torch.no_grad()
@pytest.mark.parametrize("chunk", [1, 2, 4, 5, 6, 100])
def test_chunked_is_whole(vae: Model, video: Tensor, chunk: int) -> None:
    latents = vae.encode(video)
    torch.testing.assert_close(vae.encode(video, chunk=chunk), latents, atol=1e-5, rtol=0)
    torch.testing.assert_close(vae.decode(latents, chunk=chunk), vae.decode(latents), atol=1e-5, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("frames", [1, 5, 9, 13])
def test_any_length_and_any_batch(vae: Model, video: Tensor, frames: int) -> None:
    clip = video[:, :, :frames]
    latents = vae.encode(clip)
    assert latents.shape == (2, 4, 1 + frames // 4, 4, 5)
    torch.testing.assert_close(vae.encode(clip[:1]), latents[:1], atol=1e-5, rtol=0)
    torch.testing.assert_close(vae.encode(video)[:, :, : latents.shape[2]], latents, atol=1e-5, rtol=0)
    for chunk in (1, 2):
        torch.testing.assert_close(vae.decode(vae.encode(clip, chunk), chunk), vae.decode(latents), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("shape", "near"), [((1, 3, 16, 32, 32), "13 or 17"), ((1, 3, 5, 33, 47), "48x32")])
def test_a_size_that_would_be_rounded_is_refused(vae: Model, shape: tuple[int, ...], near: str) -> None:
    with pytest.raises(TheseusError) as caught:
        vae.encode(torch.zeros(shape))
    assert near in (caught.value.hint or "")


@pytest.mark.parametrize("chunk", [0, -1])
def test_a_chunk_of_nothing_is_refused(vae: Model, video: Tensor, chunk: int) -> None:
    with pytest.raises(TheseusError, match="at least one"):
        vae.encode(video, chunk=chunk)
    with pytest.raises(TheseusError, match="at least one"):
        vae.decode(torch.zeros(1, 4, 2, 4, 4), chunk=chunk)
    with pytest.raises(TheseusError, match="latents must be"):
        vae.decode(torch.zeros(1, 5, 2, 4, 4))


@torch.no_grad()
def test_a_latent_may_stand_for_larger_squares(video: Tensor) -> None:
    wide = build("tokenizers", "causal_vae", "debug", {"space_factor": 16})
    clip = video[..., :32]
    wide.initialize([clip])
    latents = wide.encode(clip)
    assert latents.shape == (2, *wide.latent_shape(21, 32, 32)) == (2, 4, 6, 2, 2)
    assert wide.decode(latents).shape == clip.shape
    torch.testing.assert_close(wide.decode(wide.encode(clip, chunk=2), chunk=2), wide.decode(latents), atol=1e-5, rtol=0)
    with pytest.raises(TheseusError, match="multiples of 16, not: 40x32"):
        wide.encode(video)


def test_patchify_is_undone(video: Tensor) -> None:
    torch.testing.assert_close(unpatchify(patchify(video[:, :, 1:], 4, 8), 4, 8), video[:, :, 1:], atol=0, rtol=0)
    assert patchify(video[:, :, 1:], 4, 8)[0, 1, 2, 3].reshape(3, 4, 8, 8).equal(video[0, :, 5:9, 16:24, 24:32])


@torch.no_grad()
def test_it_starts_as_the_principal_components() -> None:
    """Against an SVD of the patches by hand: the same error with as many components."""
    torch.manual_seed(0)
    smooth = torch.nn.functional.interpolate(torch.randn(3, 3, 3, 8, 8), size=(9, 32, 32), mode="trilinear").clamp(-1, 1)
    vae = build("tokenizers", "causal_vae", "debug")
    vae.initialize([smooth[:1], smooth[1:]])
    output = vae.decode(vae.encode(smooth))
    patches = patchify(smooth[:, :, 1:], 4, 8).flatten(0, 3).double()
    mean = patches.mean(0)
    _, _, basis = torch.linalg.svd(patches - mean, full_matrices=False)
    expected = (patches - mean) @ basis[:4].T @ basis[:4] + mean
    found = patchify(output[:, :, 1:], 4, 8).flatten(0, 3).double()
    torch.testing.assert_close((found - patches).square().mean(), (expected - patches).square().mean(), rtol=1e-3, atol=1e-7)


@torch.no_grad()
def test_calibrated_latents_have_mean_0_and_deviation_1(vae: Model, video: Tensor) -> None:
    before = vae.decode(vae.encode(video))
    vae.calibrate([video[:1], video[1:]])
    latents = vae.encode(video)
    torch.testing.assert_close(latents.mean(dim=(0, 2, 3, 4)), torch.zeros(4), atol=1e-3, rtol=0)
    torch.testing.assert_close(latents.std(dim=(0, 2, 3, 4)), torch.ones(4), atol=1e-2, rtol=0)
    torch.testing.assert_close(vae.decode(latents), before, atol=1e-4, rtol=0)


def test_channels_are_evened_out_as_far_as_asked_for() -> None:
    spreads = []
    for whiten in (1.0, 0.5, 0.0):
        torch.manual_seed(0)
        vae = build("tokenizers", "causal_vae", "debug", {"whiten": whiten}).eval()
        clips = torch.rand(2, 4, 3, 5, 16, 16) * torch.linspace(0.1, 1, 16)
        vae.calibrate(clips)
        with torch.no_grad():
            z = torch.cat([vae.encode(clip) for clip in clips]).transpose(0, 1).flatten(1)
        torch.testing.assert_close(z.mean(1), torch.zeros(4), atol=1e-4, rtol=0)
        torch.testing.assert_close(z.var(1, unbiased=False).mean(), torch.tensor(1.0), atol=1e-3, rtol=0)
        spreads.append(float(z.std(1).max() / z.std(1).min()))
    even, half, left = spreads
    assert even == pytest.approx(1, abs=1e-3)
    assert half == pytest.approx(left**0.5, rel=1e-3)
    assert left > 1.05


def test_the_loss_is_what_the_configuration_says(video: Tensor) -> None:
    model = build("tokenizers", "causal_vae", "debug", {"l1_weight": 2.0, "mse_weight": 3.0, "kl_weight": 0.5, "ssim_weight": 0.25})
    terms = model(Batch(video=video[:, :, :5]), "model")
    by_hand = 2 * terms["l1"] + 3 * terms["mse"] + 0.5 * terms["kl"] + 0.25 * (1 - terms["ssim"])
    torch.testing.assert_close(terms["loss"], by_hand)


def test_it_learns() -> None:
    torch.manual_seed(0)
    clips = torch.nn.functional.interpolate(torch.randn(2, 3, 3, 6, 6), size=(9, 32, 32), mode="trilinear").clamp(-1, 1)
    model = build("tokenizers", "causal_vae", "debug")
    model.initialize([clips])
    with torch.no_grad():
        before = psnr(model.decode(model.encode(clips)), clips).mean()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for _ in range(60):
        model(Batch(video=clips), "model")["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
    with torch.no_grad():
        after = psnr(model.decode(model.encode(clips)), clips).mean()
    assert after > before + 1
