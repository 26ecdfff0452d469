"""What `auto` means here, whatever the torch."""

from __future__ import annotations

import pytest
import torch

from theseus_core.device import has_fast_bf16, pick_device
from theseus_core.errors import TheseusError


def test_both_ways_of_asking_the_cpu_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    if torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512", "DEFAULT"):
        pytest.skip("an older torch knows of x86 alone")
    newer = has_fast_bf16(torch.device("cpu"))
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert has_fast_bf16(torch.device("cpu")) == newer


@pytest.mark.parametrize("name", ["cpu:", "gpu", "cuda:x", "cpu:1"])
def test_a_device_that_is_not_there_is_named(name: str) -> None:
    with pytest.raises(TheseusError, match=f": {name}"):
        pick_device(name)
