"""What a rehearsal's kernel can see, and what is read from a notebook that it ran."""

import os
import subprocess
import sys

from autograder.rehearse import BLOCKER, checks_of, failed

LOOK = """
import importlib.util
import json, numpy
assert importlib.util.find_spec("sklearn") is None  # torch's optimisers look for it, and go on without
for name in ("autograder", "genmodels", "scipy"):
    try:
        __import__(name)
    except ModuleNotFoundError:
        continue
    raise SystemExit(f"{name} can be imported")
"""


def test_absent_packages_are_missing_and_not_broken(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(BLOCKER, "utf-8")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", LOOK], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def cell(source, *outputs, kind="code"):
    return {"cell_type": kind, "source": source, "outputs": list(outputs)}


def test_failures_and_warnings_are_found_and_only_unwritten_answers_are_forgiven():
    unwritten = {"output_type": "error", "ename": "NotImplementedError", "evalue": "1a: f"}
    missing = {"output_type": "error", "ename": "NameError", "evalue": "name 'net' is not defined"}
    warning = {"output_type": "stream", "name": "stderr", "text": "x.py:1: UserWarning: look out\n"}
    cells = [cell("f()", unwritten), cell("g()", missing), cell("h()", warning), cell("i()")]
    assert [line.partition(":")[0] for line in failed(cells, "NotImplementedError")] == [
        "cell 1 ends in NameError",
        "cell 2 warns",
    ]
    assert len(failed(cells)) == 3


def test_what_each_check_says_is_read_from_its_own_cell():
    said = {"output_type": "display_data", "data": {"text/plain": "public checks, 0 of 4"}}
    cells = [
        cell('check("1a")', said),
        cell('check("1b")'),
        cell('# check("2a")', said),
        cell("check('2b')", kind="raw"),
    ]
    assert checks_of(cells) == {"1a": "public checks, 0 of 4", "1b": ""}
