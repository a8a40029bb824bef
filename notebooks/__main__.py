"""Makes the lecture notebooks from their sources, with outputs from a real run, and shows that they are in step.

    python -m notebooks build [NAME ...]     run each source in a kernel and write notebooks/NAME.ipynb
    python -m notebooks build --check        is each committed notebook what its source makes, and run to the end?
    python -m notebooks smoke [NAME ...]     run each in a kernel with GENMODELS_SMOKE=1, write nothing
    python -m notebooks readme               put the table of the lectures (genmodels/syllabus.py) into README.md

A source is in jupytext's percent format; its first cell is the title. `build` puts the Colab badge and the installing
cell on top and turns links to files of the project, `](../genmodels/...)`, into addresses that also work on Colab.
The repository's address stands in pyproject.toml.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import genmodels
from genmodels.errors import UserError, unknown

HERE = Path(__file__).resolve().parent
SOURCES = HERE / "src"
ROOT = HERE.parent
MOST_BYTES = 6_000_000  # of all notebooks together, so that cloning and reading stay quick
SECONDS = {"build": 900, "smoke": 120}  # of one notebook, after which its kernel is ended

SETUP = """\
# On Colab this installs the release that the notebook was made with; elsewhere it does nothing.
import sys

if "google.colab" in sys.modules:
    import subprocess

    release = "genmodels @ git+{repository}@v{version}"
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", release], check=True)"""


def repository() -> str:
    """The address in pyproject.toml, the one place that has it."""
    text = (ROOT / "pyproject.toml").read_text("utf-8")
    found = re.search(r'^Repository = "(https://[^"]+?)/?"$', text, re.MULTILINE)
    if found is None:
        raise UserError('pyproject.toml has no line Repository = "https://..." under [project.urls]')
    return found[1]


def names() -> list[str]:
    """The notebooks that have a source, in the order of the lectures."""
    return sorted(path.stem for path in SOURCES.glob("lec*.py"))


def convert(name: str) -> Any:
    """The notebook that a source makes, without outputs."""
    import jupytext
    import nbformat

    notebook = jupytext.read(SOURCES / f"{name}.py", fmt="py:percent")
    address = repository()
    path = f"notebooks/{name}.ipynb"
    colab = address.replace("https://github.com/", "https://colab.research.google.com/github/")
    badge = f"[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]({colab}/blob/main/{path})"
    title = notebook.cells[0]
    if title.cell_type != "markdown" or not title.source.startswith("# "):
        raise UserError(f"notebooks/src/{name}.py must begin with a text cell that is its title (# ...)")
    title.source += f"\n\n{badge}"
    setup = nbformat.v4.new_code_cell(SETUP.format(repository=address, version=genmodels.__version__))
    notebook.cells.insert(1, setup)
    for i, cell in enumerate(notebook.cells):
        cell.id = f"{name[:5]}-{i:03d}"
        cell.metadata = nbformat.NotebookNode({"tags": cell.metadata["tags"]} if cell.metadata.get("tags") else {})
        if cell.cell_type == "markdown":
            cell.source = re.sub(r"\]\(\.\./([^)\s]+)\)", rf"]({address}/blob/main/\1)", cell.source)
    notebook.metadata = nbformat.NotebookNode(
        {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
            "genmodels": {"source": fingerprint(notebook)},
        }
    )
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    return notebook


def fingerprint(notebook: Any) -> str:
    """A hash of all cells; kept beside the outputs, it says which source they come from."""
    cells = [[cell.cell_type, cell.source] for cell in notebook.cells]
    return hashlib.sha256(json.dumps(cells).encode()).hexdigest()[:16]


def execute(notebook: Any, *, seconds: int, smoke: bool) -> float:
    """Run a notebook in a kernel of this Python, in an empty folder; returns the seconds. Errors: UserError."""
    try:
        from nbclient import NotebookClient
        from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
    except ModuleNotFoundError as error:
        raise UserError(f'{error.name} is missing: pip install -e ".[test]"') from None
    environment = {k: v for k, v in os.environ.items() if k != "GENMODELS_SMOKE"}
    environment |= {"GENMODELS_PROGRESS": "text", **({"GENMODELS_SMOKE": "1"} if smoke else {})}
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="notebook-") as folder:
        client = NotebookClient(
            notebook,
            timeout=seconds,
            kernel_name="python3",
            resources={"metadata": {"path": folder}},
            extra_arguments=["--log-level=ERROR"],
        )
        try:
            client.execute(env=environment)
        except CellExecutionError as error:
            raise UserError(f"a cell failed: {str(error).strip()}") from None
        except (CellTimeoutError, DeadKernelError) as error:
            raise UserError(f"the kernel ended: {str(error).strip().splitlines()[0]}") from None
    return time.monotonic() - start


def tidy(notebook: Any) -> None:
    """Keep of each output what a reader needs: a progress bar's last state, no run times in the metadata."""
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        cell.metadata.pop("execution", None)
        joined: list[Any] = []
        for output in cell.outputs:
            stream = output.output_type == "stream"
            if stream and joined and joined[-1].output_type == "stream" and joined[-1].name == output.name:
                joined[-1].text += output.text
            else:
                joined.append(output)
        for output in joined:
            if output.output_type == "stream":
                lines = [line.rsplit("\r", 1)[-1].rstrip() for line in output.text.replace("\r\n", "\n").split("\n")]
                output.text = re.sub(r"\n{3,}", "\n\n", "\n".join(lines))
        cell.outputs = [o for o in joined if o.output_type != "stream" or o.text.strip()]


def faults(notebook: Any) -> list[str]:
    """What a reader should not find in a notebook's outputs."""
    found = []
    counts = [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"]
    if counts != list(range(1, len(counts) + 1)):
        found.append("its cells were not run once each, from top to bottom")
    for i, cell in enumerate(notebook.cells):
        outputs = cell.get("outputs", [])
        for j, output in enumerate(outputs):
            if output.output_type == "error":
                found.append(f"cell {i} ended in {output.ename}: {output.evalue}")
            if output.output_type == "stream" and re.search(r"[Ww]arning|Traceback", output.text):
                found.append(f"cell {i} printed a warning: {output.text.strip().splitlines()[0][:100]}")
            data = output.get("data", {})
            if any("widget" in kind for kind in data) or " at 0x" in str(data.get("text/plain", "")):
                found.append(f"cell {i} leaves an output that says nothing once its kernel is gone")
            if "image/png" in data:
                after = outputs[j + 1].get("data", {}) if j + 1 < len(outputs) else {}
                if not str(after.get("text/markdown", "")).startswith("**What to see.**"):
                    found.append(f"a picture of cell {i} has no caption: use genmodels.notebook.show")
            if stale := _stale(str(data.get("text/markdown", ""))):
                found.append(f"cell {i} shows lines that {stale} no longer has")
    return found


def _stale(shown: str) -> str | None:
    """The file whose lines a cell shows, if they are no longer there."""
    found = re.match(r"`[\w.]+` in \[?`(\w+/[\w/]+\.py)`.*?```python\n(.*)\n```", shown, re.DOTALL)
    if found is None:
        return None
    path = ROOT / found[1]

    def bare(text: str) -> str:
        return "\n".join(line.strip() for line in text.splitlines())

    return None if path.is_file() and bare(found[2]) in bare(path.read_text("utf-8")) else found[1]


def check(name: str) -> list[str]:
    """What is wrong with a committed notebook; nothing where it is in step with its source."""
    import nbformat

    path = HERE / f"{name}.ipynb"
    if not path.is_file():
        return ["it has not been built"]
    committed, made = nbformat.read(path, as_version=4), convert(name)

    def cells(notebook: Any) -> list[Any]:
        return [(c.id, c.cell_type, c.source, c.metadata.get("tags")) for c in notebook.cells]

    if cells(committed) != cells(made):
        return ["it is out of step with its source"]
    if committed.metadata.get("genmodels") != made.metadata["genmodels"]:
        return ["its outputs come from another source"]
    return faults(committed)


def build(name: str) -> str:
    """Run a source, write its notebook, and say how long and how large it is. Errors: UserError."""
    import nbformat

    notebook = convert(name)
    seconds = execute(notebook, seconds=SECONDS["build"], smoke=False)
    tidy(notebook)
    notebook.metadata["language_info"] = {"name": "python"}
    if wrong := faults(notebook):
        raise UserError("; ".join(wrong))
    path = HERE / f"{name}.ipynb"
    temporary = path.with_suffix(".part")
    nbformat.write(notebook, temporary)
    os.replace(temporary, path)
    return f"{seconds:.0f} s, {path.stat().st_size / 1e6:.2f} MB"


def with_table(text: str) -> str:
    """README.md's text with the present table between its two marks. Errors: UserError."""
    from genmodels.syllabus import markdown

    before, first, rest = text.partition("<!-- lectures -->\n")
    _, last, after = rest.partition("\n<!-- /lectures -->")
    if not (first and last):
        raise UserError("README.md has no lines <!-- lectures --> and <!-- /lectures -->")
    return before + first + markdown() + last + after


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m notebooks", description=__doc__.split("\n\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    building = commands.add_parser("build", help="run the sources and write the notebooks")
    building.add_argument("--check", action="store_true", help="write nothing: are they in step?")
    smoking = commands.add_parser("smoke", help="run the sources quickly, write nothing")
    commands.add_parser("readme", help="put the table of the lectures into README.md")
    for command in (building, smoking):
        command.add_argument("names", nargs="*", metavar="NAME", help="such as lec05_vae; default: all")
    arguments = parser.parse_args()
    failed = False
    try:
        if arguments.command == "readme":
            readme = ROOT / "README.md"
            readme.write_text(with_table(readme.read_text("utf-8")), "utf-8")
            return 0
        for name in arguments.names:
            if name not in names():
                raise unknown("notebook", name, names())
        for name in arguments.names or names():
            try:
                if arguments.command == "smoke":
                    said = f"{execute(convert(name), seconds=SECONDS['smoke'], smoke=True):.0f} s"
                elif arguments.check:
                    wrong = check(name)
                    failed, said = failed or bool(wrong), "; ".join(wrong) or "in step"
                else:
                    said = build(name)
            except UserError as error:
                failed, said = True, str(error)
            print(f"{name}: {said}", flush=True)
        size = sum(path.stat().st_size for path in HERE.glob("lec*.ipynb"))
        if size > MOST_BYTES:
            raise UserError(f"the notebooks take {size / 1e6:.1f} MB, more than {MOST_BYTES / 1e6:.0f}")
    except UserError as error:
        print(f"notebooks: {error}", file=sys.stderr)
        return 1
    if failed and arguments.command == "build":
        print("run: python -m notebooks build NAME", file=sys.stderr)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
