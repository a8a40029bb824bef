"""Faults for the adversarial models."""

from tests.mutations import Mutation

GAN = "genmodels/gans/gan.py"
GAN_TESTS = "tests/gans/test_gan.py::"
WGAN = "genmodels/gans/wgan_gp.py"
WGAN_TESTS = "tests/gans/test_wgan_gp.py::"
NETS = "genmodels/nets/adversarial.py"

MUTATIONS = [
    Mutation(
        GAN,
        "        loss = -value(real, fake)\n",
        "        loss = -value(fake, real)\n",
        GAN_TESTS + "test_optimal_discriminator_gives_the_jensen_shannon_divergence",
        "data and samples change places",
    ),
    Mutation(
        GAN,
        "return F.logsigmoid(real_logits).mean() + F.logsigmoid(-fake_logits).mean()",
        "return real_logits.sigmoid().log().mean() + (1 - fake_logits.sigmoid()).log().mean()",
        GAN_TESTS + "test_extreme_logits_stay_finite",
        "log of a rounded probability",
    ),
    Mutation(
        GAN,
        "return -F.logsigmoid(logits).mean()  # −E log D(G(z))",
        "return F.logsigmoid(-logits).mean()  # −E log D(G(z))",
        GAN_TESTS + "test_saturation",
        "the non-saturating objective is minimax in disguise",
    ),
    Mutation(
        GAN,
        "return F.logsigmoid(-logits).mean()  # eq. 1",
        "return -F.logsigmoid(-logits).mean()  # eq. 1",
        GAN_TESTS + "test_generators_gradients_under_the_optimal_discriminator",
        "the generator helps the discriminator",
    ),
    Mutation(
        GAN,
        "        with frozen(self.D):\n            logits",
        "        if True:\n            logits",
        GAN_TESTS + "test_each_loss_leaves_the_other_player_alone",
        "the generator's loss leaves gradients in D",
    ),
    Mutation(
        GAN,
        "        with torch.no_grad():\n            fake",
        "        if True:\n            fake",
        GAN_TESTS + "test_each_loss_leaves_the_other_player_alone",
        "the discriminator's loss trains G",
    ),
    Mutation(
        GAN,
        "0.5 * self.r1 * input_gradient(real, x).square().sum(1).mean()",
        "0.5 * self.r1 * input_gradient(real, x).square().mean()",
        GAN_TESTS + "test_r1_penalty_of_a_linear_discriminator",
        "R1 averages over dimensions",
    ),
    Mutation(
        GAN,
        '        yield "discriminator", self.discriminator_loss(x)\n'
        '        yield "generator", self.generator_loss(len(x))',
        '        g = self.generator_loss(len(x))\n        yield "discriminator", self.discriminator_loss(x)\n'
        '        yield "generator", g',
        GAN_TESTS + "test_generator_is_judged_by_the_stepped_discriminator",
        "the generator is judged by the discriminator of before its step",
    ),
    Mutation(
        WGAN,
        "        gap = real_values.mean() - fake_values.mean()",
        "        gap = fake_values.mean() - real_values.mean()",
        WGAN_TESTS + "test_optimal_critic_of_shifted_points_measures_the_shift",
        "the critic's sign",
    ),
    Mutation(
        WGAN,
        ".norm(dim=1)  # (B,)",
        ".norm()  # (B,)",
        WGAN_TESTS + "test_penalty_is_per_example_on_the_line_between",
        "one norm for the whole batch",
    ),
    Mutation(
        WGAN,
        "x_hat = (u * x + (1 - u) * fake)",
        "x_hat = (u * fake + (1 - u) * x)",
        WGAN_TESTS + "test_penalty_is_per_example_on_the_line_between",
        "u weighs the wrong end",
    ),
    Mutation(
        WGAN,
        "            u = torch.rand(len(x), device=x.device, dtype=x.dtype)\n"
        "        u = u.view(-1, *[1] * (x.ndim - 1))  # (B, 1, ..., 1)\n",
        "            u = torch.rand(x.shape, device=x.device, dtype=x.dtype)\n",
        WGAN_TESTS + "test_one_u_for_each_example",
        "one u for each pixel",
    ),
    Mutation(
        WGAN,
        "return (slope - 1.0).square().mean()",
        "return slope.square().mean()",
        WGAN_TESTS + "test_penalty_of_a_linear_critic",
        "slope 0 is asked for",
    ),
    Mutation(
        WGAN,
        "            return -self.critic(",
        "            return self.critic(",
        WGAN_TESTS + "test_generator_climbs_the_critic",
        "the generator runs down the critic",
    ),
    Mutation(
        WGAN,
        "for _ in range(self.n_critic):",
        "for _ in range(1):",
        WGAN_TESTS + "test_training_losses_are_n_critic_fresh_ones_then_the_generators",
        "n_critic is ignored",
    ),
    Mutation(
        NETS,
        "torch.autograd.grad(values.sum(), x, create_graph=True)",
        "torch.autograd.grad(values.sum(), x)",
        WGAN_TESTS + "test_penalty_of_a_linear_critic",
        "the penalty is a constant",
    ),
    Mutation(
        NETS,
        "torch.autograd.grad(values.sum(), x, create_graph=True)",
        "torch.autograd.grad(values.mean(), x, create_graph=True)",
        WGAN_TESTS + "test_penalty_of_a_linear_critic",
        "a slope divided by the batch",
    ),
    Mutation(
        NETS,
        "        for p in trainable:\n            p.requires_grad_(True)",
        "        pass",
        GAN_TESTS + "test_each_loss_leaves_the_other_player_alone",
        "the discriminator stays frozen",
    ),
    Mutation(
        NETS,
        "[:, :, : self.shape[1], : self.shape[2]].sigmoid()",
        "[:, :, : self.shape[1], : self.shape[2]]",
        GAN_TESTS + "test_images_of_any_size",
        "images leave [0, 1]",
    ),
    Mutation(
        "genmodels/gans/gan.py",
        "        x = self.blur(x)\n",
        "",
        "tests/gans/test_gan.py::test_instance_noise_fades_and_is_seen_by_both",
        "only the samples are blurred, so D can tell by the blur",
    ),
    Mutation(
        "genmodels/gans/gan.py",
        " * (self.step < self.noise_steps)",
        "",
        "tests/gans/test_gan.py::test_instance_noise_fades_and_is_seen_by_both",
        "the noise never ends",
    ),
    Mutation(
        WGAN,
        '        for _ in range(self.n_critic):\n            yield "critic", self.critic_loss(x)\n'
        '        yield "generator", self.generator_loss(len(x))',
        "        g = self.generator_loss(len(x))\n        for _ in range(self.n_critic):\n"
        '            yield "critic", self.critic_loss(x)\n        yield "generator", g',
        WGAN_TESTS + "test_generator_is_judged_by_the_stepped_critic",
        "the generator is judged by the critic of before its steps",
    ),
    Mutation(
        WGAN,
        "self.generator_loss(len(x))",
        "self.generator_loss(1)",
        WGAN_TESTS + "test_generator_is_judged_by_the_stepped_critic",
        "the generator learns from one sample a step",
    ),
    Mutation(
        WGAN,
        "self.G(self._noise(n, generator))",
        "self.G(self._noise(n))",
        WGAN_TESTS + "test_sampling_repeats_with_its_generator_and_knows_the_scale",
        "sampling forgets its generator",
    ),
    Mutation(
        WGAN,
        "discriminator_network(self.shape, hidden, width=width, data_scale=data_scale)",
        "discriminator_network(self.shape, hidden, width=width)",
        WGAN_TESTS + "test_sampling_repeats_with_its_generator_and_knows_the_scale",
        "the critic sees data out of scale",
    ),
    Mutation(
        WGAN,
        "    @torch.enable_grad()  # the penalty is made of a gradient, also where the caller wants none\n",
        "",
        WGAN_TESTS + "test_loss_can_be_looked_at_without_gradients",
        "the loss fails under no_grad",
    ),
    Mutation(
        GAN,
        "self.step / max(1, self.noise_steps)",
        "self.step / self.noise_steps",
        GAN_TESTS + "test_instance_noise_fades_and_is_seen_by_both",
        "nought over nought where the noise ends at once",
    ),
]
