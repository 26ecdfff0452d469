"""What this machine can do, and what is wrong with it."""

from __future__ import annotations

import importlib
import platform
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from theseus_core import __version__

LEAST_DISK = 2 * 2**30  # bytes; a small dataset and a run


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        ok: False where something is wrong that stops a command from working.
        hint: what to do about it, or what to know.
    """

    what: str
    found: str
    ok: bool = True
    hint: str = ""


def examine(folder: Path = Path()) -> list[Finding]:
    """Look at everything that the commands need; `folder` is where they would write."""
    checks: list[Callable[[], list[Finding]]] = [
        _python,
        _torch,
        _torchvision,
        _devices,
        _codecs,
        lambda: [_library(name) for name in ("transformers", "bitsandbytes")],
        lambda: [_disk(folder)],
    ]
    return [finding for check in checks for finding in check()]


def _python() -> list[Finding]:
    fine = sys.version_info >= (3, 11)
    hint = "" if fine else "Python 3.11 or newer is needed"
    return [Finding("theseus", __version__), Finding("python", f"{platform.python_version()} on {platform.platform()}", fine, hint)]


def _torch() -> list[Finding]:
    import torch

    return [Finding("torch", f"{torch.__version__}, {torch.get_num_threads()} threads")]


def _torchvision() -> list[Finding]:
    """torchvision is compiled against one torch; with another it fails at import, or later with an operator that is missing."""
    import torch

    try:
        found = version("torchvision")
    except PackageNotFoundError:
        return [Finding("torchvision", "not installed", False, f"pip install torch=={_public(torch.__version__)} torchvision")]
    try:
        importlib.import_module("torchvision")
    except (ImportError, RuntimeError, AttributeError, OSError) as error:
        return [Finding("torchvision", f"{found} does not import: {_short(error)}", False, pair_hint(found, torch.__version__))]
    return [Finding("torchvision", found)]


def pair_hint(torchvision: str, torch: str) -> str:
    """Which torchvision goes with this torch, and the command that installs it."""
    wanted = [line for line in requires("torchvision") or [] if line.split(";")[0].strip().startswith("torch")]
    built_for = (
        f"torchvision {torchvision} asks for {wanted[0].split(';')[0].strip()}, and here is torch {torch}; " if wanted else ""
    )
    return f"{built_for}install a pair: pip install --force-reinstall torch=={_public(torch)} torchvision"


def _devices() -> list[Finding]:
    import torch

    from theseus_core.device import has_fast_bf16, pick_device

    names = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    names += ["mps"] if torch.backends.mps.is_available() else []
    findings = []
    for name in [*names, "cpu"]:
        device = torch.device(name)
        model = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
        fast = "bf16 is fast, and is what auto takes" if has_fast_bf16(device) else "bf16 is slow here, auto takes fp32"
        findings.append(Finding(f"device {name}", f"{model}; {fast}"))
    return [*findings, Finding("device auto", str(pick_device()))]


def _codecs() -> list[Finding]:
    import av

    from theseus_core.render.video import CODECS, can_encode

    findings = [Finding("av", f"{av.__version__}, FFmpeg libavcodec {'.'.join(map(str, av.library_versions['libavcodec']))}")]
    for ending, codec in CODECS.items():
        there = [name for name in codec.encoders if can_encode(name)]
        hint = "" if there else "pip install --force-reinstall av"
        findings.append(Finding(f"writes {ending}", there[0] if there else "no encoder", bool(there), hint))
    return findings


def _library(name: str) -> Finding:
    """A library that some options need; it must import, or those options fail late."""
    try:
        importlib.import_module(name)
    except (ImportError, RuntimeError, AttributeError, OSError) as error:
        return Finding(name, f"does not import: {_short(error)}", False, f"pip install --force-reinstall {name}")
    return Finding(name, version(name))


def _disk(folder: Path) -> Finding:
    free = shutil.disk_usage(folder).free
    fine = free >= LEAST_DISK
    return Finding(
        "disk", f"{free / 2**30:.1f} GiB free in {folder.resolve()}", fine, "" if fine else "a dataset and a run need more room"
    )


def _public(number: str) -> str:
    return number.split("+")[0]


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:160]
