"""The interfaces between the parts, and the one legend of shapes.

Shapes, everywhere in the code:

    B  batch        C  colour channels    T  frames           H  height           W  width
                    Z  latent channels    t  latent frames    h  latent height    w  latent width
    N  video tokens L  text tokens        D  model width      E  text width
    G  heads        K  width per head     V  codebook entries

Video is `(B, C, T, H, W)`, float in [-1, 1], inside; `(T, H, W, C)` uint8 on disk and in a `Clip`. It is converted once, at the
edge.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from math import gcd
from typing import Any, ClassVar, Literal, Self, TypeVar

import torch
from torch import Tensor, nn

from theseus_core.config import Config
from theseus_core.errors import TheseusError

Consumes = Literal["pixels", "latents", "codes"]
Progress = Callable[[int, int], None]  # (done, total)


@dataclass(frozen=True)
class Text:
    """Captions on their way into a generator.

    Attributes:
        mask: (B, L) bool, True for real tokens, False for padding.
        ids: (B, L) int64 token numbers, what `TextEncoder.tokenize` gives.
        embeddings: (B, L, E) float, what a text encoder makes of the ids.
    """

    mask: Tensor
    ids: Tensor | None = None
    embeddings: Tensor | None = None

    def to(self, device: torch.device | str) -> Text:
        return _to(self, device)

    def trimmed(self) -> Text:
        """Without what is padding in all captions, at the end: it is hidden from all that reads it, and takes time."""
        length = 1 + int(self.mask.any(dim=0).nonzero()[-1])  # the first token is always real
        ids = None if self.ids is None else self.ids[:, :length]
        embeddings = None if self.embeddings is None else self.embeddings[:, :length]
        return Text(mask=self.mask[:, :length], ids=ids, embeddings=embeddings)


@dataclass(frozen=True)
class Batch:
    """What the loader hands to `Trainable.losses`; a family reads what it needs.

    Attributes:
        video: (B, C, T, H, W) float in [-1, 1].
        latents: (B, Z, t, h, w) float, what the tokenizer gives: normalised latents, or pixels; or its codes (B, 1, t, h, w) int64.
        text: the captions; `ids` where the text encoder is trained along, `embeddings` where they come from the cache.
        captions: the B captions as words; "" where the caption was dropped for classifier-free guidance.
        image_scale: what latents of a first frame are multiplied with where they are given beside the noise; see `VideoTokenizer`.
    """

    video: Tensor | None = None
    latents: Tensor | None = None
    text: Text | None = None
    captions: Sequence[str] = ()
    image_scale: float = 1.0

    def to(self, device: torch.device | str) -> Batch:
        return _to(self, device)


R = TypeVar("R", Text, Batch)


def _to(record: R, device: torch.device | str) -> R:
    moved: dict[str, Any] = {}
    for field in fields(record):
        value = getattr(record, field.name)
        if isinstance(value, (Tensor, Text)):
            moved[field.name] = value.to(device)
    return replace(record, **moved)


class Trainable(nn.Module, ABC):
    """What the trainer asks of a family. The trainer knows nothing else about it."""

    phases: ClassVar[tuple[str, ...]] = ("model",)  # a GAN declares ("discriminator", "generator")
    derived_twice: ClassVar[bool] = False  # whether its losses hold gradients, which torch.compile cannot derive once more
    config: Config

    @abstractmethod
    def losses(self, batch: Batch, phase: str) -> dict[str, Tensor]:
        """Scalars of one step: "loss" is what is minimised, every other entry is logged.

        Randomness comes from torch's global generator, which the trainer seeds from (seed, step, micro-step, rank).
        """

    def forward(self, batch: Batch, phase: str = "model") -> dict[str, Tensor]:
        """`losses`, under the name that DistributedDataParallel and FSDP wrap."""
        return self.losses(batch, phase)

    def phase_parameters(self, phase: str) -> Iterable[tuple[str, nn.Parameter]]:
        """Named parameters that `phase` updates; all of them unless a family has more than one phase."""
        return self.named_parameters()

    def phases_due(self) -> Sequence[str]:
        """The phases of the coming step; all of them, unless a family begins with fewer."""
        return self.phases

    def check_steps(self, steps: int) -> None:
        """Refuse a training of so few steps that a phase would never be due.

        Raises:
            TheseusError: saying how many would do.
        """

    def lr_ratio(self, name: str) -> float:
        """The learning rate of the parameter of this name, in units of the training's."""
        return 1.0

    def after_step(self) -> None:
        """Called after each step of the training: what is not learned by gradients moves here, and not in `losses`."""

    def worry(self, scalars: dict[str, float]) -> str:
        """What is wrong with the training where its latest scalars show it, in words for the user; "" where nothing is."""
        return ""

    def shard_units(self) -> list[nn.Module]:
        """The repeated blocks: units of FSDP sharding and of gradient checkpointing."""
        return []

    def set_gradient_checkpointing(self, on: bool) -> None:
        """Recompute the activations of each block in the backward pass instead of keeping them."""
        for unit in self.shard_units():
            unit.gradient_checkpointing = on  # type: ignore[assignment]

    def set_together(self, on: bool) -> None:
        """Where several ranks train: let the modules that learn without gradients learn from all of them, or each by itself."""
        for module in self.modules():
            if hasattr(module, "together"):
                module.together = on  # type: ignore[assignment]


class TextEncoder(nn.Module, ABC):
    """Words to vectors.

    Attributes:
        trained_along: True for the built-in encoder, whose parameters are trained with the generator; False for a frozen one.
        width: E, the width of the embeddings.
        max_tokens: L, the length captions are padded to.
        token_limit: the most that `max_tokens` can be set to; None where there is no such limit.
        lr_ratio: the learning rate of an encoder that is trained along, in units of the generator's.
        once_read: what is to be done to weights that `free` let go, each time that they are read again.
    """

    config: Config
    trained_along: bool
    width: int
    max_tokens: int
    token_limit: int | None = None
    lr_ratio: float = 1.0
    once_read: Callable[[nn.Module], object] | None = None

    @abstractmethod
    def tokenize(self, captions: Sequence[str]) -> Text:
        """B captions to `Text(ids (B, L), mask (B, L))`, on the CPU; "" is a valid caption and means unconditional."""

    @abstractmethod
    def forward(self, text: Text) -> Text:
        """`Text` with ids to the same `Text` with embeddings (B, L, E)."""

    def encode(self, captions: Sequence[str]) -> Text:
        """`forward(tokenize(captions))` on this module's device."""
        device = next((weight.device for weight in self.parameters()), torch.device("cpu"))  # none where `free` let them go
        encoded: Text = self(self.tokenize(captions).to(device))
        return encoded

    @abstractmethod
    def count_tokens(self, caption: str) -> int:
        """Tokens of a caption before it is cut to `max_tokens`."""

    def free(self) -> None:
        """Give back the memory of what can be read again, and is at the next `forward`; nothing by default."""

    def unknown_words(self, caption: str) -> list[str]:
        """The words of a caption that this encoder has no vector for; none for encoders with an open vocabulary."""
        return []


class VideoTokenizer(Trainable):
    """A video autoencoder. It owns the scale of its latents: what `encode` gives is ready for a generator.

    Attributes:
        produces: "latents", "codes" or "pixels".
        latent_channels: Z; 1 where latents are codes.
        codebook_size: V, where latents are codes (B, 1, t, h, w) int64 in [0, V).
        time_factor, space_factor: how many frames and pixels a latent stands for; T = 1 + time_factor * k.
        exact_in_chunks: False where `chunk` decides the result, and callers that only want to save memory leave it out.
        sizeless: True where h and w do not depend on H and W; they are `grid`, unless `latent_shape` says otherwise.
        fitted_on, calibrated_on: how many clips `initialize` and `calibrate` are shown, at most.
        fitted_last: True where there is nothing to encode with before `calibrate`.
        image_scale: what the latents of a first frame that is given are multiplied with beyond `encode`.
        tile: (height, width) in pixels of the tiles that larger frames can be cut into for less memory; None if they cannot.
    """

    produces: Consumes
    latent_channels: int
    codebook_size: int = 0
    time_factor: int
    space_factor: int
    exact_in_chunks: ClassVar[bool] = True
    sizeless: ClassVar[bool] = False
    grid: int = 1
    fitted_on: ClassVar[int] = 64
    calibrated_on: ClassVar[int] = 256
    fitted_last: ClassVar[bool] = False

    @property
    def image_scale(self) -> float:
        return 1.0

    @property
    def tile(self) -> tuple[int, int] | None:
        return None

    def set_tiling(self, on: bool) -> None:
        """Cut frames larger than a tile into tiles from now on, or no longer; each tile knows itself alone."""
        assert not on or self.tile is not None, "this family has no tiles"

    @abstractmethod
    def encode(self, video: Tensor, chunk: int | None = None) -> Tensor:
        """(B, 3, T, H, W) in [-1, 1] -> (B, Z, t, h, w): the posterior's mean, normalised per channel.

        Args:
            chunk: latent frames at a time, through the cache; None for all at once. The result is the same, unless
                `exact_in_chunks` is False: None is then the family's own way to cut.

        Raises:
            TheseusError: T is not 1 + time_factor * k, or H or W is no multiple of space_factor.
        """

    @abstractmethod
    def decode(self, latents: Tensor, chunk: int | None = None, size: tuple[int, int] | None = None) -> Tensor:
        """(B, Z, t, h, w) -> (B, 3, T, H, W); the inverse of `encode`, not clamped.

        Args:
            size: (H, W), which a `sizeless` family has to be told, and every other reads off the latents.
        """

    def latent_shape(self, frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        """(Z, t, h, w) of a video of this size."""
        sides = (self.grid, self.grid) if self.sizeless else (height // self.space_factor, width // self.space_factor)
        return self.latent_channels, (frames - 1) // self.time_factor + 1, *sides

    def check_size(self, frames: int, height: int, width: int, patch: int = 1) -> None:
        """Refuse a size that would have to be rounded.

        Args:
            patch: side of the square of latents that a generator takes as one; see `Generator.patch`.

        Raises:
            TheseusError: the hint names the nearest sizes that fit.
        """
        every, multiple = self.time_factor, 1 if self.sizeless else self.space_factor * patch
        if (frames - 1) % every:
            low = frames - (frames - 1) % every
            raise TheseusError(
                f"this model takes 1 + {every} k frames, not: {frames}", hint=f"frames {low} or {low + every} would do"
            )
        if height % multiple or width % multiple:
            near = "x".join(str(max(multiple, round(side / multiple) * multiple)) for side in (width, height))
            message = f"this model takes widths and heights that are multiples of {multiple}, not: {width}x{height}"
            raise TheseusError(message, hint=f"--size {near} would do")
        if self.sizeless and self.grid % patch:
            message = (
                f"this tokenizer makes {self.grid}x{self.grid} latents of any frame, which do not divide into patches of: {patch}"
            )
            raise TheseusError(message, hint=f"model.patch={gcd(self.grid, patch)} would do")

    def initialize(self, videos: Iterable[Tensor]) -> None:
        """Fit, before training, what can be fitted in closed form to `videos` (B, 3, T, H, W); nothing by default."""

    @abstractmethod
    def calibrate(self, videos: Iterable[Tensor]) -> None:
        """Measure the per-channel mean and deviation of the latents over `videos`, or fit their codes to them, and keep that with
        the weights."""

    def measure(self, latents: Tensor) -> dict[str, float]:
        """Scores of latents by themselves, (B, Z, t, h, w) of many clips, such as how many codes they use; none by default."""
        return {}


class Generator(Trainable):
    """Text to latents (or pixels, or codes).

    Attributes:
        consumes: what kind of tokenizer it needs; any other is an error that names the right one.
        samplers: names that `sample` takes.
        stepless: those of them that take as many steps as the clip needs, whatever `steps` says.
        guided: False where `guidance_scale` must be 1, since there is nothing that guidance could change.
        patch: the height and width of the latents must be multiples of it.
        patch_frames: the number of latent frames must be a multiple of it. What is added for that stands in front, and is dropped.
        takes: what `sample` takes by name beyond what every family does, of
            image             latents (B, Z, 1, h, w) of the first frame, which must then be given
            start             latents (B, Z, t, h, w) of a video to begin from; and `strength`, the share of steps that change it
            given             latents (B, Z, t', h, w) of the first frames, which stay as they are
            dynamic_guidance  True for guidance that grows with the steps, from none
            cache             a `diffusion.caching.Cache`, by which some evaluations of the network are left out
            temperature       how freely codes are drawn, 1 as they were learned
            top_k             of how many of the likeliest codes one is drawn, 0 for all
            top_p             of the likeliest codes that together are at least so likely
    """

    consumes: Consumes
    samplers: Sequence[str]
    stepless: Sequence[str] = ()
    guided: bool = True
    patch: int = 1
    patch_frames: int = 1
    takes: Sequence[str] = ()

    @abstractmethod
    def sample(
        self,
        noise: Tensor,
        text: Text,
        negative: Text,
        *,
        steps: int,
        guidance_scale: float,
        sampler: str,
        progress: Progress | None = None,
    ) -> Tensor:
        """Noise (B, Z, t, h, w) and encoded text to latents of the same shape; to codes the noise is what they are drawn by.

        Args:
            text: what is asked for, with embeddings (B, L, E).
            negative: the unconditional or negative text, of the same shape.
            guidance_scale: 1 for no guidance; the negative text is then not evaluated.

        Raises:
            TheseusError: the family has no such sampler; the hint names those it has.
        """

    @abstractmethod
    def rehearsal(
        self, noise: Tensor, text: Text, *, steps: int, guidance_scale: float, sampler: str
    ) -> list[tuple[int, Callable[[], object]]]:
        """The calls that `sample` is made of, each with how often it is made; one stands for all that cost the same.

        All of it may be on the meta device, where `sample` itself could not look at what it has made.
        """


class Conditioned(Trainable):
    """A generator together with the text encoder that is trained along with it: one thing for the trainer to train.

    Of a generator with several phases, the first teaches the encoder, and the others take it as it is: a discriminator learns
    what words mean from real clips, with captions that fit them and others.

    With a frozen encoder the loader brings embeddings from the cache, and the generator is trained alone.
    """

    def __init__(self, generator: Generator, text_encoder: TextEncoder) -> None:
        super().__init__()
        self.generator = generator
        self.text_encoder = text_encoder
        self.config = generator.config
        self.phases = generator.phases  # type: ignore[misc]
        self.derived_twice = generator.derived_twice  # type: ignore[misc]

    def losses(self, batch: Batch, phase: str) -> dict[str, Tensor]:
        assert batch.text is not None
        return self.generator.losses(replace(batch, text=self.text_encoder(batch.text)), phase)

    def phase_parameters(self, phase: str) -> Iterable[tuple[str, nn.Parameter]]:
        own = {id(parameter) for _, parameter in self.generator.phase_parameters(phase)}
        if phase == self.phases[0]:
            own |= {id(parameter) for parameter in self.text_encoder.parameters()}
        return [(name, parameter) for name, parameter in self.named_parameters() if id(parameter) in own]

    def phases_due(self) -> Sequence[str]:
        return self.generator.phases_due()

    def check_steps(self, steps: int) -> None:
        self.generator.check_steps(steps)

    def lr_ratio(self, name: str) -> float:
        return self.text_encoder.lr_ratio if name.startswith("text_encoder.") else self.generator.lr_ratio(name)

    def after_step(self) -> None:
        self.generator.after_step()

    def worry(self, scalars: dict[str, float]) -> str:
        return self.generator.worry(scalars)

    def shard_units(self) -> list[nn.Module]:
        return self.generator.shard_units()

    @classmethod
    def of(cls, generator: Generator, text_encoder: TextEncoder) -> Trainable | Self:
        """What the trainer should train: both, or the generator alone where the encoder is frozen."""
        return cls(generator, text_encoder) if text_encoder.trained_along else generator
