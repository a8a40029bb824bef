"""The lecture notebooks: in step with their sources, readable without being run, and the tool that makes them."""

import copy
import re
from pathlib import Path

import nbformat
import pytest
from matplotlib.figure import Figure

import notebooks.__main__ as tool
from genmodels import notebook
from genmodels.errors import UserError
from genmodels.mixtures.gmm import GaussianMixture
from genmodels.syllabus import LECTURES

ROOT = Path(__file__).resolve().parents[2]
NAMES = tool.names()


@pytest.mark.parametrize("name", NAMES)
def test_the_committed_notebook_is_what_its_source_makes_and_ran_to_its_end(name):
    assert tool.check(name) == []


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_has_what_a_reader_expects(name):
    source = (tool.SOURCES / f"{name}.py").read_text("utf-8")
    pictures = sum("image/png" in o.get("data", {}) for c in committed(name).cells for o in c.get("outputs", []))
    assert pictures >= 5
    assert source.count("source(") >= 4  # the module's own lines beside the formulas
    assert 4 <= source.count("<details><summary>Answer</summary>") == source.count("</details>")
    assert "pick = Sizes(large=" in source
    assert re.search(r"^[A-Z_]+ = (True|False)", source, re.MULTILINE)  # an experiment that can be switched on
    assert "../problem_sets/" in source
    assert "../genmodels/" in source
    for target in re.findall(r"\]\(\.\./([^)#]+)", source):
        assert (ROOT / target).exists(), target


def test_all_notebooks_together_are_small():
    assert sum((tool.HERE / f"{name}.ipynb").stat().st_size for name in NAMES) < tool.MOST_BYTES


def test_the_syllabus_names_the_notebooks_that_there_are():
    assert sorted(row.notebook for row in LECTURES if row.notebook) == NAMES


def test_the_table_in_the_readme_is_the_syllabus():
    text = (ROOT / "README.md").read_text("utf-8")
    assert tool.with_table(text) == text, "run: python -m notebooks readme"
    for target in re.findall(r"\]\(((?:genmodels|notebooks|problem_sets|docs|benchmarks)/[^)]+)\)", text):
        assert (ROOT / target).exists(), target


def committed(name):
    return nbformat.read(tool.HERE / f"{name}.ipynb", as_version=4)


def test_badge_setup_and_links_come_from_the_one_address(tmp_path):
    cells = tool.convert(NAMES[0]).cells
    address = tool.repository()
    assert cells[0].source.startswith("# ")
    assert (
        f"{address.replace('github.com', 'colab.research.google.com/github')}/blob/main/notebooks/" in cells[0].source
    )
    assert f"git+{address}@v" in cells[1].source
    assert not any("](../" in c.source for c in cells)
    others = [
        p for p in ROOT.rglob("*.py") if "github.com/genmodels" in p.read_text("utf-8") and "tests" not in p.parts
    ]
    assert others == []  # pyproject.toml is the one place


def test_the_first_cell_does_nothing_away_from_colab(capsys):
    exec(tool.convert(NAMES[0]).cells[1].source, {})
    assert capsys.readouterr().out == ""


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    """A folder of one small notebook, for the tool to work on."""
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "lec99_small.py").write_text("# %% [markdown]\n# # A99. Small\n\n# %%\nprint(1)\n")
    monkeypatch.setattr(tool, "HERE", tmp_path)
    monkeypatch.setattr(tool, "SOURCES", tmp_path / "src")
    return tmp_path


def test_a_notebook_out_of_step_is_seen_and_one_in_step_is_not(shelf, capsys):
    assert tool.check("lec99_small") == ["it has not been built"]
    tool.build("lec99_small")
    assert tool.check("lec99_small") == []
    made = nbformat.read(shelf / "lec99_small.ipynb", as_version=4)
    assert made.cells[-1].outputs[0].text == "1\n"
    source = shelf / "src" / "lec99_small.py"
    source.write_text(source.read_text().replace("print(1)", "print(2)"))
    assert tool.check("lec99_small") == ["it is out of step with its source"]
    made.cells[-1].source = "print(2)"  # a copied cell with the outputs of another
    nbformat.write(made, shelf / "lec99_small.ipynb")
    assert tool.check("lec99_small") == ["its outputs come from another source"]


def test_a_cell_that_fails_is_one_line_and_leaves_the_old_notebook(shelf):
    (shelf / "lec99_small.ipynb").write_text("the old one")
    (shelf / "src" / "lec99_small.py").write_text("# %% [markdown]\n# # A99. Small\n\n# %%\n1 / 0\n")
    with pytest.raises(UserError, match="ZeroDivisionError"):
        tool.build("lec99_small")
    assert (shelf / "lec99_small.ipynb").read_text() == "the old one"


def output(**data):
    return nbformat.v4.new_output("display_data", data=data)


def test_outputs_that_a_reader_should_not_find_are_named():
    good = tool.convert(NAMES[0])
    for number, cell in enumerate((c for c in good.cells if c.cell_type == "code"), 1):
        cell.execution_count, cell.outputs = number, []
    assert tool.faults(good) == []

    def spoilt(*outputs):
        bad = copy.deepcopy(good)
        bad.cells[1].outputs = list(outputs)
        return tool.faults(bad)

    caption = output(**{"text/markdown": "**What to see.** A line."})
    picture = output(**{"image/png": "iVBORw0KGgo="})
    assert spoilt(picture, caption) == []
    assert "no caption" in spoilt(picture)[0]
    assert "no caption" in spoilt(picture, picture, caption)[0]
    assert (
        "printed a warning" in spoilt(nbformat.v4.new_output("stream", name="stderr", text="x.py: UserWarning: y"))[0]
    )
    shown = output(**{"text/markdown": notebook.source(GaussianMixture.log_prob)._repr_markdown_()})
    assert spoilt(shown) == []
    shown.data["text/markdown"] = shown.data["text/markdown"].replace("log_joint", "log_joined")
    assert "genmodels/mixtures/gmm.py no longer has" in spoilt(shown)[0]
    assert "says nothing" in spoilt(output(**{"text/plain": "<torch._C.Generator at 0x7f00>"}))[0]
    assert "says nothing" in spoilt(output(**{"application/vnd.jupyter.widget-view+json": {"model_id": "1"}}))[0]
    unrun = copy.deepcopy(good)
    unrun.cells[1].execution_count = None
    assert "not run once each" in tool.faults(unrun)[0]


def test_progress_bars_keep_their_last_state():
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("train()")])
    stream = [nbformat.v4.new_output("stream", name="stderr", text=t) for t in ("\r  0%", "\r 50%", "\r100%\n")]
    book.cells[0].outputs = stream
    tool.tidy(book)
    assert [o.text for o in book.cells[0].outputs] == ["100%\n"]


def test_source_shows_the_lines_asked_for_and_refuses_lines_that_are_gone():
    whole, part = notebook.source(GaussianMixture.loss), notebook.source(GaussianMixture.loss, "return")
    assert whole.code.startswith("def loss(self")
    assert part.code == "return -self.log_prob(x).mean()"
    assert part.file == "genmodels/mixtures/gmm.py"
    with pytest.raises(UserError, match="has no line with 'nonsense'"):
        notebook.source(GaussianMixture.loss, "nonsense")
    with pytest.raises(UserError, match="after its line"):
        notebook.source(GaussianMixture.loss, "return", "def loss")


def test_sizes_follow_the_switch_and_smoke_goes_first(monkeypatch):
    monkeypatch.delenv("GENMODELS_SMOKE", raising=False)
    assert notebook.Sizes(large=False)(1, large=2, smoke=3) == 1
    assert notebook.Sizes(large=True)(1, large=2, smoke=3) == 2
    monkeypatch.setenv("GENMODELS_SMOKE", "1")
    assert notebook.Sizes(large=True)(1, large=2, smoke=3) == 3


def test_a_picture_without_a_caption_is_refused():
    with pytest.raises(UserError, match="caption"):
        notebook.show(Figure(), "  ")


def test_an_unknown_name_gets_the_nearest(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["notebooks", "smoke", "lec03_mixture"])
    assert tool.main() == 1
    assert "did you mean 'lec03_mixtures'" in capsys.readouterr().err
