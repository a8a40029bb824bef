"""Faults for the normalizing flows."""

from tests.mutations import Mutation

FLOW = "genmodels/flows/flow.py"
REALNVP = "genmodels/flows/realnvp.py"
MAF = "genmodels/flows/maf.py"
IAF = "genmodels/flows/iaf.py"
REALNVP_TESTS = "tests/flows/test_realnvp.py::"
MAF_TESTS = "tests/flows/test_maf.py::"
IAF_TESTS = "tests/flows/test_iaf.py::"

MUTATIONS = [
    Mutation(
        FLOW,
        "        return standard_normal_log_prob(z) + log_det\n",
        "        return standard_normal_log_prob(z) - log_det\n",
        REALNVP_TESTS + "test_density_integrates_to_one",
        "log-determinant subtracted",
    ),
    Mutation(
        FLOW,
        "return -0.5 * (z.square().sum(-1) + z.shape[-1] * LOG_2PI)",
        "return -0.5 * (z.square().sum(-1) + LOG_2PI)",
        REALNVP_TESTS + "test_density_integrates_to_one",
        "the normal's constant once instead of D times",
    ),
    Mutation(
        FLOW,
        "x = (x * (self.levels - 1) + torch.rand_like(x)) / self.levels",
        "x = x + torch.rand_like(x) / self.levels",
        REALNVP_TESTS + "test_images",
        "dequantised beyond the range",
    ),
    Mutation(
        FLOW,
        "for layer in reversed(self.layers):",
        "for layer in self.layers:",
        REALNVP_TESTS + "test_round_trip",
        "inverse in forward order",
    ),
    Mutation(
        FLOW,
        "(math.log(1 - 2 * self.alpha) - p.log() - (-p).log1p()).sum(-1)",
        "(-p.log() - (-p).log1p()).sum(-1)",
        REALNVP_TESTS + "test_logit",
        "the squeeze by 1 - 2 alpha forgotten",
    ),
    Mutation(
        REALNVP,
        "return self.join(x_a, z_b), s.sum(-1)  # eq. (6)",
        "return self.join(x_a, z_b), -3 * s.sum(-1)  # eq. (6)",
        REALNVP_TESTS + "test_log_det_is_that_of_autograd",
        "log-determinant times -3",
    ),
    Mutation(
        REALNVP,
        "x_b = (z_b - t) / s.exp()  # eq. (8)",
        "x_b = z_b / s.exp() - t  # eq. (8)",
        REALNVP_TESTS + "test_round_trip",
        "shift taken off after the division",
    ),
    Mutation(
        REALNVP,
        "swap=k % 2 == 1",
        "swap=False",
        REALNVP_TESTS + "test_layers_take_turns",
        "halves never swap",
    ),
    Mutation(
        REALNVP,
        "return self.join(z_a, x_b), -s.sum(-1)",
        "return self.join(z_a, x_b), s.sum(-1)",
        REALNVP_TESTS + "test_round_trip",
        "inverse keeps the log-determinant's sign",
    ),
    Mutation(
        REALNVP,
        "return bounded(s), t",
        "return s.exp(), t",
        REALNVP_TESTS + "test_bounded_scale_survives_outliers",
        "unbounded scale",
    ),
    Mutation(
        MAF,
        "self.degrees[0][:, None] > self.degrees[-1][None, :]",
        "self.degrees[0][:, None] >= self.degrees[-1][None, :]",
        MAF_TESTS + "test_parameters_see_only_what_came_before",
        "an output sees its own input",
    ),
    Mutation(
        MAF,
        "b[:, None] >= a[None, :]",
        "b[:, None] > a[None, :]",
        MAF_TESTS + "test_parameters_see_all_that_came_before",
        "masks stricter than need be",
    ),
    Mutation(
        MAF,
        "return F.linear(x, self.weight * self.mask, self.bias)",
        "return F.linear(x, self.weight, self.bias)",
        MAF_TESTS + "test_parameters_see_only_what_came_before",
        "mask not applied",
    ),
    Mutation(
        MAF,
        "-alpha.sum(-1)  # eqs. (4), (5)",
        "alpha.sum(-1)  # eqs. (4), (5)",
        MAF_TESTS + "test_density_integrates_to_one",
        "sign of the log-determinant",
    ),
    Mutation(
        MAF,
        "layers += [MaskedAffine(d, widths(hidden)), Reverse()]",
        "layers += [MaskedAffine(d, widths(hidden)), nn.Identity()]",
        MAF_TESTS + "test_order_is_reversed_between_layers",
        "order never reversed",
    ),
    Mutation(
        MAF,
        "new = slice(starts[i], starts[i + 1])",
        "new = slice(starts[i], starts[min(i + 2, self.d)])",
        MAF_TESTS + "test_inverse_solves_the_forward_map_one_dimension_at_a_time",
        "hidden units computed before their inputs are known",
    ),
    Mutation(
        IAF,
        "log_q = log_q - log_det  # eq. (11)",
        "log_q = log_q + log_det  # eq. (11)",
        IAF_TESTS + "test_posterior_density",
        "log q with the wrong sign",
    ),
    Mutation(
        IAF,
        "log_q = standard_normal_log_prob(noise) - 0.5 * logvar.sum(-1)",
        "log_q = standard_normal_log_prob(noise) - logvar.sum(-1)",
        IAF_TESTS + "test_posterior_density",
        "log-variance taken for log-deviation",
    ),
    Mutation(
        IAF,
        "return torch.addcmul(m, z, s.exp()), s.sum(-1)",
        "return torch.addcmul(m, z + m, s.exp()), s.sum(-1)",
        IAF_TESTS + "test_round_trip",
        "the mean is scaled too",
    ),
    Mutation(
        IAF,
        "z, log_det = layer.inverse(z, context)",
        "z, log_det = layer.inverse(z, 0 * context)",
        IAF_TESTS + "test_posterior_depends_on_its_context",
        "posterior blind to its context",
    ),
    Mutation(
        IAF,
        "return self.log_likelihood(x, z) + standard_normal_log_prob(z) - log_q",
        "return self.log_likelihood(x, z) - 0.5 * (mu.square() + logvar.exp() - 1 - logvar).sum(-1)",
        IAF_TESTS + "test_elbo_is_a_bound_that_integrates_the_weights",
        "the Gaussian's KL although the posterior is none",
    ),
    Mutation(
        IAF,
        "            z = z.flip(-1)\n",
        "",
        IAF_TESTS + "test_layers_of_the_posterior_reverse_the_order",
        "posterior's order never reversed",
    ),
    Mutation(
        IAF,
        ".clamp(-FAR, FAR)",
        "",
        IAF_TESTS + "test_far_away_the_density_is_small_and_a_number",
        "overflow far from the data",
    ),
    Mutation(
        REALNVP,
        "first = [EvenOdd()] if len(shape) == 3 else []",
        "first: list[nn.Module] = []",
        REALNVP_TESTS + "test_images_are_split_into_even_and_odd_pixels",
        "images split into upper and lower half",
    ),
    Mutation(
        MAF,
        "super().__init__(shape, layers[:-1], levels=levels)",
        "super().__init__(shape, layers[:-1])",
        REALNVP_TESTS + "test_an_image_is_spread_over_its_own_number_of_levels",
        "256 levels whatever was asked for",
    ),
    Mutation(
        IAF,
        "layers += [InverseAutoregressive(d, widths(hidden)), Reverse()]",
        "layers += [InverseAutoregressive(d, widths(hidden)), Reverse(), Reverse()]",
        IAF_TESTS + "test_order_is_reversed_between_layers",
        "order never reversed",
    ),
    Mutation(
        IAF,
        "return self.decode(self.posterior(mu, logvar, torch.zeros_like(mu))[0])",
        "return self.decode(mu)",
        IAF_TESTS + "test_decoder_gets_the_flows_code",
        "reconstruction from the flow's start",
    ),
]
