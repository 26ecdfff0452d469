"""What is done for the sake of a CPU's speed gives the same numbers, and only where nobody asks for gradients."""

from __future__ import annotations

import weakref

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from theseus_core.contracts import Text
from theseus_core.generators.dit import Model
from theseus_core.nn.attention import Attention, attend, spare_rows
from theseus_core.nn.packed import Packed, can_pack, linear_gelu, pack
from theseus_core.registry import build

CPU = torch.device("cpu")
packs = pytest.mark.skipif(not can_pack(CPU), reason="oneDNN multiplies no bf16 on this CPU")


@pytest.mark.parametrize("tokens", [40, 300, 1030])
def test_attention_by_head_is_attention(tokens: int) -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, 3, tokens, 16)
    expected = F.scaled_dot_product_attention(q, k, v)
    with torch.no_grad():
        torch.testing.assert_close(attend(q, k, v, None), expected, atol=2e-6, rtol=1e-5)
    torch.testing.assert_close(attend(q.requires_grad_(), k, v, None), expected, atol=2e-6, rtol=1e-5)


@torch.no_grad()
def test_spare_rows_change_nothing() -> None:
    torch.manual_seed(0)
    attention, x = Attention(32, 2).bfloat16(), torch.randn(1, 19, 32).bfloat16()
    spare = spare_rows(x, 19)
    assert spare == 1 and spare_rows(x, 20) == 0 and spare_rows(x.float(), 19) == 0
    filled = attention(F.pad(x, (0, 0, 0, spare)), spare=spare)
    assert filled.shape == (1, 20, 32)
    torch.testing.assert_close(filled[:, :19], attention(x))
    with torch.enable_grad():
        assert spare_rows(x, 19) == 0


@packs
@torch.no_grad()
def test_a_packed_layer_is_the_layer() -> None:
    torch.manual_seed(0)
    for bias in (True, False):
        layer, x = nn.Linear(48, 80, bias=bias).bfloat16(), torch.randn(2, 5, 48).bfloat16()
        packed = Packed(layer)
        torch.testing.assert_close(packed(x), layer(x))
        torch.testing.assert_close(linear_gelu(packed, x), linear_gelu(layer, x), atol=1e-2, rtol=1e-2)
        exact = F.gelu(F.linear(x.float(), layer.weight.float(), None if layer.bias is None else layer.bias.float()))
        assert (linear_gelu(packed, x) - exact).abs().mean() < 1.1 * (linear_gelu(layer, x) - exact).abs().mean()


@packs
@torch.no_grad()
def test_a_packed_transformer_gives_the_same_to_the_noise_of_bf16() -> None:
    torch.manual_seed(0)
    model = build("generators", "dit", "debug", {"latent_channels": 4}).eval()
    assert isinstance(model, Model)
    for tensor in model.parameters():
        tensor.add_(0.1 * torch.randn_like(tensor))
    text = Text(mask=torch.ones(1, 6, dtype=torch.bool), embeddings=torch.randn(1, 6, 32))
    x, t = torch.randn(1, 4, 3, 4, 4), torch.full((1,), 0.5)
    exact = model.velocity(x, t, text)
    assert pack(model) == 0  # weights in fp32 stay as they are
    plain = model.bfloat16().velocity(x, t, text)
    assert pack(model) > 10
    noise = (plain - exact).norm()
    assert (model.velocity(x, t, text) - exact).norm() < 1.2 * noise


def test_a_packed_layer_leaves_memory_before_the_next_is_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))).bfloat16()
    layers = [weakref.ref(layer) for layer in model.modules() if isinstance(layer, nn.Linear)]
    left = []

    def packed(layer: nn.Linear) -> nn.Module:
        left.append(sum(each() is not None for each in layers))
        return nn.Identity()

    monkeypatch.setattr("theseus_core.nn.packed.Packed", packed)
    assert pack(model) == 3 and left == [3, 2, 1]
