"""Faults for the maximum-likelihood family."""

from tests.mutations import Mutation

GAUSSIAN = "genmodels/maximum_likelihood/gaussian.py"
T = "tests/maximum_likelihood/test_gaussian.py"

MUTATIONS = [
    Mutation(
        GAUSSIAN,
        "- half_log_det - 0.5",
        "+ half_log_det - 0.5",
        f"{T}::test_density_integrates_to_one",
        "sign of the log-determinant",
    ),
    Mutation(
        GAUSSIAN,
        "centred / len(points))",
        "centred / (len(points) - 1))",
        f"{T}::test_gradient_of_the_likelihood_is_zero_at_the_estimate",
        "N - 1 for N",
    ),
    Mutation(
        GAUSSIAN,
        "cholesky_factor(self.raw).T).view",
        "cholesky_factor(self.raw)).view",
        f"{T}::test_samples_have_the_moments_and_the_shape",
        "samples with the factor not transposed",
    ),
    Mutation(
        GAUSSIAN,
        "whitened.square().sum() - p.d",
        "whitened.square().sum() + p.d",
        f"{T}::test_kl_is_that_of_torch_and_vanishes_for_equals",
        "the dimension added in the KL",
    ),
    Mutation(
        GAUSSIAN,
        "+ q.raw.diagonal().sum() - p.raw.diagonal().sum()",
        "+ p.raw.diagonal().sum() - q.raw.diagonal().sum()",
        f"{T}::test_kl_is_that_of_torch_and_vanishes_for_equals",
        "log-determinants of the KL exchanged",
    ),
    Mutation(
        GAUSSIAN,
        "return raw.tril(-1) +",
        "return raw.triu(1) +",
        f"{T}::test_log_prob_is_the_density_of_its_moments",
        "an upper factor solved as a lower one",
    ),
]
