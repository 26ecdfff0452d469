"""What every family promises, whatever its file: a new family is tested from the moment its file is there."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from theseus_core.contracts import Batch, Generator, Text, TextEncoder, Trainable, VideoTokenizer
from theseus_core.errors import TheseusError
from theseus_core.registry import Group, build, configure, family, load_part, names, save_part

GROUPS: list[Group] = ["tokenizers", "generators", "text"]
FAMILIES = [(group, name) for group in GROUPS for name in names(group)]
BUILT = [(group, name) for group, name in FAMILIES if "debug" in family(group, name).PRESETS]  # not what needs a download


def random_text(batch: int, width: int, length: int = 6) -> Text:
    mask = torch.arange(length) < torch.arange(2, 2 + batch)[:, None].clamp_max(length)
    return Text(mask=mask, embeddings=torch.randn(batch, length, width))


def batch_for(model: Trainable) -> Batch:
    if isinstance(model, VideoTokenizer):
        return Batch(video=torch.rand(2, 3, 1 + model.time_factor, 32, 32) * 2 - 1)
    codes = getattr(model.config, "codebook_size", 0)
    latents = torch.randint(codes, (2, 1, 2, 4, 4)) if codes else torch.randn(2, channels_of(model), 2, 4, 4)
    return Batch(latents=latents, text=random_text(2, 32), captions=("a red circle", "a blue square"))


def channels_of(model: Trainable) -> int:
    return int(getattr(model.config, "latent_channels", 4))


def is_trained(model: torch.nn.Module) -> bool:
    """Not text encoders, which their generator's losses reach, and not what has no parameters."""
    return isinstance(model, Trainable) and any(True for _ in model.parameters())


def test_names_import_no_family() -> None:
    code = (
        "import sys; from theseus_core.registry import names; print(names('tokenizers'), names('generators'), names('text'));"
        "assert not [m for m in sys.modules if m.startswith(('theseus_core.tokenizers.', 'theseus_core.generators.'))]"
    )
    listed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "causal_vae" in listed and "dit" in listed and "builtin" in listed


@pytest.mark.parametrize(("group", "name"), FAMILIES)
def test_every_preset_is_a_valid_configuration(group: Group, name: str) -> None:
    module = family(group, name)
    assert "small" in module.PRESETS
    for preset in module.PRESETS:
        assert isinstance(configure(group, name, preset), module.Config)


@pytest.mark.parametrize(("group", "name"), FAMILIES)
def test_every_field_is_described(group: Group, name: str) -> None:
    for key, field in family(group, name).Config.model_fields.items():
        assert field.description, key


@pytest.mark.parametrize(("group", "name"), BUILT)
def test_the_same_seed_gives_the_same_weights_and_losses_reach_every_parameter(group: Group, name: str) -> None:
    torch.manual_seed(0)
    first = build(group, name, "debug")  # type: ignore[call-overload]
    torch.manual_seed(0)
    second = build(group, name, "debug")  # type: ignore[call-overload]
    for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    if not is_trained(first):
        return
    with torch.no_grad():  # zero-initialised outputs would hide what comes before them
        for p in first.parameters():
            p.add_(0.02 * torch.randn_like(p))
    while set(first.phases_due()) < set(first.phases):  # where a family begins with fewer
        first.after_step()
    for phase in first.phases:
        losses = first(batch_for(first), phase)
        assert all(value.ndim == 0 and torch.isfinite(value) for value in losses.values())
        losses["loss"].backward()
        for key, parameter in first.phase_parameters(phase):
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0, key


@pytest.mark.parametrize(("group", "name"), BUILT)
def test_a_part_is_read_back_as_it_was_written(group: Group, name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = build(group, name, "debug")  # type: ignore[call-overload]
    save_part(module, group, tmp_path / "part")
    again = load_part(tmp_path / "part", group)
    assert again.config == module.config
    for (key, a), (key_again, b) in zip(module.state_dict().items(), again.state_dict().items(), strict=True):
        assert key == key_again and torch.equal(a, b)


@pytest.mark.parametrize(("group", "name"), BUILT)
def test_gradient_checkpointing_changes_no_gradient(group: Group, name: str) -> None:
    torch.manual_seed(0)
    model = build(group, name, "debug")  # type: ignore[call-overload]
    if not is_trained(model):
        pytest.skip("a text encoder is trained with its generator, and pixels are not trained")
    batch = batch_for(model)
    gradients = []
    for on in (False, True):
        model.set_gradient_checkpointing(on)
        model.zero_grad()
        torch.manual_seed(1)
        model(batch, model.phases[0])["loss"].backward()
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("name", [name for group, name in BUILT if group == "generators"])
def test_padding_of_the_text_changes_no_loss(name: str) -> None:
    torch.manual_seed(0)
    model = build("generators", name, "debug")
    batch = batch_for(model)
    assert batch.text is not None and batch.text.embeddings is not None and len(batch.text.trimmed().mask[0]) == 3
    found = []
    for text in (batch.text, batch.text.trimmed()):
        torch.manual_seed(1)
        found.append(model(replace(batch, text=text), model.phases[-1])["loss"])
    torch.testing.assert_close(found[0], found[1])


@pytest.mark.parametrize("name", [name for group, name in BUILT if group == "tokenizers"])
def test_a_tokenizer_gives_the_shapes_it_says(name: str) -> None:
    tokenizer = build("tokenizers", name, "debug")
    frames = 1 + 2 * tokenizer.time_factor
    latents = tokenizer.encode(torch.rand(3, 3, frames, 32, 48) * 2 - 1)
    assert latents.shape[1:] == tokenizer.latent_shape(frames, 32, 48)
    assert tokenizer.decode(latents, size=(32, 48)).shape == (3, 3, frames, 32, 48)


@pytest.mark.parametrize("name", [name for group, name in BUILT if group == "generators"])
def test_a_generator_samples_the_shape_of_its_noise_and_names_its_samplers(name: str) -> None:
    generator = build("generators", name, "debug")
    assert isinstance(generator, Generator)
    sampler, codes = generator.samplers[0], generator.consumes == "codes"
    noise, text = torch.randn(2, 1 if codes else channels_of(generator), 2, 4, 4), random_text(2, 32)
    seen: list[tuple[int, int]] = []
    scale = 3.0 if generator.guided else 1.0
    out = generator.sample(
        noise, text, text, steps=2, guidance_scale=scale, sampler=sampler, progress=lambda done, total: seen.append((done, total))
    )
    assert out.shape == noise.shape and torch.isfinite(out).all()
    assert seen == ([(1, 1)] if sampler in generator.stepless else [(1, 2), (2, 2)])
    with pytest.raises(TheseusError) as caught:
        generator.sample(noise, text, text, steps=2, guidance_scale=scale, sampler=f"{sampler}r")
    assert sampler in (caught.value.hint or "")


@pytest.mark.parametrize("name", [name for group, name in BUILT if group == "text"])
def test_a_text_encoder_takes_the_empty_caption_and_ignores_padding(name: str) -> None:
    encoder = build("text", name, "debug", {"vocabulary": ["a", "red", "circle"]})
    assert isinstance(encoder, TextEncoder)
    text = encoder.encode(["", "a red circle"])
    assert text.embeddings is not None and text.embeddings.shape == (2, encoder.max_tokens, encoder.width)
    assert text.mask.any(dim=1).all()
    alone = encoder.encode([""])
    assert alone.embeddings is not None
    torch.testing.assert_close(text.embeddings[0][text.mask[0]], alone.embeddings[0][alone.mask[0]])


def test_a_wrong_name_is_refused_with_the_right_ones(tmp_path: Path) -> None:
    with pytest.raises(TheseusError, match="causal_va"):
        build("tokenizers", "causal_va")
    with pytest.raises(TheseusError) as caught:
        build("generators", "dit", "smal")
    assert "did you mean small" in (caught.value.hint or "")
    with pytest.raises(TheseusError) as caught:
        build("generators", "dit", "small", {"widht": 3})
    assert caught.value.message == "unknown key: widht" and "width" in (caught.value.hint or "")


def test_damaged_parts_are_refused(tmp_path: Path) -> None:
    save_part(build("generators", "dit", "debug"), "generators", tmp_path)
    with pytest.raises(TheseusError, match="expected a part of tokenizers"):
        load_part(tmp_path, "tokenizers")
    config = json.loads((tmp_path / "config.json").read_text())
    config["config"]["width"] = 96
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(TheseusError, match="do not fit"):
        load_part(tmp_path, "generators")
    whole = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(TheseusError, match="damaged weights"):
        load_part(tmp_path, "generators")
