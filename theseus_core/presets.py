"""Run presets: a model's size together with how it is trained, as differences from the defaults of the runs in `train.runs`."""

from __future__ import annotations

from theseus_core.config import Tree, merge

# All of the world. What is held out of it shows whether a model puts together what it knows.
WORLD: Tree = {
    "scenes": ["shapes", "nature"],
    "hold_out": [
        "circle moving up-right",
        "square moving left",
        "star moving down",
        "heart growing",
        "triangle moving in a circle",
        "diamond bouncing",
        "red square",
        "blue star",
        "green ring",
        "yellow heart",
        "purple triangle",
        "white cross",
    ],
}

# A token is 32x32 pixels and four frames: 80 of them a clip of 17 frames of 128x128; convolutions see what is finer. What a clip
# shows stays visible under much noise, so most times are near the noise, where words have to decide.
HOURGLASS: Tree = {
    "levels": [[64, 1], [128, 2]],
    "width": 256,
    "heads": 4,
    "predicts": "clean",
    "shift": 8.0,
    "times": "uniform",
    "least_time": 0.5,
}

# What of it is held out of shapes that move by themselves.
MOVING: Tree = {
    "scenes": ["shapes"],
    "hold_out": WORLD["hold_out"],
    "clips": 16_000,
    "height": 64,
    "width": 64,
}

SHAPES = ("circle", "square", "triangle", "star", "diamond", "ring", "cross", "heart")
TURNING = [
    f"{shape} {motion} {way}"
    for shape in SHAPES
    for motion in ("moving in a circle", "spinning")
    for way in ("clockwise", "counter-clockwise")
]

# What was wrong most often after half of the clips had been turning ones.
LEFT_BEHIND = [
    *(
        f"{shape} spinning {way}"
        for shape in SHAPES
        if shape not in ("circle", "ring")
        for way in ("clockwise", "counter-clockwise")
    ),
    *(f"{words} {shape}" for shape in SHAPES for words in ("black", "white")),
    *(f"{shape} moving {way}" for shape in SHAPES for way in ("down", "left")),
]

# A token is a frequency of the clip's 17 frames: what a thing is, and how it moves, is in the slowest of them. With cosines alone
# little that circled or spun was right, for there what goes across and what goes down are each in other tokens.
FREQUENCIES: Tree = {"width": 192, "layers": 6, "heads": 4, "patch": 1, "frequencies": True, "sines": True, "shift": 3.0}

# The prompts of the classic demonstration, in small: three shapes in four colours on white. Squares and triangles show what
# "up-right" means; a circle that moves so is never seen.
CLASSIC: Tree = {
    "scenes": ["shapes"],
    "objects": 1,
    "clips": 40_000,
    "height": 64,
    "width": 64,
    "hold_out": [
        "circle moving up-right",
        *("star", "diamond", "ring", "cross", "heart"),
        *(f"{shape} on {ground}" for shape in ("circle", "square", "triangle") for ground in ("black", "grey", "gradient")),
        *(
            f"{colour} {shape}"
            for shape in ("circle", "square", "triangle")
            for colour in ("orange", "yellow", "cyan", "purple", "pink", "white")
        ),
    ],
}

ONE_SHAPE: Tree = {"scenes": ["shapes"], "objects": 1, "clips": 4000, "height": 64, "width": 64}

SPRITES: Tree = {
    "family": "sprites",
    "hold_out": 0.002,
    "frames": 5,  # of clips of 17: many clips say more of shapes than many frames
    "max_stride": 4,
    "pictures": 16,
    "train": {"steps": 4000, "batch_size": 8, "lr": 1e-3, "evaluate_every": 1000, "ema": 0.99, "decay": 0.5},
}

GAN: Tree = {"steps": 5600, "schedule": "constant-linear", "decay": 0.4, "evaluate_every": 1000, "checkpoint_every": 200}

GAN_SPRITES: Tree = {
    "model_preset": "latents",
    "model": {"reading": 1000},
    "text": {"max_tokens": 24, "width": 128, "layers": 1},  # else most of a step goes to the words
    "hold_out": 0.005,
    "prompts": 16,
    "train": {**GAN, "batch_size": 64},
}

# A constant rate, so that the training may be prolonged by any number of steps; the averaged weights are good at any time.
PROLONGED: Tree = {
    "optimizer": "muon",  # also of what goes on from a model, where AdamW would be the default
    "batch_size": 16,
    "lr": 2e-3,
    "schedule": "constant",
    "evaluate_every": 500,
    "checkpoint_every": 100,
    "ema": 0.998,
}

ON_SPRITES: Tree = {
    "text": {"max_tokens": 24, "lr_ratio": 0.1},
    "windows": 1,
    "hold_out": 0.005,
    "prompts": 16,
    "sampling": {"steps": 12, "guidance_scale": 1.5},
    "train": {**PROLONGED, "batch_size": 64, "lr": 3e-3, "steps": 4000},
}

PAIRS: Tree = merge(
    ON_SPRITES,
    {
        "model": FREQUENCIES,
        "sampling": {"guidance_scale": 1.75},
        "world": {**MOVING, "clips": 12_000},
        "train": {"steps": 3000, "lr": 2e-3, "warmup": 50, "schedule": "constant-linear"},
    },
)

ON_SCENES: Tree = merge(
    ON_SPRITES,
    {
        "text": {"max_tokens": 16},
        "sampling": {"guidance_scale": 2.25},
        "world": {"scenes": ["nature"], "height": 64, "width": 64},
        "train": {"batch_size": 32, "schedule": "constant-linear"},
    },
)

LAST_LEARNED = [
    "bouncing ball",
    "pendulum",
    "shooting star",
    "drifting clouds",
    "candle",
    "flower opening",
    "snow",
    "waterfall",
]

HARDEST = ["starry night", "pendulum", "waterfall", "bouncing ball", "windmill", "hot-air balloon"]

TURNING_FIRST: Tree = {
    "world": {**MOVING, "clips": 3000, "only": TURNING},
    "train": {"steps": 200, "warmup": 50, "ema": 0.98, "evaluate_every": 200},
}

DDPM_SPRITES: Tree = {
    **ON_SPRITES,
    "family": "ddpm",
    "model_preset": "tiny",
    "model": {
        "patch": 1,
        "frequencies": True,
        "sines": True,
        "width": 192,
        "layers": 3,
        "heads": 3,
        "prediction": "clean",
        "snr_shift": 9.0,
        "min_snr_gamma": 20.0,
        "least_snr": 1.0,
    },
    "sampling": {"steps": 20, "guidance_scale": 1.5},
}

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
        # The same as codes: 320 for a clip of 17 frames of 128x128.
        "ten-clips-codes": {
            "family": "vqvae",
            "model_preset": "tiny",
            "model": {"space_factor": 16, "width": 256},
            "hold_out": 0.0,
            "pictures": 10,
            "train": {"steps": 400, "batch_size": 5, "evaluate_every": 200, "checkpoint_every": 100, "ema": 0.99, "decay": 0.5},
        },
        # From nothing to one moving shape that does as it is told, within an hour on two CPU cores.
        "shapes": {
            "model_preset": "tiny",
            "model": {"latent_channels": 32, "whiten": 0.5},
            "hold_out": 0.002,
            "world": ONE_SHAPE,
            "pictures": 16,
            "train": {"steps": 400, "batch_size": 8, "lr": 1e-3, "evaluate_every": 200, "ema": 0.98, "decay": 0.8},
        },
        # Clips of any kind as codes, 32x32 for a frame of 128x128. Short windows, so that a batch shows many clips.
        "codes": {
            "family": "vqvae",
            "frames": 5,
            "max_stride": 2,
            "pictures": 20,  # 1e5 codes, that usage and perplexity are measured on
            "train": {"steps": 4000, "batch_size": 8, "lr": 1e-3, "ema": 0.998, "decay": 0.5},
        },
        # One moving shape as few codes: 320 for a clip of 17 frames of 64x64.
        "shapes-codes": {
            "family": "vqvae",
            "model_preset": "tiny",
            "model": {"codebook_size": 2048},
            "hold_out": 0.002,
            "world": ONE_SHAPE,
            "pictures": 16,
            "train": {"steps": 2000, "batch_size": 8, "lr": 1e-3, "ema": 0.99, "decay": 0.5},
        },
        # One moving shape as some thirty numbers a frame; and two, of which one stands still.
        "sprites": {**SPRITES, "model": {"things": 1}, "world": {**MOVING, "objects": 1}},
        "two-sprites": {**SPRITES, "world": MOVING},
        # One moving shape as seven codes a frame.
        "sprite-codes": {**SPRITES, "family": "sprite_codes", "world": {**MOVING, "objects": 1}},
        # Scenes as 32 numbers of each of 16 cells a frame. Whole clips, for
        # what they end with is not what they begin with.
        "scenes": {
            "family": "eigenframes",
            "model": {"cells": 4, "components": 32, "noise": 0.1},
            "hold_out": 0.002,
            "world": {"scenes": ["nature"]},
            "pictures": 16,
            "train": {
                "steps": 330,
                "batch_size": 3,
                "lr": 1e-3,
                "evaluate_every": 300,
                "checkpoint_every": 100,
                "ema": 0.99,
                "decay": 0.5,
            },
        },
        # Anything of the world, at 128x128. With fewer channels what moves fast falls apart: of 60 shapes the judge knew 49 again
        # after a way through 8 channels, and all after this one. Weak channels stay weak, so that the transformer learns what
        # shows first.
        "world": {
            "model_preset": "tiny",
            "model": {"latent_channels": 32, "whiten": 0.5},
            "hold_out": 0.002,
            "world": WORLD,
            "pictures": 16,
            "train": {
                "steps": 600,
                "batch_size": 8,
                "lr": 1e-3,
                "evaluate_every": 300,
                "checkpoint_every": 100,
                "ema": 0.99,
                "decay": 0.8,
            },
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
        "ten-clips-codes": {
            "family": "autoregressive",
            "model_preset": "tiny",
            "windows": 1,
            "hold_out": 0.0,
            "prompts": 10,
            "train": {
                "steps": 250,
                "batch_size": 10,
                "lr": 3e-3,
                "evaluate_every": 200,
                "checkpoint_every": 100,
                "ema": 0.98,
                "decay": 0.5,
            },
        },
        "shapes": {
            "model": {**HOURGLASS, "levels": [[128, 2]], "layers": 6},
            "text": {"max_tokens": 24, "lr_ratio": 0.1},
            "windows": 1,
            "hold_out": 0.005,
            "world": ONE_SHAPE,
            "prompts": 16,
            "sampling": {"steps": 12, "guidance_scale": 3.0},
            "train": {**PROLONGED, "steps": 2000},
        },
        # On what the vae's presets of these names give.
        "sprites": {**ON_SPRITES, "model": FREQUENCIES, "world": {**MOVING, "objects": 1}},
        "two-sprites": merge(PAIRS, {"world": {"often": TURNING}, "train": {"decay": 0.3}}),
        # Goes on from what `two-sprites` gives.
        "two-sprites-last": merge(PAIRS, {"world": {"seed": 1, "often": LEFT_BEHIND}, "train": {"decay": 0.6}}),
        # What comes before both, or which way round things go is never learned: see docs/dit.md.
        "turning": merge(ON_SPRITES, {"model": FREQUENCIES, **TURNING_FIRST}),
        # A token is a sixteenth of the frame, in all 17 of them, which is more numbers than the network is wide: it gives the clean
        # clip. What clips are made from is drawn small; the model draws it at any size.
        "scenes": merge(
            ON_SCENES,
            {
                "model": {
                    "width": 256,
                    "layers": 6,
                    "heads": 4,
                    "patch": 1,
                    "patch_frames": 17,
                    "shift": 3.0,
                    "predicts": "clean",
                    "least_time": 0.3,
                },
                "world": {"clips": 10_240, "seed": 1},
                "train": {"steps": 5400, "decay": 0.3},
            },
        ),
        # Goes on from what `scenes` gives, with half of the clips of kinds that are learned last, small things and faint ones.
        "scenes-last": merge(
            ON_SCENES,
            {
                "world": {"clips": 12_288, "seed": 2, "often": LAST_LEARNED},
                "train": {"steps": 3300, "lr": 2e-3, "warmup": 30, "decay": 0.5},
            },
        ),
        # Goes on from what `scenes-last` gives.
        "scenes-hardest": merge(
            ON_SCENES,
            {
                "world": {"clips": 10_240, "seed": 4, "often": HARDEST},
                "train": {"steps": 2800, "lr": 2e-3, "warmup": 30, "decay": 0.7},
            },
        ),
        # On what the vae's preset "shapes" gives, and as near to the noise as the transformer of this name: a shift of 8 is one
        # of 64 in the ratio of signal to noise. Down there min-SNR weights leave next to nothing, and there words have to decide.
        "ddpm-shapes": {
            "family": "ddpm",
            "model_preset": "tiny",
            "model": {"snr_shift": 64.0, "min_snr_gamma": 0.0},
            "text": {"max_tokens": 24, "lr_ratio": 0.1},
            "windows": 1,
            "hold_out": 0.005,
            "world": ONE_SHAPE,
            "prompts": 16,
            "sampling": {"steps": 20, "guidance_scale": 3.0},
            "train": {**PROLONGED, "steps": 4000},
        },
        # On what the vae's preset "two-sprites" gives, and `ddpm-turning` before it.
        "ddpm-sprites": merge(DDPM_SPRITES, {"world": {**MOVING, "clips": 12_000, "often": TURNING}}),
        "ddpm-turning": merge(DDPM_SPRITES, TURNING_FIRST),
        # Both on what the vae's presets of these names give.
        "codes": {
            "family": "autoregressive",
            "model_preset": "tiny",
            "frames": 5,
            "train": {"steps": 10_000, "batch_size": 8, "lr": 2e-3, "evaluate_every": 1000, "ema": 0.999},
        },
        "shapes-codes": {
            "family": "autoregressive",
            "model": {"width": 256, "heads": 4, "layers": 8},
            "text": {"max_tokens": 24, "lr_ratio": 0.1},
            "windows": 1,
            "hold_out": 0.005,
            "world": ONE_SHAPE,
            "prompts": 16,
            "train": {**PROLONGED, "steps": 4000},
        },
        # On what the vae's preset of this name gives: 119 codes for a clip.
        "sprite-codes": {
            **ON_SPRITES,
            "family": "autoregressive",
            "model": {"width": 192, "heads": 4, "layers": 6, "ways": ["causal"]},
            "world": {**MOVING, "objects": 1, "clips": 32_000},
            "sampling": {"sampler": "causal", "guidance_scale": 1.5, "temperature": 0.5},
            "train": {**ON_SPRITES["train"], "batch_size": 32, "steps": 2800, "schedule": "constant-linear", "decay": 0.5},
        },
        # On what the vae's preset of this name gives.
        "world": {
            "model": {**HOURGLASS, "layers": 8, "shift": 4.0},
            "text": {"max_tokens": 24, "lr_ratio": 0.1},
            "windows": 1,
            "hold_out": 0.005,
            "world": {**WORLD, "clips": 14_000},
            "prompts": 16,
            "sampling": {"steps": 12, "guidance_scale": 3.0},
            "train": {
                "steps": 4600,
                "batch_size": 16,
                "lr": 3e-3,
                "evaluate_every": 1000,
                "checkpoint_every": 100,
                "decay": 0.3,
            },
        },
    },
    "gan": {
        "debug": {
            "model_preset": "debug",
            "frames": 5,
            "text_preset": "debug",
            "prompts": 2,
            "train": {"steps": 20, "batch_size": 2, "checkpoint_every": 10, "evaluate_every": 10, "log_every": 5},
        },
        "small": {},
        # One moving shape, one evaluation a clip.
        "shapes": {
            "text": {"max_tokens": 24},
            "hold_out": 0.005,
            "world": {**ONE_SHAPE, "hold_out": ["circle moving up-right"], "clips": 40_000},
            "prompts": 16,
            "train": GAN,
        },
        "shapes-128": {
            "model_preset": "128",
            "text": {"max_tokens": 24},
            "hold_out": 0.005,
            "world": {**ONE_SHAPE, "hold_out": ["circle moving up-right"], "clips": 40_000, "height": 128, "width": 128},
            "prompts": 16,
            "train": GAN,
        },
        # On what the vae's preset "two-sprites" gives: a clip is eight hundred numbers.
        "sprites": merge(GAN_SPRITES, {"world": MOVING, "train": {"steps": 20_000}}),
        "classic": {
            "text": {"max_tokens": 24},
            "hold_out": 0.005,
            "world": CLASSIC,
            "prompts": 16,
            "train": GAN,
        },
        # The same on what the vae's preset "sprites" gives. After too many steps it no longer makes what is held out: docs/gan.md.
        "classic-sprites": merge(GAN_SPRITES, {"world": {**CLASSIC, "clips": 8000}, "train": {"steps": 8500, "decay": 0.3}}),
    },
}
