"""Configurations: pydantic models that forbid unknown keys, and the three ways into them (preset, YAML file, `--set`)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from theseus_core.errors import TheseusError, nearest


class Config(BaseModel):
    """The base of every configuration: frozen, and refusing keys that nobody reads."""

    model_config = ConfigDict(extra="forbid", frozen=True)


C = TypeVar("C", bound=Config)
Tree = dict[str, Any]


def merge(base: Tree, *changes: Tree) -> Tree:
    """`base` with every change laid over it, nested dictionaries merged key by key; the inputs stay as they are.

    Raises:
        TheseusError: a change gives one value to a whole group of settings.
    """
    merged = dict(base)
    for change in changes:
        for key, value in change.items():
            old = merged.get(key)
            if isinstance(old, dict) and not isinstance(value, dict):
                raise TheseusError(f"{key} is a group of settings and cannot be: {value}", hint=f"for example {key}.a=value")
            merged[key] = merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def assignments(settings: list[str]) -> Tree:
    """`["model.width=256", "train.lr=1e-3"]` as a nested dictionary; values are read as YAML.

    Raises:
        TheseusError: an entry is not of the form `a.b=value`.
    """
    tree: Tree = {}
    for setting in settings:
        path, equals, value = setting.partition("=")
        keys = path.strip().split(".")
        if not equals or not all(keys):
            raise TheseusError(f"not a setting of the form a.b=value: {setting}", hint="for example --set model.width=256")
        leaf: Any = _scalar(value)
        for key in reversed(keys):
            leaf = {key: leaf}
        tree = merge(tree, leaf)
    return tree


def _scalar(text: str) -> Any:
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise TheseusError(f"not a value: {text}", hint=" ".join(str(error).split())) from error
    if isinstance(value, str):  # YAML 1.1 reads 1e-3 as a string for want of a dot
        try:
            return float(value)
        except ValueError:
            return value
    return value


def read_yaml(path: Path) -> Tree:
    """A YAML file as a nested dictionary.

    Raises:
        TheseusError: the file is missing, is not YAML, or holds no mapping.
    """
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise TheseusError(f"cannot read the config file: {path}", hint=error.strerror) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise TheseusError(f"not a YAML file: {path}", hint=" ".join(str(error).split())) from error
    if not isinstance(tree, dict):
        raise TheseusError(f"the config file holds no keys: {path}", hint="a line looks like `frames: 17`")
    return tree


def validate(kind: type[C], tree: Tree, prefix: str = "") -> C:
    """Build `kind` from a tree of plain values.

    Args:
        prefix: what stands before a key in messages, where the tree is a part of a larger one.

    Raises:
        TheseusError: an unknown key (the nearest known one is named), or a value out of its range.
    """
    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        first = error.errors()[0]
        path = [str(part) for part in first["loc"]]
        where = prefix + ".".join(path)
        if first["type"] == "extra_forbidden":
            raise TheseusError(f"unknown key: {where}", hint=nearest(path[-1], _known_keys(kind, path[:-1]))) from error
        raise TheseusError(f"{where}: {first['msg'].lower()}: {first['input']}", hint=_describe(kind, path)) from error


def _at(kind: type[BaseModel], path: list[str]) -> type[BaseModel] | None:
    node: type[BaseModel] | None = kind
    for key in path:
        field = node.model_fields.get(key) if node is not None else None
        inner = field.annotation if field is not None else None
        node = inner if isinstance(inner, type) and issubclass(inner, BaseModel) else None
    return node


def _known_keys(kind: type[BaseModel], path: list[str]) -> list[str]:
    node = _at(kind, path)
    return sorted(node.model_fields) if node is not None else []


def _describe(kind: type[BaseModel], path: list[str]) -> str | None:
    node = _at(kind, path[:-1])
    field = node.model_fields.get(path[-1]) if node is not None and path else None
    return f"{path[-1]}: {field.description}" if field is not None and field.description else None


def dump(config: BaseModel) -> Tree:
    """Plain JSON values, so that what is written is what is read back."""
    tree: Tree = json.loads(config.model_dump_json())
    return tree
