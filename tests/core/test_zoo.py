"""The tables: every recipe can be built, every name in them is real."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest

from genmodels import data, measures, runs
from genmodels.cli import main
from genmodels.model import GenerativeModel
from genmodels.syllabus import LECTURES, table
from genmodels.training import TrainSettings
from genmodels.zoo import RECIPES

PACKAGE = Path(__file__).resolve().parents[2] / "genmodels"


@pytest.mark.parametrize("name", list(RECIPES))
def test_recipe_is_complete(name: str) -> None:
    recipe = RECIPES[name]
    loaded = data.load(recipe.data)
    options, settings = runs.plan(name, loaded, {})
    model = runs.build(recipe.model, data.describe(loaded), options)
    assert isinstance(model, GenerativeModel)
    assert isinstance(settings, TrainSettings)
    assert recipe.measure in measures.MEASURES
    again = runs.build(recipe.model, data.describe(loaded), json.loads(json.dumps(options)))
    assert again.state_dict().keys() == model.state_dict().keys(), "options must survive config.json"
    assert recipe.bar_source or recipe.must is None, "a bar says where it comes from"
    for key, change in recipe.on.items():
        assert key in {*data.names(), "points", "image", "text"}, key
        assert set(change) <= {"options", "train", "measure"}
        assert set(change.get("train", {})) <= set(TrainSettings.names())
        assert set(change.get("options", {})) <= set(runs.option_names(recipe.model))
        if "measure" in change:
            assert change["measure"] in measures.MEASURES


def test_every_recipe_stands_in_a_lecture() -> None:
    listed = [name for row in table() for name in row["models"]]
    assert sorted(listed) == sorted(RECIPES)


def test_every_module_of_a_family_stands_in_the_syllabus() -> None:
    named = {m for row in LECTURES for m in row.modules.split()}
    families = {m.split("/")[0] for m in named}
    shared_inside_a_family = {"flows/flow", "diffusion/forward_process", "mixtures/kmeans"}
    for family in families:
        for path in (PACKAGE / family).glob("*.py"):
            module = f"{family}/{path.stem}"
            assert path.stem == "__init__" or module in named | shared_inside_a_family, module


def test_modules_of_the_table_import() -> None:
    for row in table():
        for module in row["modules"]:
            importlib.import_module(module)


def test_listings_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [r["name"] for r in rows] == list(RECIPES)
    assert main(["lectures", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == len(LECTURES)
