"""What an evaluation found: scores, how alive and how different the clips are, and every prompt's verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, median

from theseus_core.config import Tree
from theseus_core.evaluate.scores import DIFFERENT, Score, Verdict, tally


@dataclass(frozen=True)
class Pair:
    """Two clips of one prompt, from two seeds.

    Attributes:
        names: of their video files.
        difference: the mean absolute difference, of 255.
    """

    names: tuple[str, str]
    text: str
    difference: float


@dataclass(frozen=True)
class Report:
    """What was asked, of which model, and what came of it.

    Attributes:
        asked: the suite, its seed, what is held out, and what the recipes of all clips share.
        seconds: to make a clip, the median; None where every clip was there already.
    """

    asked: Tree
    verdicts: Sequence[Verdict]
    pairs: Sequence[Pair]
    seconds: float | None

    def scores(self, held_out: bool) -> dict[str, Score]:
        """How often each thing was right, over the prompts that ask for it; empty where nothing is held out."""
        return tally(verdict for verdict in self.verdicts if verdict.held_out == held_out)

    def summary(self) -> Tree:
        """All but the single prompts, as plain values."""
        differences = [pair.difference for pair in self.pairs]
        return {
            **self.asked,
            "clips": len(self.verdicts),
            "scores": {"seen": _shares(self.scores(False)), "held_out": _shares(self.scores(True))},
            "blank": sum(verdict.blank for verdict in self.verdicts),
            "frozen": sum(verdict.frozen for verdict in self.verdicts),
            "flicker": round(median(verdict.flicker for verdict in self.verdicts), 4),
            "warping_error": round(median(verdict.warping_error for verdict in self.verdicts), 4),
            "diversity": {
                "pairs": len(differences),
                "visibly_different": sum(difference > DIFFERENT for difference in differences),
                "mean": round(fmean(differences), 3),
                "least": round(min(differences), 3),
            },
            "seconds_per_clip": self.seconds,
        }

    def tree(self) -> Tree:
        """All of it, as plain values."""
        return self.summary() | {"pairs": [asdict(pair) for pair in self.pairs], "prompts": [asdict(v) for v in self.verdicts]}


def _shares(scores: dict[str, Score]) -> Tree:
    return {key: {"right": score.right, "of": score.of, "share": round(score.share, 4)} for key, score in scores.items()}
