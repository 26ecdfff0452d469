"""LoRA: the same effect here and in diffusers, from files of every kind; what fits nowhere is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from theseus_core.config import validate
from theseus_core.contracts import Text
from theseus_core.errors import TheseusError
from theseus_core.generators import dit
from theseus_core.nn.lora import Adapted, merge
from theseus_core.pretrained.lora import FILE, Lora, apply, attach, parse_lora, save_lora
from theseus_core.pretrained.transformer import save_transformer
from theseus_core.quantize import quantize
from theseus_core.registry import build

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
