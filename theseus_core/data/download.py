"""Fetching the GIFs of a table: several at a time, each under a temporary name until it is whole, and no dead link asked twice.

What cannot be used (a page or a picture in place of a GIF, a still, a link that is gone) is remembered in `dropped.tsv` beside the
GIFs, with the reason; what failed for another reason (no network, a busy server) is tried again by the next start, which
goes on with what is missing.
"""

from __future__ import annotations

import http.client
import os
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from theseus_core.data.gif import DamagedGif, Gif
from theseus_core.errors import TheseusError
from theseus_core.files import printable, read_lines, replacing

DROPPED = "dropped.tsv"  # name, tab, reason
GONE = (400, 401, 403, 404, 410, 451)  # answers that will be the same tomorrow
MOST_BYTES = 64 * 2**20  # of a GIF; the largest of TGIF are a few MiB
USER_AGENT = "Mozilla/5.0 (compatible; theseus-video)"  # some servers refuse a Python

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Fetched:
    """What became of the links.

    Attributes:
        wanted: names in all.
        there: files that were there before.
        fetched: files that came now.
        dropped: reasons and counts of what cannot be used, now and before.
        failed: reasons and counts of what may work another time.
    """

    wanted: int
    there: int
    fetched: int
    dropped: dict[str, int]
    failed: dict[str, int]


class _Dropped(Exception):
    """A link that will never give a clip."""


def download(
    urls: Mapping[str, str], folder: Path, *, workers: int = 8, timeout: float = 30, progress: Progress | None = None
) -> Fetched:
    """Fetch files that are not there yet.

    Args:
        urls: by the name that the file gets; names without a folder in them.
        workers: connections at a time.
        timeout: seconds of silence after which a server is given up.
        progress: called with links done and links in all.

    Raises:
        TheseusError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        dropped = _read_dropped(folder)
        there = {path.name for path in folder.iterdir()}
        todo = {name: url for name, url in urls.items() if name not in there and name not in dropped}
        failed: Counter[str] = Counter()
        with (folder / DROPPED).open("a", encoding="utf-8") as memory, ThreadPoolExecutor(workers) as pool:
            jobs = {pool.submit(_fetch, url, folder / name, timeout): name for name, url in todo.items()}
            try:
                for done, job in enumerate(as_completed(jobs), 1):
                    name, (reason, for_good) = jobs[job], job.result()
                    if reason and for_good:
                        dropped[name] = reason
                        memory.write(f"{printable(name)}\t{reason}\n")
                        memory.flush()
                    elif reason:
                        failed[reason] += 1
                    if progress is not None:
                        progress(done, len(todo))
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    except OSError as error:
        raise TheseusError(f"cannot write to: {folder}", hint=error.strerror or str(error)) from error
    lost = Counter(reason for name, reason in dropped.items() if name in urls)
    fetched = len(todo) - sum(failed.values()) - sum(name in dropped for name in todo)
    before = sum(name in there for name in urls)
    return Fetched(len(urls), before, fetched, dict(sorted(lost.items())), dict(sorted(failed.items())))


def _read_dropped(folder: Path) -> dict[str, str]:
    if not (folder / DROPPED).exists():
        return {}
    rows = (line.split("\t") for line in read_lines(folder / DROPPED, errors="replace"))
    return {row[0]: row[1] for row in rows if len(row) == 2}  # a torn last line is forgotten


def _fetch(url: str, path: Path, timeout: float) -> tuple[str, bool]:
    """Fetch one file; "" where it is there now, else the reason why not, and whether that is for good.

    Raises:
        TheseusError: the disk cannot be written.
    """
    try:
        data = _get(url, timeout)
        _check_animated(data)
    except _Dropped as error:
        return str(error), True
    except urllib.error.HTTPError as error:
        error.close()
        return f"the server answers {error.code}", error.code in GONE
    except (OSError, http.client.HTTPException, ValueError) as error:
        cause = getattr(error, "reason", error)
        return f"no answer: {getattr(cause, 'strerror', None) or type(cause).__name__}", False
    with replacing(path) as part:
        part.write_bytes(data)
        with part.open("rb") as file:
            os.fsync(file.fileno())
    return "", False


def _get(url: str, timeout: float) -> bytes:
    if urlsplit(url).scheme not in ("http", "https"):
        raise _Dropped("not a link of the web")
    request = urllib.request.Request(url, headers={"User-Agent": USER_AGENT})
    with urllib.request.urlopen(request, timeout=timeout) as answer:
        data: bytes = answer.read(MOST_BYTES + 1)
        said = answer.headers.get("Content-Length")
    if len(data) > MOST_BYTES:
        raise _Dropped(f"more than {MOST_BYTES >> 20} MiB")
    if said is not None and said.isdigit() and len(data) < int(said):
        raise http.client.IncompleteRead(data, int(said) - len(data))
    return data


def _check_animated(data: bytes) -> None:
    if not data.startswith((b"GIF87a", b"GIF89a")):
        raise _Dropped("no GIF")
    try:
        pictures = len(Gif(data).pictures)
    except DamagedGif as error:
        raise _Dropped("damaged") from error
    if pictures < 2:
        raise _Dropped("a still")
