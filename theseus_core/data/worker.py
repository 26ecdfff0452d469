"""The worker process of `prep`: a line of JSON in for each file, a line of JSON out, the encoded clips into a file of their own.

It lives apart from the parent because decoding strange files may hang, eat all memory or kill the process, and then that costs one
file. It imports no torch, and neither takes nor gives pickles.
"""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from theseus_core.config import Tree
from theseus_core.data.clip import spread
from theseus_core.data.decode import open_film
from theseus_core.data.filters import PrepSettings, Rejected, cut
from theseus_core.data.pictures import FRAME_RATE
from theseus_core.data.resize import Resizer
from theseus_core.data.shards import Frames, content_key, encode_frames


def main() -> None:
    """Say that the process stands, then serve until the parent closes the pipe."""
    answers, sys.stdout = sys.stdout, sys.stderr  # nothing else may write among the answers
    settings = PrepSettings.model_validate_json(sys.stdin.readline())
    _limit_memory(settings.memory)
    print(json.dumps({"ready": True}), file=answers, flush=True)
    resizer = Resizer((settings.width, settings.height), settings.fit)
    for line in sys.stdin:
        job = json.loads(line)
        _die_after(settings.timeout + 5)
        answer = convert(Path(job["path"]), Path(job["spool"]), settings, resizer)
        _die_after(0)
        print(json.dumps(answer), file=answers, flush=True)


def convert(path: Path, spool: Path, settings: PrepSettings, resizer: Resizer) -> Tree:
    """Make the clips of one file and write them, encoded and end to end, to `spool`.

    Returns:
        {"clips": [what `Record` needs to know of each]}, {"reason", "detail"} of a rejected file, or {"disk": why nothing can be
        written}, which is no fault of the file.
    """
    try:
        clips = []
        with open_film(path, settings.frame_rate or FRAME_RATE) as film, _Spool(spool) as encoded:
            for frames, fps in cut(film, resizer.of(film), settings):
                shape = {"frames": len(frames), "fps": fps, "width": settings.width, "height": settings.height}
                clips.append({"key": content_key(frames), **shape, "bytes": encoded.write(frames)})
            kept = spread(range(len(clips)), settings.per_file or len(clips))
            if len(kept) < len(clips):
                encoded.keep(kept)
        return {"clips": [clips[number] for number in kept]}
    except Rejected as rejected:
        return {"reason": rejected.reason, "detail": rejected.detail}
    except DiskError as error:
        return {"disk": str(error)}
    except MemoryError:
        return {"reason": "memory", "detail": f"more than {settings.memory} MiB"}
    except OSError as error:
        return {"reason": "unreadable", "detail": error.strerror or type(error).__name__}
    except Exception as error:  # whatever one file does to us, it is the file that is left out
        return {"reason": "crashed", "detail": f"{type(error).__name__}: {error}".replace(str(path), path.name)}


class DiskError(Exception):
    """The output cannot be written."""


class _Spool:
    """The file that takes the encoded clips of one source, until it is their turn."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> _Spool:
        try:
            self._file = self._path.open("w+b")
        except OSError as error:
            raise DiskError(error.strerror) from error
        self._ends = [0]
        return self

    def write(self, frames: Frames) -> int:
        data = encode_frames(frames)
        try:
            self._file.write(data)
            self._file.flush()
        except OSError as error:
            raise DiskError(error.strerror) from error
        self._ends.append(self._ends[-1] + len(data))
        return len(data)

    def keep(self, numbers: Sequence[int]) -> None:
        """Leave only these of the clips, which move to the front."""
        end = 0
        try:
            for number in numbers:
                self._file.seek(self._ends[number])
                data = self._file.read(self._ends[number + 1] - self._ends[number])
                self._file.seek(end)
                end += self._file.write(data)
            self._file.truncate(end)
        except OSError as error:
            raise DiskError(error.strerror) from error

    def __exit__(self, *_: object) -> None:
        self._file.close()


def _limit_memory(mebibytes: int) -> None:
    """Allow this many MiB of address space on top of what the process has mapped so far; only Linux can say and hold it."""
    if sys.platform != "linux":
        return
    import resource

    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limit = mapped + mebibytes * 2**20
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


def _die_after(seconds: float) -> None:
    """Set the alarm that ends a worker whose parent is gone (a living parent ends it sooner); 0 for never."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, seconds)  # the default action of SIGALRM is the end of the process
