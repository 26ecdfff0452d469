"""What the user sees: data on stdout, and everything else (messages, tables, progress) on stderr."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.text import Text

# Prompts and paths go through here: no markup, no emoji codes, no guessing of what deserves a colour.
# Rich itself obeys NO_COLOR, and leaves colours out where the output is no terminal.
out = Console(markup=False, emoji=False, highlight=False, soft_wrap=True)
err = Console(stderr=True, markup=False, emoji=False, highlight=False)

Progress = Callable[[int, int], None]  # (done, total), as in theseus_core.contracts, which is too heavy to import here


def emit(value: Any) -> None:
    """One line of data on stdout: a path as it is, anything else as JSON."""
    from theseus_core.files import printable

    out.print(printable(json.dumps(value, ensure_ascii=False) if isinstance(value, (dict, list)) else str(value)))


def say(*parts: Any) -> None:
    """A message on stderr."""
    err.print(*parts, soft_wrap=True)


def say_next(command: str) -> None:
    """The command that comes next."""
    err.print(Text("next: ", style="bold green") + Text(command, style="bold"), soft_wrap=True)


def warn(message: str) -> None:
    """Something the user should know, though the work goes on."""
    err.print(Text("warning: ", style="bold yellow") + Text(message), soft_wrap=True)


def fail(message: str, hint: str | None = None) -> None:
    """`error: ...`, and below it `hint: ...`, as the error boundary prints them."""
    err.print(Text("error: ", style="bold red") + Text(message), soft_wrap=True)
    if hint:
        err.print(Text("hint: ", style="bold cyan") + Text(hint), soft_wrap=True)


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]], title: str | None = None) -> None:
    """A table on stderr. Columns of numbers are aligned to the right."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    view = Table(title=title, box=SIMPLE_HEAD, title_justify="left", pad_edge=False)
    for place, name in enumerate(columns):
        numeric = all(isinstance(row[place], (int, float)) for row in rows)
        view.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        view.add_row(*[Text(_shown(value)) for value in row])
    err.print(view)


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else f"{value:,}" if type(value) is int else str(value)


@contextmanager
def progress(label: str, total: int | None = None) -> Iterator[Progress]:
    """A progress bar on stderr, moved by the callback it gives; nothing at all where stderr is no terminal.

    >>> with progress("sampling", 20) as advance:
    ...     advance(1, 20)
    """
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Bar(*columns, console=err, transient=True, disable=not err.is_terminal) as bar:
        task = bar.add_task(label, total=total)
        yield lambda done, whole: bar.update(task, completed=done, total=whole)
