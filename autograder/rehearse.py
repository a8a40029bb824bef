"""A built problem set in the hands of a student: real kernels that see the unpacked student zip and nothing of ours.

First the starter, top to bottom: each public check must give 0 points and say why. Then with the solution's cells put
in: nothing may fail or warn, each check must pass, pictures must be shown, and the zip that submit() writes must grade
to full marks. Needs nbclient and ipykernel (the extra `test`).
"""

from __future__ import annotations

import os
import re
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .errors import GraderError
from .grade import grade
from .problem_set import ProblemSet

SECONDS = 900  # of one cell: a training on a slow machine
ABSENT = ("autograder", "genmodels", "problem_sets", "jupytext", "scipy", "sklearn")
BLOCKER = f"""
import socket, sys

class Without:  # to raise here would break those who only look whether a package is there, as torch does
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in {ABSENT!r} else self.finder.find_spec(name, path, target)

    def __getattr__(self, name):
        return getattr(self.finder, name)

def connect(self, address, real=socket.socket.connect):
    if self.family != socket.AF_UNIX and address[0] not in ("127.0.0.1", "::1", "localhost"):
        raise OSError("there is no network")
    return real(self, address)

sys.meta_path[:] = map(Without, sys.meta_path)
socket.socket.connect = connect
"""


def run_notebook(path: Path, folder: Path) -> list[Any]:
    """Run a notebook's cells in a kernel of its own in `folder`, without our packages and without network.

    A cell that fails does not stop the next. Errors: GraderError if there is no kernel to run it in.
    """
    try:
        import ipykernel  # type: ignore[import-untyped,unused-ignore]  # noqa: F401
        import nbclient
        import nbformat
    except ModuleNotFoundError as error:
        raise GraderError(f"{error.name} is missing, and a kernel is needed: pip install nbclient ipykernel") from None
    notebook = nbformat.read(path, 4)
    with tempfile.TemporaryDirectory(prefix="rehearsal-") as blocker:
        Path(blocker, "sitecustomize.py").write_text(BLOCKER, "utf-8")
        client = nbclient.NotebookClient(
            notebook,
            timeout=SECONDS,
            allow_errors=True,
            resources={"metadata": {"path": str(folder)}},
            extra_arguments=["--log-level=ERROR"],
        )
        client.execute(env={**os.environ, "PYTHONPATH": blocker, "PYTHONNOUSERSITE": "1"})
    return list(notebook.cells)


def plain(outputs: list[Any]) -> str:
    """What a cell's outputs say in a terminal."""
    return "\n".join(o["data"]["text/plain"] if "data" in o else o.get("text") or o.get("evalue", "") for o in outputs)


def checks_of(cells: list[Any]) -> dict[str, str]:
    """What each check("...") of a notebook that was run has said."""
    found = {}
    for cell in cells:
        call = re.fullmatch(r"""check\(["'](\w+)["']\)""", cell["source"].strip())
        if cell["cell_type"] == "code" and call is not None:
            found[call[1]] = plain(cell.get("outputs", []))
    return found


def failed(cells: list[Any], allowed: str = "") -> list[str]:
    """A line for each cell that ended in an error of another kind than `allowed`, or printed a warning."""
    lines = []
    for number, cell in enumerate(cells):
        for output in cell.get("outputs", []):
            if output["output_type"] == "error" and output["ename"] != allowed:
                lines.append(f"cell {number} ends in {output['ename']}: {output['evalue'][:120]}")
            if output["output_type"] == "stream" and "Warning" in output["text"]:
                lines.append(f"cell {number} warns: {output['text'].strip().splitlines()[0][:120]}")
    return lines


def rehearse(ps: ProblemSet, built: Path, say: Callable[[str], None] = print) -> bool:
    """Play through what `autograder build` made in the folder `built`; True if all is as it should be."""
    import nbformat

    problems: list[str] = []
    archive, solution = built / f"{ps.name}_student.zip", built / f"{ps.name}_solution.ipynb"
    for path in (archive, solution):
        if not path.is_file():
            raise GraderError(f"{path} is missing: run autograder build {ps.name}")
    with tempfile.TemporaryDirectory(prefix="student-") as name:
        folder = Path(name)
        with zipfile.ZipFile(archive) as packed:
            packed.extractall(folder)  # our own zip, just built
        path = folder / f"{ps.name}.ipynb"

        start = time.monotonic()
        cells = run_notebook(path, folder)
        said = checks_of(cells)
        unmoved = [id for id in ps.questions if not re.search(r"public checks, 0 of \d", said.get(id, ""))]
        problems += [f"starter: the check of {id} says: {said.get(id, 'nothing')[:150]!r}" for id in unmoved]
        problems += [f"starter: {line}" for line in failed(cells, "NotImplementedError")]
        count = len(ps.questions)
        say(f"starter: {count - len(unmoved)} of {count} checks at 0 with a line ({time.monotonic() - start:.0f} s)")

        start = time.monotonic()
        notebook = nbformat.read(path, 4)
        sources = {cell["id"]: cell["source"] for cell in nbformat.read(solution, 4)["cells"]}
        for cell in notebook["cells"]:
            if cell["id"].startswith(("answer-", "written-")):
                cell["source"] = sources[cell["id"]]
        nbformat.write(notebook, path)
        cells = run_notebook(path, folder)
        said = checks_of(cells)
        short = [id for id in ps.questions if "public checks passed" not in said.get(id, "")]
        problems += [f"solution: the check of {id} says: {said.get(id, 'nothing')[:150]!r}" for id in short]
        problems += [f"solution: {line}" for line in failed(cells)]
        pictures = sum("image/png" in o.get("data", {}) for c in cells for o in c.get("outputs", []))
        if not pictures:
            problems.append("solution: no picture is shown")
        passed = f"{count - len(short)} of {count} checks passed, {pictures} pictures"
        say(f"solution: {passed} ({time.monotonic() - start:.0f} s)")

        submission = folder / f"{ps.name}_submission.zip"
        if submission.is_file():
            result = grade(ps, submission)
            say(f"its submission: {result.score:g} of {result.possible:g} points")
            if result.score < result.possible:
                problems.append(f"the submission earns {result.score:g} of {result.possible:g}")
        else:
            problems.append(f"submit() wrote nothing: {plain(cells[-1].get('outputs', []))[:200]}")
    for line in problems:
        say(f"       {line}")
    return not problems
