"""Linear layers in 8 bits on a CPU, with nothing but torch; and what 4 bits take."""

from __future__ import annotations

import gc
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from theseus_core import device, quantize
from theseus_core.quantize import Int8Linear, weight_bytes, what_it_gains

CPU = torch.device("cpu")


def layer(inputs: int = 96, outputs: int = 35, bias: bool = True) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(inputs, outputs, bias).requires_grad_(False)


def exact(quantized: Int8Linear, x: Tensor) -> Tensor:
    """The same by definition, in double precision: both sides rounded to their grids, then multiplied."""
    step = x.abs().amax(-1, keepdim=True) / quantize.LARGEST
    rounded = (x / step).round().double() * step.double()
    y = rounded @ (quantized.weight.double() * quantized.scale.double()[:, None]).t()
    return y if quantized.bias is None else y + quantized.bias.double()


@pytest.mark.parametrize("shape", [(96,), (1, 96), (2, 3, 96), (0, 96)])
@pytest.mark.parametrize("bias", [True, False])
def test_int8_is_what_it_says(shape: tuple[int, ...], bias: bool) -> None:
    whole = layer(bias=bias)
    small = Int8Linear(whole)
    x = torch.randn(*shape)
    y = small(x)
    assert y.shape == (*shape[:-1], 35)
    assert y.dtype == torch.float32
    torch.testing.assert_close(y.double(), exact(small, x), rtol=1e-5, atol=1e-5)
    assert torch.equal(y, small(x))
    if y.numel():
        assert 0 < (y - whole(x)).norm() / whole(x).norm() < 0.015


def test_each_token_has_its_own_scale_and_each_output_too() -> None:
    whole = layer(bias=False)
    whole.weight *= torch.logspace(-3, 3, 35)[:, None]
    x = torch.randn(64, 96) * torch.logspace(-3, 3, 64)[:, None]
    small, y = Int8Linear(whole)(x), whole(x)
    sizes = torch.logspace(-3, 3, 64)[:, None] * torch.logspace(-3, 3, 35)
    errors = (small - y) / sizes  # of about one size, were it not for scales
    assert errors.norm(dim=1).max() < 4 * errors.norm(dim=1).min()
    assert errors.norm(dim=0).max() < 4 * errors.norm(dim=0).min()


def test_int8_in_bf16_never_wraps() -> None:
    x = torch.linspace(0.5, 4, 40_000).bfloat16()[:, None].expand(-1, 2).contiguous() * torch.tensor([1, -1]).bfloat16()
    y = Int8Linear(nn.Linear(2, 1, bias=False).requires_grad_(False))
    y.weight = torch.tensor([[127, -127]], dtype=torch.int8)
    y.scale = torch.tensor([1 / 127])
    torch.testing.assert_close(y(x).float(), 2 * x[:, :1].float(), rtol=0.02, atol=0.02)


def test_nothing_and_no_number_pass_through() -> None:
    small = Int8Linear(layer())
    x = torch.randn(3, 96)
    x[0], x[1, 5], x[2, 7] = 0, torch.nan, torch.inf
    y = small(x)
    assert torch.equal(y[0], small.bias)
    assert not y[1:].isfinite().any(), "hidden, a model that diverged would look fine"


def test_int8_obeys_autocast() -> None:
    small = Int8Linear(layer())
    with torch.autocast("cpu", torch.bfloat16):
        assert small(torch.randn(2, 96)).dtype == torch.bfloat16


def test_int8_bytes() -> None:
    module = nn.Sequential(layer(128, 256), layer(256, 64)).bfloat16()
    report = quantize.quantize(module, "int8", CPU)
    assert [type(child) for child in module] == [Int8Linear, Int8Linear]
    assert report.bytes_after == weight_bytes(module) == 2 * 128 * 256 + 4 * (256 + 64) + 2 * (256 + 64) - 128 * 256 + 256 * 64
    assert report.bytes_after < 0.6 * report.bytes_before


def test_four_bits_take_less_than_a_third_of_bf16() -> None:
    for mode in ("nf4", "fp4"):
        module = nn.Sequential(layer(640, 640), layer(640, 640)).bfloat16()
        report = quantize.quantize(module, mode, CPU, torch.bfloat16)
        packed = 2 * 640 * 640 // 2
        assert packed < report.bytes_after <= 0.3 * report.bytes_before


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_what_quantization_frees_is_free_for_others() -> None:
    module = nn.Sequential(*(layer(512, 512) for _ in range(64)))
    before = resident()
    quantize.quantize(module, "int8", CPU)
    gc.collect()
    assert before - resident() > 0.5 * (64 * 512 * 512 * 3)


def resident() -> int:
    return 4096 * int(Path("/proc/self/statm").read_text().split()[1])


def test_its_gain_is_said_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "not time" in what_it_gains("nf4", CPU)
    assert "not time" in what_it_gains("int8", torch.device("cuda"))
    for there, words in ((True, "faster than bf16"), (False, "no faster")):
        monkeypatch.setattr(quantize, "has_int8_products", lambda there=there: there)
        assert words in what_it_gains("int8", CPU)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_vnni": True})
    assert device.has_int8_products()
