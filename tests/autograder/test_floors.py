"""The autograder knows nothing of genmodels, and its trusted side imports no torch."""

import ast
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "autograder"
MODULES = sorted(PACKAGE.rglob("*.py"))
STUDENTS_SIDE = {"executor", "worker"}  # these run where the student's code runs
TRUSTED = [path for path in MODULES if path.stem not in STUDENTS_SIDE and "attacks" not in path.parts]
ALSO_IN_THE_ZIP = ("checks", "diagnosis", "errors", "executor", "notebook", "proxies", "submission", "values")


def imported(path: Path, *, everywhere: bool) -> set[str]:
    """Top-level packages that a module imports; `.` for its own package."""
    tree = ast.parse(path.read_text("utf-8"))
    nodes = ast.walk(tree) if everywhere else tree.body
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {a.name.partition(".")[0] for a in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add("." if node.level else (node.module or "").partition(".")[0])
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_no_module_imports_genmodels(path):
    assert "genmodels" not in imported(path, everywhere=True)


@pytest.mark.parametrize("path", TRUSTED, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_the_trusted_side_does_not_import_torch(path):
    assert "torch" not in imported(path, everywhere=False)


@pytest.mark.parametrize("name", ALSO_IN_THE_ZIP)
def test_what_students_get_needs_no_more_than_numpy_and_torch(name):
    standard = {"numpy", "torch", "."}
    assert imported(PACKAGE / f"{name}.py", everywhere=False) - set(sys.stdlib_module_names) <= standard
