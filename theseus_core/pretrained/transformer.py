"""The transformer of a released CogVideoX: its configuration and its weights as ours, and ours as its.

Files are in the diffusers layout: `config.json` and safetensors, in one file or in shards.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from theseus_core.config import Config, dump, validate
from theseus_core.diffusion.discrete import Betas
from theseus_core.errors import TheseusError
from theseus_core.files import replacing, write_json
from theseus_core.generators import dit
from theseus_core.nn.grid import Grid
from theseus_core.pretrained.described import read_description
from theseus_core.pretrained.weights import SHARD_BYTES, Stored, Tie, load_into, same, save_from, stacked

CLASS = "CogVideoXTransformer3DModel"
IMAGE_OFFSET = 2.0  # what CogVideoX1.5-5B-I2V is told at every step; it is in no file

BLOCK: dict[str, Sequence[str]] = {
    "attention_norm.norm": ["norm1.norm"],
    "attention_norm.modulation": ["norm1.linear"],
    "attention.qkv": ["attn1.to_q", "attn1.to_k", "attn1.to_v"],
    "attention.query_norm": ["attn1.norm_q"],
    "attention.key_norm": ["attn1.norm_k"],
    "attention.out": ["attn1.to_out.0"],
    "mlp_norm.norm": ["norm2.norm"],
    "mlp_norm.modulation": ["norm2.linear"],
    "up": ["ff.net.0.proj"],
    "down": ["ff.net.2"],
}
AROUND = {
    "text_in": "patch_embed.text_proj",
    "time_in.layers.0": "time_embedding.linear_1",
    "time_in.layers.2": "time_embedding.linear_2",
    "first_norm": "norm_final",
    "norm": "norm_out.norm",
    "modulation": "norm_out.linear",
}
OFFSET = {"offset_in.layers.0": "ofs_embedding.linear_1", "offset_in.layers.2": "ofs_embedding.linear_2"}


class Described(Config):
    """`config.json` of the transformer; what no released model varies has one allowed value."""

    num_attention_heads: int = Field(30, ge=1)
    attention_head_dim: int = Field(64, ge=1)
    in_channels: int = Field(16, ge=1)
    out_channels: int = Field(16, ge=1)
    flip_sin_to_cos: Literal[True] = True
    freq_shift: Literal[0] = 0
    time_embed_dim: int = Field(512, ge=2)
    ofs_embed_dim: int | None = None
    text_embed_dim: int = Field(4096, ge=1)
    num_layers: int = Field(30, ge=1)
    dropout: float = Field(0.0, ge=0.0, le=0.0)
    attention_bias: Literal[True] = True
    sample_width: int = Field(90, ge=1)
    sample_height: int = Field(60, ge=1)
    sample_frames: int = Field(49, ge=1)
    patch_size: int = Field(2, ge=1)
    patch_size_t: int | None = None
    temporal_compression_ratio: int = Field(4, ge=1)
    max_text_seq_length: int = Field(226, ge=1)
    activation_fn: Literal["gelu-approximate"] = "gelu-approximate"
    timestep_activation_fn: Literal["silu"] = "silu"
    norm_elementwise_affine: Literal[True] = True
    norm_eps: float = Field(1e-5, ge=1e-5, le=1e-5)
    spatial_interpolation_scale: float = Field(1.875, gt=0)
    temporal_interpolation_scale: float = Field(1.0, gt=0)
    use_rotary_positional_embeddings: bool = False
    use_learned_positional_embeddings: bool = False
    patch_bias: bool = True  # read by models without patches in time alone


def load_transformer(folder: Path, betas: Betas, dtype: torch.dtype | None = None, dynamic_guidance: bool = False) -> dit.Model:
    """Read a transformer's folder, in evaluation mode, on the CPU.

    Args:
        betas: the noise levels, as `pretrained.scheduler` reads them.
        dtype: of the weights in memory; None keeps them as they are stored, mapped from the files.
        dynamic_guidance: see `dit.Config`.

    Raises:
        TheseusError: a file is missing or damaged, the configuration is not one of CogVideoX, or the weights do not fit it.
    """
    config = read_config(folder, betas, dynamic_guidance)
    with torch.device("meta"):
        model = dit.Model(config)
    load_into(model, ties(config), Stored(folder), dtype)
    return model.eval()


def save_transformer(model: dit.Model, folder: Path, shard_bytes: int = SHARD_BYTES) -> Path:
    """Write a transformer's folder that diffusers reads.

    Raises:
        TheseusError: the model has what CogVideoX has not.
    """
    described = describe(model.config)
    with replacing(folder) as part:
        part.mkdir()
        write_json(part / "config.json", {"_class_name": CLASS, **dump(described)})
        save_from(model, ties(model.config), part, shard_bytes)
    return folder


def read_config(folder: Path, betas: Betas, dynamic_guidance: bool = False) -> dit.Config:
    """Our configuration of a transformer's folder.

    Raises:
        TheseusError: there is none, or it is not that of a released CogVideoX.
    """
    _, tree = read_description(folder / "config.json", [CLASS])
    found = validate(Described, tree, "transformer.")
    _refuse_what_was_never_released(found)
    grid = Grid(
        frames=(found.sample_frames - 1) // found.temporal_compression_ratio + 1,
        height=found.sample_height,
        width=found.sample_width,
        text_tokens=found.max_text_seq_length,
        time_scale=found.temporal_interpolation_scale,
        space_scale=found.spatial_interpolation_scale,
        squeeze=found.patch_size_t is None,
    )
    ours = {
        "latent_channels": found.out_channels,
        "image_channels": found.in_channels - found.out_channels,
        "text_width": found.text_embed_dim,
        "width": found.num_attention_heads * found.attention_head_dim,
        "layers": found.num_layers,
        "heads": found.num_attention_heads,
        "time_width": found.time_embed_dim,
        "patch": found.patch_size,
        "patch_frames": found.patch_size_t or 1,
        "positions": _positions(found),
        "grid": grid,
        "offset": None if found.ofs_embed_dim is None else IMAGE_OFFSET,
        "betas": betas,
        "dynamic_guidance": dynamic_guidance,
    }
    return validate(dit.Config, {**ours, "pooled_text": False, "norms_at_end": 2, "times": "uniform"}, "transformer.")


def describe(config: dit.Config) -> Described:
    """What `config.json` of the transformer says of a model of ours.

    Raises:
        TheseusError: the model has what CogVideoX has not; it names the setting.
    """
    grid = config.grid
    only: dict[str, tuple[Any, Any]] = {
        "grid": (grid is not None, True),
        "betas": (config.betas is not None, True),
        "levels": (config.levels, ()),
        "pooled_text": (config.pooled_text, False),
        "norms_at_end": (config.norms_at_end, 2),
        "positions": (config.positions in ("rotary", "sincos", "learned"), True),
        "frequencies": (config.frequencies, False),
        "offset": (config.offset in (None, IMAGE_OFFSET), True),
        "betas.curve": (config.betas is None or config.betas.curve == "scaled_linear", True),
        "guidance_interval": (config.guidance_interval, (0.0, 1.0)),
        "grid.squeeze": (grid is None or not grid.squeeze or config.patch_frames == 1, True),
    }
    wrong = [name for name, (is_, should) in only.items() if is_ != should]
    if wrong:
        raise TheseusError(f"not of CogVideoX's layout, and cannot be written as one: {', '.join(wrong)}")
    assert grid is not None
    return Described(
        num_attention_heads=config.heads,
        attention_head_dim=config.width // config.heads,
        in_channels=config.latent_channels + config.image_channels,
        out_channels=config.latent_channels,
        time_embed_dim=config.time_width,
        ofs_embed_dim=None if config.offset is None else config.time_width,
        text_embed_dim=config.text_width,
        num_layers=config.layers,
        sample_width=grid.width,
        sample_height=grid.height,
        sample_frames=1 + 4 * (grid.frames - 1),
        patch_size=config.patch,
        patch_size_t=None if grid.squeeze else config.patch_frames,
        max_text_seq_length=grid.text_tokens,
        spatial_interpolation_scale=grid.space_scale,
        temporal_interpolation_scale=grid.time_scale,
        use_rotary_positional_embeddings=config.positions != "sincos",
        use_learned_positional_embeddings=config.positions == "learned",
    )


def ties(config: dit.Config) -> list[Tie]:
    """The table of weights: every tensor of ours, and all of theirs."""
    around = AROUND | ({} if config.offset is None else OFFSET)
    table = [tie for ours, theirs in around.items() for tie in same(ours, theirs)]
    for i in range(config.layers):
        for ours, theirs in BLOCK.items():
            names = [f"transformer_blocks.{i}.{name}" for name in theirs]
            table += stacked(f"blocks.{i}.{ours}", *names) if len(names) > 1 else same(f"blocks.{i}.{ours}", *names)
    if config.positions == "learned":
        table.append(Tie("places", ("patch_embed.pos_embedding",), lambda parts: parts[0][0], lambda whole: [whole[None]]))
    return [*table, *_patches_in(config), *_patches_out(config)]


def _patches_in(config: dit.Config) -> list[Tie]:
    """A token's latents have their channels first in theirs; without patches in time it is a convolution."""
    assert config.grid is not None
    channels, sides = config.latent_channels + config.image_channels, (config.patch, config.patch)
    frames = () if config.grid.squeeze else (config.patch_frames,)

    def join(parts: Sequence[Tensor]) -> Tensor:
        return parts[0].view(len(parts[0]), channels, *frames, *sides).movedim(1, -1).flatten(1)  # (D, token's values)

    def split(whole: Tensor) -> list[Tensor]:
        theirs = whole.view(len(whole), *frames, *sides, channels).movedim(-1, 1)
        return [theirs.flatten(1) if frames else theirs]

    weight = Tie("patch_in.weight", ("patch_embed.proj.weight",), join, split)
    return [weight, Tie("patch_in.bias", ("patch_embed.proj.bias",))]


def _patches_out(config: dit.Config) -> list[Tie]:
    sides = (config.patch_frames, config.patch, config.patch)

    def join(parts: Sequence[Tensor]) -> Tensor:
        return torch.unflatten(parts[0], 0, (config.latent_channels, *sides)).movedim(0, 3).flatten(0, 3)

    def split(whole: Tensor) -> list[Tensor]:
        return [torch.unflatten(whole, 0, (*sides, config.latent_channels)).movedim(3, 0).flatten(0, 3)]

    return [Tie(f"patch_out.{leaf}", (f"proj_out.{leaf}",), join, split) for leaf in ("weight", "bias")]


def _positions(found: Described) -> str:
    if found.use_learned_positional_embeddings:
        return "learned"
    return "rotary" if found.use_rotary_positional_embeddings else "sincos"


def _refuse_what_was_never_released(found: Described) -> None:
    wrong: dict[str, tuple[object, bool]] = {
        "in_channels": (found.in_channels, found.in_channels < found.out_channels),
        "ofs_embed_dim": (found.ofs_embed_dim, found.ofs_embed_dim not in (None, found.time_embed_dim)),
        "patch_bias": (found.patch_bias, not found.patch_bias and found.patch_size_t is None),
        "patch_size_t": (found.patch_size_t, bool(found.patch_size_t) and not found.use_rotary_positional_embeddings),
        "use_rotary_positional_embeddings": (
            found.use_rotary_positional_embeddings,
            found.use_learned_positional_embeddings and not found.use_rotary_positional_embeddings,
        ),
    }
    for name, (value, refused) in wrong.items():
        if refused:
            raise TheseusError(f"transformer.{name}: no released CogVideoX has with its other settings: {value}")
