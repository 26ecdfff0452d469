"""What `auto` means here, whatever the torch."""

from __future__ import annotations

import pytest
import torch

from theseus_core.device import has_fast_bf16, pick_device
from theseus_core.errors import TheseusError


@pytest.mark.parametrize(("avx512", "amx"), [(True, False), (False, True), (False, False)])
def test_an_older_torch_is_asked_in_its_own_way(monkeypatch: pytest.MonkeyPatch, avx512: bool, amx: bool) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    assert has_fast_bf16(torch.device("cpu")) == (avx512 or amx)


@pytest.mark.parametrize("name", ["cpu:", "gpu", "cuda:x", "cpu:1"])
def test_a_device_that_is_not_there_is_named(name: str) -> None:
    with pytest.raises(TheseusError, match=f": {name}"):
        pick_device(name)
