"""The released CogVideoX autoencoder: the same numbers as diffusers on tiny random weights, and what diffusers does not promise."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from theseus_core.contracts import Batch
from theseus_core.errors import TheseusError
from theseus_core.nn.causal3d import CausalConv3d, Past
from theseus_core.pretrained.vae import describe, load_vae, save_vae
from theseus_core.registry import build
from theseus_core.tokenizers.cogvideox_vae import Config, Model, Tiles

TINY = {
    "block_out_channels": (8, 8, 16, 16),
    "latent_channels": 4,
    "layers_per_block": 1,
    "norm_num_groups": 2,
    "sample_height": 96,
    "sample_width": 80,
}
SHAPES: dict[str, dict[str, Any]] = {
    "tiny": TINY,
    "grouped": {**TINY, "block_out_channels": (16, 32, 32, 64), "latent_channels": 8, "layers_per_block": 2, "norm_num_groups": 16},
    "inverted": {**TINY, "scaling_factor": 0.7, "invert_scale_latents": True},
}


def pair(shape: str) -> tuple[Any, Model]:
    """The autoencoder of diffusers and ours, with the same random weights."""
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    theirs = diffusers.AutoencoderKLCogVideoX(**SHAPES[shape]).eval()
    ours = Model(Config(**SHAPES[shape])).eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    return theirs, ours


def clip(frames: int, height: int = 32, width: int = 48, batch: int = 1) -> Tensor:
    return torch.rand(batch, 3, frames, height, width, generator=torch.Generator().manual_seed(frames)) * 2 - 1


def noise(ours: Model, frames: int, height: int = 32, width: int = 48, batch: int = 1) -> Tensor:
    shape = ours.latent_shape(frames, height, width)
    return torch.randn(batch, *shape, generator=torch.Generator().manual_seed(frames))


def same(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, atol=1e-5, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("shape", ["tiny", "grouped"])
@pytest.mark.parametrize("frames", [1, 5, 9, 13, 17])
def test_the_posterior_is_that_of_diffusers(shape: str, frames: int) -> None:
    theirs, ours = pair(shape)
    expected = theirs.encode(clip(frames, batch=2)).latent_dist
    mean, deviation = ours.posterior(clip(frames, batch=2))
    same(mean, expected.mean * theirs.config.scaling_factor)
    same(deviation, expected.std * theirs.config.scaling_factor)
    assert torch.equal(ours.encode(clip(frames, batch=2)), mean)


@torch.no_grad()
@pytest.mark.parametrize("shape", ["tiny", "grouped"])
@pytest.mark.parametrize("frames", [1, 9, 17])
def test_decoding_is_that_of_diffusers(shape: str, frames: int) -> None:
    theirs, ours = pair(shape)
    latents = noise(ours, frames, batch=2)
    same(ours.decode(latents), theirs.decode(latents / theirs.config.scaling_factor).sample)


@torch.no_grad()
@pytest.mark.parametrize("chunk", [4, 100])
def test_other_chunks_are_those_of_diffusers(chunk: int) -> None:
    theirs, ours = pair("tiny")
    theirs.num_latent_frames_batch_size, theirs.num_sample_frames_batch_size = chunk, 4 * chunk
    same(ours.encode(clip(25), chunk), theirs.encode(clip(25)).latent_dist.mean * theirs.config.scaling_factor)
    latents = noise(ours, 25)
    same(ours.decode(latents, chunk), theirs.decode(latents / theirs.config.scaling_factor).sample)
    assert (ours.decode(latents, chunk) - ours.decode(latents)).abs().max() > 1e-3  # so it matters which


@torch.no_grad()
@pytest.mark.parametrize(("frames", "size"), [(1, (200, 136)), (9, (104, 40)), (17, (48, 48))])
def test_tiles_are_those_of_diffusers(frames: int, size: tuple[int, int]) -> None:
    theirs, ours = pair("tiny")
    theirs.enable_tiling()
    ours.tiles = Tiles.released(ours.config)
    same(ours.encode(clip(frames, *size)), theirs.encode(clip(frames, *size)).latent_dist.mean * theirs.config.scaling_factor)
    latents = noise(ours, frames, *size)
    tiled = ours.decode(latents)
    same(tiled, theirs.decode(latents / theirs.config.scaling_factor).sample)
    ours.tiles = None
    assert (tiled - ours.decode(latents)).abs().max() > 1e-3  # so there was more than one tile


@torch.no_grad()
@pytest.mark.parametrize("tiles", [Tiles(4, 4, 3, 3), Tiles(5, 7, 2, 6), Tiles(3, 3, 3, 3), Tiles(100, 4, 1, 4)])
def test_any_tiles_give_the_whole_frame(tiles: Tiles) -> None:
    ours = build("tokenizers", "cogvideox_vae", "debug").eval()
    assert isinstance(ours, Model)
    ours.tiles = tiles
    assert ours.encode(clip(5, 72, 88)).shape == (1, 4, 2, 9, 11)
    assert ours.decode(noise(ours, 5, 72, 88)).shape == (1, 3, 5, 72, 88)


@torch.no_grad()
def test_slices_of_a_batch_are_the_batch() -> None:
    theirs, ours = pair("tiny")
    video, latents = clip(9, batch=3), noise(ours, 9, batch=3)
    encoded, decoded = ours.encode(video), ours.decode(latents)
    ours.slicing = True
    theirs.enable_slicing()
    same(ours.encode(video), encoded)
    same(ours.decode(latents), decoded)
    same(ours.decode(latents), theirs.decode(latents / theirs.config.scaling_factor).sample)


@torch.no_grad()
def test_bf16_is_as_near_to_fp32_as_that_of_diffusers() -> None:
    theirs, ours = pair("grouped")
    latents, video = noise(ours, 17), clip(17)
    exact, exact_latents = ours.decode(latents), ours.encode(video)
    scale = theirs.config.scaling_factor
    theirs.bfloat16()
    decoded = theirs.decode((latents / scale).bfloat16()).sample.float()
    encoded = theirs.encode(video.bfloat16()).latent_dist.mean.float() * scale
    ours.bfloat16()
    assert (ours.decode(latents) - exact).std() < 1.1 * (decoded - exact).std()
    assert (ours.encode(video) - exact_latents).std() < 1.1 * (encoded - exact_latents).std()
    assert ours.decode(latents).dtype == torch.bfloat16


@torch.no_grad()
def test_autocast_gives_the_same_but_for_rounding() -> None:
    _, ours = pair("grouped")
    latents = noise(ours, 9)
    exact = ours.decode(latents)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(ours.decode(latents).float(), exact, atol=0.1, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("chunk", [None, 1, 2, 3])
@pytest.mark.parametrize("frames", [5, 13, 21])
def test_every_count_of_frames_comes_back(frames: int, chunk: int | None) -> None:
    """Where diffusers gives 4 t frames for an even number t of latents, and t for chunks of one."""
    _, ours = pair("tiny")
    latents = ours.encode(clip(frames, 16, 16), chunk)
    assert latents.shape == (1, *ours.latent_shape(frames, 16, 16))
    assert ours.decode(latents, chunk).shape == (1, 3, frames, 16, 16)


@torch.no_grad()
def test_a_convolution_is_exact_in_chunks_and_keeps_nothing_after_the_last() -> None:
    torch.manual_seed(0)
    conv, x, past = CausalConv3d(3, 5), torch.randn(1, 3, 9, 6, 6), Past(more=True)
    first = conv(x[:, :, :4], past)
    assert past.kept[conv].shape == (1, 3, 2, 6, 6) and past.kept[conv].untyped_storage().nbytes() == 2 * 3 * 36 * 4
    middle = conv(x[:, :, 4:5], past)
    past.more = False
    chunked = torch.cat([first, middle, conv(x[:, :, 5:], past)], dim=2)
    torch.testing.assert_close(chunked, conv(x, Past()))
    assert not past.kept


def test_fewer_operations_than_diffusers_have() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    theirs, ours = pair("tiny")
    counts = []
    for decode in (ours.decode, theirs.decode):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            decode(noise(ours, 9))
        counts.append(counter.get_total_flops())
    assert counts[0] < 0.96 * counts[1]


@torch.no_grad()
def test_a_given_image_of_the_1_5_is_divided_by_the_factor() -> None:
    theirs, ours = pair("inverted")
    mean = theirs.encode(clip(1)).latent_dist.mean
    same(ours.encode(clip(1)) * ours.image_scale, mean / 0.7)
    assert pair("tiny")[1].image_scale == 1


@torch.no_grad()
def test_folders_go_both_ways(tmp_path: Path) -> None:
    theirs, ours = pair("inverted")
    theirs.save_pretrained(tmp_path / "theirs")
    read = load_vae(tmp_path / "theirs")
    assert read.config == ours.config
    same(read.decode(noise(ours, 9)), ours.decode(noise(ours, 9)))
    assert load_vae(tmp_path / "theirs", torch.bfloat16).decode(noise(ours, 9)).dtype == torch.bfloat16
    save_vae(ours, tmp_path / "ours", shard_bytes=20_000)
    assert len(list((tmp_path / "ours").glob("*.safetensors"))) > 1
    again = type(theirs).from_pretrained(tmp_path / "ours")
    assert torch.equal(again.decode(noise(ours, 9)).sample, theirs.decode(noise(ours, 9)).sample)
    described, expected = (json.loads((tmp_path / name / "config.json").read_text()) for name in ("ours", "theirs"))
    assert described == {key: value for key, value in expected.items() if key != "_diffusers_version"}


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"drop": "decoder.conv_out.conv.bias"}, "decoder.conv_out.conv.bias"),
        ({"add": "decoder.conv_out.conv.scale"}, "decoder.conv_out.conv.scale"),
        ({"config": {"latent_channels": 8}}, "encoder.conv_out.conv.weight"),
        ({"config": {"use_quant_conv": True}}, "vae.use_quant_conv"),
        ({"config": {"scaling": 1}}, "unknown key: vae.scaling"),
        ({"config": {"norm_num_groups": 3}}, "8 channels are no multiple of 3"),
        ({"config": {"_class_name": "AutoencoderKL"}}, "AutoencoderKL"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path: Path, changes: dict[str, Any], named: str) -> None:
    ours = build("tokenizers", "cogvideox_vae", "debug")
    assert isinstance(ours, Model)
    save_vae(ours, tmp_path / "vae")
    weights = load_file(tmp_path / "vae/diffusion_pytorch_model.safetensors")
    weights.pop(changes.get("drop", ""), None)
    if "add" in changes:
        weights[changes["add"]] = torch.zeros(1)
    save_file(weights, tmp_path / "vae/diffusion_pytorch_model.safetensors")
    (tmp_path / "vae/config.json").write_text(json.dumps({**describe(ours.config), **changes.get("config", {})}))
    with pytest.raises(TheseusError) as caught:
        load_vae(tmp_path / "vae")
    assert named in caught.value.message


@pytest.mark.parametrize(("shape", "near"), [((1, 3, 10, 32, 32), "9 or 13"), ((1, 3, 5, 33, 47), "48x32")])
def test_a_size_that_would_be_rounded_is_refused(shape: tuple[int, ...], near: str) -> None:
    ours = build("tokenizers", "cogvideox_vae", "debug")
    with pytest.raises(TheseusError) as caught:
        ours.encode(torch.zeros(shape))
    assert near in (caught.value.hint or "")
    with pytest.raises(TheseusError, match="at least one"):
        ours.decode(torch.zeros(1, 4, 2, 4, 4), chunk=0)
    with pytest.raises(TheseusError, match="latents must be"):
        ours.decode(torch.zeros(1, 5, 2, 4, 4))


@torch.no_grad()
def test_calibrated_latents_have_deviation_1_and_decode_as_before() -> None:
    torch.manual_seed(0)
    ours = build("tokenizers", "cogvideox_vae", "debug", {"scaling_factor": 5.0}).eval()
    before = ours.decode(ours.encode(clip(9)))
    ours.calibrate([clip(9), clip(17)])
    latents = torch.cat([ours.encode(clip(9)), ours.encode(clip(17))], dim=2)
    torch.testing.assert_close(latents.std(), torch.tensor(1.0), atol=1e-2, rtol=0)
    torch.testing.assert_close(ours.decode(ours.encode(clip(9))), before, atol=1e-4, rtol=0)


def test_it_learns_by_the_weights_of_its_losses() -> None:
    torch.manual_seed(0)
    smooth = torch.nn.functional.interpolate(torch.randn(1, 3, 3, 4, 4), size=(5, 16, 16), mode="trilinear").clamp(-1, 1)
    model = build("tokenizers", "cogvideox_vae", "debug", {"l1_weight": 2.0, "kl_weight": 1e-3})
    terms = model(Batch(video=smooth))
    torch.testing.assert_close(terms["loss"], 2 * terms["l1"] + 1e-3 * terms["kl"])
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(60):
        optimizer.zero_grad()
        model(Batch(video=smooth))["loss"].backward()
        optimizer.step()
    assert model(Batch(video=smooth))["l1"] < 0.8 * terms["l1"]
