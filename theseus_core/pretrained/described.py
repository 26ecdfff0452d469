"""Configurations in the diffusers layout: plain JSON, in which the name of a class stands beside its settings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from theseus_core.config import Tree
from theseus_core.errors import TheseusError
from theseus_core.files import read_json


def read_description(path: Path, classes: Sequence[str]) -> tuple[str, Tree]:
    """The name of the class, one of `classes`, and its settings, without those that begin with an underscore.

    Raises:
        TheseusError: the file is missing or damaged, or describes something else.
    """
    tree = read_json(path)
    if not isinstance(tree, dict):
        raise TheseusError(f"damaged configuration: {path}")
    name = tree.get("_class_name")
    if name not in classes:
        raise TheseusError(f"not the configuration of a {' or '.join(classes)}, {path}: {name}")
    return str(name), {key: value for key, value in tree.items() if not key.startswith("_")}
