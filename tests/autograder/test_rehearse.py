"""What a rehearsal's kernel can see."""

import os
import subprocess
import sys

from autograder.rehearse import BLOCKER

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
