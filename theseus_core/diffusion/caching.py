"""Steps without an evaluation of the network: what it would predict is continued from what it predicted before.

The clean clip that a network sees in x_t changes little from one of many steps to the next. At every evaluation it is measured how
well the earlier ones foretold it, taken as they are or continued in a line or a parabola; the best of these then stands in for the
network while its error, times the step's part in the clip, stays below a tolerance. What the errors cost is thus an estimate, not
a bound: only the same clip without a cache tells it. Others continue what the blocks add to their input. That errs less, but all
around the blocks is still computed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from theseus_core.diffusion.samplers import Predict
from theseus_core.diffusion.schedule import Schedule

POINTS = 3  # evaluations that are kept: a parabola goes through so many
AT_ONCE = 3  # steps in a row without an evaluation, at most

Seen = list[tuple[float, Tensor]]  # times and clean clips, the newest last


@dataclass
class Cache:
    """How much a step may err, and what was done.

    Attributes:
        tolerance: estimated error of one step, relative to the clip.
        evaluated, continued: predictions by the network, and in its place.
        estimate: the sum of the errors of all steps, relative to the clip; of several clips the largest.
    """

    tolerance: float
    evaluated: int = 0
    continued: int = 0
    estimate: float = 0.0

    def over(self, predict: Predict, schedule: Schedule, times: Tensor, edges: Sequence[float] = ()) -> Predict:
        """`predict` with some evaluations left out, on the way down `times`. Each clip of a batch goes as it would alone.

        Args:
            edges: times where the prediction jumps, such as the ends of a guidance interval; nothing is continued across them.
        """
        parts = parts_of_steps(schedule, times)
        clips: list[Foretold] = []

        def cached(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
            now = float(t)
            clips.extend(Foretold(edges, parts) for _ in range(len(x) - len(clips)))
            guesses = [clip.guess(now, self.tolerance) for clip in clips]
            self.estimate = max(clip.error for clip in clips)
            if any(guess is None for guess in guesses):
                self.evaluated += 1
                found, _ = predict(x, t)
                for i, clip in enumerate(clips):
                    if guesses[i] is None:
                        clip.learn(now, found[i])
            else:
                self.continued += 1
            clean = torch.stack([clip.seen[-1][1] if guess is None else guess for clip, guess in zip(clips, guesses, strict=True)])
            return clean, (x - schedule.alpha(t) * clean) / schedule.sigma(t)

        return cached

    def report(self) -> str:
        """One line on what was left out, and what that costs by estimate."""
        total = self.evaluated + self.continued
        return (
            f"cache: {self.continued} of {total} evaluations left out, by estimate {self.estimate:.1%} of the clip's contrast off"
        )


class Foretold:
    """What one clip's evaluations were, and how well they foretell the next.

    Attributes:
        error: the sum of the estimated errors of all guesses, relative to the clip.
    """

    def __init__(self, edges: Sequence[float], parts: Mapping[float, float]) -> None:
        self.edges, self.parts = edges, parts
        self.seen: Seen = []
        self.order, self.rate = 0, math.inf  # of the continuation, and its error for each unit of time
        self.in_a_row = 0
        self.error = 0.0

    def guess(self, now: float, tolerance: float) -> Tensor | None:
        """The clean clip at a time, unless the network must be asked."""
        if self.seen and any(now < edge <= self.seen[-1][0] or now <= edge < self.seen[-1][0] for edge in self.edges):
            self.seen, self.rate = [], math.inf
        passed = self.seen[-1][0] - now if self.seen else 0.0
        error = self.rate * passed * self.parts[now] if passed else math.inf
        if error > tolerance or self.in_a_row == AT_ONCE:
            self.in_a_row = 0
            return None
        self.in_a_row += 1
        self.error += error
        return continued(self.seen, now, self.order)

    def learn(self, now: float, found: Tensor) -> None:
        """Keep an evaluation, and see which continuation would have come closest to it."""
        before = [point for point in self.seen if point[0] > now]  # heun looks twice at one time
        if before:
            self.order, self.rate = best_order(before, now, found)
        self.seen = [*before[1 - POINTS :], (now, found)]


def parts_of_steps(schedule: Schedule, times: Tensor) -> dict[float, float]:
    """How much of the clip in x at the end of a step comes from the prediction at its beginning, by the time of the latter.

    It is 1 at the first step, before which x is noise, and at the last; an early error is small in x, but not beside the little
    that is there, and a layout is decided by that.
    """
    parts = {}
    for t, s in pairwise(times):
        before = schedule.alpha(t) * schedule.sigma(s) / schedule.sigma(t)
        parts[float(t)] = float(1 - before / schedule.alpha(s))
    return parts


def best_order(seen: Seen, now: float, found: Tensor) -> tuple[int, float]:
    """The order of continuation that would have come closest to what was found, and its relative error for each unit of time."""
    size = found.norm().clamp_min(torch.finfo(found.dtype).tiny)
    errors = [float((continued(seen, now, order) - found).norm() / size) for order in range(len(seen))]
    order = min(range(len(seen)), key=errors.__getitem__)
    return order, errors[order] / (seen[-1][0] - now)


def continued(seen: Seen, now: float, order: int) -> Tensor:
    """The polynomial of this order through the newest clips, at another time."""
    points = seen[-1 - order :]
    total = torch.zeros_like(points[-1][1])
    for i, (t, clip) in enumerate(points):
        weight = 1.0
        for j, (other, _) in enumerate(points):
            if j != i:
                weight *= (now - other) / (t - other)
        total += weight * clip
    return total
