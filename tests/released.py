"""Tiny CogVideoX pipelines of random weights, as diffusers builds and writes them."""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers

FRAMES, HEIGHT, WIDTH, TOKENS = 9, 32, 48, 12
TRANSFORMER = {
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "in_channels": 4,
    "out_channels": 4,
    "time_embed_dim": 12,
    "text_embed_dim": 32,
    "num_layers": 2,
    "sample_width": WIDTH // 8,
    "sample_height": HEIGHT // 8,
    "sample_frames": FRAMES,
    "max_text_seq_length": TOKENS,
}
LATER = {"patch_size_t": 2, "patch_bias": False, "use_rotary_positional_embeddings": True}
VARIANTS: dict[str, dict[str, Any]] = {
    "2b": {},
    "5b": {"use_rotary_positional_embeddings": True},
    "1.5-5b": LATER,
    "5b-i2v": {"use_rotary_positional_embeddings": True, "use_learned_positional_embeddings": True, "in_channels": 8},
    "1.5-5b-i2v": {**LATER, "in_channels": 8, "ofs_embed_dim": 12},
}
VAE = {
    "block_out_channels": (8, 8, 16, 16),
    "latent_channels": 4,
    "layers_per_block": 1,
    "norm_num_groups": 2,
    "sample_height": 96,
    "sample_width": 80,
}
NOISE = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
PIECES = ["<pad>", "</s>", "<unk>", "▁", "▁a", "▁red", "▁circle", "▁moves", "▁waterfall", *string.ascii_lowercase]


def pipeline(variant: str) -> Any:
    """A whole pipeline in which every weight has its effect."""
    torch.manual_seed(0)
    parts = {
        "vae": diffusers.AutoencoderKLCogVideoX(**VAE, invert_scale_latents="1.5" in variant),
        "transformer": diffusers.CogVideoXTransformer3DModel(**(TRANSFORMER | VARIANTS[variant])),
        "text_encoder": text_encoder(),
    }
    with torch.no_grad():
        for part in (parts["transformer"], parts["vae"]):
            for tensor in part.state_dict().values():
                tensor.add_(0.05 * torch.randn_like(tensor))
    scheduler = diffusers.CogVideoXDDIMScheduler if variant == "2b" else diffusers.CogVideoXDPMScheduler
    made = diffusers.CogVideoXImageToVideoPipeline if "i2v" in variant else diffusers.CogVideoXPipeline
    noise = scheduler(**NOISE, snr_shift_scale=3.0 if variant == "2b" else 1.0)
    pipe = made(tokenizer=tokenizer(), scheduler=noise, **{name: part.eval() for name, part in parts.items()})
    pipe.set_progress_bar_config(disable=True)
    return pipe


def tokenizer() -> Any:
    return transformers.T5TokenizerFast(
        vocab=[(piece, -float(i)) for i, piece in enumerate(PIECES)], extra_ids=0, model_max_length=226
    )


def text_encoder() -> Any:
    config = transformers.T5Config(
        vocab_size=len(PIECES), d_model=32, d_kv=8, num_heads=4, d_ff=64, num_layers=2, feed_forward_proj="gated-gelu"
    )
    return transformers.T5EncoderModel(config)


def save(pipe: Any, folder: Path, **options: Any) -> Path:
    pipe.save_pretrained(folder, **options)
    return folder
