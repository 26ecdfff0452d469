"""How fast clips are prepared, beside what the decoder alone could do: `python -m benchmarks.prep [FOLDER] [--json]`.

Frames a CPU-second of one process to 128x128 RGB, over the good files of a folder (at most 40 frames of each), or over clips made
for the purpose. Every way sees the same frames of the same files; of several rounds, taken in turn, the fastest counts.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import numpy as np
from av.video.stream import VideoStream

from theseus_core.data.decode import open_film
from theseus_core.data.filters import PrepSettings, cut
from theseus_core.data.prepare import prepare
from theseus_core.data.resize import Resizer
from theseus_core.data.sources.folders import find
from theseus_core.data.worker import convert

CORPUS = Path(__file__).parents[2] / "shared" / "corpus"
SETTINGS = PrepSettings(min_frames=1, long="trim")
SIZE = (SETTINGS.width, SETTINGS.height)
RESIZER = Resizer(SIZE, SETTINGS.fit)
Way = Callable[[Path], object]


def plain(path: Path) -> Iterator[av.VideoFrame]:
    """PyAV as its manual shows it, without threads, up to the frame that tells that a clip is too long."""
    with av.open(str(path), metadata_errors="ignore") as container:
        stream = container.streams.video[0]
        stream.thread_type = "NONE"
        for number, frame in enumerate(container.decode(stream)):
            yield frame
            if number == SETTINGS.max_frames:
                return


def decode_only(path: Path) -> None:
    for _ in plain(path):
        pass


def obvious(path: Path) -> None:
    for number, frame in enumerate(plain(path)):
        if number < SETTINGS.max_frames:
            frame.to_ndarray(width=SIZE[0], height=SIZE[1], format="rgb24")


def ours(path: Path) -> int:
    with open_film(path) as film:
        return sum(len(frames) for frames, _ in cut(film, RESIZER.of(film), SETTINGS))


def whole(path: Path) -> None:
    """With hash, compression, and the write to the disk."""
    with tempfile.TemporaryDirectory() as folder:
        convert(path, Path(folder) / "clip", SETTINGS, RESIZER)


WAYS: dict[str, Way] = {
    "decode only (ceiling)": decode_only,
    "to_ndarray(width, height)": obvious,
    "theseus": ours,
    "with packing": whole,
}


def measure(paths: list[Path], rounds: int) -> dict[str, float]:
    """Frames a CPU-second of every way; all count the frames of the clips, though they read one more."""
    frames = sum(ours(path) for path in paths)  # and a warm-up
    seconds = dict.fromkeys(WAYS, float("inf"))
    for _ in range(rounds):
        for name, way in WAYS.items():
            start = time.process_time()
            for path in paths:
                way(path)
            seconds[name] = min(seconds[name], time.process_time() - start)
    return {name: round(frames / spent, 1) for name, spent in seconds.items()}


def shares(speeds: dict[str, float]) -> dict[str, float]:
    ceiling, naive, mine, _ = speeds.values()
    return {"of the ceiling": round(mine / ceiling, 3), "over to_ndarray": round(mine / naive, 3)}


def sort_out(folder: Path) -> dict[str, list[Path]]:
    """The good files, GIFs and videos apart."""
    kinds: dict[str, list[Path]] = {"gif": [], "video": []}
    with tempfile.TemporaryDirectory() as spool:
        for file in find([folder], Path(spool)):
            if "clips" in convert(file.path, Path(spool) / "clip", SETTINGS, RESIZER):
                kinds["gif" if file.path.suffix.lower() == ".gif" else "video"].append(file.path)
    return {kind: paths for kind, paths in kinds.items() if paths}


def make_clips(folder: Path) -> None:
    """Something to measure where there is no corpus: a bright disc on a drifting texture, as GIF and as H.264."""
    noise = np.random.default_rng(0).integers(0, 200, (48, 64, 3), dtype=np.uint8).repeat(8, axis=0).repeat(8, axis=1)
    y, x = np.mgrid[:384, :512]
    for ending, codec, pixels in ((".gif", "gif", "rgb8"), (".mp4", "libx264", "yuv420p")):
        for clip in range(6):
            with av.open(str(folder / f"{clip}{ending}"), "w") as container:
                stream = container.add_stream(codec, rate=10)
                assert isinstance(stream, VideoStream)
                stream.width, stream.height, stream.pix_fmt = 512, 384, pixels
                for t in range(24):
                    picture = np.roll(noise, t * (clip + 1), axis=1)
                    picture[(x - 40 - 16 * t) ** 2 + (y - 190) ** 2 < 3600] = 255
                    container.mux(stream.encode(av.VideoFrame.from_ndarray(picture).reformat(format=pixels)))
                container.mux(stream.encode())


def run_whole(folder: Path, workers: int) -> dict[str, float]:
    """A whole run of `prep`, in wall seconds, with the share of the raw frames that the chunks take."""
    with tempfile.TemporaryDirectory() as output:
        start = time.perf_counter()
        done = prepare([folder], Path(output) / "dataset", SETTINGS, workers=workers)
        seconds = time.perf_counter() - start
    raw = done.frames * SIZE[0] * SIZE[1] * 3
    speed = round(done.frames / seconds, 1)
    return {"workers": workers, "files": done.found, "frames/s": speed, "storage share of raw": round(done.bytes / raw, 3)}


def report(folder: Path, rounds: int) -> dict[str, dict[str, float]]:
    table = {}
    for kind, paths in sort_out(folder).items():
        speeds = measure(paths, rounds)
        table[kind] = speeds | shares(speeds)
    return table | {f"whole run, {workers} workers": run_whole(folder, workers) for workers in (1, 2)}


def main(folder: Path | None = None, rounds: int = 5) -> dict[str, dict[str, float]]:
    """All figures, over `folder`, else the corpus, else clips made here."""
    folder = folder or (CORPUS if CORPUS.is_dir() else None)
    if folder is not None:
        return report(folder, rounds)
    with tempfile.TemporaryDirectory() as made:
        make_clips(Path(made))
        return report(Path(made), rounds)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    figures = main(arguments.folder, arguments.rounds)
    if arguments.json:
        json.dump(figures, sys.stdout, indent=2)
    for name, row in {} if arguments.json else figures.items():
        print(f"{name}: " + ", ".join(f"{key} {value:,}" for key, value in row.items()))
