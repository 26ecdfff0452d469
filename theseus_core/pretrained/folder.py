"""A whole released CogVideoX: a folder in the diffusers layout, with all the parts of a model, read and written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from theseus_core.config import Tree
from theseus_core.contracts import Generator, TextEncoder, VideoTokenizer
from theseus_core.errors import TheseusError
from theseus_core.files import replacing, write_json
from theseus_core.generators import dit
from theseus_core.pretrained.described import read_description
from theseus_core.pretrained.scheduler import read_scheduler, save_scheduler
from theseus_core.pretrained.text import load_text_encoder, save_text_encoder
from theseus_core.pretrained.transformer import load_transformer, read_config, save_transformer
from theseus_core.pretrained.vae import load_vae, save_vae
from theseus_core.text import hub
from theseus_core.tokenizers import cogvideox_vae

INDEX = "model_index.json"
FROM_WORDS, FROM_IMAGE, FROM_VIDEO = "CogVideoXPipeline", "CogVideoXImageToVideoPipeline", "CogVideoXVideoToVideoPipeline"
PARTS = ("tokenizer", "text_encoder", "transformer", "vae", "scheduler")
FAMILIES = {"tokenizer": "cogvideox_vae", "text_encoder": "hub", "generator": "dit"}  # what is made of them here
WRITTEN_AS = "0.34.0"  # of diffusers: the oldest version that reads all of it
STEPS, GUIDANCE = 50, 6.0
SPACE = 8  # pixels to the side of a latent
LARGEST = 96, 170  # latents: the 1.5 count in a table of 300 x 300, and were made for these
MIB = 2**20


@dataclass(frozen=True)
class Released:
    """The parts of a released model, and how it makes a video unless asked otherwise."""

    tokenizer: VideoTokenizer
    text_encoder: TextEncoder
    generator: Generator
    defaults: Tree


def is_released(folder: Path) -> bool:
    """Whether a folder is in the diffusers layout, be it CogVideoX or not, and whole or not."""
    return (folder / INDEX).is_file() or (folder / "transformer/config.json").is_file()


def check_index(folder: Path) -> None:
    """Refuse, by its first file alone, what is no CogVideoX.

    Raises:
        TheseusError: it is another pipeline's, or the file is missing or damaged.
    """
    read_description(folder / INDEX, [FROM_WORDS, FROM_IMAGE, FROM_VIDEO])


def load_released(folder: Path, dtype: torch.dtype | None = None) -> Released:
    """Read a folder in the diffusers layout, in evaluation mode, on the CPU.

    Args:
        dtype: of all weights in memory; None keeps them as they are stored, mapped from the files.

    Raises:
        TheseusError: a part is missing or damaged, or it is no CogVideoX.
    """
    defaults = released_defaults(folder)
    betas, _ = read_scheduler(folder / "scheduler")
    generator = load_transformer(folder / "transformer", betas, dtype)
    assert generator.config.grid is not None
    vae = load_vae(folder / "vae", dtype)
    text = load_text_encoder(folder / "tokenizer", folder / "text_encoder", generator.config.grid.text_tokens, dtype)
    return Released(vae, text, generator, defaults)


def released_defaults(folder: Path) -> Tree:
    """The size, rate and sampling that a released model was made for, from its configurations alone.

    Raises:
        TheseusError: a configuration is missing or damaged, or it is no CogVideoX.
    """
    check_index(folder)
    betas, sampler = read_scheduler(folder / "scheduler")
    config = read_config(folder / "transformer", betas)
    assert config.grid is not None
    height, width, fps = config.grid.height, config.grid.width, 8
    if not config.grid.squeeze:
        height, width, fps = min(height, LARGEST[0]), min(width, LARGEST[1]), 16
    made = {"frames": 4 * config.grid.frames - 3, "height": SPACE * height, "width": SPACE * width, "fps": fps}
    return made | {"steps": STEPS, "guidance_scale": GUIDANCE, "sampler": sampler}


def released_files(folder: Path) -> list[Path]:
    """The files of a released model, in order; a downloaded folder may hold others."""
    return [folder / INDEX, *sorted(path for part in PARTS for path in (folder / part).rglob("*") if path.is_file())]


def sample_of(path: Path, pieces: int = 64) -> bytes:
    """Bytes that tell a file from others: the whole of a small one; of a large one its size and pieces of a MiB, evenly spread."""
    size = path.stat().st_size
    with path.open("rb") as file:
        if size <= pieces * MIB:
            return file.read()
        found = [str(size).encode()]
        for number in range(pieces):
            file.seek(number * (size - MIB) // (pieces - 1))
            found.append(file.read(MIB))
        return b"".join(found)


def save_released(
    folder: Path,
    tokenizer: VideoTokenizer,
    text_encoder: TextEncoder,
    generator: Generator,
    sampler: str,
    dtype: torch.dtype = torch.float32,
) -> Path:
    """Write a folder that diffusers' CogVideoX pipelines read, and make the same videos with.

    Args:
        sampler: the one that it is to be used with; its scheduler is written.
        dtype: what the parts' weights are turned to, in place.

    Raises:
        TheseusError: a part, or the sampler, is not one of CogVideoX's.
    """
    parts = {"tokenizer": tokenizer, "text_encoder": text_encoder, "generator": generator}
    found = {name: type(part).__module__.rsplit(".", 1)[-1] for name, part in parts.items()}
    wrong = [f"{name} {found[name]}, not {wanted}" for name, wanted in FAMILIES.items() if found[name] != wanted]
    if wrong:
        raise TheseusError(f"not of CogVideoX's parts, and cannot be written in its layout: {'; '.join(wrong)}")
    assert isinstance(tokenizer, cogvideox_vae.Model)
    assert isinstance(text_encoder, hub.Model)
    assert isinstance(generator, dit.Model)
    with replacing(folder) as part:
        save_transformer(generator.to(dtype), part / "transformer")
        assert generator.config.betas is not None, "or save_transformer had refused it"
        save_scheduler(generator.config.betas, sampler, part / "scheduler")
        save_vae(tokenizer.to(dtype), part / "vae")
        save_text_encoder(text_encoder.to(dtype), part / "tokenizer", part / "text_encoder")
        write_json(part / INDEX, _index(text_encoder, generator, sampler))
    return folder


def _index(text_encoder: hub.Model, generator: dit.Model, sampler: str) -> Tree:
    described: dict[str, Any] = {
        "_class_name": FROM_IMAGE if generator.config.image_channels else FROM_WORDS,
        "_diffusers_version": WRITTEN_AS,
        "scheduler": ["diffusers", "CogVideoXDDIMScheduler" if sampler == "ddim" else "CogVideoXDPMScheduler"],
        "text_encoder": ["transformers", "T5EncoderModel"],
        "tokenizer": ["transformers", type(text_encoder.words).__name__],
        "transformer": ["diffusers", "CogVideoXTransformer3DModel"],
        "vae": ["diffusers", "AutoencoderKLCogVideoX"],
    }
    return described
