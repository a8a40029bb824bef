"""Faults for the forward process, DDPM, DDIM, guidance, editing and the measures of their samples."""

from tests.mutations import Mutation

FORWARD = "genmodels/diffusion/forward_process.py"
DDPM = "genmodels/diffusion/ddpm.py"
DDIM = "genmodels/diffusion/ddim.py"
GUIDANCE = "genmodels/diffusion/guidance.py"
EDITING = "genmodels/diffusion/editing.py"
KNN = "genmodels/evaluation/knn.py"
CLASSIFIER = "genmodels/evaluation/classifier.py"
FORWARD_TESTS = "tests/diffusion/test_forward_process.py::"
DDPM_TESTS = "tests/diffusion/test_ddpm.py::"
DDIM_TESTS = "tests/diffusion/test_ddim.py::"
GUIDANCE_TESTS = "tests/diffusion/test_guidance.py::"
EDITING_TESTS = "tests/diffusion/test_editing.py::"
KNN_TESTS = "tests/evaluation/test_knn.py::"

MUTATIONS = [
    Mutation(
        DDIM,
        "    if model.clip:  # name",
        "    if False:  # name",
        DDIM_TESTS + "test_a_clipped_guess_still_adds_up_to_x_t",
        "the noise is left as it was when x_0 is clipped",
    ),
    Mutation(
        FORWARD,
        "sqrt_alpha_bar=bar.sqrt(),",
        "sqrt_alpha_bar=bar,",
        FORWARD_TESTS + "test_jump_is_the_composition_of_single_steps",
        "ᾱ where its root belongs",
    ),
    Mutation(
        FORWARD,
        "F.pad(bar[:-1], (1, 0), value=1.0)",
        "bar.clone()",
        FORWARD_TESTS + "test_posterior_is_bayes_rule_on_a_grid",
        "ᾱ_t for ᾱ_{t−1} in the posterior",
    ),
    Mutation(
        FORWARD,
        "posterior_weight_t=(1 - betas).sqrt()",
        "posterior_weight_t=(1 - betas)",
        FORWARD_TESTS + "test_posterior_is_bayes_rule_on_a_grid",
        "a missing root in the posterior's mean",
    ),
    Mutation(
        FORWARD,
        "dtype=torch.float64) * (1000 / T)",
        "dtype=torch.float64)",
        FORWARD_TESTS + "test_the_end_is_noise_whatever_the_number_of_steps",
        "betas of 1,000 steps used for any number",
    ),
    Mutation(
        FORWARD,
        "(1 + s) * math.pi / 2) ** 2",
        "(1 + s) * math.pi / 2)",
        FORWARD_TESTS + "test_schedule_is_the_papers",
        "the cosine is not squared",
    ),
    Mutation(
        FORWARD,
        "return x * self.scale + self.shift",
        "return (x + self.shift) * self.scale",
        FORWARD_TESTS + "test_ranges",
        "the way out of the model's range is not the inverse",
    ),
    Mutation(
        DDPM,
        "torch.randint(1, self.num_steps + 1,",
        "torch.randint(1, self.num_steps,",
        DDPM_TESTS + "test_loss_draws_every_time_once_per_example",
        "T is never trained",
    ),
    Mutation(
        DDPM,
        "x_0 = self.to_model(x)\n        t = ",
        "x_0 = x\n        t = ",
        DDPM_TESTS + "test_loss_uses_the_data_range",
        "images stay in [0, 1]",
    ),
    Mutation(
        DDPM,
        "a * x_t - s * out, s * x_t + a * out",
        "a * x_t + s * out, s * x_t - a * out",
        DDPM_TESTS + "test_the_three_predictions_say_the_same",
        "v turned the wrong way",
    ),
    Mutation(
        DDPM,
        "torch.tensor([0, 1]), 0.0)",
        "torch.tensor([0]), 0.0)",
        DDPM_TESTS + "test_last_step_adds_no_noise",
        "noise in the last step",
    ),
    Mutation(
        DDPM,
        'if variance == "beta" else',
        'if variance != "beta" else',
        DDPM_TESTS + "test_step_variance",
        "the two variances swapped",
    ),
    Mutation(
        DDPM,
        "return -self.predict_eps(x, t, y) /",
        "return self.predict_eps(x, t, y) /",
        DDPM_TESTS + "test_score_of_a_mixture",
        "sign of the score",
    ),
    Mutation(
        DDPM,
        "- 1 + torch.log(var_p / var_q))",
        "- 1 + torch.log(var_q / var_p))",
        DDPM_TESTS + "test_bound_is_above_the_entropy_and_equals_its_closed_form",
        "KL with its log the wrong way up",
    ),
    Mutation(
        DDPM,
        "decoder.log_prob(x_0) - self.scale.log()",
        "decoder.log_prob(x_0)",
        DDPM_TESTS + "test_bound_is_in_the_units_of_the_data",
        "the density forgets the change of units",
    ),
    Mutation(
        DDIM,
        "(1 - bar_s - sigma**2)",
        "(1 - bar_s)",
        DDIM_TESTS + "test_every_step_keeps_the_marginal",
        "noise is added but none is taken away",
    ),
    Mutation(
        DDIM,
        "(1 - bar_s) / (1 - bar_t) * (1 - bar_t / bar_s)",
        "(1 - bar_s) / (1 - bar_t) * (1 - bar_s / bar_t).abs()",
        DDIM_TESTS + "test_with_eta_1_a_single_step_is_the_ddpms",
        "the two times swapped in sigma",
    ),
    Mutation(
        DDIM,
        "(num_steps / steps)).round().long()",
        "(num_steps / steps)).round().long().clamp(min=1)",
        DDIM_TESTS + "test_times_run_from_T_to_0",
        "the grid stops short of 0",
    ),
    Mutation(
        DDIM,
        "x_s = bar_s.sqrt().to(x_t.dtype) * x_0",
        "x_s = bar_t.sqrt().to(x_t.dtype) * x_0",
        DDIM_TESTS + "test_converges_to_the_ode_at_first_order",
        "the signal is kept at the old time",
    ),
    Mutation(
        DDIM,
        "taus[i].clamp(min=1), y)",
        "taus[i + 1], y)",
        DDIM_TESTS + "test_asks_the_network_as_often_as_said",
        "encoding asks the network at the wrong time",
    ),
    Mutation(
        GUIDANCE,
        "(1 + self.guidance) * conditional - self.guidance * unconditional",
        "(1 + self.guidance) * unconditional - self.guidance * conditional",
        GUIDANCE_TESTS + "test_guided_score_is_that_of_the_sharpened_product",
        "guided away from the class",
    ),
    Mutation(
        GUIDANCE,
        "(1 + self.guidance) * conditional - self.guidance * unconditional",
        "self.guidance * conditional + (1 - self.guidance) * unconditional",
        GUIDANCE_TESTS + "test_guided_score_is_that_of_the_sharpened_product",
        "the other convention of w",
    ),
    Mutation(
        GUIDANCE,
        "torch.rand(len(x), device=x.device) < self.label_dropout",
        "torch.rand(len(x), device=x.device) > self.label_dropout",
        GUIDANCE_TESTS + "test_training_drops_labels_at_the_rate_and_never_guides",
        "labels are kept at the rate at which they should be dropped",
    ),
    Mutation(
        GUIDANCE,
        "null = torch.full((len(x_t),), self.null,",
        "null = torch.full((len(x_t),), 0,",
        GUIDANCE_TESTS + "test_ends_of_the_scale",
        "class 0 taken as null",
    ),
    Mutation(
        GUIDANCE,
        "return DDPM.vlb_terms(self.with_guidance(0.0), x,",
        "return DDPM.vlb_terms(self, x,",
        GUIDANCE_TESTS + "test_bound_knows_no_guidance",
        "the bound is guided",
    ),
    Mutation(
        EDITING,
        "model.q_sample(x_0, ts[t - 1], standard_normal",
        "model.q_sample(x_0, ts[t], standard_normal",
        EDITING_TESTS + "test_known_part_is_at_the_noise_of_the_next_time",
        "the known part has the noise of t, not of t − 1",
    ),
    Mutation(
        EDITING,
        "torch.where(mask, known, unknown)",
        "torch.where(mask, unknown, known)",
        EDITING_TESTS + "test_resampling_approaches_the_conditional",
        "the mask means the opposite",
    ),
    Mutation(
        EDITING,
        "x_t = (1 - beta).sqrt() * x_before + beta.sqrt() *",
        "x_t = (1 - beta).sqrt() * x_before + beta *",
        EDITING_TESTS + "test_resampling_approaches_the_conditional",
        "too little noise on the jump back",
    ),
    Mutation(
        EDITING,
        "torch.where(mask, x, model.to_data(x_t))",
        "torch.where(mask, x, x_t)",
        EDITING_TESTS + "test_works_in_the_units_of_the_data",
        "filled in the model's units",
    ),
    Mutation(
        EDITING,
        "for s in range(t, 0, -1):",
        "for s in range(t - 1, 0, -1):",
        EDITING_TESTS + "test_sdedit_between_keeps_what_the_noise_leaves",
        "denoising starts one step too late",
    ),
    Mutation(KNN, "k=[k + 1]", "k=[k]", KNN_TESTS + "test_by_hand", "a point is its own neighbour"),
    Mutation(KNN, "np.log(m / (n - 1))", "np.log(m / n)", KNN_TESTS + "test_by_hand", "n for n − 1"),
    Mutation(
        KNN,
        "float(d * np.mean",
        "float(np.mean",
        KNN_TESTS + "test_direction",
        "the dimension is missing",
    ),
    Mutation(
        CLASSIFIER,
        "(x_test - mean) / deviation",
        "x_test / deviation",
        "tests/evaluation/test_classifier.py::test_images_and_units_of_the_inputs",
        "test inputs are not centred as the training inputs are",
    ),
    Mutation(
        CLASSIFIER,
        "classifier.score(((x_test - mean) / deviation).numpy(), test_y",
        "classifier.score(((x - mean) / deviation).numpy(), train_y",
        "tests/evaluation/test_classifier.py::test_wrong_labels_teach_the_wrong_thing",
        "scored on what it was trained on",
    ),
]
