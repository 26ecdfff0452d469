"""Every figure of this machine in one command: `python -m benchmarks [--json FILE] [SECTION...]`.

Each section runs in a process of its own, so that its peak memory is its own; each figure stands beside its ceiling.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

SECTIONS = ["machine", "prep", "train vae", "train transformer", "generate"]


def measure(section: str) -> dict[str, Any]:
    """The figures of one section, in this process."""
    if section == "machine":
        from benchmarks import machine

        return machine.measure()
    if section == "prep":
        from benchmarks import prep

        return prep.main()
    if section == "generate":
        from benchmarks import generation

        return generation.measure()
    from benchmarks import training

    return training.measure_vae() if section == "train vae" else training.measure_transformer()


def peak_memory_gib() -> float:
    """Of this process: KiB on Linux, bytes on macOS."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**30 if sys.platform == "darwin" else 2**20), 2)


def in_a_process(section: str) -> dict[str, Any]:
    words = [sys.executable, "-m", "benchmarks", "--child", section]
    answer = subprocess.run(words, check=True, stdout=subprocess.PIPE, cwd=Path(__file__).parents[1]).stdout
    figures: dict[str, Any] = json.loads(answer.splitlines()[-1])
    return figures


def show(section: str, figures: dict[str, Any]) -> None:
    print(f"\n{section}")
    for name, value in figures.items():
        if isinstance(value, dict):
            listed = ", ".join(f"{key} {inner:,}" for key, inner in value.items())
            print(f"  {name:38} {listed}")
        else:
            print(f"  {name:38} {value}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=f"of: {', '.join(SECTIONS)}; all unless named")
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    parser.add_argument("--child", choices=SECTIONS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps({**measure(arguments.child), "peak memory GiB": peak_memory_gib()}))
        return
    unknown = [name for name in arguments.sections if name not in SECTIONS]
    if unknown:
        parser.error(f"no such section: {unknown[0]}")
    table = {}
    for section in arguments.sections or SECTIONS:
        table[section] = in_a_process(section)
        show(section, table[section])
    if arguments.json:
        arguments.json.write_text(json.dumps(table, indent=2) + "\n")


if __name__ == "__main__":
    main()
