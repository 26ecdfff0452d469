"""Schedules, which parameter goes where, Muon against PyTorch's own, and the averaged weights."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from train_toys import WIDTH, Toy, ToyGan, settings

from theseus_core.config import validate
from theseus_core.contracts import Conditioned
from theseus_core.errors import TheseusError
from theseus_core.registry import build
from theseus_core.train.config import TrainConfig
from theseus_core.train.ema import Ema
from theseus_core.train.muon import Muon, orthogonalize
from theseus_core.train.optim import build_phases, decays, lr_factor, split

CPU = torch.device("cpu")


def test_the_schedules_rise_and_fall_where_they_say() -> None:
    linear = [lr_factor(settings(steps=100, warmup=10, decay=0.2), step) for step in range(100)]
    assert linear[0] == pytest.approx(1 / 11)
    assert linear[10:81] == [1.0] * 71
    assert linear[90] == pytest.approx(0.5)
    assert linear[99] == pytest.approx(1 / 20)
    cosine = [lr_factor(settings(steps=100, warmup=10, schedule="cosine"), step) for step in range(100)]
    assert cosine[55] == pytest.approx(0.5)
    assert cosine[99] == pytest.approx(0.5 * (1 + math.cos(math.pi * 89 / 90)))
    assert lr_factor(settings(steps=100, warmup=0, schedule="constant"), 99) == 1.0


def test_the_warmup_is_at_most_a_fifth() -> None:
    factors = [lr_factor(settings(steps=10, warmup=1000, schedule="constant"), step) for step in range(3)]
    assert factors == pytest.approx([1 / 3, 2 / 3, 1.0])


def test_parameters_go_where_they_belong() -> None:
    groups = {kind: [name for name, _ in pairs] for kind, pairs in split(Toy(), "model").items()}
    inside = ["attend.weight", "mlp.0.weight", "mlp.2.weight"]
    assert groups["matrices"] == [f"blocks.{i}.{name}" for i in (0, 1) for name in inside]
    assert groups["decayed"] == ["near.weight", "into.weight", "out.weight"]
    assert "places.weight" in groups["plain"]
    assert all(name.endswith("bias") or "norm" in name or name == "places.weight" for name in groups["plain"])


def test_norms_and_tables_do_not_decay() -> None:
    norm = nn.Module()
    assert not decays(nn.Parameter(torch.ones(8, 1, 1, 1)), "weight", norm)
    assert not decays(nn.Parameter(torch.ones(1, 4, 8)), "positions", norm)
    assert decays(nn.Parameter(torch.ones(8, 4, 3, 3, 3)), "weight", norm)


def test_frozen_parameters_have_no_optimizer() -> None:
    model = Toy()
    model.out.requires_grad_(False)
    (phase,) = build_phases(model, settings(), CPU, torch.float32)
    assert not any(name.startswith("out") for name in phase.parameters)


def test_muon_without_matrices_is_refused() -> None:
    with pytest.raises(TheseusError, match="no matrices in repeated blocks") as caught:
        build_phases(Toy(depth=0), settings(optimizer="muon"), CPU, torch.float32)
    assert caught.value.hint == "use adamw"


@pytest.mark.parametrize("shape", [(8, 8), (24, 8), (8, 24)])
def test_muon_is_torchs_muon(shape: tuple[int, int]) -> None:
    """PyTorch's iterates in bf16, whose 8 bits bound how near the two can be."""
    torch.manual_seed(0)
    ours = [nn.Parameter(torch.randn(shape)) for _ in range(3)]
    theirs = [nn.Parameter(p.detach().clone()) for p in ours]
    one = Muon([{"params": ours, "lr": 0.1, "weight_decay": 0.1}], torch.float32)
    other = torch.optim.Muon(theirs, lr=0.1, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw")
    for _ in range(3):
        for p, q in zip(ours, theirs, strict=True):
            p.grad = torch.randn(shape)
            q.grad = p.grad.clone()
        one.step()
        other.step()
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p, q, rtol=0.02, atol=0.02)
        torch.testing.assert_close(one.state[p]["momentum"], other.state[q]["momentum_buffer"])


def test_orthogonalize_makes_singular_values_about_one() -> None:
    torch.manual_seed(0)
    matrices = torch.randn(2, 40, 16) * torch.tensor([1e-3, 1e3])[:, None, None]
    orthogonal = orthogonalize(matrices)
    values = torch.linalg.svdvals(orthogonal)
    assert values.min() > 0.6
    assert values.max() < 1.3
    u, _, v = torch.linalg.svd(matrices, full_matrices=False)
    nearest_orthogonal = u @ v
    assert torch.nn.functional.cosine_similarity(orthogonal.flatten(1), nearest_orthogonal.flatten(1)).min() > 0.97


def test_a_matrix_without_a_gradient_stays() -> None:
    used, unused = nn.Parameter(torch.randn(4, 4)), nn.Parameter(torch.randn(4, 4))
    before = unused.detach().clone()
    used.grad = torch.randn(4, 4)
    Muon([{"params": [used, unused], "lr": 0.1, "weight_decay": 0.1}]).step()
    assert torch.equal(unused, before)


def test_a_phase_leaves_the_others_alone() -> None:
    model = ToyGan()
    discriminator, generator = build_phases(model, settings(), CPU, torch.float32)
    assert not discriminator.parameters.keys() & generator.parameters.keys()
    with discriminator.focused():
        assert not any(p.requires_grad for p in generator.parameters.values())
        assert all(p.requires_grad for p in discriminator.parameters.values())
    assert all(p.requires_grad for p in model.parameters())


def test_clipping_scales_to_the_norm() -> None:
    (phase,) = build_phases(Toy(), settings(), CPU, torch.float32)
    for parameter in phase.parameters.values():
        parameter.grad = torch.ones_like(parameter)
    count = sum(p.numel() for p in phase.parameters.values())
    assert phase.clip(1.0) == pytest.approx(math.sqrt(count))
    assert phase.clip(0.0) == pytest.approx(1.0, rel=1e-5)


def test_the_average_is_the_textbook_one() -> None:
    torch.manual_seed(0)
    model = nn.Linear(WIDTH, 2)
    ema, expected = Ema(model, 0.9), model.weight.detach().clone()
    for step in range(20):
        with torch.no_grad():
            model.weight.add_(torch.randn_like(model.weight))
        ema.update(step)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * model.weight.detach()
    last = model.weight.detach().clone()
    with ema.swapped_in():
        torch.testing.assert_close(model.weight.detach(), expected)
    assert torch.equal(model.weight, last)


def test_no_average_is_the_last_weights() -> None:
    model = nn.Linear(4, 4)
    ema = Ema(model, 0.0)
    with torch.no_grad():
        model.weight.add_(1.0)
    ema.update(1000)
    assert torch.equal(ema.of(model.weight), model.weight)


@pytest.mark.parametrize(
    ("wrong", "names"),
    [
        ({"muon_lr_ratio": 2.0}, "muon_lr_ratio: it has an effect only with optimizer muon: 2.0"),
        ({"batch_size": 10, "accumulate": 4}, "accumulate: it must divide batch_size 10: 4"),
        ({"betas": [0.9, 1.0]}, "betas: both must be at least 0 and below 1"),
        ({"optimiser": "adamw"}, "unknown key: optimiser"),
        ({"dtype": "fp16"}, "dtype"),
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, object], names: str) -> None:
    with pytest.raises(TheseusError, match=names):
        validate(TrainConfig, wrong)


def test_every_setting_is_described() -> None:
    assert [name for name, field in TrainConfig.model_fields.items() if not field.description] == []


def test_an_encoder_may_learn_at_a_rate_of_its_own() -> None:
    encoder = build("text", "builtin", "debug", {"vocabulary": ["red"], "lr_ratio": 0.1})
    both = Conditioned.of(build("generators", "dit", "debug"), encoder)
    [phase] = build_phases(both, TrainConfig(optimizer="muon", lr=0.5, warmup=0), CPU, torch.float32)
    rates = {id(p): group["peak_lr"] for o in phase.optimizers.values() for group in o.param_groups for p in group["params"]}
    assert {rates[id(p)] for p in encoder.parameters()} == {0.05}
    assert {rates[id(p)] for name, p in both.named_parameters() if name.startswith("generator.")} == {0.5}
    assert len(rates) == len(list(both.parameters()))
