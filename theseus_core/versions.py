"""What computes here: the versions that are kept beside whatever is made."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

from theseus_core import __version__

LIBRARIES = ("torch", "av", "numpy")  # what results depend on, besides this package and Python


def versions() -> dict[str, str]:
    """Of this package, of Python, and of the libraries that decide the numbers and the bytes."""
    found = {"theseus": __version__, "python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # installed without its metadata
            found[name] = "unknown"
    return found
