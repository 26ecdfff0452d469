"""What a video will take, as predicted, against what is known or measured."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from theseus_core import estimate
from theseus_core.errors import TheseusError
from theseus_core.estimate import Estimate, Live, Model, Plan, Weights, Work, examine, predict, what_would_fit
from theseus_core.model_folder import Settings, save_model
from theseus_core.pipeline import TextToVideo
from theseus_core.quantize import quantize, weight_bytes
from theseus_core.registry import build

CPU, GPU = torch.device("cpu"), torch.device("cuda")
PLAN = Plan(CPU, torch.float32)
RATES = {"linear": 1e9, "other": 1e9}
SETTINGS = Settings(frames=9, height=32, width=32, fps=8, steps=3, guidance_scale=3.0, sampler="ddim")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    parts = (
        build("tokenizers", "causal_vae", "debug"),
        build("text", "builtin", "debug", {"vocabulary": ["a", "circle"]}),
        build("generators", "dit", "debug"),
    )
    return save_model(tmp_path_factory.mktemp("estimate") / "model", *parts, SETTINGS, {})


def test_live_bytes_are_those_that_exist_at_once() -> None:
    with torch.device("meta"):
        network = nn.Linear(10, 10, bias=False)
        x = torch.empty(4, 10)
    with torch.no_grad(), Live(network) as live:
        y = network(x)  # 160 bytes
        y = network(y)  # 160 more, before the first are let go
        y = y.view(2, 20)  # the same bytes
        kept = torch.cat([y, y, y])  # 480
    assert live.peak == 160 + 480
    assert live.now == 640
    del y, kept
    assert live.now == 0


@pytest.mark.parametrize(("guidance", "sampler"), [(1.0, "ddim"), (3.0, "ddim"), (3.0, "heun")])
def test_operations_are_those_of_the_real_run(folder: Path, guidance: float, sampler: str) -> None:
    settings, model = examine(folder, {"guidance_scale": guidance, "sampler": sampler, "height": None}, PLAN)
    assert (settings.height, settings.sampler) == (32, sampler)
    pipe = TextToVideo.load(folder, "cpu", "fp32")
    with FlopCounterMode(display=False) as counter:
        pipe.sample(["a circle a circle a circle a circle"], guidance_scale=guidance, sampler=sampler)
    counts = counter.get_flop_counts()["Global"]
    predicted = model.work["steps"].flops + model.work["decode"].flops + model.work["text"].flops
    assert sum(counts.values()) == pytest.approx(predicted, rel=0.05)


OTHERS = {
    "ddpm": ("causal_vae", {"sampler": "dpmpp_2m"}, ("debug", {})),
    "masked": ("vqvae", {"sampler": "masked"}, ("debug", {"codebook_size": 32})),
    "causal": ("vqvae", {"sampler": "causal"}, ("debug", {"codebook_size": 32})),
    "gan": ("pixels", {"sampler": "one-step", "guidance_scale": 1.0}, ("debug", {"latent_height": 32, "latent_width": 32})),
}


@pytest.mark.parametrize("name", OTHERS)
def test_every_family_says_what_it_does(name: str, tmp_path: Path) -> None:
    tokenizer, defaults, (size, changes) = OTHERS[name]
    family = name if name in ("ddpm", "gan") else "autoregressive"
    torch.manual_seed(0)
    parts = (
        build("tokenizers", tokenizer, "debug"),
        build("text", "builtin", "debug", {"vocabulary": ["a", "circle"]}),
        build("generators", family, size, changes),
    )
    model = save_model(tmp_path / "model", *parts, SETTINGS.model_copy(update=defaults), {})
    _, found = examine(model, {}, PLAN)
    pipe = TextToVideo.load(model, "cpu", "fp32")
    with FlopCounterMode(display=False) as counter:
        pipe.sample(["a circle a circle a circle a circle"])
    predicted = sum(work.flops for work in found.work.values())
    assert sum(counter.get_flop_counts()["Global"].values()) == pytest.approx(predicted, rel=0.1)
    assert found.stepless is (name in ("causal", "gan"))
    half = examine(model, {}, replace(PLAN, dtype=torch.bfloat16))[1]
    assert half.work["steps"].flops == found.work["steps"].flops


@pytest.mark.parametrize("sampler", ["masked", "causal"])
def test_a_long_video_of_codes_takes_what_its_windows_take(sampler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    parts = (
        build("tokenizers", "vqvae", "debug"),
        build("text", "builtin", "debug", {"vocabulary": ["a", "circle"]}),
        build("generators", "autoregressive", "debug", {"codebook_size": 32}),
    )
    model = save_model(tmp_path / "model", *parts, SETTINGS.model_copy(update={"sampler": sampler}), {})
    pipe = TextToVideo.load(model, "cpu", "fp32")
    counted: list[int] = []
    sample = pipe.generator.sample

    def counting(*args: Any, **kwargs: Any) -> torch.Tensor:
        with FlopCounterMode(display=False) as counter:
            made = sample(*args, **kwargs)
        counted.append(counter.get_total_flops())
        return made

    monkeypatch.setattr(pipe.generator, "sample", counting)
    pipe.sample(["a circle a circle a circle a circle"], frames=21)
    assert len(counted) == 4
    whole, once = (examine(model, {"frames": frames}, PLAN)[1].work["steps"] for frames in (21, 9))
    assert sum(counted) == pytest.approx(whole.flops, rel=0.15)
    assert (whole.flops, whole.peak) == (4 * once.flops, once.peak)


def test_attention_needs_no_room_for_the_scores_of_all_heads() -> None:
    with torch.device("meta"):
        network, q = nn.Linear(1, 1), torch.empty(1, 8, 4096, 16)
    size = q.nbytes

    def work(scores: estimate.Scores) -> Work:
        return estimate._follow(network, lambda: nn.functional.scaled_dot_product_attention(q, q, q), scores)

    fused = work("none")
    assert (fused.flops, fused.peak) == (4 * 8 * 4096**2 * 16, size)  # of what comes out
    block, of_a_head = (2 * queries * 4096 * 4 for queries in (estimate.QUERIES_AT_ONCE, estimate.QUERIES_OF_A_HEAD))
    assert of_a_head <= work("one head").peak <= size + of_a_head
    assert 8 * block <= work("all").peak <= size + 8 * block


def test_weights_are_those_of_the_parts(folder: Path) -> None:
    _, model = examine(folder, {}, PLAN)
    pipe = TextToVideo.load(folder, "cpu", "fp32")
    for name, part in (("text", pipe.text_encoder), ("steps", pipe.generator), ("decode", pipe.tokenizer)):
        assert model.weights[name].bytes() == sum(4 * tensor.numel() for tensor in part.parameters())
    quantize(pipe.generator, "int8", CPU)
    assert model.weights["steps"].bytes("int8") == pytest.approx(weight_bytes(pipe.generator), rel=0.2)


def test_the_peak_follows_the_plan() -> None:
    weights = {"text": Weights(1000, 900, 2), "steps": Weights(4000, 4000, 2), "decode": Weights(100, 0, 2)}
    model = Model(weights, {name: Work(1e9, 50) for name in weights}, blocks=4, frees_text=True)

    def peak(**changes: Any) -> dict[str, int]:
        made = predict(model, replace(Plan(GPU, torch.bfloat16), **changes), RATES, free=10**12)
        assert made.main_memory is not None
        return {name: size - estimate.ON_DEVICE for name, size in made.memory.items()}

    assert peak() == {"text": 10_250, "steps": 8250, "decode": 8250}
    assert peak(offload="model") == {"text": 2050, "steps": 8050, "decode": 250}
    assert peak(offload="layer")["steps"] == 4250
    assert peak(quantize="int8") == {"text": 1100 + 4000 + 200 + 50} | dict.fromkeys(("steps", "decode"), 4250)
    made = predict(model, PLAN, {"linear": 2e9, "other": 1e9}, free=10**12)
    assert made.seconds["decode"] / made.seconds["steps"] == pytest.approx(2 * estimate.SHARE["steps"] / estimate.SHARE["decode"])
    assert made.main_memory is None and made.memory["load"] >= 2 * 5100


def test_the_flags_that_would_make_it_fit(folder: Path) -> None:
    plan = Plan(GPU, torch.float32)
    _, model = examine(folder, {}, plan)
    model = replace(model, weights=model.weights | {"steps": Weights(10**9, 10**9, 4)})

    def ways(free: int, plan: Plan = plan) -> list[str]:
        return [way.flags() for way in what_would_fit(folder, {}, plan, model, RATES, free)]

    assert ways(3 * 10**9) == ["--quantize int8", "--quantize nf4"] or "--offload layer" in ways(3 * 10**9)
    assert ways(10**6) == [], "nothing fits into so little"
    assert "--offload model --quantize int8" not in ways(3 * 10**9, replace(plan, offload="model"))
    assert all("--offload" not in way for way in ways(3 * 10**9, replace(plan, device=CPU)))


def test_what_cannot_be_made_is_refused_before_anything_is_read(folder: Path) -> None:
    with pytest.raises(TheseusError, match="this model takes 1 \\+ 4 k frames, not: 10"):
        examine(folder, {"frames": 10}, PLAN)
    with pytest.raises(TheseusError, match="no such model"):
        estimate.locate("nothing-of-that-name")
    assert estimate.locate(str(folder)) == (folder, 0)


def test_it_fits_with_a_little_room() -> None:
    made = Estimate({"steps": 90, "decode": 10}, None, {}, free=100)
    assert made.peak == 90 and made.fits
    assert not replace(made, memory={"steps": 99}).fits
