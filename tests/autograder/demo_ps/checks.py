"""Checks of the tiny problem set."""

import numpy as np

from autograder.checks import compare, expect, part, question


@question("1a", points=4, names=["gaussian_mle"], title="A Gaussian's maximum likelihood", seconds=6, seeds=2)
def gaussian_mle(student, reference, draw):
    x = draw.normal(50, 3, scale=2.0)
    mean, variance = student.gaussian_mle(x)
    expected_mean, expected_variance = reference.gaussian_mle(x)
    with part("mean", 2):
        compare(mean, expected_mean, "the mean")
    with part("variance", 2):
        compare(variance, expected_variance, "the variance")


@question("1b", points=3, names=["logsumexp"], title="Log-sum-exp", seconds=6, seeds=2)
def logsumexp(student, reference, draw):
    a = draw.normal(6, 4)
    compare(student.logsumexp(a), reference.logsumexp(a), "log-sum-exp")
    with part("large values", 1):
        large = a + draw.choice([-1e4, 1e4])
        compare(student.logsumexp(large), reference.logsumexp(large), "log-sum-exp of large values")


@question("1c", points=3, names=["Layer"], title="A layer", seconds=6, seeds=1)
def layer(student, reference, draw):
    x = draw.normal(5, 400)
    body = "layer = Layer(400, 50)\nreturn layer(x), layer.weight"
    outputs, weight = student.script(body, x=x)
    with part("forward", 2):
        compare(outputs, x @ np.asarray(weight, dtype=np.float64), "the output", rtol=1e-3)
    with part("initial variance", 1):
        expect(0.8 < float(np.var(weight)) * 400 < 1.25, "the weights' variance should be 1/D")
