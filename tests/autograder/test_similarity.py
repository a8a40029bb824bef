"""The similarity report finds disguised copies, leaves independent work alone, and no text can break it."""

from __future__ import annotations

import ast
import csv
import json
import time
import tokenize
from io import StringIO
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autograder import problem_set, similarity
from autograder.similarity import WINDOW, K, fingerprints, grams, pairs, tokens, winnow

DEMO = Path(__file__).parent / "demo_ps"

STARTER = '''
def e_step(x: Tensor, weights: Tensor, means: Tensor, covs: Tensor) -> tuple[Tensor, Tensor]:
    """Responsibilities (N, K) and the log-likelihood."""
    raise NotImplementedError("2b: e_step")

def m_step(x: Tensor, r: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Weights (K,), means (K, D) and covariances (K, D, D)."""
    raise NotImplementedError("2c: m_step")

def train(x, k, steps):
    """Run EM from random points."""
    weights, means, covs = start(x, k)
    history = []
    for step in range(steps):
        r, value = e_step(x, weights, means, covs)
        weights, means, covs = m_step(x, r)
        history.append(float(value))
        if step % 10 == 0:
            print(f"{step}: {value:.3f}")
    return weights, means, covs, history
'''
E_STEP, M_STEP = '''
def e_step(x, weights, means, covs):
    """Responsibilities."""
    n, d = x.shape
    k = len(weights)
    logs = torch.zeros(n, k, dtype=x.dtype)
    for j in range(k):
        # the density of component j
        delta = x - means[j]
        chol = torch.linalg.cholesky(covs[j])
        half = torch.linalg.solve_triangular(chol, delta.T, upper=False)
        maha = (half ** 2).sum(0)
        logdet = 2 * chol.diagonal().log().sum()
        logs[:, j] = weights[j].log() - 0.5 * (maha + logdet + d * math.log(2 * math.pi))
    total = torch.logsumexp(logs, dim=1)
    return (logs - total[:, None]).exp(), total.sum()
''', '''
def m_step(x, r):
    counts = r.sum(0)
    weights = counts / counts.sum()
    means = (r.T @ x) / counts[:, None]
    covs = []
    for j in range(r.shape[1]):
        delta = x - means[j]
        covs.append((r[:, j, None] * delta).T @ delta / counts[j])
    return weights, means, torch.stack(covs)
'''  # fmt: skip
OTHER = """
def e_step(x, weights, means, covs):
    normal = torch.distributions.MultivariateNormal(means, covs)
    joint = normal.log_prob(x.unsqueeze(1)) + torch.log(weights)
    evidence = joint.logsumexp(-1, keepdim=True)
    r = torch.softmax(joint, -1)
    return r, evidence.sum()

def m_step(x, r):
    n = r.sum(0)
    mu = torch.einsum("nk,nd->kd", r, x) / n.unsqueeze(-1)
    centred = x.unsqueeze(1) - mu.unsqueeze(0)
    sigma = torch.einsum("nk,nki,nkj->kij", r, centred, centred)
    sigma = sigma / n.reshape(-1, 1, 1)
    pi = n / x.size(0)
    return pi, mu, sigma
"""
THIRD = """
def gaussian(x, mean, cov):
    diff = x - mean
    inverse = torch.inverse(cov)
    power = -0.5 * torch.sum(diff @ inverse * diff, axis=-1)
    return power - 0.5 * torch.logdet(cov) - x.shape[-1] / 2 * np.log(2 * np.pi)

def e_step(x, weights, means, covs):
    columns = [gaussian(x, m, c) + w.log() for w, m, c in zip(weights, means, covs)]
    log_joint = torch.stack(columns, dim=1)
    peak = log_joint.max(dim=1, keepdim=True).values
    scaled = torch.exp(log_joint - peak)
    norm = scaled.sum(dim=1, keepdim=True)
    return scaled / norm, (norm.log() + peak).sum()

def m_step(x, r):
    size, dims = x.shape
    nk = torch.sum(r, axis=0)
    new_means = torch.zeros(r.shape[1], dims, dtype=x.dtype)
    new_covs = torch.zeros(r.shape[1], dims, dims, dtype=x.dtype)
    for k, n in enumerate(nk):
        new_means[k] = (r[:, [k]] * x).sum(0) / n
        outer = x[:, :, None] * x[:, None, :]
        second = (r[:, k, None, None] * outer).sum(0) / n
        new_covs[k] = second - torch.outer(new_means[k], new_means[k])
    return nk / size, new_means, new_covs
"""


def disguise(source: str) -> str:
    """Other names, other comments, other layout; the same code."""

    class Rename(ast.NodeTransformer):
        def visit_Name(self, node: ast.Name) -> ast.Name:
            keep = {"torch", "math", "range", "len", "Tensor"}
            return node if node.id in keep else ast.Name(f"my_{node.id}_{len(node.id)}", node.ctx)

        def visit_arg(self, node: ast.arg) -> ast.arg:
            return ast.arg(f"my_{node.arg}_{len(node.arg)}")

    lines = ast.unparse(Rename().visit(ast.parse(source))).splitlines()
    return "\n".join(line + "   # mine" * (i % 3 == 0) + "\n" * (i % 2) for i, line in enumerate(lines))


def same(**students: str | list[str]) -> dict[tuple[str, str], float]:
    """Similarities of all pairs."""
    cells = {
        n: [("2", s)] if isinstance(s, str) else [(f"c{i}", c) for i, c in enumerate(s)] for n, s in students.items()
    }
    return {(p.a, p.b): p.similarity for p in pairs(fingerprints(cells, [STARTER]), 0.0)}


def test_renamed_and_reordered_code_is_found() -> None:
    found = same(ann=[STARTER, E_STEP, M_STEP], bob=[disguise(M_STEP), STARTER, disguise(E_STEP)], eve=OTHER)
    assert found["ann", "bob"] > 0.8
    assert found.get(("ann", "eve"), 0) < 0.2


def test_independent_solutions_are_left_alone() -> None:
    found = same(ann=E_STEP + M_STEP, bob=OTHER, eve=THIRD)
    assert max(found.values(), default=0) < 0.2


def test_half_a_copy_is_seen_as_half() -> None:
    found = same(ann=E_STEP + M_STEP, bob=disguise(E_STEP) + THIRD.split("def m_step")[1])
    assert 0.3 < found["ann", "bob"] < 0.9


def test_the_starters_own_code_counts_for_nothing() -> None:
    assert same(ann=STARTER + THIRD, bob=STARTER + OTHER).get(("ann", "bob"), 0) < 0.2
    assert len(fingerprints({"a": [("1", STARTER)]}, [STARTER])["a"]) == 0


def test_what_the_whole_class_writes_counts_for_nothing() -> None:
    own = [E_STEP, OTHER, THIRD]
    students = {f"s{i}": [("1", M_STEP), ("2", own[i] if i < 3 else "")] for i in range(12)}
    assert pairs(fingerprints(students), 0.3) == []


def test_a_handful_of_tokens_is_no_evidence() -> None:
    assert (
        same(ann="def f(x): return torch.logsumexp(x, 1)\n" * 1, bob="def f(x): return torch.logsumexp(x, 1)\n") == {}
    )


@given(st.lists(st.integers(0, 40), min_size=WINDOW, max_size=80), st.integers(0, 30), st.integers(0, 30))
def test_any_shared_run_of_a_window_shares_a_fingerprint(run: list[int], before: int, after: int) -> None:
    """The paper's guarantee, on random hashes: no run of WINDOW equal hashes goes unseen."""
    a = [(h, 0, 0) for h in [*range(100, 100 + before), *run]]
    b = [(h, 0, 0) for h in [*run, *range(200, 200 + after)]]
    assert {h for h, _, _ in winnow(a)} & {h for h, _, _ in winnow(b)} & set(run)


def test_fewer_than_a_sixth_of_the_hashes_would_be_too_few() -> None:
    """Density of winnowing on random hashes is 2 / (WINDOW + 1)."""
    hashes = grams(" ".join(f"a.x{(i * 7919) % 1009}" for i in range(3000)))
    assert len(winnow(hashes)) / len(hashes) == pytest.approx(2 / (WINDOW + 1), rel=0.1)


def test_lines_of_shared_parts() -> None:
    cells = {"ann": [("of 2b", E_STEP)], "bob": [("of 2b", "# a line more\n" * 3 + E_STEP)]}
    (pair,) = pairs(fingerprints(cells))
    assert pair.similarity == 1
    assert pair.parts == ("of 2b 2-16 ~ of 2b 5-19",)


def test_tokens_are_pythons_own() -> None:
    """Kinds and lines agree with the standard library's tokenizer on real code."""
    for source in (STARTER, E_STEP, M_STEP, OTHER, THIRD):
        kinds, inside, strings = [], 0, 0  # since Python 3.12 what stands inside an f-string has tokens of its own
        for t in tokenize.generate_tokens(StringIO(source).readline):
            kind = tokenize.tok_name[t.type]
            inside += (kind == "FSTRING_START") - (kind == "FSTRING_END")
            strings += kind in ("STRING", "FSTRING_START")
            if kind in ("NAME", "NUMBER", "OP") and not inside:
                kinds.append((t.string, t.start[0]))
        ours = [(t, line) for t, line in tokens(source) if t != "string"]
        assert [line for _, line in ours] == [line for s, line in kinds if s[0] not in "'\""]
        assert sum(t == "string" for t, _ in tokens(source)) <= strings


@settings(max_examples=300)
@given(st.text(alphabet=st.sampled_from("ab1.'\"\\\n #([{)]}=rf"), max_size=200))
def test_any_text_gives_tokens(text: str) -> None:
    lines = [line for _, line in tokens(text)]
    assert lines == sorted(lines)
    assert max(lines, default=1) <= text.count("\n") + 1
    grams(text)


@pytest.mark.parametrize("piece", ["'''", '"\\', "(", "'a'b", "\\\n", "f'", "1.", "'''\\", "\n", "\u00e9", "rb"])
def test_hostile_text_takes_linear_time(piece: str) -> None:
    text = piece * (1_000_000 // len(piece))
    start = time.process_time()
    assert len(tokens(text)) <= similarity.MAX_TOKENS
    assert time.process_time() - start < 4


def test_report_of_files(tmp_path: Path) -> None:
    ps = problem_set.load(DEMO)
    bodies = {"ann": E_STEP + M_STEP, "=bob": disguise(E_STEP + M_STEP), "eve": OTHER}
    for name, body in bodies.items():
        (tmp_path / f"{name}.py").write_text("# %%\n" + body)
    note = {"cells": [{"cell_type": "code", "source": THIRD, "metadata": {}}], "nbformat": 4, "metadata": {}}
    (tmp_path / "kim.ipynb").write_text(json.dumps(note))
    (tmp_path / "bad.ipynb").write_bytes(b"\x00\xff garbage")
    paths = {p.stem: p for p in sorted(tmp_path.iterdir())}
    found = similarity.report(paths, ps, tmp_path / "out" / "similarity.csv")
    assert [(p.a, p.b) for p in found] == [("=bob", "ann")]
    rows = list(csv.DictReader((tmp_path / "out" / "similarity.csv").open()))
    assert rows[0]["student a"] == "'=bob"
    assert float(rows[0]["similarity"]) > 0.8
    assert "~" in rows[0]["shared parts (lines)"]


def test_constants_are_those_of_the_docstring() -> None:
    assert f"K + WINDOW - 1 = {K + WINDOW - 1} tokens" in (similarity.__doc__ or "").replace("\n", " ")


def test_docstrings_and_comments_are_no_tokens_and_lines_count_on() -> None:
    source = 'def f(x):\n    """One\n    two."""\n    # three\n    y = """a\n"""\n    return r"z"  # w\n'
    assert [t for t in tokens(source) if t[1] > 1] == [
        ("name", 5),
        ("=", 5),
        ("string", 5),
        ("return", 7),
        ("string", 7),
    ]


def test_other_right_answers_to_a_whole_problem_set_are_not_alike() -> None:
    """The solution of problem set 1 and, question by question, what others wrote for it: far below the threshold."""
    ps = problem_set.load("ps1")
    others: dict[str, list[str]] = {}
    for variant in ps.alternatives:
        others.setdefault(variant.question, []).append(variant.source)
    students = {"solution": [(str(i), str(c["source"])) for i, c in enumerate(ps.solution_cells())]}
    for k in range(2):
        students[f"other{k}"] = [(q, sources[k]) for q, sources in others.items() if len(sources) > k]
    prints = fingerprints(students, [str(c["source"]) for c in ps.starter_cells()])
    assert min(len(p) for p in prints.values()) > 150
    found = pairs(prints, 0.0)
    assert found
    assert max(p.similarity for p in found) < similarity.THRESHOLD / 1.5
