"""The codebook and the tokenizer around it."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from theseus_core.contracts import Batch
from theseus_core.data.clip import Clip
from theseus_core.data.encode import LatentCache
from theseus_core.data.loader import window
from theseus_core.data.writer import write_dataset
from theseus_core.errors import TheseusError
from theseus_core.losses import psnr
from theseus_core.nn.features import feature_net, unlikeness
from theseus_core.nn.patching import patchify, unpatchify
from theseus_core.nn.quantizer import Quantizer, k_means, nearest
from theseus_core.registry import build
from theseus_core.tokenizers.vqvae import Model

CPU = torch.device("cpu")


def tokenizer(**changes: object) -> Model:
    torch.manual_seed(0)
    model = build("tokenizers", "vqvae", "debug", changes)
    assert isinstance(model, Model)
    return model


def quantizer(size: int = 6, width: int = 4, **changes: object) -> Quantizer:
    torch.manual_seed(0)
    settings = {"cosine": True, "learned_by": "average", "decay": 0.5, "restart_after": 3, "passes": "rotation"} | changes
    return Quantizer(size, width, width, width, **settings)  # type: ignore[arg-type]


def clips(count: int = 4, frames: int = 5) -> torch.Tensor:
    """Coloured squares that move over a gradient."""
    video = torch.linspace(-0.8, 0.2, 32).expand(count, 3, frames, 32, 32).clone()
    for i in range(count):
        for t in range(frames):
            video[i, :, t, 4 * i : 4 * i + 12, 2 * t : 2 * t + 12] = torch.tensor([0.9, 0.1 * i, -0.5]).view(3, 1, 1)
    return video


# --- the codebook ---


def test_the_nearest_code_is_the_nearest() -> None:
    z, book = torch.randn(50, 5), torch.randn(9, 5)
    assert torch.equal(nearest(z, book), torch.cdist(z, book).argmin(1))


def test_k_means_finds_what_lies_together() -> None:
    torch.manual_seed(0)
    middles = torch.tensor([[5.0, 0], [0, 5], [-5, -5]])
    centres = k_means((middles[:, None] + 0.1 * torch.randn(3, 40, 2)).flatten(0, 1), 12, cosine=False)
    assert torch.cdist(middles, centres).amin(1).max() < 0.2


def test_k_means_from_what_lies_apart_finds_what_is_rare() -> None:
    torch.manual_seed(0)
    rare = 10 * torch.nn.functional.one_hot(torch.arange(8)).float()
    z = torch.cat([0.001 * torch.randn(5000, 8), rare])
    centres = k_means(z, 9, cosine=False, spread=True)
    assert (z - centres[nearest(z, centres)]).square().sum(-1).max() < 0.1
    assert torch.equal(k_means(z[:1].repeat(4, 1), 3, cosine=False, spread=True), z[:1].repeat(3, 1))


@pytest.mark.parametrize("passes", ["rotation", "straight"])
@pytest.mark.parametrize("cosine", [True, False])
def test_what_is_passed_on_is_the_code_and_the_gradient_gets_through(passes: str, cosine: bool) -> None:
    book = quantizer(passes=passes, cosine=cosine)
    x = torch.randn(7, 4, requires_grad=True)
    out = book(x)
    torch.testing.assert_close(out.vectors, book.decode(out.codes))
    torch.testing.assert_close(book.encode(x), out.codes)
    (out.vectors * torch.randn(7, 4)).sum().backward()
    assert x.grad is not None and (x.grad.abs().sum(1) > 0).all()


def test_the_rotated_gradient_keeps_its_angle_to_the_vector() -> None:
    book = quantizer(passes="rotation", cosine=False)
    with torch.no_grad():
        for linear in (book.inward, book.outward):
            linear.weight.copy_(torch.eye(4))
            linear.bias.zero_()
    x = torch.randn(5, 4, requires_grad=True)
    out = book(x)
    wanted = torch.randn(5, 4)
    (out.vectors * wanted).sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(
        F.cosine_similarity(x.grad, x.detach()), F.cosine_similarity(wanted, out.vectors.detach()), atol=1e-4, rtol=1e-4
    )


def test_diversity_is_high_where_one_code_takes_all_and_leads_away_from_it() -> None:
    book = quantizer(cosine=False)
    with torch.no_grad():
        book.inward.weight.copy_(torch.eye(4))
        book.inward.bias.zero_()
    spread = book.codebook.repeat(4, 1)
    together = (book.codebook[:1] + 0.01 * torch.randn(24, 4)).requires_grad_()
    assert book(spread).diversity < 0.1 < book(together).diversity
    book(together).diversity.backward()
    assert together.grad is not None and together.grad.abs().sum() > 0


def test_diversity_sees_that_few_codes_take_all() -> None:
    book = quantizer(size=64, width=3)
    taken = book.entries(torch.arange(4)).repeat(100, 1)
    near = F.normalize(taken + 0.02 * torch.randn_like(taken), dim=-1)
    assert book._diversity(near).item() == pytest.approx(1 - math.log(4) / math.log(64), abs=0.2)


def test_codes_follow_the_mean_of_what_takes_them() -> None:
    book = quantizer(size=2, width=2, cosine=False, restart_after=0, decay=0.0)
    with torch.no_grad():
        book.inward.weight.copy_(torch.eye(2))
        book.inward.bias.zero_()
        book.codebook.copy_(torch.tensor([[1.0, 0], [-1, 0]]))
    book(torch.tensor([[2.0, 0], [2, 2], [-3, 1]]))
    assert book.codebook[0].tolist() == [1, 0], "nothing moves within a step"
    book.update()
    torch.testing.assert_close(book.codebook, torch.tensor([[2.0, 1], [-3, 1]]))
    assert not book(torch.zeros(1, 2)).vectors.isnan().any() and book.eval()._counted is not None


def test_idle_codes_move_to_where_the_data_is_and_others_stay() -> None:
    book = quantizer(size=3, cosine=False, decay=1.0, restart_after=3)
    with torch.no_grad():
        book.inward.weight.copy_(torch.eye(4))
        book.inward.bias.zero_()
        book.codebook.copy_(torch.tensor([0.0, 100, 200])[:, None].expand(3, 4))
        book.sums.copy_(book.codebook / 3)
    for _ in range(2):
        book(torch.randn(20, 4))
        book.update()
    assert book.codebook[1:, 0].tolist() == pytest.approx([100, 200]) and book.idle.tolist() == [0, 2, 2]
    book(torch.randn(20, 4))
    book.update()
    assert book.codebook.abs().max() < 10 and book.idle.tolist() == [0, 0, 0]
    assert book.codebook[0].abs().max() == 0


def test_a_collapsed_codebook_recovers_and_the_tokenizer_says_so_before() -> None:
    model = tokenizer(codebook_size=16, restart_after=5, least_usage=0.5, code_decay=0.8).train()
    with torch.no_grad():
        model.quantizer.codebook[1:] = -model.quantizer.codebook[0]  # what nothing is near to
        model.quantizer.inward.bias.copy_(100 * model.quantizer.codebook[0])
    video, seen = clips(), []
    for _ in range(60):
        with torch.enable_grad():
            losses = model.losses(Batch(video=video), "model")
        model.after_step()
        seen.append(losses["usage"].item())
    assert seen[2] <= 2 / 16 and seen[-1] > 0.9
    assert "12% of its codes are in use, fewer than 50%" in model.worry({"usage": 0.12})
    assert model.worry({"usage": seen[-1]}) == ""


# --- the tokenizer ---


def test_patches_go_and_come_back() -> None:
    video = torch.randn(2, 3, 4, 8, 12)
    assert patchify(video, 2, 4).shape == (2, 2, 2, 3, 96)
    assert torch.equal(unpatchify(patchify(video, 2, 4), 2, 4), video)


@pytest.mark.parametrize(("time_factor", "dither"), [(1, 0), (4, 0), (1, 3), (4, 3)])
def test_decoding_knows_the_codes_and_nothing_else(time_factor: int, dither: int) -> None:
    model = tokenizer(time_factor=time_factor, dither=dither).eval()
    video = clips(2)
    with torch.no_grad():
        codes = model.encode(video)
        decoded = model.decode(codes)
        for parameter in [*model.encoder.parameters(), *model.quantizer.inward.parameters()]:
            parameter.fill_(torch.nan)
        assert torch.equal(model.decode(codes.clone()), decoded)
    assert codes.dtype == torch.int64 and codes.shape == (2, *model.latent_shape(5, 32, 32)) and codes.max() < 32
    other = (codes + 1) % 32
    assert not torch.equal(model.decode(other), decoded)


@pytest.mark.parametrize("time_factor", [1, 4])
def test_what_is_trained_on_is_what_comes_out(time_factor: int) -> None:
    """The decoder of `losses` gets the very vectors that `decode` looks up."""
    model = tokenizer(time_factor=time_factor, gradient="straight").eval()
    video = clips(2)
    with torch.no_grad():
        losses = model.losses(Batch(video=video), "model")
        assert losses["psnr"].item() == pytest.approx(psnr(model.decode(model.encode(video)), video).mean().item(), abs=1e-3)


@pytest.mark.parametrize(("time_factor", "dither"), [(1, 0), (4, 0), (1, 3), (4, 3)])
def test_chunks_change_nothing_and_nothing_comes_from_the_future(time_factor: int, dither: int) -> None:
    model = tokenizer(time_factor=time_factor, dither=dither).eval()
    for block in [*model.encoder.trunk.blocks, *model.decoder.trunk.blocks]:
        torch.nn.init.normal_(block.conv.space.weight, std=0.2)
    video = clips(1, frames=9)
    with torch.no_grad():
        codes = model.encode(video)
        decoded = model.decode(codes)
        assert torch.equal(model.encode(video, chunk=2), codes)
        torch.testing.assert_close(model.decode(codes, chunk=2), decoded)
        later = video.clone()
        later[:, :, 5:] += 0.5
        kept = 1 + 4 // time_factor
        assert torch.equal(model.encode(later)[:, :, :kept], codes[:, :, :kept])
        assert not torch.equal(model.encode(later), codes)


@pytest.mark.parametrize(("time_factor", "dither"), [(1, 0), (4, 0), (1, 3), (4, 3)])
def test_it_starts_with_the_picture_in_sight(time_factor: int, dither: int) -> None:
    model = tokenizer(time_factor=time_factor, codebook_size=64, dither=dither).eval()
    video = clips()
    with torch.no_grad():
        before = psnr(model.decode(model.encode(video)), video).mean()
        model.initialize([video[:2], video[2:]])
        codes = model.encode(video)
        after = psnr(model.decode(codes), video).mean()
    assert after > 18 and after > before + 8
    assert model.measure(codes)["usage"] > 0.25


@pytest.mark.parametrize("cosine", [True, False])
def test_with_dither_a_flat_ground_takes_many_codes_and_keeps_its_colour(cosine: bool) -> None:
    errors, codes = {}, {}
    grounds = torch.linspace(-0.7, 0.1, 9).view(9, 1, 1, 1, 1).expand(9, 3, 1, 32, 32)
    for dither in (0, 4):
        torch.manual_seed(0)
        model = tokenizer(dither=dither, cosine=cosine, codebook_size=64).eval()
        with torch.no_grad():
            model.initialize([clips()])
            taken = model.encode(grounds)  # (9, 1, 1, 8, 8)
            codes[dither] = [len(each.unique()) for each in taken]
            back = model.decode(taken).mean((2, 3, 4))  # the colour, as it is seen from afar
        errors[dither] = (back - grounds[:, :, 0, 0, 0]).abs().mean()
    assert codes[0] == [1] * 9 and min(codes[4]) > 2
    assert errors[4] < 0.8 * errors[0]
    for y, x in [(0, 4), (4, 0), (4, 4)]:
        assert torch.equal(taken[..., :4, :4], taken[..., y : y + 4, x : x + 4])  # a tile apart


def test_the_diversity_term_moves_the_offsets_of_all_places() -> None:
    model = tokenizer(dither=8)
    video = torch.rand(2, 3, 17, 128, 128) * 2 - 1  # more codes than it looks at
    model.losses(Batch(video=video), "model")["diversity"].backward()  # type: ignore[no-untyped-call]
    assert model.encoder.offsets is not None
    moved = model.encoder.offsets.vectors.grad
    assert moved is not None and (moved.abs().sum(-1) > 0).all()


def test_what_dither_cannot_be() -> None:
    with pytest.raises(TheseusError, match="at least 2"):
        tokenizer(dither=1)


def test_measures_of_codes() -> None:
    model = tokenizer()
    even = torch.arange(32).view(1, 1, 2, 4, 4)
    assert model.measure(even) == pytest.approx({"usage": 1, "perplexity": 32})
    assert model.measure(torch.zeros_like(even)) == pytest.approx({"usage": 1 / 32, "perplexity": 1})


def test_every_term_has_a_weight_and_a_gradient() -> None:
    terms = {"l1": "l1", "commitment": "commitment", "codebook": "codebook", "ssim": "ssim", "colour": "colour"}
    none = {f"{name}_weight": 0.0 for name in [*terms, "perceptual", "diversity"]}
    for name in [*terms, "perceptual", "diversity"]:
        model = tokenizer(**none | {f"{name}_weight": 1.0} | ({"perceptual_net": "random"} if name == "perceptual" else {}))
        losses = model.losses(Batch(video=clips(2)), "model")
        expected = 1 - losses["ssim"] if name == "ssim" else losses[name]
        assert losses["loss"].item() == pytest.approx(expected.item(), rel=1e-4) and losses["loss"] > 0, name
        losses["loss"].backward()  # type: ignore[no-untyped-call]
        assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters()), name


def test_the_diversity_term_fades() -> None:
    model = tokenizer(diversity_weight=1.0, diversity_steps=2, l1_weight=0, commitment_weight=0, ssim_weight=0, colour_weight=0)
    found = []
    for _ in range(3):
        losses = model.losses(Batch(video=clips(1)), "model")
        found.append((losses["loss"] / losses["diversity"]).item())
        model.after_step()
    assert found == pytest.approx([1, 0.5, 0])


def test_codes_come_from_the_cache_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tokenizer().eval()
    frames = [(clip.permute(1, 2, 3, 0) * 127.5 + 127.5).round().to(torch.uint8).numpy() for clip in clips(2)]
    dataset = write_dataset(tmp_path / "dataset", [Clip(each, 8.0, "a square") for each in frames], {"size": [32, 32]})
    cache = LatentCache(dataset, model, 5, 1, CPU, torch.float32)
    expected = [model.encode(window(dataset.read(clip).frames, 5)[None])[0] for clip in range(2)]
    monkeypatch.setattr(model, "encode", lambda *_: pytest.fail("encoded again"))
    again = LatentCache(dataset, model, 5, 1, CPU, torch.float32)
    for clip in range(2):
        assert again.read(clip, 0.0).dtype == torch.int64 and torch.equal(again.read(clip, 0.0), expected[clip])
    assert again.folder == cache.folder


def test_sizes_and_latents_that_do_not_fit_are_refused() -> None:
    with pytest.raises(TheseusError, match=r"1 \+ 4 k frames, not: 4"):
        tokenizer(time_factor=4).encode(torch.zeros(1, 3, 4, 32, 32))
    with pytest.raises(TheseusError, match="whole numbers"):
        tokenizer().decode(torch.zeros(1, 1, 1, 2, 2))


# --- the perceptual network ---


def test_random_features_are_always_the_same_and_see_a_blur() -> None:
    net = feature_net("random", CPU)
    pictures = torch.rand(2, 3, 32, 32) * 2 - 1
    again = feature_net.__wrapped__("random", CPU)
    assert unlikeness(net, pictures, pictures).item() == 0
    assert all(torch.equal(a, b) for a, b in zip(net(pictures), again(pictures), strict=True))
    slight, strong = (F.avg_pool2d(pictures, side, 1, side // 2) for side in (3, 5))
    assert 0 < unlikeness(net, pictures, slight) < unlikeness(net, pictures, strong)


def test_weights_that_are_not_there_or_are_others_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object) -> str:
        raise OSError("no network")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", offline)
    with pytest.raises(TheseusError, match="cannot download") as caught:
        feature_net("vgg16", CPU)
    assert "perceptual_net=random" in (caught.value.hint or "")
    (tmp_path / "vgg16.pth").touch()
    with pytest.raises(TheseusError, match="safetensors"):
        feature_net(str(tmp_path / "vgg16.pth"), CPU)
    save_file({"features.0.weight": torch.zeros(64, 3, 3, 3)}, tmp_path / "some.safetensors")
    with pytest.raises(TheseusError, match=r"features\.0\.bias is missing"):
        feature_net(str(tmp_path / "some.safetensors"), CPU)
    with pytest.raises(TheseusError, match="no such network"):
        feature_net("vgg61", CPU)


def test_vgg16_is_read_from_a_file_under_torchvisions_names(tmp_path: Path) -> None:
    from torchvision.models.vgg import cfgs, make_layers

    torch.manual_seed(0)
    weights = {f"features.{key}": value for key, value in make_layers(cfgs["D"]).state_dict().items()}
    save_file(weights, tmp_path / "vgg.safetensors")
    net = feature_net(str(tmp_path / "vgg.safetensors"), CPU)
    assert [x.shape[1] for x in net(torch.rand(1, 3, 32, 32))] == [64, 128, 256, 512]
    assert torch.equal(net.layers[0].weight, weights["features.0.weight"])  # type: ignore[arg-type]
