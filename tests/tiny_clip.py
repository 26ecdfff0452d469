"""A CLIP of random weights, made on the spot, with its own kind of tokenizer."""

from __future__ import annotations

from pathlib import Path

import torch
import transformers


def save_clip(folder: Path) -> Path:
    """Write network and tokenizer, which knows letters alone: a word of five letters is five tokens, between two of CLIP's own."""
    torch.manual_seed(0)
    letters = [chr(number) for number in range(33, 127)]
    vocabulary = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    last = len(vocabulary) - 1
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    ids = {"vocab_size": last + 1, "bos_token_id": last - 1, "eos_token_id": last, "pad_token_id": last}
    transformers.CLIPTextModel(transformers.CLIPTextConfig(**sizes, **ids)).save_pretrained(folder)
    numbers = {word: number for number, word in enumerate(vocabulary)}
    transformers.CLIPTokenizer(vocab=numbers, merges=[], model_max_length=77).save_pretrained(folder)
    return folder
