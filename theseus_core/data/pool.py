"""Worker processes under supervision: a deadline for every file, a new worker for every dead one, answers in order of the jobs."""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import theseus_core
from theseus_core.config import Tree
from theseus_core.data.filters import PrepSettings
from theseus_core.errors import TheseusError

PROGRAM = "from theseus_core.data.worker import main; main()"
START_SECONDS = 120  # for a worker to import what it needs on a very busy machine
AHEAD = 4  # files per worker that may be finished before it is their turn


@dataclass(frozen=True, slots=True)
class Job:
    """A file to convert, and where its encoded clips go."""

    path: Path
    spool: Path


class Pool(AbstractContextManager["Pool"]):
    """`count` worker processes, each fed and watched by a thread of its own."""

    def __init__(self, count: int, settings: PrepSettings) -> None:
        self._settings, self._count = settings, count
        self._threads = ThreadPoolExecutor(count, thread_name_prefix="prep")
        self._local = threading.local()
        self._workers: list[Worker] = []

    def run(self, jobs: Iterable[Job]) -> Iterator[Tree]:
        """The answers (see `worker.convert`) in the order of the jobs, however many workers there are."""
        waiting: deque[Future[Tree]] = deque()
        for job in jobs:
            waiting.append(self._threads.submit(self._convert, job))
            if len(waiting) >= self._count * AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    def _convert(self, job: Job) -> Tree:
        if not hasattr(self._local, "worker"):
            self._local.worker = Worker(self._settings)
            self._workers.append(self._local.worker)
        worker: Worker = self._local.worker
        return worker.convert(job)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
        for worker in self._workers:
            worker.kill()
        self._threads.shutdown(wait=True)
        for worker in self._workers:
            worker.end()


class Worker:
    """One worker process, and its successors."""

    def __init__(self, settings: PrepSettings) -> None:
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None
        self._rest = b""
        self._closed = False

    def convert(self, job: Job) -> Tree:
        """What the worker answers, or why it cannot any more: reason timeout or crashed."""
        if self._process is not None and self._process.poll() is not None:
            self.end()  # it died in peace: not the fault of this file
        process = self._process or self._start()
        assert process.stdin is not None
        try:
            process.stdin.write(json.dumps({"path": str(job.path), "spool": str(job.spool)}).encode() + b"\n")
            process.stdin.flush()
            return self._answer(process, self._settings.timeout)
        except TimeoutError:
            self.end()
            return {"reason": "timeout", "detail": f"more than {self._settings.timeout:g} seconds"}
        except (EOFError, OSError):
            return {"reason": "crashed", "detail": _death(self.end())}

    def kill(self) -> None:
        """From another thread: let whatever `convert` waits for come to its end."""
        self._closed = True
        if self._process is not None:
            self._process.kill()

    def _start(self) -> subprocess.Popen[bytes]:
        if self._closed:
            raise EOFError("the pool is closed")
        package = str(Path(theseus_core.__file__).parent.parent)
        paths = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
        one_thread = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}  # or every thread would reserve memory to itself
        process = self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", PROGRAM],
            env={**os.environ, **one_thread, "PYTHONPATH": os.pathsep.join(paths)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # an interrupt from the keyboard is the parent's to answer
        )
        assert process.stdin is not None
        try:
            process.stdin.write(self._settings.model_dump_json().encode() + b"\n")
            process.stdin.flush()
            self._answer(process, START_SECONDS)
        except (EOFError, OSError) as error:  # TimeoutError is an OSError
            message = f"a worker process does not start: {_death(self.end())}"
            raise TheseusError(message, hint="is there memory left, and is the package whole? theseus doctor") from error
        return process

    def _answer(self, process: subprocess.Popen[bytes], seconds: float) -> Tree:
        assert process.stdout is not None
        deadline = time.monotonic() + seconds
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            while b"\n" not in self._rest:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    raise TimeoutError
                data = os.read(process.stdout.fileno(), 1 << 16)
                if not data:
                    raise EOFError
                self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        answer: Tree = json.loads(line)
        return answer

    def end(self) -> int:
        """End the process and say how it ended."""
        process, self._process, self._rest = self._process, None, b""
        if process is None:
            return 0
        process.kill()  # changes nothing for one that is dying already
        code = process.wait()
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            with suppress(OSError):  # what was still to be written to the dead
                pipe.close()
        return code


def _death(code: int) -> str:
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
