"""The scheduler of a released CogVideoX: its noise levels and its sampler as ours, and ours as its."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from theseus_core.config import Config, dump, validate
from theseus_core.diffusion.discrete import Betas
from theseus_core.errors import TheseusError
from theseus_core.files import write_json
from theseus_core.pretrained.described import read_description

FILE = "scheduler_config.json"
SAMPLERS = {"CogVideoXDDIMScheduler": "ddim", "CogVideoXDPMScheduler": "dpmpp_2m_sde"}
NEVER_READ = {"clip_sample", "clip_sample_range", "sample_max_value", "thresholding", "dynamic_thresholding_ratio"}  # by diffusers


class Described(Config):
    """`scheduler_config.json`, less the settings that the schedulers of CogVideoX hold and never read."""

    num_train_timesteps: int = Field(1000, ge=2)
    beta_start: float = 0.00085
    beta_end: float = 0.012
    beta_schedule: Literal["scaled_linear"] = "scaled_linear"
    trained_betas: None = None
    set_alpha_to_one: bool = True
    steps_offset: int = 0  # read with leading spacing alone
    prediction_type: Literal["epsilon", "sample", "v_prediction"] = "epsilon"
    timestep_spacing: Literal["linspace", "leading", "trailing"] = "leading"
    rescale_betas_zero_snr: bool = False
    snr_shift_scale: float = 3.0


def read_scheduler(folder: Path) -> tuple[Betas, str]:
    """The noise levels of a scheduler's folder, and the sampler that the model was released with.

    Raises:
        TheseusError: the file is missing or damaged, or asks for what is not built here.
    """
    name, tree = read_description(folder / FILE, list(SAMPLERS))
    found = validate(Described, {key: value for key, value in tree.items() if key not in NEVER_READ}, "scheduler.")
    if found.steps_offset and found.timestep_spacing == "leading":
        raise TheseusError(f"scheduler.steps_offset: only 0 is known: {found.steps_offset}")
    betas = {
        "steps": found.num_train_timesteps,
        "start": found.beta_start,
        "end": found.beta_end,
        "snr_shift": found.snr_shift_scale,
        "zero_terminal_snr": found.rescale_betas_zero_snr,
        "clean_end": found.set_alpha_to_one,
        "spacing": found.timestep_spacing,
        "predicts": found.prediction_type,
    }
    return validate(Betas, betas, "scheduler."), SAMPLERS[name]


def save_scheduler(betas: Betas, sampler: str, folder: Path) -> None:
    """Write a scheduler's folder that diffusers reads.

    Raises:
        TheseusError: diffusers has no such sampler for CogVideoX.
    """
    classes = {ours: theirs for theirs, ours in SAMPLERS.items()}
    if sampler not in classes:
        raise TheseusError(f"CogVideoX has no such sampler in diffusers: {sampler}", hint=f"it has {', '.join(classes)}")
    described = Described(
        num_train_timesteps=betas.steps,
        beta_start=betas.start,
        beta_end=betas.end,
        set_alpha_to_one=betas.clean_end,
        prediction_type=betas.predicts,
        timestep_spacing=betas.spacing,
        rescale_betas_zero_snr=betas.zero_terminal_snr,
        snr_shift_scale=betas.snr_shift,
    )
    write_json(folder / FILE, {"_class_name": classes[sampler], "clip_sample": False, **dump(described)})
