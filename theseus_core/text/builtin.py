"""The built-in text encoder: words of the dataset's own captions through a small transformer, trained along with the generator."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch
from pydantic import Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError
from torch import Tensor, nn
from torch.nn import functional as F

from theseus_core.config import Config as BaseConfig
from theseus_core.contracts import Text, TextEncoder
from theseus_core.nn.attention import Attention
from theseus_core.words import words

PADDING, START = range(2)  # token numbers
FIRST = 3  # of the words; 2 stands for nothing, and trained models count on it


class Config(BaseConfig):
    """Configuration of `builtin`."""

    vocabulary: tuple[str, ...] = Field((), description="the words it knows; it reads no others")
    width: int = Field(256, ge=8, description="E, width of the embeddings")
    layers: int = Field(2, ge=0, description="transformer layers")
    heads: int = Field(4, ge=1, description="attention heads; must divide `width`")
    max_tokens: int = Field(32, ge=2, description="L, the first token included; longer captions are cut")
    lr_ratio: float = Field(
        1.0,
        gt=0,
        description="its learning rate in units of the generator's: with a high one it unlearns words before they are of any use",
    )

    @field_validator("heads")
    @classmethod
    def _heads_divide(cls, heads: int, info: ValidationInfo) -> int:
        if info.data.get("width", 0) % heads:
            raise PydanticCustomError("uneven", "must divide width, {width}", {"width": info.data["width"]})
        return heads


PRESETS: dict[str, dict[str, object]] = {
    "debug": {"width": 32, "layers": 1, "heads": 2, "max_tokens": 8},
    "small": {},
}


def vocabulary_of(captions: Iterable[str]) -> tuple[str, ...]:
    """The words, the commonest first, ties by the alphabet: a function of the captions alone."""
    counts = Counter(word for caption in captions for word in words(caption))
    return tuple(sorted(counts, key=lambda word: (-counts[word], word)))


def fit(captions: Iterable[str]) -> dict[str, object]:
    """What of the configuration follows from the captions that will be trained on."""
    return {"vocabulary": list(vocabulary_of(captions))}


class Layer(nn.Module):
    """A pre-norm transformer layer."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.mlp_norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = x + self.attention(self.attention_norm(x), mask=mask)
        out: Tensor = x + self.down(F.gelu(self.up(self.mlp_norm(x)), approximate="tanh"))
        return out


class Model(TextEncoder):
    """The `builtin` encoder."""

    config: Config
    trained_along = True

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.width, self.max_tokens, self.lr_ratio = config.width, config.max_tokens, config.lr_ratio
        self.numbers = {word: FIRST + i for i, word in enumerate(config.vocabulary)}
        self.words = nn.Embedding(FIRST + len(config.vocabulary), config.width, padding_idx=PADDING)
        self.positions = nn.Parameter(nn.init.normal_(torch.empty(config.max_tokens, config.width), std=0.02))
        self.layers = nn.ModuleList(Layer(config.width, config.heads) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width)

    def tokenize(self, captions: Sequence[str]) -> Text:
        ids = torch.full((len(captions), self.max_tokens), PADDING)
        for row, caption in zip(ids, captions, strict=True):
            known = [START, *self._known(caption)][: self.max_tokens]
            row[: len(known)] = torch.tensor(known)
        return Text(mask=ids != PADDING, ids=ids)

    def count_tokens(self, caption: str) -> int:
        return 1 + len(self._known(caption))

    def _known(self, caption: str) -> list[int]:
        return [self.numbers[word] for word in words(caption) if word in self.numbers]  # a word never trained would be noise

    def forward(self, text: Text) -> Text:
        assert text.ids is not None
        x = self.words(text.ids) + self.positions[: text.ids.shape[1]]  # (B, L, E)
        for layer in self.layers:
            x = layer(x, text.mask)
        return replace(text, embeddings=self.norm(x))

    def unknown_words(self, caption: str) -> list[str]:
        return [word for word in dict.fromkeys(words(caption)) if word not in self.numbers]
