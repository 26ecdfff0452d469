"""The family `gan`: what its losses are, who learns what, and that its clips are functions of noise, words and time."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from theseus_core.contracts import Batch, Conditioned, Text
from theseus_core.errors import TheseusError
from theseus_core.generators.gan import PRESETS, Config, Model, hashed, instants, repeated, squared_slopes
from theseus_core.nn.spectrum import spectrum
from theseus_core.registry import configure
from theseus_core.text import builtin
from theseus_core.train.config import TrainConfig
from theseus_core.train.optim import build_phases

CPU = torch.device("cpu")
CAPTIONS = ("a red circle", "a blue circle", "a red circle", "a green star")


def make(**changes: object) -> Model:
    torch.manual_seed(0)
    return Model(Config.model_validate({**PRESETS["debug"], "reading": 0, **changes}))


def words(count: int = 4, length: int = 5) -> Text:
    mask = torch.arange(length) < torch.arange(2, 2 + count)[:, None]
    return Text(mask=mask, embeddings=torch.randn(count, length, 32))


def batch(count: int = 4) -> Batch:
    return Batch(latents=torch.randn(count, 3, 2, 4, 4), text=words(count), captions=CAPTIONS[:count])


def with_words(generator: Model) -> Conditioned:
    return Conditioned(generator, builtin.Model(builtin.Config(vocabulary=("a", "red", "circle"), width=32, heads=2, layers=1)))


def score(model: Model, clip: Tensor, text: Text) -> Tensor:
    return model.discriminator.score(model.discriminator(clip), model.discriminator.reader(text))


# --- the losses ---


def test_the_penalties_are_those_of_a_plain_derivative() -> None:
    model, text = make(penalised=1.0), words(3)
    real, made = torch.randn(2, 3, 3, 2, 4, 4)
    for got, clips in zip(model.penalties(real, made, text), (real, made), strict=True):
        expected = 0.0
        for i in range(3):
            one = Text(mask=text.mask[i : i + 1], embeddings=None if text.embeddings is None else text.embeddings[i : i + 1])
            jacobian = torch.autograd.functional.jacobian(lambda clip, one=one: score(model, clip, one), clips[i : i + 1])  # type: ignore[no-untyped-call]
            expected += jacobian.square().sum().item() / 3
        assert got.item() == pytest.approx(expected, rel=1e-4)


def test_the_penalties_teach_the_weights_as_finite_differences_say() -> None:
    model, text = make(penalised=1.0).double(), words(2)
    assert text.embeddings is not None
    weight, real = model.discriminator.fits.weight, torch.randn(2, 3, 2, 4, 4, dtype=torch.double)
    said = replace(text, embeddings=text.embeddings.double())

    def penalty() -> Tensor:
        clips = real.clone().requires_grad_()
        return squared_slopes(score(model, clips, said), clips).mean()

    (gradient,) = torch.autograd.grad(penalty(), weight)
    for place in ((0, 0), (3, 5), (15, 2)):
        values = []
        for step in (1e-5, -1e-5):
            with torch.no_grad():
                weight[place] += step
            values.append(penalty().item())
            with torch.no_grad():
                weight[place] -= step
        assert gradient[place].item() == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-4, abs=1e-9)


def test_penalties_are_computed_in_full_precision_whatever_surrounds_them() -> None:
    model, text = make(penalised=1.0), words(2)
    real, made = torch.randn(2, 2, 3, 2, 4, 4)
    plain = model.penalties(real, made, text)
    with torch.autocast("cpu", torch.bfloat16):
        inside = model.penalties(real, made, text)
    assert all(torch.equal(a, b) for a, b in zip(plain, inside, strict=True))


def test_a_share_of_the_clips_is_penalised() -> None:
    text, real, made = words(4), torch.randn(4, 3, 2, 4, 4), torch.randn(4, 3, 2, 4, 4)
    half = make(penalised=0.5).penalties(real, made, text)
    whole = make(penalised=1.0).penalties(real[:2], made[:2], Text(text.mask[:2], embeddings=text.embeddings[:2]))  # type: ignore[index]
    for a, b in zip(half, whole, strict=True):
        torch.testing.assert_close(a, b)


def test_the_losses_compare_pairs() -> None:
    model, given = make(), batch()
    assert given.latents is not None and given.text is not None
    noise = torch.randn(4, 8)
    with torch.no_grad():
        made = model.generator(noise, given.text, instants(2, CPU))
        of_real, of_made = score(model, given.latents, given.text), score(model, made, given.text)
    found = model.discriminator_losses(given.latents, made, given.text, CAPTIONS)
    torch.testing.assert_close(found["pairing"], -F.logsigmoid(of_real - of_made).mean())
    told = found["mismatched"] + 4 * found["named"]
    parts = found["pairing"] + told + model.config.penalty / 2 * (found["r1"] + found["r2"])
    torch.testing.assert_close(found["loss"], parts)
    found = model.generator_losses(given.latents, made, given.text, CAPTIONS)
    torch.testing.assert_close(found["pairing"], -F.logsigmoid(of_made - of_real).mean())
    torch.testing.assert_close(found["loss"], found["pairing"] + found["obeyed"] + 4 * found["named"])


def test_words_count_by_how_well_a_clip_tells_its_own_from_others() -> None:
    """The cross-entropy of the scores of one clip with all captions of the batch, the part without words left out."""
    model, given = make(), batch()
    assert given.latents is not None and given.text is not None
    made, apart = torch.randn_like(given.latents), ("one", "two", "three", "four")
    mismatched = model.discriminator_losses(given.latents, made, given.text, apart)["mismatched"]
    obeyed = model.generator_losses(given.latents, made, given.text, apart)["obeyed"]
    read, found = model.discriminator.reader(given.text), []
    for clips in (given.latents, made):
        said = model.discriminator(clips)
        scores = torch.stack([model.discriminator.score(said, each.expand(4, -1)) for each in read], dim=1)  # (clips, captions)
        found.append(-scores.log_softmax(dim=1).diagonal())
    of_real, of_made = found
    torch.testing.assert_close(mismatched, of_real.mean())
    torch.testing.assert_close(obeyed, (of_made - of_real).clamp_min(0).mean())
    assert 0 < (of_made > of_real).sum() < 4, "some of the clips must be better than the real ones, and some worse"


def test_a_clip_that_shows_its_words_as_well_as_a_real_one_is_asked_for_no_more() -> None:
    model, given = make(), batch()
    assert given.latents is not None and given.text is not None
    torch.nn.init.normal_(model.discriminator.names.weight)
    found = model.generator_losses(given.latents, given.latents, given.text, CAPTIONS)
    assert found["obeyed"] == found["named"] == 0 < found["pairing"]
    other = model.generator_losses(given.latents, torch.randn_like(given.latents), given.text, CAPTIONS)
    assert other["named"] > 0


def test_a_caption_that_another_clip_has_too_is_no_mismatch() -> None:
    assert repeated(["a", "b", "a"]).tolist() == [[False, False, True], [False, False, False], [True, False, False]]
    model, given = make(), batch(2)
    same = model.losses(replace(given, captions=["a circle", "a circle"]), "discriminator")
    assert same["mismatched"].item() == 0


def test_the_words_of_a_caption_are_named_from_the_clip_alone() -> None:
    """Any one of them is right, and words that hold a sentence together are not asked for."""
    model = make()
    wanted = hashed(["a red circle", "the circle is red", "a blue circle", "of the"], 64)
    assert wanted.sum(1).tolist() == [2, 2, 2, 0] and torch.equal(wanted[0], wanted[1])
    shared = (wanted[0] * wanted[2]).argmax()
    said = torch.randn(4, 16)
    torch.nn.init.normal_(model.discriminator.names.weight)
    likely = model.discriminator.names(said).log_softmax(1)
    by_hand = -torch.stack([(wanted[i] * likely[i]).sum() / 2 for i in range(3)] + [torch.zeros(())])
    torch.testing.assert_close(model.discriminator.naming(said, ["a red circle", "a circle: red", "a blue circle", ""]), by_hand)
    assert model.discriminator.naming(said, ()).tolist() == [0] * 4
    (gradient,) = torch.autograd.grad(model.discriminator.naming(said, ["circle"] * 4).sum(), model.discriminator.names.bias)
    assert gradient.argmin() == shared


def test_until_it_can_read_the_discriminator_learns_from_real_clips_alone() -> None:
    model, given = make(reading=2), batch()
    assert given.latents is not None and given.text is not None
    found = model.losses(given, "discriminator")
    assert found.keys() == {"loss", "mismatched", "named"}
    found["loss"].backward()  # type: ignore[no-untyped-call]
    reached = {name for name, p in model.named_parameters() if p.grad is not None}
    assert reached == {name for name, _ in model.phase_parameters("discriminator")} - {"discriminator.real.weight"}
    for due in (("discriminator",), ("discriminator",), ("discriminator", "generator")):
        assert model.phases_due() == with_words(model).phases_due() == due
        model.after_step()
    assert "gap" in model.losses(given, "discriminator")


def test_only_every_so_many_frames_are_judged() -> None:
    model = make(latent_frames=5, every=2)
    video, text = torch.randn(2, 3, 5, 4, 4), words(2)
    other = video.clone()
    other[:, :, 1::2] = 0
    losses = []
    for latents in (video, other):
        torch.manual_seed(1)
        losses.append(model.losses(Batch(latents=latents, text=text), "discriminator")["loss"])
    assert torch.equal(losses[0], losses[1])


def test_motion_is_judged() -> None:
    """Two clips of the same frames in another order are not the same to the discriminator."""
    model, text = make(latent_frames=6), words(1)
    video = torch.randn(1, 3, 6, 4, 4)
    assert (score(model, video, text) - score(model, video.flip(2), text)).abs().item() > 1e-3


# --- who learns what ---


def test_the_discriminator_teaches_the_words() -> None:
    model = with_words(make())
    names = {phase: {name for name, _ in model.phase_parameters(phase)} for phase in model.phases}
    assert not names["discriminator"] & names["generator"]
    assert names["discriminator"] | names["generator"] == {name for name, _ in model.named_parameters()}
    assert "text_encoder.words.weight" in names["discriminator"]
    assert {name.split(".")[1] for name in names["generator"]} == {"generator"}


def test_one_phase_has_everything() -> None:
    from theseus_core.generators import dit

    model = Conditioned(dit.Model(dit.Config.model_validate(dit.PRESETS["debug"])), with_words(make()).text_encoder)
    assert list(model.phase_parameters("model")) == list(model.named_parameters())


def test_a_phase_reaches_its_own_parameters_only() -> None:
    model = with_words(make())
    given = replace(batch(), text=model.text_encoder.tokenize(CAPTIONS))
    phases = build_phases(model, TrainConfig(betas=(0.0, 0.99)), CPU, torch.float32)
    for phase in phases:
        with phase.focused():
            model.losses(given, phase.name)["loss"].backward()  # type: ignore[no-untyped-call]
            reached = {name for name, p in model.named_parameters() if p.grad is not None}
            assert reached == set(phase.parameters)
        assert all(p.grad is None for p in model.parameters())
        assert all(group["betas"] == (0.0, 0.99) for o in phase.optimizers.values() for group in o.param_groups)


# --- the clips ---


def test_a_clip_is_a_function_of_the_first_numbers_of_its_noise_and_of_its_words() -> None:
    model, text, noise = make(), words(1), torch.randn(1, 3, 2, 4, 4)

    def sample(noise: Tensor, text: Text) -> Tensor:
        return model.sample(noise, text, text, steps=1, guidance_scale=1.0, sampler="one-step")

    clip = sample(noise, text)
    later = noise.clone()
    later.view(-1)[8:] = 0
    assert torch.equal(sample(later, text), clip)
    sooner = noise.clone()
    sooner.view(-1)[7] += 1
    assert not torch.allclose(sample(sooner, text), clip)
    assert not torch.allclose(sample(noise, words(1)), clip)


def test_padding_is_not_read() -> None:
    model, text, noise = make(), words(1), torch.randn(1, 8)
    assert text.embeddings is not None
    longer = Text(F.pad(text.mask, (0, 3)), embeddings=F.pad(text.embeddings, (0, 0, 0, 3), value=9.0))
    times = instants(2, CPU)
    torch.testing.assert_close(model.generator(noise, longer, times), model.generator(noise, text, times))


def test_more_frames_are_more_moments_of_the_same_motion() -> None:
    model, text, noise = make(), words(2), torch.randn(2, 8)
    few, many = (model.generator(noise, text, instants(frames, CPU)) for frames in (5, 9))
    torch.testing.assert_close(many[:, :, ::2], few)


def test_of_latents_without_extent_a_clip_is_a_sum_of_cosines_of_time() -> None:
    sizes = {"latent_channels": 6, "latent_frames": 5, "latent_height": 1, "latent_width": 1}
    model, text, noise = make(**PRESETS["latents"], **sizes), words(2), torch.randn(2, 8)
    assert model.consumes == "latents"
    few, many = (model.generator(noise, text, instants(frames, CPU)) for frames in (5, 9))
    assert few.shape == (2, 6, 5, 1, 1)
    torch.testing.assert_close(many[:, :, ::2], few)
    assert spectrum(few).abs().min() > 0
    model.generator.factors.weight.data[6:] = 0  # of the first alone
    assert (spectrum(model.generator(noise, text, instants(5, CPU)))[:, :, 1:]).abs().max() < 1e-5
    assert not torch.allclose(few, model.generator(noise, words(2), instants(5, CPU)))


def test_latents_with_extent_are_painted() -> None:
    model, text = make(consumes="latents", latent_channels=6), words(1)
    made = model.sample(torch.randn(1, 6, 2, 4, 4), text, text, steps=1, guidance_scale=1.0, sampler="one-step")
    assert made.shape == (1, 6, 2, 4, 4)
    with pytest.raises(TheseusError, match="latents of 4x4 alone, not of: 8x4"):
        model.sample(torch.randn(1, 6, 2, 4, 8), text, text, steps=1, guidance_scale=1.0, sampler="one-step")


def test_a_view_moves_with_its_middle() -> None:
    """What is seen in a view at a place is what is seen elsewhere once the view has moved there."""
    model = make()
    facts = torch.randn(1, 1, 2, 5)
    moved = facts.clone()
    moved[..., 0] += 0.25
    places = torch.tensor([[0.1, -0.3], [0.35, -0.3]])
    seen = []
    for at, given in zip(places, (facts, moved), strict=True):
        slopes, starts = model.generator.systems(given)
        seen.append(at @ slopes.flatten(3) + starts.flatten(2).unsqueeze(2))
    torch.testing.assert_close(seen[0], seen[1])


def test_pixels_land_where_their_places_are() -> None:
    model = make(latent_height=8, latent_width=12, paints=2)
    nothing = torch.zeros(1, 2, 24, 4)  # two frames of 4 x 6 places
    something = nothing.clone()
    something[0, 1, 2 * 6 + 1] = 1  # second frame, third row, second column
    changed = (model.generator.painted_whole(something) - model.generator.painted_whole(nothing)).abs().sum(1)[0]  # (T, H, W)
    assert changed.shape == (2, 8, 12)
    assert not changed[0].any()
    inside = changed[1, 4:6, 2:4]
    assert inside.min() > 0
    assert inside.min() > changed[1, 3, 2:4].max() > 0, "it fades into the next place"
    changed[1, 3:7, 1:5] = 0
    assert not changed.any()


def test_other_sizes_are_refused() -> None:
    model, text = make(), words(1)
    with pytest.raises(TheseusError, match="frames of 4x4 alone, not of: 8x4") as caught:
        model.sample(torch.randn(1, 3, 2, 4, 8), text, text, steps=1, guidance_scale=1.0, sampler="one-step")
    assert caught.value.hint == "--size 4x4"


def test_a_clip_of_fewer_numbers_than_the_noise_vector() -> None:
    sizes = {"latent_channels": 6, "latent_frames": 5, "latent_height": 1, "latent_width": 1}
    model, text = make(**PRESETS["latents"], **sizes), words(1)
    made = model.sample(torch.randn(1, 6, 1, 1, 1), text, text, steps=1, guidance_scale=1.0, sampler="one-step")
    assert made.shape == (1, 6, 1, 1, 1)
    assert made.isfinite().all()


def test_what_does_not_divide_is_refused_beforehand() -> None:
    with pytest.raises(TheseusError, match="words: must divide style_width, 16: 3"):
        configure("generators", "gan", "debug", {"words": 3})
    with pytest.raises(TheseusError, match="squares larger than the 1x1 that there are: 4"):
        make(latent_height=1, latent_width=1, judge_patch=4)
