"""Shared by all tests: one thread, fixed seeds, real data where it is."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)  # the tests' tensors are small: threads would only wait for each other

ROOT = Path(__file__).resolve().parents[1]


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """The whole suite runs in a process a core; files that are named run in this one, where a debugger can stop."""
    whole = config.args_source is pytest.Config.ArgsSource.TESTPATHS
    return min(os.cpu_count() or 1, 4) if whole else 0


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    """Each test starts from the same global seed and leaves the default dtype as it was."""
    torch.manual_seed(0)
    dtype = torch.get_default_dtype()
    yield
    torch.set_default_dtype(dtype)


@pytest.fixture
def data_root() -> str:
    """The folder with the real data, or a skip that says what is missing."""
    for folder in (os.environ.get("GENMODELS_DATA"), str(ROOT.parent / "shared" / "data")):
        if folder and (Path(folder) / "MNIST" / "raw").is_dir():
            return folder
    pytest.skip("no real data: set GENMODELS_DATA to a folder with MNIST/raw")
