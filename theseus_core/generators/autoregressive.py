"""A transformer that writes the codes of a video behind its words: one after the other, or many at once.

One network and two ways to train and to write it. Causal, each code follows from those before it, in the order of time and rows
(Yan et al. 2021, VideoGPT). Masked, any codes follow from any others, and a clip is written in a few rounds that keep what the
network is surest of (Chang et al. 2022, MaskGIT).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from theseus_core.config import Config as BaseConfig
from theseus_core.contracts import Batch, Consumes, Generator, Progress, Text
from theseus_core.errors import TheseusError, nearest
from theseus_core.nn.attention import Rotation, rotary_3d, unrotated
from theseus_core.nn.embeddings import sincos_3d
from theseus_core.nn.prefix import PrefixBlock, RMSNorm, Room

Way = Literal["causal", "masked"]
Grid = tuple[int, int, int]


class Config(BaseConfig):
    """Configuration of `autoregressive`."""

    codebook_size: int = Field(1024, ge=2, description="V, as the tokenizer has it")
    text_width: int = Field(256, ge=1, description="E, as the text encoder gives it")
    width: int = Field(384, ge=16, description="D, width of the blocks")
    layers: int = Field(12, ge=1, description="number of blocks")
    heads: int = Field(6, ge=1, description="G, attention heads; width / heads must be a multiple of 16")
    expansion: float = Field(2.67, gt=0, description="hidden width of the gated MLP as a multiple of `width`")
    ways: tuple[Way, ...] = Field(
        ("masked", "causal"),
        min_length=1,
        description="what is learned, and how videos can then be written: causal (code by code), masked (many at once), "
        "or both, each step at the cost of two; the first is what videos are written by unless another is asked for",
    )
    continued: float = Field(
        0.2, ge=0, le=1, description="share of clips of the masked way whose first frames are shown whole, as for continuing a clip"
    )
    choice_temperature: float = Field(
        4.0, ge=0, description="of the masked way: how much chance there is, early on, in which codes are kept"
    )

    @field_validator("ways")
    @classmethod
    def _differ(cls, ways: tuple[Way, ...]) -> tuple[Way, ...]:
        if len(set(ways)) < len(ways):
            raise ValueError("each way may be named once")
        return ways

    @model_validator(mode="after")
    def _heads_divide(self) -> Config:
        if self.width % (16 * self.heads):
            raise ValueError(f"width must be a multiple of 16 * heads = {16 * self.heads}, got {self.width}")
        return self


PRESETS: dict[str, dict[str, object]] = {
    "debug": {"codebook_size": 32, "text_width": 32, "width": 32, "layers": 2, "heads": 2},
    "tiny": {"width": 256, "layers": 6, "heads": 4},
    "small": {},
    "base": {"width": 768, "heads": 12},
}
RUN: dict[str, object] = {"sampling": {"sampler": "masked", "steps": 12, "guidance_scale": 3.0}}


class Model(Generator):
    """The `autoregressive` family: codes (B, 1, t, h, w) int64."""

    config: Config
    consumes: Consumes = "codes"
    stepless = ("causal",)
    takes = ("given", "temperature", "top_k", "top_p")

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.samplers = config.ways
        self.start, self.hidden = config.codebook_size, config.codebook_size + 1  # the two numbers that are no codes
        self.codes = nn.Embedding(config.codebook_size + 2, config.width)
        self.text_in = nn.Linear(config.text_width, config.width)
        self.blocks = nn.ModuleList(PrefixBlock(config.width, config.heads, config.expansion) for _ in range(config.layers))
        self.norm = RMSNorm(config.width, eps=1e-6)
        self.head = nn.Linear(config.width, config.codebook_size)
        nn.init.zeros_(self.head.weight)  # training starts at ln V
        nn.init.zeros_(self.head.bias)

    # --- training ---

    def losses(self, batch: Batch, phase: str) -> dict[str, Tensor]:
        assert batch.latents is not None and batch.text is not None
        losses: dict[str, Tensor] = {}
        for way in self.config.ways:
            losses[way] = (self._causal_loss if way == "causal" else self._masked_loss)(batch.latents, batch.text)
        return {"loss": torch.stack(list(losses.values())).mean(), **losses}

    def _causal_loss(self, latents: Tensor, text: Text) -> Tensor:
        """The mean cross-entropy of a code after those before it, in nats; ln V for one who knows nothing."""
        return F.cross_entropy(self.next_logits(latents, text).flatten(0, 1).float(), latents.flatten())

    def _masked_loss(self, latents: Tensor, text: Text) -> Tensor:
        """The mean cross-entropy of the codes that are hidden, of shares between none and all as a clip is written."""
        grid, flat = _grid(latents), latents.flatten(1)
        hidden = self._hide(len(flat), grid, flat.device)
        logits = self._logits(flat.masked_fill(hidden, self.hidden), grid, text, causal=False)
        return F.cross_entropy(logits[hidden].float(), flat[hidden])

    def _hide(self, clips: int, grid: Grid, device: torch.device) -> Tensor:
        """(B, N) True for the codes that are to be found; at least one of each clip."""
        count = math.prod(grid)
        frames = torch.randint(grid[0], (clips, 1), device=device)  # shown whole: from none to all but the last
        frames = frames.where(torch.rand(clips, 1, device=device) < self.config.continued, 0)
        order = torch.rand(clips, count, device=device)
        order = order.masked_fill(torch.arange(count, device=device) < frames * (count // grid[0]), torch.inf)
        open_codes = order.isfinite().sum(1, keepdim=True)
        share = torch.cos(torch.rand(clips, 1, device=device) * math.pi / 2)
        wanted = (share * open_codes).ceil().clamp_min(1)
        return order.argsort(1).argsort(1) < wanted

    def next_logits(self, latents: Tensor, text: Text) -> Tensor:
        """(B, N, V): of each code, from the words and the codes before it alone."""
        flat = latents.flatten(1)
        before = F.pad(flat[:, :-1], (1, 0), value=self.start)
        return self._logits(before, _grid(latents), text, causal=True)

    def _logits(self, inputs: Tensor, grid: Grid, text: Text, causal: bool) -> Tensor:
        """(B, N) codes as the network sees them to (B, N, V)."""
        words = self._words(text)
        length = words.shape[1]
        x = torch.cat([words, self._embedded(inputs, self._places(grid, inputs.device))], dim=1)  # (B, L + N, D)
        mask = F.pad(text.mask, (0, inputs.shape[1]), value=True)  # (B, L + N)
        turns = self._turns(grid, length, causal, inputs.device)
        for block in self.blocks:
            run = partial(checkpoint, block, use_reentrant=False) if block.gradient_checkpointing and self.training else block
            x = run(x, turns, mask, length, causal)
        logits: Tensor = self.head(self.norm(x[:, length:]))
        return logits

    def _words(self, text: Text) -> Tensor:
        assert text.embeddings is not None
        words: Tensor = self.text_in(text.embeddings)  # (B, L, D)
        return words.float()  # as the codes are, also where they are read alone

    def _embedded(self, inputs: Tensor, places: Tensor) -> Tensor:
        """(B, n) codes, or what stands for them, and what says where they are (n, D): (B, n, D)."""
        embedded: Tensor = self.codes(inputs) + places
        return embedded

    def _places(self, grid: Grid, device: torch.device) -> Tensor:
        return sincos_3d(*grid, self.config.width, device)

    def _turns(self, grid: Grid, length: int, causal: bool, device: torch.device) -> tuple[Rotation, Rotation]:
        """Rotations of queries and keys (L + N, K): a query is where its answer will be, a key is where its code is.

        In the causal way these are one apart, also where a row ends; so the way from one code to another is the same everywhere.
        """
        cos, sin = rotary_3d(*grid, self.config.width // self.config.heads, device)
        queries = unrotated(length, (cos, sin))
        return queries, unrotated(length + 1, (cos[:-1], sin[:-1])) if causal else queries

    def shard_units(self) -> list[nn.Module]:
        return list(self.blocks)

    # --- writing ---

    @torch.no_grad()
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
        given: Tensor | None = None,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
    ) -> Tensor:
        if sampler not in self.samplers:
            hint = f"{nearest(sampler, list(self.samplers))}; another has to be trained: model.ways=[masked,causal]"
            raise TheseusError(f"this model was not trained for the sampler: {sampler}", hint=hint)
        grid = _grid(noise)
        known = noise.new_zeros(len(noise), 0, dtype=torch.int64) if given is None else given.flatten(1)
        assert known.shape[1] < math.prod(grid), "something must be left to write"
        choose = Choice([generator_of(each) for each in noise], temperature, top_k, top_p)
        writing = Writing(self, text, negative, guidance_scale, grid, causal=sampler == "causal")
        if sampler == "causal":
            codes = write_in_order(writing, known, choose, progress)
        else:
            codes = write_in_rounds(writing, known, choose, steps, self.config.choice_temperature, progress)
        return codes.view(len(noise), 1, *grid)

    def rehearsal(
        self, noise: Tensor, text: Text, *, steps: int, guidance_scale: float, sampler: str
    ) -> list[tuple[int, Callable[[], object]]]:
        causal, grid = sampler == "causal", _grid(noise)
        codes = noise.new_zeros(len(noise), math.prod(grid), dtype=torch.int64)

        def read() -> Writing:
            return Writing(self, text, text, guidance_scale, grid, causal)

        writing = read()
        if not causal:
            return [(1, read), (min(steps, writing.count), lambda: writing.logits(codes))]
        middle = writing.count // 2  # what a code costs grows evenly with those before it
        return [(1, read), (writing.count, lambda: writing.logits(codes[:, :1], start=middle))]


class Writing:
    """A clip that is being written: the words are read, and what every layer knows of each place is kept.

    Args:
        guidance_scale: how far from `negative` to lead; 1 not to read it.
    """

    def __init__(self, model: Model, text: Text, negative: Text, guidance_scale: float, grid: Grid, causal: bool) -> None:
        self.model, self.guidance_scale, self.causal = model, guidance_scale, causal
        words, mask = model._words(text), text.mask
        if guidance_scale != 1:
            words, mask = torch.cat([model._words(negative), words]), torch.cat([negative.mask, mask])
        self.length, self.count = words.shape[1], math.prod(grid)
        self.mask = F.pad(mask, (0, self.count), value=True)
        self.turns, self.places = model._turns(grid, self.length, causal, words.device), model._places(grid, words.device)
        self.rooms = [Room(self.length + self.count) for _ in model.blocks]
        self._through(words, 0)

    def logits(self, inputs: Tensor, start: int = 0) -> Tensor:
        """(B, n) codes at the places from `start` on to guided logits (B, n, V), fp32."""
        x = self.model._embedded(inputs, self.places[start : start + inputs.shape[1]])
        if self.guidance_scale != 1:
            x = torch.cat([x, x])
        logits: Tensor = self.model.head(self.model.norm(self._through(x, self.length + start))).float()
        if self.guidance_scale == 1:
            return logits
        without, with_text = logits.chunk(2)
        return without + self.guidance_scale * (with_text - without)

    def _through(self, x: Tensor, start: int) -> Tensor:
        end = start + x.shape[1]
        turns = tuple((cos[start:end], sin[start:end]) for cos, sin in self.turns)
        for block, room in zip(self.model.blocks, self.rooms, strict=True):
            x = block(x, turns, self.mask, self.length, self.causal, room, start)
        return x


class Choice:
    """Draws codes from logits, for each clip with random numbers of its own."""

    def __init__(self, generators: Sequence[torch.Generator], temperature: float, top_k: int, top_p: float) -> None:
        self.generators, self.temperature, self.top_k, self.top_p = generators, temperature, top_k, top_p

    def __call__(self, logits: Tensor) -> Tensor:
        """(B, n, V) to (B, n); the likeliest where the temperature is 0."""
        if self.temperature == 0:
            return logits.argmax(-1)
        kept = only_likely(logits / self.temperature, self.top_k, self.top_p)
        return (kept + self.gumbel(logits.shape[1:], logits.device)).argmax(-1)

    def gumbel(self, shape: Sequence[int], device: torch.device) -> Tensor:
        """(B, *shape): the largest of logits with this noise is drawn from their softmax; the same on every device."""
        uniform = torch.stack([torch.rand(*shape, generator=generator) for generator in self.generators]).to(device)
        return -torch.log(-torch.log(uniform.clamp(1e-20, 1 - 1e-7)))


def only_likely(logits: Tensor, top_k: int, top_p: float) -> Tensor:
    """Logits (..., V) with minus infinity for all but the `top_k` likeliest codes (0 for all), and of these all but the fewest
    that are together as likely as `top_p`. The likeliest always stays."""
    if top_k and top_k < logits.shape[-1]:
        least = logits.topk(top_k, dim=-1).values[..., -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    if top_p < 1:
        ordered, places = logits.sort(dim=-1, descending=True)
        likely = ordered.softmax(-1)
        enough = likely.cumsum(-1) - likely >= top_p  # those before it are already
        logits = logits.masked_fill(torch.zeros_like(enough).scatter(-1, places, enough), -torch.inf)
    return logits


def write_in_order(writing: Writing, known: Tensor, choose: Choice, progress: Progress | None) -> Tensor:
    """Code after code behind the known ones (B, n): (B, N)."""
    codes = F.pad(known, (1, writing.count - known.shape[1]), value=writing.model.start)  # a place ahead, for the start
    logits = writing.logits(codes[:, : known.shape[1] + 1])
    for place in range(known.shape[1], writing.count):
        codes[:, place + 1 : place + 2] = choose(logits[:, -1:])
        if progress is not None:
            progress(place + 1 - known.shape[1], writing.count - known.shape[1])
        if place + 1 < writing.count:
            logits = writing.logits(codes[:, place + 1 : place + 2], start=place + 1)
    return codes[:, 1:]


def write_in_rounds(
    writing: Writing, known: Tensor, choose: Choice, steps: int, choice_temperature: float, progress: Progress | None
) -> Tensor:
    """All codes at once, of which each round keeps those that the network is surest of: few at first, then more and more.

    There are `steps` rounds, or as many as there are codes to find.
    """
    codes = F.pad(known, (0, writing.count - known.shape[1]), value=writing.model.hidden)
    rounds = min(steps, writing.count - known.shape[1])
    for step in range(1, rounds + 1):
        logits = writing.logits(codes)
        drawn = choose(logits)
        hidden = codes == writing.model.hidden
        sure = logits.log_softmax(-1).gather(-1, drawn[..., None]).squeeze(-1)  # (B, N)
        sure = sure + choice_temperature * (1 - step / rounds) * choose.gumbel(sure.shape[1:], sure.device)
        order = sure.masked_fill(~hidden, torch.inf).argsort(dim=1, descending=True).argsort(dim=1)
        keep = writing.count - _left(step, rounds, writing.count - known.shape[1])
        codes = torch.where(hidden & (order < keep), drawn, codes)
        if progress is not None:
            progress(step, rounds)
    return codes


def _left(step: int, rounds: int, count: int) -> int:
    """How many of `count` codes are still hidden after a round: a cosine, and at least one fewer each time."""
    return min(int(count * math.cos(math.pi / 2 * step / rounds)), count - step) if step < rounds else 0


def generator_of(noise: Tensor) -> torch.Generator:
    """Random numbers that are a function of the starting noise of a clip."""
    digest = hashlib.sha256(noise.detach().float().cpu().contiguous().numpy().tobytes()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


def _grid(latents: Tensor) -> Grid:
    _, _, t, h, w = latents.shape
    return t, h, w
