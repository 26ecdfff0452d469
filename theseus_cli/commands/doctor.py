"""`theseus doctor`: what this machine can do, and what is wrong with it."""

from __future__ import annotations

import typer

from theseus_cli import console
from theseus_cli.options import JsonOption


def doctor(json: JsonOption = False) -> None:
    """Say what this machine can do and what is wrong with it; exit with 1 if anything is."""
    from dataclasses import asdict

    from theseus_core.doctor import examine

    findings = examine()
    if json:
        console.emit([asdict(finding) for finding in findings])
    else:
        console.table(["", "what", "found"], [["ok" if f.ok else "wrong", f.what, f.found] for f in findings])
    wrong = [finding for finding in findings if not finding.ok]
    for finding in wrong:
        console.fail(f"{finding.what}: {finding.found}", finding.hint)
    if wrong:
        raise typer.Exit(1)
    console.say("nothing is wrong")
