"""Run presets: a model's size together with how it is trained, as differences from the defaults of the runs in `train.runs`."""

from __future__ import annotations

from theseus_core.config import Tree

PRESETS: dict[str, dict[str, Tree]] = {
    "vae": {
        "debug": {
            "model_preset": "debug",
            "frames": 5,
            "pictures": 2,
            "train": {"steps": 20, "batch_size": 2, "checkpoint_every": 10, "evaluate_every": 10, "log_every": 5},
        },
        "tiny": {"model_preset": "tiny", "train": {"steps": 2000}},
        "small": {},
        "base": {"model_preset": "base", "train": {"steps": 100_000, "batch_size": 32, "lr": 5e-4, "evaluate_every": 2000}},
        # The classic first experiment: ten clips learned by heart on two CPU cores. Nothing is held out.
        "ten-clips": {
            "hold_out": 0.0,
            "pictures": 10,
            "train": {"steps": 800, "batch_size": 5, "evaluate_every": 200, "checkpoint_every": 100, "ema": 0.99, "decay": 0.5},
        },
    },
    "transformer": {
        "debug": {
            "model_preset": "debug",
            "frames": 5,
            "text_preset": "debug",
            "prompts": 2,
            "sampling": {"steps": 2},
            "train": {"steps": 20, "batch_size": 2, "checkpoint_every": 10, "evaluate_every": 10, "log_every": 5},
        },
        "tiny": {"model_preset": "tiny", "train": {"steps": 3000}},
        "small": {},
        "base": {
            "model_preset": "base",
            "train": {"steps": 200_000, "batch_size": 64, "evaluate_every": 5000, "checkpoint_every": 1000, "ema": 0.9999},
        },
        "ten-clips": {
            "model_preset": "tiny",
            "windows": 1,
            "hold_out": 0.0,
            "prompts": 10,
            "sampling": {"guidance_scale": 2.0},
            "train": {
                "steps": 1200,
                "batch_size": 10,
                "lr": 3e-3,
                "evaluate_every": 300,
                "checkpoint_every": 100,
                "ema": 0.99,
                "decay": 0.5,
            },
        },
    },
}
