"""LoRA: the same effect here and in diffusers, from files of every kind; what fits nowhere is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from theseus_core.contracts import Text
from theseus_core.data.clip import Clip
from theseus_core.data.writer import write_dataset
from theseus_core.errors import TheseusError
from theseus_core.generators import dit
from theseus_core.model_folder import load_model
from theseus_core.nn.lora import Adapted, merge
from theseus_core.pipeline import TextToVideo
from theseus_core.pretrained.lora import FILE, Lora, apply, attach, parse_lora, save_lora
from theseus_core.pretrained.transformer import save_transformer
from theseus_core.quantize import quantize
from theseus_core.registry import build
from theseus_core.train.generator import train_generator
from theseus_core.train.runs import configure_run

CPU = torch.device("cpu")
TINY = {
    "latent_channels": 4,
    "text_width": 20,
    "width": 64,
    "layers": 2,
    "heads": 2,
    "time_width": 16,
    "grid": {"frames": 2, "height": 8, "width": 8, "text_tokens": 6},
}


def generator(seed: int = 0) -> dit.Model:
    """A CogVideoX in small, in which every weight has its effect."""
    torch.manual_seed(seed)
    model = build("generators", "dit", "cogvideox-2b", TINY).eval()
    assert isinstance(model, dit.Model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def moved(model: dit.Model, seed: int = 1) -> dict[str, Any]:
    """Fresh differences that do something."""
    pairs = attach(model, 4)
    torch.manual_seed(seed)
    for pair in pairs.values():
        nn.init.normal_(pair.up.weight, std=0.5)
    return dict(pairs)


@torch.no_grad()
def velocity(model: dit.Model) -> Tensor:
    torch.manual_seed(2)
    words = Text(mask=torch.ones(1, 6, dtype=torch.bool), embeddings=torch.randn(1, 6, 20))
    return model.velocity(torch.randn(1, 4, 2, 8, 8), torch.tensor([0.5]), words)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Tensor, Tensor]:
    """A file of differences, and what the model gives without them and with them."""
    model = generator()
    plain = velocity(model)
    pairs = moved(model)
    return save_lora(pairs, tmp_path_factory.mktemp("lora") / FILE), plain, velocity(model)


# --- the two programs ---


@pytest.mark.parametrize("scale", [1.0, 0.8])
def test_diffusers_reads_what_is_written_and_has_the_same_effect(
    made: tuple[Path, Tensor, Tensor], tmp_path: Path, scale: float
) -> None:
    diffusers = pytest.importorskip("diffusers")
    model = generator()
    save_transformer(model, tmp_path / "transformer")
    reference = diffusers.CogVideoXTransformer3DModel.from_pretrained(tmp_path / "transformer")
    pipe = diffusers.CogVideoXPipeline(None, None, None, reference, diffusers.CogVideoXDDIMScheduler())
    pipe.load_lora_weights(str(made[0].parent), adapter_name="ours")
    pipe.set_adapters("ours", scale)

    assert apply(model, Lora(made[0], scale)) == 16  # 2 blocks, 4 layers, 2 factors
    beside = velocity(model)
    assert merge(model) == 4 and not any(isinstance(module, Adapted) for module in model.modules())
    torch.manual_seed(2)
    words, latents = torch.randn(1, 6, 20), torch.randn(1, 4, 2, 8, 8)
    t = model.path.clock(torch.tensor([0.5]))
    with torch.no_grad():
        theirs = reference(latents.transpose(1, 2), words, t, return_dict=False)[0].transpose(1, 2)
    torch.testing.assert_close(theirs, beside, atol=1e-5, rtol=0)
    torch.testing.assert_close(theirs, velocity(model), atol=1e-5, rtol=0)
    assert (theirs - made[1]).abs().max() > 0.01


# --- files made elsewhere ---


def renamed(path: Path, target: Path, down: str, up: str, **more: Any) -> Path:
    tensors = {key.replace("lora_A", down).replace("lora_B", up): tensor for key, tensor in load_file(path).items()}
    save_file(tensors | more.get("tensors", {}), target, more.get("header"))
    return target


def alphas(path: Path, value: float) -> dict[str, Tensor]:
    return {key.replace(".lora_A.weight", ".alpha"): torch.tensor(value) for key in load_file(path) if "lora_A" in key}


def test_files_say_the_same_in_several_ways(made: tuple[Path, Tensor, Tensor], tmp_path: Path) -> None:
    path, _, expected = made
    settings = {"transformer.r": 4, "transformer.lora_alpha": 2, "transformer.alpha_pattern": {r"attn1\.to_q": 8}}
    header = {"lora_adapter_metadata": json.dumps(settings)}
    files = {
        "down": renamed(path, tmp_path / "down.safetensors", "lora_down", "lora_up"),
        "dots": renamed(path, tmp_path / "dots.safetensors", "lora.down", "lora.up"),
        "alpha": renamed(path, tmp_path / "alpha.safetensors", "lora_down", "lora_up", tensors=alphas(path, 4.0)),
        "half": renamed(path, tmp_path / "half.safetensors", "lora_down", "lora_up", tensors=alphas(path, 2.0)),
        "header": renamed(path, tmp_path / "header.safetensors", "lora_A", "lora_B", header=header),
    }
    found = {}
    for name, file in files.items():
        model = generator()
        assert apply(model, Lora(file)) == len(load_file(file))
        found[name] = velocity(model)
    for name in ("down", "dots", "alpha"):
        torch.testing.assert_close(found[name], expected, atol=1e-6, rtol=0)
    model = generator()
    apply(model, Lora(path, 0.5))
    torch.testing.assert_close(found["half"], velocity(model), atol=1e-6, rtol=0)
    assert not torch.allclose(found["header"], found["half"])  # twice as much for the queries alone, half for the others
    queries = {
        key: tensor * (2 if "to_q.lora_B" in key else 0.5 if "lora_B" in key else 1) for key, tensor in load_file(path).items()
    }
    save_file(queries, tmp_path / "queries.safetensors")
    model = generator()
    apply(model, Lora(tmp_path / "queries.safetensors"))
    torch.testing.assert_close(found["header"], velocity(model), atol=1e-6, rtol=0)


def test_several_act_together_and_take_each_other_back(made: tuple[Path, Tensor, Tensor]) -> None:
    path, plain, expected = made
    model = generator()
    for scale in (0.25, 0.75):
        apply(model, Lora(path, scale))
    torch.testing.assert_close(velocity(model), expected, atol=1e-5, rtol=0)
    apply(model, Lora(path, -1.0))
    merge(model)
    torch.testing.assert_close(velocity(model), plain, atol=1e-5, rtol=0)


@pytest.mark.parametrize("mode", ["int8", "nf4"])
def test_beside_quantized_weights(made: tuple[Path, Tensor, Tensor], mode: str) -> None:
    model = generator()
    quantize(model, mode, CPU)
    before = velocity(model)
    apply(model, Lora(made[0]))
    assert merge(model) == 0
    effect, exact = velocity(model) - before, made[2] - made[1]
    assert (effect - exact).norm() < 0.5 * exact.norm()
    for layer in ("qkv", "out"):
        assert isinstance(model.get_submodule(f"blocks.0.attention.{layer}"), Adapted)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: {f"unet.{k}": v for k, v in t.items()}, "not one of the 16 keys"),
        (
            lambda t: {k.replace("s.1.attn1.to_k", "s.7.attn1.to_k"): v for k, v in t.items()},
            r"not 2 of the 16 keys.*blocks\.7\.attn1",
        ),
        (lambda t: t | {"transformer.transformer_blocks.0.attn1.to_q.lora_magnitude_vector": torch.ones(64)}, "not 1 of the 17"),
        (lambda t: dict(list(t.items())[1:]), "half of a low-rank difference"),
        (lambda t: {k: v[:, :32] if "lora_A" in k else v for k, v in t.items()}, "a model of another size"),
        (lambda t: {}, "without a single key"),
    ],
)
def test_what_does_not_fit_is_named_and_nothing_of_it_used(
    made: tuple[Path, Tensor, Tensor], tmp_path: Path, change: Any, message: str
) -> None:
    save_file({key: tensor.contiguous() for key, tensor in change(load_file(made[0])).items()}, tmp_path / FILE)
    model = generator()
    with pytest.raises(TheseusError, match=message):
        apply(model, Lora(tmp_path / FILE))
    assert torch.equal(velocity(model), made[1])


def test_names_of_files_with_scales(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    file = tmp_path / "model" / FILE
    save_file({"a": torch.zeros(1)}, file)
    assert parse_lora(str(tmp_path)) == parse_lora(f"{file}:1") == Lora(file, 1.0)
    assert parse_lora(f"{tmp_path}:-0.5") == parse_lora(str(Lora(file, -0.5))) == Lora(file, -0.5)
    for text, message in ((f"{file}:0", "not a scale"), (f"{file}:nan", "not a scale"), (f"{tmp_path}/none:0.8", "no LoRA here")):
        with pytest.raises(TheseusError, match=message):
            parse_lora(text)
    (tmp_path / "pickled.safetensors").write_bytes(b"\x80\x04nothing")
    with pytest.raises(TheseusError, match="not a LoRA, or a damaged one"):
        apply(generator(), Lora(tmp_path / "pickled.safetensors"))


def test_a_rank_that_is_not_low_is_refused() -> None:
    with pytest.raises(TheseusError, match="at most half of the model's width of 64, not: 33"):
        attach(generator(), 33)


# --- a released model, tuned here ---


@pytest.mark.parametrize(("variant", "mode", "frames", "dtype"), [("2b", "nf4", 9, "bf16"), ("1.5-5b-i2v", "none", 13, "fp32")])
def test_a_released_model_is_tuned_here_and_used_there(variant: str, mode: str, frames: int, dtype: str, tmp_path: Path) -> None:
    pytest.importorskip("diffusers")
    from released import HEIGHT, TOKENS, WIDTH, pipeline, save

    reference = pipeline(variant)
    save(reference, tmp_path / "base")
    pixels = np.random.default_rng(0).integers(0, 256, (frames, HEIGHT, WIDTH, 3), dtype=np.uint8)
    write_dataset(tmp_path / "dataset", [Clip(pixels, 8.0, "a red circle")], {"size": [WIDTH, HEIGHT]})
    train = {"steps": 4, "lr": 0.05, "batch_size": 1, "device": "cpu", "dtype": dtype, "evaluate_every": 0, "ema": 0.0}
    tuning = {"init": str(tmp_path / "base"), "lora": 4, "quantize": mode, "hold_out": 0.0, "prompts": 1, "frames": frames}
    run = configure_run("transformer", "small", tuning, {"windows": 1, "sampling": {"steps": 2}, "train": train})
    tuned = train_generator(run, tmp_path / "dataset", None, tmp_path / "run").model

    image = torch.from_numpy(pixels[0]).permute(2, 0, 1)[None].float() / 127.5 - 1 if "i2v" in variant else None
    how = {"steps": 2, "guidance_scale": 1.0, "frames": frames, "image": image, "sampler": "ddim"}
    ours = TextToVideo.load(tuned, "cpu", "fp32").sample(["a red circle"], **how)  # type: ignore[arg-type]
    plain = TextToVideo.load(tmp_path / "base", "cpu", "fp32").sample(["a red circle"], **how)  # type: ignore[arg-type]
    assert (ours - plain).abs().max() > 0.05

    transformer = reference.transformer
    reference.load_lora_weights(str(tuned), weight_name=FILE)
    model = load_model(tuned).generator
    assert isinstance(model, dit.Model)
    torch.manual_seed(3)
    latents = torch.randn(1, 4 + model.config.image_channels, 2, HEIGHT // 8, WIDTH // 8)
    words = torch.randn(1, TOKENS, 32)
    text, t = Text(mask=torch.ones(1, TOKENS, dtype=torch.bool), embeddings=words), torch.tensor([0.5])
    with torch.no_grad():
        image = latents[:, 4:] if model.config.image_channels else None
        mine = model.velocity(latents[:, :4], t, text, image)
        extra = {"ofs": torch.tensor([2.0])} if model.config.offset else {}
        if transformer.config.use_rotary_positional_embeddings:
            extra["image_rotary_emb"] = reference._prepare_rotary_positional_embeddings(HEIGHT, WIDTH, 2, torch.device("cpu"))
        theirs = transformer(latents.transpose(1, 2), words, model.path.clock(t), **extra, return_dict=False)[0].transpose(1, 2)
    torch.testing.assert_close(theirs, mine, atol=1e-5, rtol=0)
