"""The tests' small problem set, loaded and built once for all files."""

from pathlib import Path

import pytest

from autograder.build import Built, build
from autograder.problem_set import ProblemSet, load


@pytest.fixture(scope="session")
def demo() -> ProblemSet:
    return load(Path(__file__).parent / "demo_ps")


@pytest.fixture(scope="session")
def built(demo: ProblemSet, tmp_path_factory: pytest.TempPathFactory) -> Built:
    return build(demo, tmp_path_factory.mktemp("built"), in_place=False)
