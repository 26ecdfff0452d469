"""Imports point one way, families stand alone, and `theseus --help` pays for nothing heavy."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LEVELS = [
    {"errors"},
    {"ahead", "config", "files", "device", "versions", "colour", "quiet"},
    {"contracts", "data.clip", "words"},
    {"data", "nn", "losses", "diffusion", "world"},
    {"render", "text", "tokenizers", "generators"},
    {"registry", "presets", "quantize", "offload", "pretrained", "bundled"},
    {"model_folder"},
    {"train", "beginnings", "pipeline"},
    {"recipe", "reconstruct", "doctor", "estimate"},
    {"evaluate"},
]
FAMILIES = ("text", "tokenizers", "generators")
HEAVY = {
    "torch",
    "torchvision",
    "av",
    "numpy",
    "transformers",
    "matplotlib",
    "PIL",
    "bitsandbytes",
    "safetensors",
    "pydantic",
    "yaml",
}
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for package in ("theseus_core", "theseus_cli")
    for path in sorted((ROOT / package).rglob("*.py"))
}


def imports_of(name: str) -> set[str]:
    """Modules that a module imports when it is imported, as far as they are ours, and the top-level names of all others."""
    found = set()
    for node in at_module_level(ast.parse(MODULES[name].read_text()).body):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} imports relatively"
            found |= {
                f"{node.module}.{alias.name}" if f"{node.module}.{alias.name}" in MODULES else str(node.module)
                for alias in node.names
            }
    return {module if module in MODULES else module.split(".")[0] for module in found}


def at_module_level(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        yield node
        for field in ("body", "orelse", "finalbody"):
            yield from at_module_level(getattr(node, field, []))


def level(name: str) -> int | None:
    """The place of a module of theseus_core in the order; None for the package itself."""
    parts = name.split(".")[1:]
    for key in (".".join(parts[:2]), *parts[:1]):
        for number, names in enumerate(LEVELS):
            if key in names:
                return number
    assert not parts, f"{name} has no place in LEVELS"
    return None


@pytest.mark.parametrize("name", [name for name in MODULES if name.startswith("theseus_core.")])
def test_imports_point_down(name: str) -> None:
    for imported in imports_of(name):
        if imported.startswith("theseus_cli"):
            pytest.fail(f"{name} imports the command line")
        if imported.startswith("theseus_core."):
            mine, other = level(name), level(imported)
            assert mine is not None
            assert other is None or other <= mine, f"{name} imports {imported}, which stands above it"


@pytest.mark.parametrize("group", FAMILIES)
def test_families_stand_alone(group: str) -> None:
    families = [name for name in MODULES if name.startswith(f"theseus_core.{group}.")]
    assert families
    for name in families:
        others = {f"theseus_core.{other}" for other in FAMILIES} | {"theseus_core.train", "theseus_core.pipeline"}
        assert not [found for found in imports_of(name) if ".".join(found.split(".")[:2]) in others], name


def test_the_trainer_names_no_family() -> None:
    families = [name for name in MODULES if name.count(".") == 2 and name.split(".")[1] in FAMILIES]
    for name, path in MODULES.items():
        if name.startswith("theseus_core.train."):
            assert not [family for family in families if family in imports_of(name)], name
            if name == "theseus_core.train.runs":  # whose settings say which family is trained unless another is asked for
                continue
            words = {node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)}
            assert not [family for family in families if family.split(".")[-1] in words], name


@pytest.mark.parametrize("name", [name for name in MODULES if name.startswith("theseus_cli")])
def test_commands_import_the_core_inside_their_functions(name: str) -> None:
    allowed = {"theseus_core", "theseus_core.errors"}
    for imported in imports_of(name):
        assert imported not in HEAVY, f"{name} imports {imported}"
        assert not imported.startswith("theseus_core") or imported in allowed, f"{name} imports {imported}"


def test_help_imports_little() -> None:
    program = """
import json, sys
before = set(sys.modules)
from theseus_cli.main import main
try:
    main(["--help"])
except SystemExit as end:
    assert end.code == 0, end.code
print(json.dumps(sorted(set(sys.modules) - before)), file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True)
    imported = json.loads(done.stderr.splitlines()[-1])
    assert "typer" in imported
    assert not HEAVY & set(imported)
    assert len(imported) < 450, "typer and rich are about 300 modules; a heavy library brings many hundreds"


def test_a_bundled_model_makes_a_video_without_the_compiler(tmp_path: Path) -> None:
    program = """
import sys
from theseus_cli.main import main
try:
    main(["generate", "a red circle moving left", "--steps", "1", "--output", sys.argv[1]])
except SystemExit as end:
    assert not end.code, end.code
assert "torch" in sys.modules and "torch._dynamo" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "out.mp4")], cwd=ROOT, check=True)
    assert (tmp_path / "out.mp4").exists()
