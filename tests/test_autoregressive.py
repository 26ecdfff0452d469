"""The transformer over codes: what it may see, and the two ways to write."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from theseus_core.contracts import Batch, Text
from theseus_core.generators import autoregressive
from theseus_core.generators.autoregressive import Choice, Model, Writing, generator_of, only_likely
from theseus_core.nn.prefix import attend_behind
from theseus_core.quantize import quantize
from theseus_core.registry import build

GRID = (2, 3, 4)
COUNT = math.prod(GRID)
V = 32


@pytest.fixture
def model() -> Model:
    """Random weights everywhere, also where training starts from zero."""
    torch.manual_seed(0)
    built = build("generators", "autoregressive", "debug")
    assert isinstance(built, Model)
    for parameter in built.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.3)
    return built.eval()


def words(clips: int = 2, real: int = 3, seed: int = 0) -> Text:
    """Two of five tokens are padding."""
    generator = torch.Generator().manual_seed(seed)
    return Text(mask=(torch.arange(5) < real).expand(clips, 5), embeddings=torch.randn(clips, 5, 32, generator=generator))


def codes(clips: int = 2) -> Tensor:
    return torch.randint(V, (clips, 1, *GRID), generator=torch.Generator().manual_seed(3))


# --- what is seen ---


@pytest.mark.parametrize("few", [0, 100])
def test_attention_behind_a_prefix_is_attention_under_its_mask(monkeypatch: pytest.MonkeyPatch, few: int) -> None:
    monkeypatch.setattr("theseus_core.nn.prefix.QUERIES_AT_ONCE", 4)
    monkeypatch.setattr("theseus_core.nn.prefix.FEW", few)
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, 2, 16, 8).requires_grad_().unbind(0)
    real = torch.arange(16) != 2
    place = torch.arange(16)
    for causal in (True, False):
        behind = place[None, :] <= place[:, None] if causal else torch.ones(16, 16, dtype=torch.bool)
        visible = torch.where(place[:, None] < 6, place[None, :] < 6, behind) & real
        expected = nn.functional.scaled_dot_product_attention(q, k, v, visible)
        mask = real.expand(2, 16)
        found = attend_behind(q, k, v, mask, 6, causal)
        torch.testing.assert_close(found, expected)
        wanted, got = (torch.autograd.grad(out.square().sum(), (q, k, v), retain_graph=True) for out in (expected, found))
        torch.testing.assert_close(got, wanted)
        last = attend_behind(q[:, :, 9:], k, v, mask, 6, causal)
        torch.testing.assert_close(last, expected[:, :, 9:])


def test_changing_a_code_changes_no_logit_up_to_it_and_some_behind(model: Model) -> None:
    before = model.next_logits(codes(1), words(1))
    for place in (0, 5, COUNT - 2):
        changed = codes(1).flatten(1)
        changed[:, place] = (changed[:, place] + 1) % V
        after = model.next_logits(changed.view(1, 1, *GRID), words(1))
        assert torch.equal(after[:, : place + 1], before[:, : place + 1])
        assert ((after - before).abs().amax(-1)[0, place + 1 :] > 0).all()


def test_the_masked_way_sees_all_that_is_not_hidden(model: Model) -> None:
    shown = codes(1).flatten(1)
    before = model._logits(shown, GRID, words(1), causal=False)
    shown[:, -1] = (shown[:, -1] + 1) % V
    assert ((model._logits(shown, GRID, words(1), causal=False) - before).abs().amax(-1) > 0).all()


def test_words_count_and_padding_does_not(model: Model) -> None:
    text = words(1)
    assert text.embeddings is not None
    other = text.embeddings.clone()
    other[:, 3:] += 1
    same = model.next_logits(codes(1), Text(text.mask, embeddings=other))
    assert torch.equal(same, model.next_logits(codes(1), text))
    other[:, 1] += 1
    assert not torch.allclose(model.next_logits(codes(1), Text(text.mask, embeddings=other)), same)


def test_a_query_is_where_its_answer_will_be_and_a_key_where_its_code_is(model: Model) -> None:
    queries, keys = model._turns(GRID, 5, causal=True, device=torch.device("cpu"))
    for of_query, of_key in zip(queries, keys, strict=True):
        assert torch.equal(of_query[5:-1], of_key[6:])
    assert (queries[1][:5] == 0).all() and (keys[1][:6] == 0).all()


# --- training ---


def test_training_starts_at_the_logarithm_of_the_codebook() -> None:
    torch.manual_seed(0)
    losses = build("generators", "autoregressive", "debug").losses(Batch(latents=codes(), text=words()), "model")
    assert {name: loss.item() for name, loss in losses.items()} == pytest.approx(dict.fromkeys(losses, math.log(V)), abs=1e-4)
    assert list(losses) == ["loss", "masked", "causal"]


def test_both_ways_learn_a_clip_by_heart(model: Model) -> None:
    torch.manual_seed(0)
    model = autoregressive.Model(model.config.model_copy(update={"choice_temperature": 0.0})).train()
    batch = Batch(latents=codes(1), text=words(1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(90):
        loss = model.losses(batch, "model")["loss"]
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert loss < 0.45
    for sampler in model.eval().samplers:
        written = model.sample(
            torch.randn(1, 1, *GRID), words(1), words(1), steps=6, guidance_scale=1, sampler=sampler, temperature=0
        )
        assert (written == codes(1)).float().mean() > 0.9, sampler


def test_what_is_hidden_is_never_nothing_and_first_frames_may_be_shown_whole(model: Model) -> None:
    torch.manual_seed(0)
    hidden = model._hide(400, GRID, torch.device("cpu"))
    shares = hidden.float().mean(1)
    assert hidden.any(1).all() and shares.max() == 1 and 0.5 < shares.mean() < 0.75
    whole = []
    for continued in (0.0, 1.0):
        model.config = model.config.model_copy(update={"continued": continued})
        frames = model._hide(400, GRID, torch.device("cpu")).view(400, 2, 12)
        whole.append((~frames[:, 0].any(1) & (frames[:, 1].sum(1) > 6)).float().mean().item())
    assert whole[0] == 0 and 0.2 < whole[1] < 0.5  # no frame or one is shown, and behind it more than half are hidden


def test_a_model_trained_one_way_knows_no_other(model: Model) -> None:
    torch.manual_seed(0)
    causal = build("generators", "autoregressive", "debug", {"ways": ["causal"]})
    assert list(causal.losses(Batch(latents=codes(), text=words()), "model")) == ["loss", "causal"]
    assert list(causal.samplers) == ["causal"]


# --- writing ---


@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
def test_what_is_kept_gives_what_the_whole_gives(model: Model, guidance_scale: float) -> None:
    latents, text, negative = codes(), words(), words(seed=1, real=2)
    writing = Writing(model, text, negative, guidance_scale, GRID, causal=True)
    inputs = nn.functional.pad(latents.flatten(1)[:, :-1], (1, 0), value=model.start)
    parts = [writing.logits(inputs[:, :5]), *(writing.logits(inputs[:, i : i + 1], start=i) for i in range(5, COUNT))]
    without, with_text = model.next_logits(latents, negative), model.next_logits(latents, text)
    expected = with_text if guidance_scale == 1 else without + guidance_scale * (with_text - without)
    torch.testing.assert_close(torch.cat(parts, dim=1), expected, atol=1e-4, rtol=1e-4)


def test_codes_in_order_are_those_of_the_slow_way(model: Model) -> None:
    """Greedily, and without anything kept: each code from a pass over all before it."""
    text = words(1)
    fast = model.sample(torch.randn(1, 1, *GRID), text, text, steps=1, guidance_scale=1, sampler="causal", temperature=0)
    slow = torch.zeros(1, COUNT, dtype=torch.int64)
    for place in range(COUNT):
        slow[:, place] = model.next_logits(slow.view(1, 1, *GRID), text)[:, place].argmax(-1)
    assert torch.equal(fast.flatten(1), slow)


@pytest.mark.parametrize(("sampler", "steps", "rounds"), [("masked", 4, 4), ("masked", 100, COUNT), ("causal", 7, COUNT)])
def test_all_codes_are_written_by_as_many_steps(model: Model, sampler: str, steps: int, rounds: int) -> None:
    seen: list[tuple[int, int]] = []
    noise = torch.randn(2, 1, *GRID, generator=torch.Generator().manual_seed(0))
    out = model.sample(
        noise, words(), words(seed=1), steps=steps, guidance_scale=2, sampler=sampler, progress=lambda *at: seen.append(at)
    )
    assert out.shape == noise.shape and out.dtype == torch.int64 and out.min() >= 0 and out.max() < V
    assert seen == [(step, rounds) for step in range(1, rounds + 1)]


@pytest.mark.parametrize("sampler", ["masked", "causal"])
def test_a_clip_depends_on_its_own_noise_and_words_alone(model: Model, sampler: str) -> None:
    noise = torch.randn(2, 1, *GRID, generator=torch.Generator().manual_seed(0))
    text = words()

    def write(which: list[int], start: Tensor) -> Tensor:
        assert text.embeddings is not None
        some = Text(text.mask[which], embeddings=text.embeddings[which])
        return model.sample(start[which], some, some, steps=5, guidance_scale=1, sampler=sampler)

    together = write([0, 1], noise)
    assert torch.equal(write([1], noise), together[1:])
    assert torch.equal(write([0, 1], noise), together)
    assert not torch.equal(write([0, 1], noise + 1), together)


@pytest.mark.parametrize("sampler", ["masked", "causal"])
def test_given_frames_stay_and_decide_what_follows(model: Model, sampler: str) -> None:
    noise = torch.randn(1, 1, *GRID, generator=torch.Generator().manual_seed(0))
    first = codes(1)[:, :, :1]
    found = []
    for given in (first, (first + 1) % V):
        out = model.sample(noise, words(1), words(1), steps=3, guidance_scale=1, sampler=sampler, given=given)
        assert torch.equal(out[:, :, :1], given)
        found.append(out[:, :, 1:])
    assert not torch.equal(*found)


def test_guidance_reads_the_negative_words_and_one_does_not(model: Model) -> None:
    noise = torch.randn(1, 1, *GRID, generator=torch.Generator().manual_seed(0))

    def write(seed: int, scale: float) -> Tensor:
        return model.sample(noise, words(1), words(1, seed=seed), steps=3, guidance_scale=scale, sampler="masked")

    assert torch.equal(write(1, 1.0), write(2, 1.0)) and not torch.equal(write(1, 5.0), write(2, 5.0))


def test_only_likely_codes_are_drawn() -> None:
    logits = torch.tensor([0.5, 0.25, 0.15, 0.1]).log()
    assert only_likely(logits, 2, 1.0).isfinite().tolist() == [True, True, False, False]
    assert only_likely(logits, 0, 0.7).isfinite().tolist() == [True, True, False, False]
    assert only_likely(logits, 0, 0.76).isfinite().tolist() == [True, True, True, False]
    assert only_likely(logits, 0, 1e-6).isfinite().tolist() == [True, False, False, False]
    assert only_likely(logits, 9, 1.0).isfinite().all()


def test_codes_are_drawn_as_likely_as_they_are() -> None:
    likely = torch.tensor([0.5, 0.3, 0.2])
    drawn = Choice([torch.Generator().manual_seed(0)], 1.0, 0, 1.0)(likely.log().expand(1, 4000, 3))
    assert (torch.bincount(drawn[0]) / 4000).tolist() == pytest.approx(likely.tolist(), abs=0.03)
    warm = Choice([torch.Generator().manual_seed(0)], 0.5, 0, 1.0)(likely.log().expand(1, 4000, 3))
    squared = likely.square() / likely.square().sum()
    assert (torch.bincount(warm[0]) / 4000).tolist() == pytest.approx(squared.tolist(), abs=0.03)


def test_random_numbers_are_a_function_of_the_noise() -> None:
    noise = torch.randn(1, 2, 3, 4)
    again, other = (torch.rand(3, generator=generator_of(each)) for each in (noise.clone(), noise + 1e-3))
    assert torch.equal(torch.rand(3, generator=generator_of(noise)), again) and not torch.equal(again, other)


def test_int8_weights_write_nearly_the_same(model: Model) -> None:
    before = model.next_logits(codes(), words())
    report = quantize(model, "int8", torch.device("cpu"))
    assert report.layers == 2 + 4 * 2 and report.bytes_after < report.bytes_before
    after = model.next_logits(codes(), words())
    assert 0 < (after - before).norm() / before.norm() < 0.1
    assert model.sample(torch.randn(1, 1, *GRID), words(1), words(1), steps=2, guidance_scale=2, sampler="causal").shape[0] == 1
