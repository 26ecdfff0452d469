"""The road of the Tumblr GIFs, from a table of URLs and sentences to a video, each step by its public command.

    python -m benchmarks.tgif_road [--table tgif.tsv] [--gifs FOLDER] [--minutes 55] [--steps VAE TRANSFORMER] [-o FOLDER]

`prep`, `train vae` and `train transformer` with the presets `codes`, but fewer codes, then `generate` for sentences of the table.
How many steps fit into the minutes is found by a few of each; with --steps, a second start goes on where the first was stopped.
Prints the minutes of each command, the scores, and where the contact sheet of what was generated is.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from benchmarks.clips import CORPUS, theseus
from theseus_core.data.shards import Dataset
from theseus_core.files import write_json
from theseus_core.render.sheets import contact_sheet
from theseus_core.render.video import read

PROBE = 12  # steps of each training that are timed; a third of them only warms up
SHARES = {"vae": 0.5, "transformer": 0.4}  # of the minutes; the rest is for preparing, encoding and generating
PROMPTS = 8
FRAMES = 17
FEW_CODES = {  # 320 for a clip, which two cores can learn to write; as the presets are, five frames have sixteen times as many
    "vae": [f"frames={FRAMES}", "model_preset=tiny", "model.space_factor=16", "model.width=256", "max_stride=1"],
    "transformer": [f"frames={FRAMES}", "windows=1", "model.ways=[causal]", "sampling.sampler=causal"],
}


def train(folder: Path, kind: str, steps: int, output: str) -> tuple[float, dict[str, float]]:
    """Minutes and last scores of a training."""
    words = ["train", kind, "--preset", "codes", "--steps", steps, "-o", output, "--json"]
    vae = ["--vae", "runs/vae"] if kind == "transformer" else []
    settings = (word for one in [*FEW_CODES[kind], "train.log_every=1"] for word in ("--set", one))
    minutes, out = theseus(folder, *words, *vae, *settings)
    return minutes, json.loads(out)["scores"]


def steps_in(folder: Path, kind: str, minutes: float) -> int:
    """How many steps of a training fit into the minutes, by the median of a few."""
    train(folder, kind, PROBE, f"probe/{kind}")
    lines = [json.loads(line) for line in (folder / f"probe/{kind}/metrics.jsonl").read_text().splitlines()]
    rates = sorted(line["clips_per_second"] for line in lines[PROBE // 3 :] if "clips_per_second" in line)
    batch = json.loads((folder / f"probe/{kind}/config.json").read_text())["train"]["batch_size"]
    return max(1, int(minutes * 60 * rates[len(rates) // 2] / batch))


def write_prompts(folder: Path) -> list[str]:
    """The first sentence of some of the clips that were kept."""
    records = Dataset.open(folder / "dataset").records
    captions = list(dict.fromkeys(record.captions[0] for record in records))[:PROMPTS]
    (folder / "prompts.txt").write_text("".join(f"{caption}\n" for caption in captions))
    return captions


def generate(folder: Path, captions: list[str]) -> float:
    minutes, _ = theseus(folder, "generate", "--prompts", "prompts.txt", "-o", "generated")
    files = sorted((folder / "generated").glob("*.mp4"))
    contact_sheet([read(path, FRAMES) for path in files], folder / "contact_sheet.png", labels=captions)
    return minutes


def travel(folder: Path, table: Path, gifs: Path, minutes: float, steps: list[int] | None) -> dict[str, dict[str, float]]:
    """Minutes and scores of every command."""
    spent, _ = theseus(folder, "prep", table, "--gifs", gifs, "--min-frames", "15", "--max-frames", "40", "-o", "dataset")
    report = {"prep": {"minutes": spent}}
    for number, kind in enumerate(SHARES):
        wanted = steps[number] if steps else steps_in(folder, kind, SHARES[kind] * minutes)
        spent, scores = train(folder, kind, wanted, f"runs/{kind}")
        report[f"train {kind}"] = {"minutes": spent, "steps": wanted, **scores}
        show(f"train {kind}", report[f"train {kind}"])
    report["generate"] = {"minutes": generate(folder, write_prompts(folder))}
    return report


def show(name: str, figures: dict[str, float]) -> None:
    print(f"{name:18}", ", ".join(f"{key} {value:.4g}" for key, value in figures.items()), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", type=Path, default=CORPUS / "tgif.tsv")
    parser.add_argument("--gifs", type=Path, help="the folder with the GIFs; gifs/ beside the table unless given")
    parser.add_argument("--minutes", type=float, default=55.0, help="for everything")
    parser.add_argument("--steps", type=int, nargs=2, metavar=("VAE", "TRANSFORMER"), help="of the trainings, instead of minutes")
    parser.add_argument("-o", "--output", type=Path, default=Path("runs/tgif-road"))
    asked = parser.parse_args()
    folder, table = asked.output.absolute(), asked.table.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    report = travel(folder, table, (asked.gifs or table.parent / "gifs").absolute(), asked.minutes, asked.steps)
    write_json(folder / "road.json", report)
    for name in ("prep", "generate"):
        show(name, report[name])
    print(f"{sum(part['minutes'] for part in report.values()):.1f} minutes in all, besides the steps that were timed")
    print(f"what was generated: {folder / 'contact_sheet.png'}")


if __name__ == "__main__":
    main()
