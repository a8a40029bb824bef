"""The floors of the house: each imports only what stands below it, and importing the package stays light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "genmodels"

# From the ground up. A family is any other sub-package.
FLOORS = [
    {"errors"},
    {"model", "nets"},
    {"FAMILY"},
    {"zoo", "syllabus"},
    {"data", "distributed", "files", "plotting", "training"},
    {"runs", "measures"},
    {"tour", "notebook"},
    {"cli", "__main__"},
]
SHARED = set.union(*FLOORS) - {"FAMILY"}
FORBIDDEN_TO_FAMILIES = {"sklearn", "matplotlib", "tqdm", "safetensors", "torchvision"}
MODULES = sorted(p for p in PACKAGE.rglob("*.py") if p.name != "__init__.py" or p.parent != PACKAGE)


def part_of(path: Path) -> str:
    """The first name below the package: a floor's name or a family's."""
    relative = path.relative_to(PACKAGE)
    return relative.parts[0].removesuffix(".py")


def level(part: str) -> int:
    name = part if part in SHARED else "FAMILY"
    return next(i for i, floor in enumerate(FLOORS) if name in floor)


def imported(path: Path, *, inside_functions: bool) -> set[str]:
    """Dotted names that a module imports, without `if __name__ == "__main__"` and the demo that it may call."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    guarded = [n for n in tree.body if isinstance(n, ast.If) and "__main__" in ast.dump(n.test)]
    demos = [n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name in ("demo", "main")]
    body = [n for n in tree.body if n not in guarded + demos]
    nodes = [m for n in body for m in (ast.walk(n) if inside_functions else [n])]
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{a.name}" for a in node.names}
    return found


def own_parts(path: Path) -> set[str]:
    names = {n for n in imported(path, inside_functions=True) if n.startswith("genmodels.")}
    parts = {n.split(".")[1] for n in names}
    return {p for p in parts if (PACKAGE / p).is_dir() or (PACKAGE / f"{p}.py").is_file()}


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_down(path: Path) -> None:
    me = part_of(path)
    for part in own_parts(path) - {me}:
        assert level(part) <= level(me), f"{me} must not import {part}"
        if level(me) == level("FAMILY"):
            assert part in {"errors", "model", "nets"} or level(part) == level("FAMILY")


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_family_module_composes_at_most_one_other_family(path: Path) -> None:
    me = part_of(path)
    if level(me) != level("FAMILY"):
        return
    others = {p for p in own_parts(path) - {me} if level(p) == level("FAMILY")}
    assert len(others) <= 1, f"{path.name} is built on {others}"
    outside = {n.split(".")[0] for n in imported(path, inside_functions=True)}
    if me != "evaluation":
        assert not outside & FORBIDDEN_TO_FAMILIES


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_modules_stay_readable(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    is_family = level(part_of(path)) == level("FAMILY")
    assert len(lines) <= (270 if is_family else 420), f"{len(lines)} lines"
    assert ast.get_docstring(ast.parse("\n".join(lines))), "a module says what it is"


def test_importing_the_package_and_listing_it_need_no_torch() -> None:
    code = (
        "import sys, genmodels; from genmodels.cli import main; main(['list']); main(['lectures', '--json']);"
        "assert not {'torch', 'numpy', 'matplotlib', 'scipy'} & set(sys.modules), 'heavy import'"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
