"""What a model folder carries besides its parts, and its copy at half the size."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from theseus_core.errors import TheseusError
from theseus_core.model_folder import Settings, card, export_model, fingerprint, load_model, read_knows, save_model
from theseus_core.pipeline import TextToVideo
from theseus_core.registry import build

KNOWS = {"shapes": ["a red circle", "circle"], "scenes": ["a waterfall"]}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    tokenizer = build("tokenizers", "causal_vae", "debug")
    text_encoder = build("text", "builtin", "debug", {"vocabulary": ["a", "red", "circle", "waterfall"]})
    generator = build("generators", "dit", "debug")
    for parameter in [*tokenizer.parameters(), *generator.parameters()]:
        if not parameter.detach().any():  # layers that begin at zero would hide the text
            nn.init.normal_(parameter, std=0.1)
    defaults = Settings(frames=5, height=16, width=32, fps=8, steps=2, guidance_scale=3.0, sampler="ddim")
    return save_model(tmp_path / "run/model", tokenizer, text_encoder, generator, defaults, {"seed": 0}, KNOWS)


def test_what_it_knows_is_kept(model: Path) -> None:
    assert json.loads((model / "knows.json").read_text()) == KNOWS
    assert load_model(model).knows == TextToVideo.load(model, "cpu", "fp32").knows == KNOWS
    before = fingerprint(model)
    (model / "knows.json").unlink()
    assert load_model(model).knows == {}
    assert fingerprint(model) == before, "it does not decide what is made"


@pytest.mark.parametrize("damage", ["{", "[]", '{"shapes": "circle"}', '{"shapes": [1]}'])
def test_damage_is_named(model: Path, damage: str) -> None:
    (model / "knows.json").write_text(damage)
    for read in (read_knows, load_model):
        with pytest.raises(TheseusError, match=r"knows\.json"):
            read(model)


@pytest.mark.parametrize(("dtype", "error"), [("bf16", 0.02), ("fp16", 0.002)])
def test_an_export_is_half_the_size_and_makes_nearly_the_same(model: Path, tmp_path: Path, dtype: str, error: float) -> None:
    (model / "CARD.md").write_text("# A card\n")
    half = export_model(model, tmp_path / "new/shapes", dtype)
    for name in ("model.json", "knows.json", "CARD.md", "generator/config.json"):
        assert (half / name).read_bytes() == (model / name).read_bytes()
    assert card(half) == half / "CARD.md"
    sizes = [sum(path.stat().st_size for path in folder.rglob("*.safetensors")) for folder in (model, half)]
    assert 0.5 <= sizes[1] / sizes[0] < 0.6  # the names of the weights take as much as before, and these weights are few
    expected, parts = load_model(model), load_model(half)
    for a, b in zip(expected.generator.state_dict().values(), parts.generator.state_dict().values(), strict=True):
        assert a.dtype == b.dtype
        torch.testing.assert_close(a, b, atol=1e-6, rtol=0.005)
    videos = [TextToVideo.load(folder, "cpu", "fp32").sample(["a red circle"]) for folder in (model, half)]
    assert 0 < (videos[0] - videos[1]).abs().mean() < error


def test_an_export_can_be_exported(model: Path, tmp_path: Path) -> None:
    export_model(model, tmp_path / "once", "bf16")
    export_model(tmp_path / "once", tmp_path / "twice", "bf16")
    assert fingerprint(tmp_path / "once") == fingerprint(tmp_path / "twice")


def test_what_cannot_be_exported(model: Path, tmp_path: Path) -> None:
    with pytest.raises(TheseusError, match="something already"):
        export_model(model, model)
    with pytest.raises(TheseusError, match="not half a precision: fp8"):
        export_model(model, tmp_path / "new", "fp8")
    weights = load_file(model / "generator/model.safetensors")
    save_file({key: tensor + 1e6 for key, tensor in weights.items()}, model / "generator/model.safetensors")
    with pytest.raises(TheseusError, match="too large for fp16"):
        export_model(model, tmp_path / "new", "fp16")
    assert not (tmp_path / "new").exists()
    export_model(model, tmp_path / "new", "bf16")
    (model / "tokenizer/model.safetensors").write_bytes(b"nothing")
    with pytest.raises(TheseusError, match="damaged weights"):
        export_model(model, tmp_path / "newer")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "run"], "nothing half made is left"
