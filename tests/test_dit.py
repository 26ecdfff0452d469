"""The diffusion transformer, against references written out by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from theseus_core.contracts import Batch, Conditioned, Text
from theseus_core.errors import TheseusError
from theseus_core.generators.dit import Block, Model, patchify, unpatchify
from theseus_core.nn import attention
from theseus_core.nn.attention import attend, rotary_3d, rotate, unrotated
from theseus_core.nn.embeddings import sincos_3d
from theseus_core.nn.spectrum import from_spectrum, spectrum
from theseus_core.registry import build, configure
from theseus_core.text.builtin import vocabulary_of
from theseus_core.words import words


@pytest.fixture(scope="module")
def dit() -> Model:
    torch.manual_seed(0)
    model = build("generators", "dit", "debug")
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.05 * torch.randn_like(p))
    assert isinstance(model, Model)
    return model.eval()


@pytest.fixture(scope="module")
def text() -> Text:
    torch.manual_seed(1)
    return Text(mask=torch.tensor([[True] * 3 + [False] * 2, [True] * 5]), embeddings=torch.randn(2, 5, 32))


@torch.no_grad()
def test_padding_of_the_text_is_not_looked_at(dit: Model, text: Text) -> None:
    z, t = torch.randn(2, 4, 2, 4, 4), torch.tensor([0.3, 0.8])
    assert text.embeddings is not None
    other = text.embeddings.clone()
    other[0, 3:] = 100.0
    torch.testing.assert_close(dit.velocity(z, t, replace(text, embeddings=other)), dit.velocity(z, t, text))
    other[0, 2] += 1
    assert (dit.velocity(z, t, replace(text, embeddings=other)) - dit.velocity(z, t, text))[0].abs().max() > 1e-3


@torch.no_grad()
def test_every_latent_depends_on_every_other_on_the_text_and_on_the_time(dit: Model, text: Text) -> None:
    z, t = torch.randn(2, 4, 3, 4, 4), torch.tensor([0.3, 0.8])
    out = dit.velocity(z, t, text)
    changed = z.clone()
    changed[:, :, 2, 3, 3] += 1
    assert (dit.velocity(changed, t, text) - out)[:, :, 0, 0, 0].abs().max() > 1e-6
    assert (dit.velocity(z, t + 0.1, text) - out).abs().max() > 1e-4
    torch.testing.assert_close(dit.velocity(z[:1], t[:1], Text(text.mask[:1], embeddings=text.embeddings[:1])), out[:1])  # type: ignore[index]


@torch.no_grad()
def test_it_starts_at_zero_velocity() -> None:
    model = build("generators", "dit", "debug")
    assert isinstance(model, Model)
    out = model.velocity(
        torch.randn(1, 4, 2, 4, 4), torch.tensor([0.5]), Text(torch.ones(1, 3, dtype=torch.bool), None, torch.randn(1, 3, 32))
    )
    assert out.abs().max() == 0


def test_patchify_is_undone() -> None:
    z = torch.randn(2, 3, 4, 6, 5)
    tokens = patchify(z, 2)
    assert tokens.shape == (2, 3, 2, 3, 20)
    assert torch.equal(tokens[1, 1, 1, 2].view(2, 2, 5), z[1, 1, 2:4, 4:6])
    assert torch.equal(unpatchify(tokens, 2), z)


def test_a_size_the_patch_does_not_divide_is_refused(dit: Model, text: Text) -> None:
    with pytest.raises(TheseusError) as caught:
        dit.velocity(torch.randn(2, 4, 2, 4, 5), torch.tensor([0.1, 0.2]), text)
    assert "4x4" in (caught.value.hint or "")


# --- attention and positions ---


@pytest.mark.parametrize("masked", [False, True])
def test_attention_is_that_of_torch(masked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "QUERIES_AT_ONCE", 4)
    q, k, v = (torch.randn(2, 3, 10, 8, requires_grad=True) for _ in range(3))
    mask = torch.rand(2, 10) > 0.4 if masked else None
    expected = F.scaled_dot_product_attention(q, k, v, None if mask is None else mask[:, None, None, :])
    found = attend(q, k, v, mask)
    torch.testing.assert_close(found, expected)
    for a, b in zip(torch.autograd.grad(found.sum(), (q, k, v)), torch.autograd.grad(expected.sum(), (q, k, v)), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_rotation_makes_products_depend_on_the_distance_alone() -> None:
    cos, sin = rotary_3d(4, 4, 4, 32, torch.device("cpu"))
    q, k = torch.randn(1, 1, 1, 32), torch.randn(1, 1, 1, 32)

    def product(a: tuple[int, int, int], b: tuple[int, int, int]) -> float:
        place = [p[0] * 16 + p[1] * 4 + p[2] for p in (a, b)]
        turned = [rotate(x, (cos[i : i + 1], sin[i : i + 1])) for x, i in zip((q, k), place, strict=True)]
        return (turned[0] * turned[1]).sum().item()

    assert product((0, 0, 0), (1, 2, 1)) == pytest.approx(product((2, 1, 2), (3, 3, 3)), abs=1e-4)
    assert product((0, 0, 0), (1, 0, 0)) != pytest.approx(product((0, 0, 0), (0, 1, 0)), abs=1e-4)
    assert product((0, 0, 0), (0, 1, 0)) != pytest.approx(product((0, 0, 0), (0, 0, 1)), abs=1e-4)


def test_absolute_positions_are_all_different_and_say_each_axis_apart() -> None:
    table = sincos_3d(3, 4, 5, 32, torch.device("cpu"))
    assert table.shape == (60, 32)
    assert (torch.cdist(table, table) + torch.eye(60) > 0.1).all()
    grid = table.view(3, 4, 5, 32)
    assert torch.equal(grid[0, 1, 2, 8:], grid[2, 1, 2, 8:]) and not torch.equal(grid[0, 1, 2, :8], grid[2, 1, 2, :8])
    assert torch.equal(grid[1, 1, 2, :20], grid[1, 1, 4, :20]) and not torch.equal(grid[1, 1, 2, 20:], grid[1, 1, 4, 20:])


@torch.no_grad()
@pytest.mark.parametrize(("positions", "relative"), [("rotary", True), ("sincos", False), ("both", True)])
def test_positions_are_those_asked_for(positions: str, relative: bool, text: Text) -> None:
    torch.manual_seed(0)
    model = build("generators", "dit", "debug", {"positions": positions})
    for p in model.parameters():
        p.add_(0.1 * torch.randn_like(p))
    assert isinstance(model, Model)
    assert (model._rotation(5, (2, 2, 2), torch.device("cpu")) is not None) == relative
    # Without any position, equal latents give equal tokens; text sits at the same place for all, so rotary alone tells them apart.
    out = model.velocity(torch.ones(2, 4, 2, 4, 4), torch.tensor([0.3, 0.8]), text)
    tokens = patchify(out.permute(0, 2, 3, 4, 1), 2)[0].flatten(0, 2)
    assert (tokens[0] - tokens[-1]).abs().max() > 1e-4


def test_a_clean_prediction_is_a_velocity_like_any_other(text: Text) -> None:
    torch.manual_seed(0)
    model = build("generators", "dit", "debug", {"predicts": "clean"})
    assert isinstance(model, Model)
    latents = torch.randn(2, 4, 2, 4, 4)
    with torch.no_grad():
        for t in (0.3, 1.0):  # the network gives 0 as yet
            torch.testing.assert_close(model.velocity(latents, torch.full((2,), t), text), latents / t)
        model.patch_out.bias.normal_()
        x0, noise = model.path.split(latents, model.velocity(latents, torch.full((2,), 0.5), text), torch.tensor(0.5))
    torch.testing.assert_close(0.5 * x0 + 0.5 * noise, latents)
    torch.testing.assert_close(
        x0, unpatchify(model.patch_out.bias.expand(2, 2, 2, 2, -1), 2).permute(0, 4, 1, 2, 3), atol=1e-5, rtol=1e-5
    )


def test_a_perfect_clean_prediction_has_no_loss(text: Text, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build("generators", "dit", "debug", {"predicts": "clean"})
    assert isinstance(model, Model)
    clean = torch.randn(2, 4, 2, 4, 4)
    batch = Batch(latents=clean, text=text)
    assert model.losses(batch, "model")["loss"] > 0.5
    monkeypatch.setattr("theseus_core.generators.dit.unpatchify", lambda *arguments: clean.permute(0, 2, 3, 4, 1))
    assert model.losses(batch, "model")["loss"] == 0


@pytest.mark.parametrize(("levels", "reach"), [([[16, 2]], 5), ([[16, 1], [32, 1]], 8)])
def test_convolutions_see_finer_than_the_patches(levels: list[list[int]], reach: int, text: Text) -> None:
    torch.manual_seed(0)
    model = build("generators", "dit", "debug", {"levels": levels, "patch": 2})
    assert isinstance(model, Model) and model.patch == 2 ** len(levels)
    with torch.no_grad():
        assert (model.velocity(torch.randn(2, 4, 2, 8, 8), torch.rand(2), text) == 0).all(), "it starts at zero"
        for p in model.parameters():
            p.add_(0.05 * torch.randn_like(p))
        model.patch_out.weight.zero_()  # so that only what is local comes through
        latents, t = torch.randn(2, 4, 2, 32, 32), torch.full((2,), 0.5)
        before = model.velocity(latents, t, text)
        latents[:, :, :, 3, 3] += 1
        changed = (model.velocity(latents, t, text) - before).abs().amax((0, 1, 2)) > 1e-6
    assert changed[3, 3] and changed[2, 4] and changed[4, 4], "across the borders of patches"
    assert not changed[4 + reach :].any() and not changed[:, 4 + reach :].any()


@pytest.mark.parametrize("way", ["enter", "leave"])
def test_convolutions_know_the_time(way: str, text: Text) -> None:
    torch.manual_seed(0)
    model = build("generators", "dit", "debug", {"levels": [[16, 1]]})
    assert isinstance(model, Model)
    level = model.levels[0]
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.05 * torch.randn_like(p))
        x = torch.randn(1, 2, 4, 4, {"enter": 4, "leave": 16}[way]).expand(2, -1, -1, -1, -1)
        one, other = getattr(level, way)(x, model.time_in(torch.tensor([0.2, 0.9])))
    assert not torch.allclose(one, other)


@pytest.mark.parametrize("predicts", ["velocity", "clean"])
def test_at_early_times_the_loss_is_on_the_clean_clip(predicts: str, text: Text, monkeypatch: pytest.MonkeyPatch) -> None:
    time, clean = 0.2, torch.randn(2, 4, 2, 4, 4)
    monkeypatch.setattr("theseus_core.generators.dit.uniform", lambda count, *_: torch.full((count,), time))
    found = []
    for least in (0.0, 0.1, 0.4):
        torch.manual_seed(0)
        model = build("generators", "dit", "debug", {"predicts": predicts, "times": "uniform", "least_time": least})
        torch.manual_seed(1)
        found.append(model.losses(Batch(latents=clean, text=text), "model")["loss"])
    torch.testing.assert_close(found[0], found[1])
    torch.testing.assert_close(found[2], found[0] * (time / 0.4) ** 2)


@pytest.mark.parametrize("pooled", [True, False])
def test_the_mean_of_the_words_steers_where_asked_for(pooled: bool, text: Text) -> None:
    torch.manual_seed(0)
    model = build("generators", "dit", "debug", {"pooled_text": pooled})
    assert isinstance(model, Model)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.05 * torch.randn_like(p))
        for block in model.blocks:
            assert isinstance(block, Block)
            block.attention.out.weight.zero_()  # so that words reach the video by no other way
            block.attention.out.bias.zero_()
        latents, t = torch.randn(2, 4, 2, 4, 4), torch.full((2,), 0.5)
        assert text.embeddings is not None
        other = replace(text, embeddings=text.embeddings + torch.randn_like(text.embeddings))
        assert torch.equal(model.velocity(latents, t, text), model.velocity(latents, t, other)) != pooled


def test_frequencies_undo_themselves_and_what_stays_is_in_the_first() -> None:
    torch.manual_seed(0)
    clip = torch.randn(2, 4, 17, 2, 3)
    torch.testing.assert_close(from_spectrum(spectrum(clip)), clip)
    torch.testing.assert_close(spectrum(clip).square().sum(), clip.square().sum())  # noise stays noise
    still = clip[:, :, :1].expand_as(clip)
    assert spectrum(still)[:, :, 1:].abs().max() < 1e-5 and spectrum(still)[:, :, 0].abs().min() > 0
    even = torch.linspace(-1, 1, 17).view(1, 1, 17, 1, 1)
    assert spectrum(even)[0, 0, :2].square().sum() > 0.98 * even.square().sum()


@torch.no_grad()
def test_tokens_may_stand_for_frequencies(text: Text) -> None:
    plain, other = (build("generators", "dit", "debug", {"frequencies": on}) for on in (False, True))
    for p in plain.parameters():
        p.add_(0.05 * torch.randn_like(p))
    other.load_state_dict(plain.state_dict())
    assert isinstance(plain, Model) and isinstance(other, Model)
    clip, t = torch.randn(2, 4, 5, 4, 4), torch.tensor([0.3, 0.8])
    torch.testing.assert_close(
        spectrum(other.velocity(clip, t, text)), plain.velocity(spectrum(clip), t, text), atol=1e-5, rtol=1e-4
    )
    assert not torch.allclose(other.velocity(clip, t, text), plain.velocity(clip, t, text), atol=1e-2)


def test_what_goes_round_is_at_one_frequency_of_cosines_and_sines() -> None:
    torch.manual_seed(0)
    clip = torch.randn(2, 4, 17, 2, 3)
    twice = spectrum(clip, both=True)
    torch.testing.assert_close(from_spectrum(twice, both=True), 2 * clip)
    for part in twice.chunk(2, dim=1):
        torch.testing.assert_close(part.square().sum(), clip.square().sum())  # each is all of it
    angle = 2 * math.pi * (torch.arange(17) + 0.5) / 17 + 0.7
    for once in (angle.cos(), angle.sin()):
        both = spectrum(once.view(1, 1, 17, 1, 1), both=True)
        assert both[0, :, 2].square().sum() > 0.99 * once.square().sum()


@torch.no_grad()
@pytest.mark.parametrize("levels", [[], [[16, 1], [32, 1]]])
def test_sines_that_count_for_nothing_change_nothing(text: Text, levels: list[list[int]]) -> None:
    changes = {"frequencies": True, "levels": levels}
    plain, other = (build("generators", "dit", "debug", {**changes, "sines": on}) for on in (False, True))
    assert isinstance(plain, Model) and isinstance(other, Model)
    clip, t = torch.randn(2, 4, 5, 8, 8), torch.tensor([0.3, 0.8])
    for p in (*plain.parameters(), *other.parameters()):
        p.add_(0.05 * torch.randn_like(p))
    assert other.velocity(clip, t, text).shape == clip.shape
    if levels:
        return
    weights = plain.state_dict()
    weights["patch_in.weight"] = torch.cat([weights["patch_in.weight"].unflatten(1, (-1, 4)), torch.zeros(64, 4, 4)], 2).flatten(1)
    for name in ("patch_out.weight", "patch_out.bias"):
        rows = weights[name].unflatten(0, (-1, 4))
        weights[name] = torch.cat([rows, torch.zeros_like(rows)], 1).flatten(0, 1)
    other.load_state_dict(weights)
    torch.testing.assert_close(other.velocity(clip, t, text), plain.velocity(clip, t, text), atol=1e-5, rtol=1e-4)
    other.patch_out.weight.add_(0.1)
    assert not torch.allclose(other.velocity(clip, t, text), plain.velocity(clip, t, text), atol=1e-2)


def test_sines_stand_beside_cosines() -> None:
    with pytest.raises(TheseusError, match="sines stand beside cosines"):
        build("generators", "dit", "debug", {"sines": True})


def test_frequencies_have_no_first_frame() -> None:
    with pytest.raises(TheseusError, match="frequencies have no first frame"):
        build("generators", "dit", "debug", {"frequencies": True, "image_channels": 4})


def test_text_positions_are_not_turned() -> None:
    rotation = unrotated(2, rotary_3d(1, 2, 2, 16, torch.device("cpu")))
    x = torch.randn(1, 6, 1, 16)
    assert torch.equal(rotate(x, rotation)[:, :2], x[:, :2])
    assert not torch.allclose(rotate(x, rotation)[:, 3:], x[:, 3:])


# --- text ---


def test_the_builtin_encoder_knows_its_words_and_says_which_it_does_not() -> None:
    assert words("A red-hot circle, moving up; don't stop 3 times!") == [
        "a",
        "red-hot",
        "circle",
        "moving",
        "up",
        "don't",
        "stop",
        "3",
        "times",
    ]
    vocabulary = vocabulary_of(["a red circle", "a blue circle", "a star"])
    assert vocabulary == ("a", "circle", "blue", "red", "star")
    encoder = build("text", "builtin", "debug", {"vocabulary": list(vocabulary)})
    assert encoder.unknown_words("a RED hexagon, hexagon") == ["hexagon"]
    text = encoder.tokenize(["a red star", "", "a seven-pointed red star, red, red, red, red, red"])
    assert text.ids is not None
    assert text.ids[0].tolist() == [1, 3, 6, 7, 0, 0, 0, 0]
    assert text.ids[1].tolist() == [1] + [0] * 7 and text.mask[1].tolist() == [True] + [False] * 7
    assert text.ids[2].tolist() == [1, 3, 6, 7, 6, 6, 6, 6], "unknown words take no place"
    assert encoder.count_tokens("a seven-pointed red star") == 4


def test_generator_and_encoder_learn_together(dit: Model) -> None:
    encoder = build("text", "builtin", "debug", {"vocabulary": ["red", "blue"]})
    both = Conditioned.of(build("generators", "dit", "debug"), encoder)
    torch.manual_seed(0)
    latents = torch.stack([torch.ones(4, 2, 4, 4), -torch.ones(4, 2, 4, 4)])
    optimizer = torch.optim.AdamW(both.parameters(), lr=3e-3)
    for _ in range(150):
        loss = both(Batch(latents=latents, text=encoder.tokenize(["red", "blue"])), "model")["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    generator, encode = both.generator.eval(), encoder.eval().encode  # type: ignore[union-attr]
    made = generator.sample(
        torch.randn(2, 4, 2, 4, 4), encode(["red", "blue"]), encode(["", ""]), steps=8, guidance_scale=1, sampler="ddim"
    )
    assert made[0].mean() > 0.5 and made[1].mean() < -0.5


def test_a_first_frame_is_scaled_in_training_as_it_is_where_one_is_given(text: Text, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build("generators", "dit", "debug", {"image_channels": 4})
    assert isinstance(model, Model)
    given = []

    def velocity(noisy: Tensor, t: Tensor, text: Text, image: Tensor | None = None) -> Tensor:
        given.append(image)
        return torch.zeros_like(noisy)

    monkeypatch.setattr(model, "velocity", velocity)
    latents = torch.randn(2, 4, 3, 4, 4)
    model.losses(Batch(latents=latents, text=text, image_scale=2.0), "model")
    assert given[0] is not None
    torch.testing.assert_close(given[0][:, :, 0], 2 * latents[:, :, 0])
    assert not given[0][:, :, 1:].any()


def test_what_does_not_fit_together_is_refused_beforehand() -> None:
    for changes, named in (
        ({"image_channels": 8}, "image_channels must be 0"),
        ({"offset": 2.0, "time_width": 31}, "even time_width"),
    ):
        with pytest.raises(TheseusError, match=named):
            configure("generators", "dit", "debug", changes)
    with pytest.raises(TheseusError, match="heads: must divide width, 32: 3"):
        configure("text", "builtin", "debug", {"heads": 3})
