"""Solvers beside exact solutions: convergence order, direction, tolerance; and beside torchdiffeq."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from genmodels.dynamics.solvers import METHODS, odeint
from genmodels.errors import UserError

ORDER = {"euler": 1, "midpoint": 2, "heun": 2, "rk4": 4, "dopri5": 5}
FIXED = [m for m in METHODS if m != "dopri5"]


def logistic(t: Tensor, y: Tensor) -> Tensor:
    """dy/dt = cos(t) y (1 − y), with a solution in closed form: neither linear nor autonomous."""
    return torch.cos(t) * y * (1 - y)


def logistic_solution(t: Tensor, y0: Tensor) -> Tensor:
    odds = y0 / (1 - y0) * torch.exp(torch.sin(t) - math.sin(0.0))[:, None]
    return odds / (1 + odds)


Y0 = torch.tensor([0.1, 0.4, 0.8], dtype=torch.float64)


@pytest.mark.parametrize("method", FIXED)
def test_order(method: str) -> None:
    """Halving the step divides the error by 2^p."""
    errors = []
    for n in (40, 80, 160):
        t = torch.linspace(0, 3, n + 1, dtype=torch.float64)
        errors.append((odeint(logistic, Y0, t, method=method)[-1] - logistic_solution(t[-1:], Y0)[0]).abs().max())
    for coarse, fine in itertools.pairwise(errors):
        assert math.log2(coarse / fine) == pytest.approx(ORDER[method], abs=0.25)


@pytest.mark.parametrize("method", METHODS)
def test_tableau_satisfies_the_order_conditions(method: str) -> None:
    """Σ_j b_j τ_j = 1/γ for the rooted trees up to the order (5 at most), and rows of a sum to c."""
    tableau = METHODS[method]
    s = len(tableau.b)
    a = torch.zeros(s, s, dtype=torch.float64)
    for i, row in enumerate(tableau.a, start=1):
        a[i, : len(row)] = torch.tensor(row, dtype=torch.float64)
    b = torch.tensor(tableau.b, dtype=torch.float64)
    c = torch.tensor(tableau.c, dtype=torch.float64)
    torch.testing.assert_close(a.sum(1), c)
    ac = a @ c
    trees = [
        (1, b.sum(), 1.0),
        (2, b @ c, 1 / 2),
        (3, b @ c**2, 1 / 3),
        (3, b @ ac, 1 / 6),
        (4, b @ c**3, 1 / 4),
        (4, b @ (c * ac), 1 / 8),
        (4, b @ (a @ c**2), 1 / 12),
        (4, b @ (a @ ac), 1 / 24),
        (5, b @ c**4, 1 / 5),
        (5, b @ (c**2 * ac), 1 / 10),
        (5, b @ ac**2, 1 / 20),
        (5, b @ (c * (a @ c**2)), 1 / 15),
        (5, b @ (a @ c**3), 1 / 20),
        (5, b @ (c * (a @ ac)), 1 / 30),
        (5, b @ (a @ (c * ac)), 1 / 40),
        (5, b @ (a @ (a @ c**2)), 1 / 60),
        (5, b @ (a @ (a @ ac)), 1 / 120),
    ]
    assert tableau.order == ORDER[method]
    for order, value, truth in trees:
        if order <= tableau.order:
            assert value.item() == pytest.approx(truth, abs=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_trajectory_time_first(method: str) -> None:
    t = torch.tensor([0.0, 0.01, 0.02, 0.05], dtype=torch.float64)
    path = odeint(logistic, Y0, t, method=method)
    assert path.shape == (4, 3)
    assert torch.equal(path[0], Y0)
    torch.testing.assert_close(path, logistic_solution(t, Y0), atol=1e-3, rtol=0)


@pytest.mark.parametrize("tolerance", [1e-3, 1e-6, 1e-9])
def test_dopri5_keeps_its_tolerance(tolerance: float) -> None:
    t = torch.tensor([0.0, 1.0, 4.0, 10.0], dtype=torch.float64)
    path = odeint(logistic, Y0, t, rtol=tolerance, atol=tolerance)
    error = (path - logistic_solution(t, Y0)).abs().max().item()
    assert error < 20 * tolerance
    assert error > 1e-4 * tolerance  # not by taking needlessly small steps


def test_dopri5_takes_few_calls() -> None:
    """An oscillator over one period at 1e-6: no more calls than SciPy's Dormand–Prince needs, by some margin."""
    from scipy.integrate import solve_ivp

    calls = []

    def f(t: Tensor, y: Tensor) -> Tensor:
        calls.append(1)
        return torch.stack([y[1], -y[0]])

    t = torch.tensor([0.0, 2 * math.pi], dtype=torch.float64)
    end = odeint(f, torch.tensor([1.0, 0.0], dtype=torch.float64), t, rtol=1e-6, atol=1e-6)[-1]
    torch.testing.assert_close(end, torch.tensor([1.0, 0.0], dtype=torch.float64), atol=2e-5, rtol=0)
    scipy = solve_ivp(lambda t, y: [y[1], -y[0]], (0, 2 * math.pi), [1.0, 0.0], rtol=1e-6, atol=1e-6)
    assert len(calls) <= 1.3 * scipy.nfev


@pytest.mark.parametrize("method", METHODS)
def test_backward_in_time_undoes_forward(method: str) -> None:
    t = torch.linspace(0, 1, 101 if method != "dopri5" else 2, dtype=torch.float64)
    forth = odeint(logistic, Y0, t, method=method, rtol=1e-9, atol=1e-9)[-1]
    back = odeint(logistic, forth, t.flip(0), method=method, rtol=1e-9, atol=1e-9)[-1]
    tolerance = {"euler": 1e-2, "midpoint": 1e-4, "heun": 1e-4, "rk4": 1e-8, "dopri5": 1e-7}[method]
    torch.testing.assert_close(back, Y0, atol=tolerance, rtol=0)


def test_stiff_interval_and_start_at_rest() -> None:
    """The first step is found even where the slope is 0 at the start, and grows and shrinks as needed."""

    def pulse(t: Tensor, y: Tensor) -> Tensor:
        return torch.exp(-((t - 5) ** 2) / 0.02) * torch.ones_like(y)

    t = torch.tensor([0.0, 4.6, 10.0], dtype=torch.float64)
    end = odeint(pulse, torch.zeros(1, dtype=torch.float64), t, rtol=1e-8, atol=1e-8)[-1]
    assert end.item() == pytest.approx(math.sqrt(0.02 * math.pi), abs=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_gradients_reach_the_field_and_the_start(method: str) -> None:
    """d y(1) / d a for dy/dt = a y is y0 e^a, and d y(1) / d y0 = e^a."""
    a = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    y0 = torch.tensor([1.3], dtype=torch.float64, requires_grad=True)
    t = torch.linspace(0, 1, 401 if method != "dopri5" else 2, dtype=torch.float64)
    odeint(lambda t, y: a * y, y0, t, method=method, rtol=1e-9, atol=1e-9)[-1].sum().backward()
    tolerance = 5e-3 if method == "euler" else 1e-5
    assert a.grad.item() == pytest.approx(1.3 * math.exp(0.7), rel=tolerance)
    assert y0.grad.item() == pytest.approx(math.exp(0.7), rel=tolerance)


@pytest.mark.parametrize("method", METHODS)
def test_agrees_with_torchdiffeq(method: str) -> None:
    torchdiffeq = pytest.importorskip("torchdiffeq")
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(3, 16), torch.nn.Tanh(), torch.nn.Linear(16, 2)).double()

    def field(t: Tensor, y: Tensor) -> Tensor:
        return net(torch.cat([y, t.expand(len(y), 1)], dim=1))

    y0 = torch.randn(7, 2, dtype=torch.float64)
    t = torch.linspace(0, 1, 11, dtype=torch.float64)
    names = {"heun": "heun2"}
    with torch.no_grad():
        ours = odeint(field, y0, t, method=method, rtol=1e-9, atol=1e-9)
        if method == "rk4":  # theirs is the 3/8 rule: another method of the same order
            theirs = torchdiffeq.odeint(field, y0, t, rtol=1e-9, atol=1e-9)
        else:
            theirs = torchdiffeq.odeint(field, y0, t, method=names.get(method, method), rtol=1e-9, atol=1e-9)
    exact = method in ("euler", "midpoint", "heun")
    torch.testing.assert_close(ours, theirs, atol=1e-12 if exact else 1e-6, rtol=0)


def test_float32_and_scalar_state() -> None:
    t = torch.linspace(0, 1, 3)
    path = odeint(lambda t, y: -y, torch.tensor(1.0), t)
    assert path.dtype == torch.float32
    torch.testing.assert_close(path, torch.exp(-t), atol=1e-5, rtol=0)


def test_errors() -> None:
    y0 = torch.ones(1)
    with pytest.raises(UserError, match="did you mean 'heun'"):
        odeint(lambda t, y: y, y0, torch.tensor([0.0, 1.0]), method="huen")
    for t in (torch.tensor([0.0, 1.0, 0.5]), torch.tensor([0.0, 0.0])):
        with pytest.raises(UserError, match="strictly"):
            odeint(lambda t, y: y, y0, t, method="euler")
    with pytest.raises(UserError, match="step shrank"):
        odeint(lambda t, y: y**2, y0, torch.tensor([0.0, 2.0]))  # blows up at t = 1
    with pytest.raises(UserError, match="step shrank"):
        odeint(lambda t, y: y * math.nan, y0, torch.tensor([0.0, 2.0]))


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda() -> None:
    t = torch.linspace(0, 1, 11, dtype=torch.float64)
    for method in METHODS:
        expected = odeint(logistic, Y0, t, method=method)
        torch.testing.assert_close(odeint(logistic, Y0.cuda(), t, method=method).cpu(), expected)
