"""The journal of a run: `metrics.jsonl`, a line per logged step, flushed, and cut back to the checkpoint when a run resumes."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO, cast

from theseus_core.errors import TheseusError
from theseus_core.files import replacing, split_lines

Line = dict[str, Any]
TIMES = frozenset({"seconds", "clips_per_second", "waiting", "eval/seconds"})  # what differs between two runs of the same command


def read_journal(path: Path) -> list[Line]:
    """The lines of a journal in order; a last line that was cut off is left out.

    The first says where and how the run computes ("step" 0). The others hold "step" and scalars: averages over the steps since
    the line before, those of a phase named `phase/loss` where there is more than one; an evaluation's are named `eval/score`.

    Raises:
        TheseusError: there is no such file, or it is something else.
    """
    try:
        text = path.read_text()
    except OSError as error:
        raise TheseusError(f"no journal of a training run: {path}", hint=error.strerror) from error
    complete = text[: text.rfind("\n") + 1]
    try:
        lines: list[Line] = [json.loads(line) for line in split_lines(complete)]
        sorted(line["step"] for line in lines)
    except (ValueError, KeyError, TypeError) as error:
        raise TheseusError(f"not a journal of a training run, or a damaged one: {path}") from error
    return lines


def without_times(line: Line) -> Line:
    """A line less what a clock says."""
    return {key: value for key, value in line.items() if key not in TIMES}


def scores_of(line: Line) -> dict[str, float]:
    """The scores of an evaluation's line by their own names; none of any other line."""
    return {key.removeprefix("eval/"): line[key] for key in line if key.startswith("eval/") and key not in TIMES}


class Journal:
    """Writes a journal.

    Args:
        path: `metrics.jsonl`.
        step: lines after this step are dropped, being about steps that will be done again; -1 drops all.

    Attributes:
        scores: those of each evaluation, by its step.
    """

    def __init__(self, path: Path, step: int) -> None:
        self.path = path
        kept = [line for line in read_journal(path) if line["step"] <= step] if path.exists() and step >= 0 else []
        self.scores = {line["step"]: scores for line in kept if (scores := scores_of(line))}
        with replacing(path) as part:
            part.write_text("".join(_encode(line) for line in kept))

    def write(self, line: Line) -> None:
        """Append a line; it is with the system, and outlives the process, when this returns.

        Raises:
            TheseusError: the disk is full.
        """
        with self._open("a") as file:
            file.write(_encode(line))
        if scores := scores_of(line):
            self.scores[line["step"]] = scores

    def best_step(self, wanted: str, among: set[int]) -> int | None:
        """The step in `among` with the highest score `wanted`, or the lowest where that is `-score`; the first of equals."""
        name, sign = wanted.removeprefix("-"), -1 if wanted.startswith("-") else 1
        found = {step: scores.get(name, math.nan) for step, scores in self.scores.items() if step in among}
        finite = {step: sign * score for step, score in found.items() if math.isfinite(score)}
        return max(finite, key=lambda step: finite[step], default=None)

    def sync(self) -> None:
        """Make sure that what was written outlives a power cut.

        Raises:
            TheseusError: the disk is full.
        """
        with self._open("r") as file:
            os.fsync(file.fileno())

    @contextmanager
    def _open(self, mode: str) -> Iterator[TextIO]:
        try:
            with self.path.open(mode) as file:
                yield cast(TextIO, file)
        except OSError as error:
            hint = f"{error.strerror}; the last checkpoint is untouched: make room and run the same command again to continue"
            raise TheseusError(f"cannot write the journal: {self.path}", hint=hint) from error


def _encode(line: Line) -> str:
    """JSON has no NaN or infinity: such a value is left out."""
    finite = {key: value for key, value in line.items() if not isinstance(value, float) or math.isfinite(value)}
    return json.dumps(finite) + "\n"


class Window:
    """Averages over the steps since the last line. Its state is part of a checkpoint, so that a resumed run logs the same."""

    def __init__(self, sums: dict[str, float] | None = None, counts: dict[str, int] | None = None) -> None:
        self.sums, self.counts = dict(sums or {}), dict(counts or {})

    def add(self, values: dict[str, float]) -> None:
        for key, value in values.items():
            self.sums[key] = self.sums.get(key, 0.0) + value
            self.counts[key] = self.counts.get(key, 0) + 1

    def means(self) -> dict[str, float]:
        """Of each scalar over the steps that had it."""
        return {key: total / self.counts[key] for key, total in self.sums.items()}
