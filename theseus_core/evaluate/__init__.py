"""How well a model shows what words ask for, measured on the video files that it makes.

To read the code in order: `suites` draws the prompts, `scores` says what is measured of a clip, `run` makes the clips and measures
them, `report` holds what was found. `compare` does that with several models and sets `cost` beside it.

    pipe = TextToVideo.load("runs/transformer")
    shared = recipe.describe(pipe, "runs/transformer", pipe.settings(), "none", "none", False)
    report = evaluate(pipe, draw_suite("shapes", clips=200), Path("evaluation/shapes"), shared)
    report.scores(held_out=False)["shape"].share
"""

from theseus_core.evaluate.compare import Comparison, How, compare, held_out_of_all, line_up
from theseus_core.evaluate.report import Report
from theseus_core.evaluate.run import evaluate
from theseus_core.evaluate.scores import Score, Verdict
from theseus_core.evaluate.suites import Prompt, Suite, draw_suite, held_out_of

__all__ = [
    "Comparison",
    "How",
    "Prompt",
    "Report",
    "Score",
    "Suite",
    "Verdict",
    "compare",
    "draw_suite",
    "evaluate",
    "held_out_of",
    "held_out_of_all",
    "line_up",
]
