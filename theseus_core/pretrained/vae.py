"""The autoencoder of a released CogVideoX: its configuration and its weights as ours, and ours as its.

Our modules bear the released names, so the table of weights is the identity.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from torch import nn

from theseus_core.config import Config, Tree, dump, validate
from theseus_core.files import replacing, write_json
from theseus_core.pretrained.described import read_description
from theseus_core.pretrained.weights import SHARD_BYTES, Stored, Tie, load_into, save_from
from theseus_core.tokenizers import cogvideox_vae

CLASS = "AutoencoderKLCogVideoX"
Down = Literal["CogVideoXDownBlock3D"]
Up = Literal["CogVideoXUpBlock3D"]


class Described(Config):
    """`config.json` of the autoencoder; what no released model varies has one allowed value."""

    in_channels: Literal[3] = 3
    out_channels: Literal[3] = 3
    down_block_types: tuple[Down, Down, Down, Down] = ("CogVideoXDownBlock3D",) * 4
    up_block_types: tuple[Up, Up, Up, Up] = ("CogVideoXUpBlock3D",) * 4
    block_out_channels: tuple[int, int, int, int] = (128, 256, 256, 512)
    latent_channels: int = 16
    layers_per_block: int = 3
    act_fn: Literal["silu"] = "silu"
    norm_eps: float = Field(1e-6, ge=1e-6, le=1e-6)
    norm_num_groups: int = 32
    temporal_compression_ratio: Literal[4] = 4
    sample_height: int = 480
    sample_width: int = 720
    scaling_factor: float = 1.15258426
    shift_factor: None = None
    latents_mean: None = None
    latents_std: None = None
    force_upcast: bool = True  # read by nobody: not here, and not in diffusers
    use_quant_conv: Literal[False] = False
    use_post_quant_conv: Literal[False] = False
    invert_scale_latents: bool = False


TAKEN = sorted(set(Described.model_fields) & set(cogvideox_vae.Config.model_fields))  # under one name on both sides


def load_vae(folder: Path, dtype: torch.dtype | None = None) -> cogvideox_vae.Model:
    """Read an autoencoder's folder, in evaluation mode, on the CPU.

    Args:
        dtype: of the weights in memory; None keeps them as they are stored, mapped from the files.

    Raises:
        TheseusError: a file is missing or damaged, the configuration is not one of CogVideoX, or the weights do not fit it.
    """
    config = read_config(folder)
    with torch.device("meta"):
        model = cogvideox_vae.Model(config)
    load_into(model, ties(model), Stored(folder), dtype)
    return model.eval()


def save_vae(model: cogvideox_vae.Model, folder: Path, shard_bytes: int = SHARD_BYTES) -> Path:
    """Write an autoencoder's folder that diffusers reads."""
    with replacing(folder) as part:
        part.mkdir()
        write_json(part / "config.json", describe(model.config))
        save_from(model, ties(model), part, shard_bytes)
    return folder


def read_config(folder: Path) -> cogvideox_vae.Config:
    """Our configuration of an autoencoder's folder.

    Raises:
        TheseusError: there is none, or it is not that of a released CogVideoX.
    """
    _, tree = read_description(folder / "config.json", [CLASS])
    found = dump(validate(Described, tree, "vae."))
    return validate(cogvideox_vae.Config, {key: found[key] for key in TAKEN}, "vae.")


def describe(config: cogvideox_vae.Config) -> Tree:
    """What `config.json` of the autoencoder says of a model of ours."""
    ours: dict[str, Any] = dump(config)
    return {"_class_name": CLASS, **dump(validate(Described, {key: ours[key] for key in TAKEN}))}


def ties(model: nn.Module) -> list[Tie]:
    """The table of weights: every tensor of ours, and all of theirs, under one name."""
    return [Tie(name, (name,)) for name in model.state_dict()]
