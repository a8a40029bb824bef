"""Checks of problem set 1, sections 3 (variational inference) and 4 (a backpropagation engine).

Nothing here is judged by luck: the noise is given, and expectations are exact, by closed forms or by a rule of nodes
that integrates polynomials without an error. The reference is always asked before the student: what fails in one part
does not shift the questions of the next.
"""

import itertools
import math
from typing import Any

import numpy as np

from autograder.checks import compare, expect, monotone, part, question

Array = np.ndarray[Any, Any]

# Three-point Gauss-Hermite with its weights 1/6, 2/3, 1/6 as repetitions: the plain mean of a polynomial of degree 5 or
# less over these six nodes is its expectation under N(0, 1).
NODES = np.array([-math.sqrt(3.0), math.sqrt(3.0), 0.0, 0.0, 0.0, 0.0])
GRID = np.array(list(itertools.product(NODES, NODES)))  # (36, 2), the same for two coordinates


def several(answer: Any, count: int, line: str) -> Any:
    """The answer, if it is a tuple or list of `count` values; otherwise the line that says what is expected."""
    expect(isinstance(answer, (tuple, list)) and len(answer) == count, line)
    return answer


@question("3a", points=5, names=["gaussian_kl", "elbo"], title="The ELBO where everything is known", seconds=10)
def exact_elbo(student: Any, reference: Any, draw: Any) -> None:
    q_and_p = [draw.normal(6, 3), draw.normal(6, 3, scale=0.5), draw.normal(6, 3), draw.normal(6, 3, scale=0.5)]
    with part("KL of Gaussians", 2):
        want = reference.gaussian_kl(*q_and_p)
        compare(student.gaussian_kl(*q_and_p), want, "the KL")
    n, d = 7, 3
    prior_std, noise_std = float(draw.uniform(1.5, 3.0)), float(draw.uniform(0.5, 0.8))
    x, mean, log_std = draw.normal(n, d) + draw.normal(d), draw.normal(d), draw.normal(d, scale=0.5)
    given = (x, mean, log_std, prior_std, noise_std)
    with part("the bound at any q", 2):
        want = reference.elbo(*given)
        compare(student.elbo(*given), want, "the ELBO")
    variance = 1 / (1 / prior_std**2 + n / noise_std**2)
    posterior_mean = variance / noise_std**2 * x.sum(0)
    covariance = noise_std**2 * np.eye(n) + prior_std**2  # of a coordinate of x_1, ..., x_n, with z integrated out
    quadratic = float((x * np.linalg.solve(covariance, x)).sum())
    evidence = -0.5 * (quadratic + d * np.linalg.slogdet(covariance)[1] + n * d * math.log(2 * math.pi))
    with part("tight at the posterior", 1):
        bound = student.elbo(x, posterior_mean, np.full(d, 0.5 * math.log(variance)), prior_std, noise_std)
        compare(bound, evidence, "the ELBO at the exact posterior, against the evidence")


SWEEPS = """
trace = []
for _ in range(6):
    phi, m, s2 = cavi_sweep(x, m, s2, prior_std)
    trace.append((phi, m, s2))
return tuple(torch.stack(each) for each in zip(*trace))
"""


def bound_of(x: Array, phi: Array, m: Array, s2: Array, prior_std: float) -> float:
    """The ELBO of the Bayesian mixture, as in the notebook."""
    d, k = x.shape[1], len(m)
    squared = ((x[:, None] - m) ** 2).sum(-1) + d * s2
    fit = -0.5 * squared - 0.5 * d * math.log(2 * math.pi) - math.log(k) - np.log(np.maximum(phi, 1e-300))
    price = 0.5 * ((m**2).sum(1) / prior_std**2 + d * (s2 / prior_std**2 - 1 - np.log(s2 / prior_std**2)))
    return float((phi * fit).sum() - price.sum())


@question("3b", points=5, names=["cavi_sweep"], title="Coordinate ascent for a Bayesian mixture", seconds=10)
def cavi(student: Any, reference: Any, draw: Any) -> None:
    x, m, s2 = draw.normal(40, 3, scale=1.5), draw.normal(4, 3), draw.uniform(0.2, 1.5, 4)
    prior_std = float(draw.uniform(0.6, 0.9))
    want_phi, want_m, want_s2 = reference.cavi_sweep(x, m, s2, prior_std)
    answer = student.cavi_sweep(x, m, s2, prior_std)
    phi, new_m, new_s2 = several(answer, 3, "cavi_sweep returns three tensors: phi, m, s2")
    with part("phi", 1):
        compare(phi, want_phi, "phi")
    with part("the variances of the means", 1):
        compare(new_s2, want_s2, "s2")
    with part("the means", 1):
        compare(new_m, want_m, "m")
    with part("points far away", 1):
        far = (1000 * x, 20 * m, s2, prior_std)
        want = reference.cavi_sweep(*far)
        compare(student.cavi_sweep(*far), want, "a sweep over points far away")
    with part("the bound never falls", 1):
        want = reference.script(SWEEPS, x=x, m=m, s2=s2, prior_std=prior_std)
        traces = student.script(SWEEPS, x=x, m=m, s2=s2, prior_std=prior_std)
        compare(traces, want, "six sweeps in a row")
        bounds = [bound_of(x, *one, prior_std) for one in zip(*traces, strict=True)]
        monotone(bounds, "increasing", slack=1e-9 * abs(bounds[-1]), what="the ELBO after each sweep")


LOGISTIC = """
def log_joint(z):  # a normal prior, and a logistic regression with the weights z on labels of -1 and 1
    fit = torch.nn.functional.logsigmoid((z @ features.T) * labels).sum(-1)
    return fit - 0.5 * (z**2).sum(-1)
"""
QUADRATIC = """
def log_joint(z):  # a correlated normal posterior, up to a constant
    gap = z - centre
    return -0.5 * ((gap @ precision) * gap).sum(-1) + 3.0
"""
REPARAM = "return reparam_gradient(log_joint, mean, log_std, eps)"
SCORE = "return score_gradient(log_joint, mean, log_std, mean + log_std.exp() * eps, baseline)"


def logistic_case(draw: Any, samples: int) -> dict[str, Any]:
    """A posterior that is not normal, q and its noise."""
    labels = 2 * draw.bernoulli(0.5, 12) - 1
    case = {"features": draw.normal(12, 3), "labels": labels, "mean": draw.normal(3), "eps": draw.normal(samples, 3)}
    return {**case, "log_std": draw.normal(3, scale=0.4)}


def quadratic_case(draw: Any) -> tuple[dict[str, Any], tuple[Array, Array]]:
    """A normal posterior, q, and the exact gradient of the ELBO in mean and log_std."""
    case = {"precision": draw.spd(2), "centre": draw.normal(2), "mean": draw.normal(2), "log_std": draw.normal(2)}
    case["log_std"] = 0.4 * case["log_std"]
    gradient_mean = -case["precision"] @ (case["mean"] - case["centre"])
    return case, (gradient_mean, 1 - np.diag(case["precision"]) * np.exp(2 * case["log_std"]))


@question("3c", points=4, names=["reparam_gradient"], title="The reparameterised gradient", seconds=10)
def reparameterised(student: Any, reference: Any, draw: Any) -> None:
    case = logistic_case(draw, 5)
    want = reference.script(LOGISTIC + REPARAM, **case)
    answer = student.script(LOGISTIC + REPARAM, **case)
    gradients = several(answer, 2, "reparam_gradient returns two tensors: the gradients in mean and in log_std")
    with part("the gradient in the mean", 1):
        compare(gradients[0], want[0], "the gradient in mean")
    with part("the gradient in log_std", 2):
        compare(gradients[1], want[1], "the gradient in log_std")
    with part("the exact gradient", 1):
        case, exact = quadratic_case(draw)
        gradients = student.script(QUADRATIC + REPARAM, eps=GRID, **case)
        compare(gradients, exact, "the estimate from noise whose moments are exact, against the exact gradient")


STEPS = """
def log_joint(z):  # steps: there is no derivative to be had
    return (z > centre).to(z.dtype) @ heights
"""


@question("3d", points=4, names=["score_gradient"], title="The score-function gradient", seconds=10)
def score_function(student: Any, reference: Any, draw: Any) -> None:
    with part("without a baseline", 1):
        case = {**logistic_case(draw, 6), "baseline": False}
        want = reference.script(LOGISTIC + SCORE, **case)
        compare(student.script(LOGISTIC + SCORE, **case), want, "the gradients")
    with part("the exact gradient", 1):
        case, exact = quadratic_case(draw)
        gradients = student.script(QUADRATIC + SCORE, eps=GRID, baseline=False, **case)
        compare(gradients, exact, "the estimate from noise whose moments are exact, against the exact gradient")
    with part("a model without derivatives", 1):
        case = {"centre": draw.normal(3), "heights": draw.normal(3), "mean": draw.normal(3), "eps": draw.normal(6, 3)}
        case |= {"log_std": draw.normal(3, scale=0.4), "baseline": False}
        want = reference.script(STEPS + SCORE, **case)
        compare(student.script(STEPS + SCORE, **case), want, "the gradients for a model made of steps")
    with part("with the baseline", 1):
        case = {**logistic_case(draw, 6), "baseline": True}
        want = reference.script(LOGISTIC + SCORE, **case)
        compare(student.script(LOGISTIC + SCORE, **case), want, "the gradients with the baseline")


NOISY = """
def log_joint(z):
    return -0.5 * (curvature * z**2).sum(-1)
def estimator(log_joint, mean, log_std, eps):
    z = mean + log_std.exp() * eps
    return (-curvature * z).mean(0), (eps * log_joint(z)[:, None]).mean(0)
return gradient_variance(estimator, log_joint, mean, log_std, eps)
"""


@question("3e", points=3, names=["gradient_variance"], title="The variance of a gradient estimate", seconds=10)
def variances(student: Any, reference: Any, draw: Any) -> None:
    case = {"mean": draw.normal(3), "log_std": draw.normal(3, scale=0.3), "curvature": draw.uniform(0.5, 2.0, 3)}
    with part("over repetitions", 2):
        eps = draw.normal(20, 4, 3)
        want = reference.script(NOISY, eps=eps, **case)
        compare(student.script(NOISY, eps=eps, **case), want, "the variances")
    with part("a variance that is known", 1):
        # every pair of nodes once: a mean of two independent samples has exactly half the variance of one
        eps = np.stack([GRID[draw.permutation(len(GRID))] for _ in range(3)], axis=2)  # (36, 2, 3)
        known = (case["curvature"] * np.exp(case["log_std"])) ** 2 / 2 * len(GRID) / (len(GRID) - 1)
        answer = student.script(NOISY, eps=eps, **case)
        variance, _ = several(answer, 2, "gradient_variance returns two tensors: the variances in mean and in log_std")
        compare(variance, known, "the variance of a slope that is known")


LOOK = """
def follow(node, outer, found):
    for parent, local in node.parents:
        found[id(parent)] = found.get(id(parent), 0.0) + outer * local
        follow(parent, outer * local, found)
def look(out, *inputs):
    found = {}
    follow(out, 1.0, found)
    return [float(out.data)] + [float(found.get(id(v), 0.0)) for v in inputs]
a, b = Value(x), Value(y)
"""
ARITHMETIC = [
    "return {'a + b': look(a + b, a, b), 'a * b': look(a * b, a, b), 'a - b': look(a - b, a, b), '-a': look(-a, a),",
    "        'a * a': look(a * a, a), '(a + b) * (a - b)': look((a + b) * (a - b), a, b)}",
]
DIVISION = [
    "return {'a / b': look(a / b, a, b), 'a ** 3': look(a**3, a), 'b ** 0.5': look(b**0.5, b),",
    "        'b ** -2': look(b**-2, b), 'a / (a * a + b)': look(a / (a * a + b), a, b)}",
]
FUNCTIONS = [
    "return {'exp': look(a.exp(), a), 'log': look(b.log(), b), 'tanh': look(a.tanh(), a),",
    "        'relu of a positive and of a negative number': look(b.relu(), b) + look((-b).relu(), b),",
    "        '(a * b).tanh().exp()': look((a * b).tanh().exp(), a, b)}",
]
NUMBERS = [
    "return {'a + 2': look(a + 2, a), 'a * 2.5': look(a * 2.5, a), 'a - 2': look(a - 2, a), 'a / 4': look(a / 4, a),",
    "        '2 + a': look(2 + a, a), '2.5 * a': look(2.5 * a, a), '2 - a': look(2 - a, a), '4 / a': look(4 / a, a)}",
]


@question("4a", points=4, names=["Value"], title="Values and their local derivatives", seconds=10)
def value(student: Any, reference: Any, draw: Any) -> None:
    point = {"x": -float(draw.uniform(0.4, 1.6)), "y": float(draw.uniform(1.7, 2.9))}
    parts = {"+, - and *": ARITHMETIC, "/ and **": DIVISION, "functions": FUNCTIONS, "plain numbers": NUMBERS}
    for label, lines in parts.items():
        source = LOOK + "\n".join(lines)
        with part(label, 1):
            want = reference.script(source, **point)
            found = student.script(source, **point)
            for expression, numbers in want.items():
                compare(found[expression], np.array(numbers), f"value and derivatives of {expression}")


NODE = """
class Node:
    def __init__(self, parents=(), grad=0.0):
        self.kept, self.grad, self.data, self.reads = tuple(parents), grad, 1.0, 0
    @property
    def parents(self):
        self.reads += 1
        if self.reads > 2000:
            raise OverflowError("the parents of one node were read 2,000 times: visit each node once")
        return self.kept
"""
LADDER = """
grads = []
for turn in (1, -1):  # near parents first, then far parents first: some wrong orders are right by luck in one of them
    nodes = []
    for i in range(8):
        edges = list(zip([i - 1, i - 2, i - 3], weights[i].tolist()))[::turn]
        nodes.append(Node((nodes[j], w) for j, w in edges if j >= 0 and (i - j != 2 or skip[i])))
    backward(nodes[-1])
    grads.append([float(node.grad) for node in nodes])
return torch.tensor(grads, dtype=torch.float64)
"""
TWICE = """
u, v, w, r = weights.tolist()
a, b = Node(), Node()
h = Node(((a, u), (b, v), (a, w)))
backward(Node(((h, r), (h, r))))
return [float(a.grad), float(b.grad), float(h.grad)]
"""
TWO_LOSSES = """
u, v, w, r = weights.tolist()
a = Node(grad=before)
h = Node(((a, u),))
first, second = Node(((h, v),)), Node(((h, w), (a, r)))
backward(first)
backward(second)
return [float(node.grad) for node in (a, h, first, second)]
"""
DEEP = """
leaf = node = Node()
for local in weights.tolist():
    node = Node(((node, local),))
try:
    backward(node)
except RecursionError:
    return "RecursionError: Python's call stack is full"
return float(leaf.grad)
"""
DOUBLING = """
leaf = node = Node()
for local in weights.tolist():
    node = Node(((node, local), (node, 1.0)))
try:
    backward(node)
except OverflowError:
    return "a node was visited more than 2,000 times"
return float(leaf.grad)
"""


@question("4b", points=5, names=["backward"], title="The backward pass", seconds=10)
def backward(student: Any, reference: Any, draw: Any) -> None:
    signs = 2 * draw.bernoulli(0.5, 8, 3) - 1
    weights, skip = signs * draw.uniform(0.5, 1.5, 8, 3), draw.bernoulli(0.5, 8)
    with part("shared nodes", 1.5):
        edge = np.zeros((8, 8))  # d node i / d node j
        for i, step in itertools.product(range(8), (1, 2, 3)):
            if i >= step and (step != 2 or skip[i]):
                edge[i, i - step] = weights[i, step - 1]
        want = np.stack([np.linalg.inv(np.eye(8) - edge)[-1]] * 2)  # the sum over all paths
        compare(student.script(NODE + LADDER, weights=weights, skip=skip), want, "the gradients of a graph of 8 nodes")
    u, v, w, r = four = draw.uniform(0.5, 1.5, 4)
    with part("a node that is used twice", 1):
        want = np.array([2 * r * (u + w), 2 * r * v, 2 * r])
        compare(student.script(NODE + TWICE, weights=four), want, "the gradients where a node is used twice")
    with part("gradients accumulate over two losses", 1):
        before = float(draw.uniform(0.5, 1.0))
        want = np.array([before + v * u + w * u + r, v + w, 1.0, 1.0])
        gradients = student.script(NODE + TWO_LOSSES, weights=four, before=before)
        compare(gradients, want, "the gradients after two losses that share a hidden node")
    with part("a chain of 10,000 nodes", 1):
        chain = 1 + draw.uniform(-0.01, 0.01, 10_000)
        compare(student.script(NODE + DEEP, weights=chain), np.prod(chain), "the gradient through 10,000 nodes")
    with part("forty doublings", 0.5):
        chain = draw.uniform(0.5, 1.5, 40)
        gradient = student.script(NODE + DOUBLING, weights=chain)
        compare(gradient, np.prod(chain + 1), "the gradient through forty doublings")


BUILD = """
params = {"W1": [[Value(w) for w in row] for row in W1.tolist()], "b1": [Value(b) for b in b1.tolist()],
          "w2": [Value(w) for w in w2.tolist()], "b2": Value(b2)}
"""
OUTPUTS = "return [float(network(params, point).data) for point in points.tolist()]"
TRAIN = """
losses = train_network(params, points.tolist(), labels.tolist(), lr, steps)
flat = [v for row in params["W1"] for v in row] + params["b1"] + params["w2"] + [params["b2"]]
return [float(loss) for loss in losses], [float(v.data) for v in flat]
"""
TORCH = """
params = [W1, b1, w2, torch.tensor(b2, dtype=W1.dtype, device=W1.device)]
losses = []
for _ in range(steps):
    params = [p.detach().requires_grad_() for p in params]
    output = (points @ params[0].T + params[1]).tanh() @ params[2] + params[3]
    loss = torch.nn.functional.softplus(-labels * output).mean()
    losses.append(loss.item())
    params = [p - lr * g for p, g in zip(params, torch.autograd.grad(loss, params))]
return losses, torch.cat([p.detach().flatten() for p in params])
"""


@question("4c", points=4, names=["network", "train_network"], title="A network trained by your engine", seconds=20)
def network(student: Any, reference: Any, draw: Any) -> None:
    upper = draw.bernoulli(0.5, 10)
    angle = draw.uniform(0.0, math.pi, 10)
    moons = np.stack([np.cos(angle), np.sin(angle)], 1) * (2 * upper - 1)[:, None]  # two half moons, one upside down
    points = np.round(moons + np.stack([1 - upper, 0.5 * (1 - upper)], 1) + draw.normal(10, 2, scale=0.1), 6)
    weights = {"W1": draw.normal(4, 2), "b1": draw.normal(4), "w2": draw.normal(4), "b2": float(draw.uniform(0.3, 1.0))}
    with part("the network's output", 1):
        hidden = np.tanh(points @ weights["W1"].T + weights["b1"])
        outputs = student.script(BUILD + OUTPUTS, points=points, **weights)
        compare(outputs, hidden @ weights["w2"] + weights["b2"], "f(x)")
    case = {**weights, "points": points, "labels": 2 * upper - 1, "lr": 0.5}
    with part("one step", 1):
        want = reference.script(TORCH, steps=1, **case)
        found = student.script(BUILD + TRAIN, steps=1, **case)
        compare(found, want, "loss and parameters after one step, against torch")
    with part("eight steps", 2):
        want_losses, want_final = reference.script(TORCH, steps=8, **case)
        losses, final = student.script(BUILD + TRAIN, steps=8, **case)
        compare(losses, want_losses, "the losses of eight steps, against torch")
        compare(final, want_final, "the parameters after eight steps, against torch")
