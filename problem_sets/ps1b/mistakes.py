"""Typical wrong answers of sections 3 and 4, each with the hint that whoever makes it reads."""

import math

import torch

from autograder.authoring import mistake

HALF_LOG_TWO_PI = 0.5 * math.log(2 * math.pi)


def right_kl(mean, log_std, prior_mean, prior_log_std):
    squared = (2 * log_std).exp() + (mean - prior_mean) ** 2
    return (prior_log_std - log_std + 0.5 * squared * (-2 * prior_log_std).exp() - 0.5).sum(1)


def right_fit(x, mean, log_std, noise_std):
    n, d = x.shape
    squared = ((x - mean) ** 2).sum() + n * (2 * log_std).exp().sum()
    return -0.5 * squared / noise_std**2 - n * d * (math.log(noise_std) + HALF_LOG_TWO_PI)


def right_price(mean, log_std, prior_std):
    zero = torch.zeros_like(mean)[None]
    return right_kl(mean[None], log_std[None], zero, zero + math.log(prior_std))[0]


# -- 3a


@mistake(
    "3a", "Your KL is twice what it should be: look at the factors of one half, on the squares and on the constant."
)
def gaussian_kl(mean, log_std, prior_mean, prior_log_std):
    return 2 * right_kl(mean, log_std, prior_mean, prior_log_std)


@mistake(
    "3a", "That is KL(prior || q): the first two arguments belong to the density that the expectation is taken under."
)
def gaussian_kl(mean, log_std, prior_mean, prior_log_std):
    return right_kl(prior_mean, prior_log_std, mean, log_std)


@mistake("3a", "exp(log_std) is a standard deviation, and the formula asks for variances in its fraction: square it.")
def gaussian_kl(mean, log_std, prior_mean, prior_log_std):
    squared = log_std.exp() + (mean - prior_mean) ** 2
    return (prior_log_std - log_std + 0.5 * squared * (-prior_log_std).exp() - 0.5).sum(1)


@mistake("3a", "You average the KL over the coordinates; independent coordinates add up.")
def gaussian_kl(mean, log_std, prior_mean, prior_log_std):
    return right_kl(mean, log_std, prior_mean, prior_log_std) / mean.shape[1]


@mistake("3a", "The logarithm has the wrong sign: a q that is narrower than the prior must cost more, not less.")
def gaussian_kl(mean, log_std, prior_mean, prior_log_std):
    return right_kl(mean, log_std, prior_mean, prior_log_std) + 2 * (log_std - prior_log_std).sum(1)


@mistake("3a", "The distance between the two means is missing from the KL.")
def gaussian_kl(mean, log_std, prior_mean, prior_log_std):
    return right_kl(mean, log_std, mean, prior_log_std)


@mistake(
    "3a", "The KL of a density from itself must be 0, and yours is D/2: a constant is missing from each coordinate."
)
def gaussian_kl(mean, log_std, prior_mean, prior_log_std):
    return right_kl(mean, log_std, prior_mean, prior_log_std) + 0.5 * mean.shape[1]


@mistake("3a", "You scored the points at q's mean only: z varies under q, so the expected squared error is larger.")
def elbo(x, mean, log_std, prior_std, noise_std):
    squared = ((x - mean) ** 2).sum()
    fit = -0.5 * squared / noise_std**2 - x.numel() * (math.log(noise_std) + HALF_LOG_TWO_PI)
    return fit - right_price(mean, log_std, prior_std)


@mistake(
    "3a", "The variance of q enters the expected squared error once for each of the N points; you counted it for one."
)
def elbo(x, mean, log_std, prior_std, noise_std):
    squared = ((x - mean) ** 2).sum() + (2 * log_std).exp().sum()
    fit = -0.5 * squared / noise_std**2 - x.numel() * (math.log(noise_std) + HALF_LOG_TWO_PI)
    return fit - right_price(mean, log_std, prior_std)


@mistake("3a", "The KL is a price: it is taken off the fit, not added to it.")
def elbo(x, mean, log_std, prior_std, noise_std):
    return right_fit(x, mean, log_std, noise_std) + right_price(mean, log_std, prior_std)


@mistake(
    "3a", "You took the mean of the fit over the points; the bound is on log p(x_1, ..., x_N), so it is their sum."
)
def elbo(x, mean, log_std, prior_std, noise_std):
    return right_fit(x, mean, log_std, noise_std) / len(x) - right_price(mean, log_std, prior_std)


@mistake("3a", "The prior is paid once for all points, since there is one z; you pay it for every point.")
def elbo(x, mean, log_std, prior_std, noise_std):
    return right_fit(x, mean, log_std, noise_std) - len(x) * right_price(mean, log_std, prior_std)


@mistake("3a", "noise_std is a standard deviation; you used it where the density of a Gaussian has the variance.")
def elbo(x, mean, log_std, prior_std, noise_std):
    return right_fit(x, mean, log_std, math.sqrt(noise_std)) - right_price(mean, log_std, prior_std)


@mistake("3a", "prior_std is a standard deviation, and its logarithm is what the KL wants; you passed something else.")
def elbo(x, mean, log_std, prior_std, noise_std):
    return right_fit(x, mean, log_std, noise_std) - right_price(mean, log_std, prior_std**2)


@mistake("3a", "The Gaussian's normalising constant, with its 2 pi, is missing: without it the bound bounds nothing.")
def elbo(x, mean, log_std, prior_std, noise_std):
    fit = right_fit(x, mean, log_std, noise_std) + x.numel() * HALF_LOG_TWO_PI
    return fit - right_price(mean, log_std, prior_std)


@mistake(
    "3a", "The Gaussian's normaliser depends on the noise, too: the logarithm of noise_std is missing from the fit."
)
def elbo(x, mean, log_std, prior_std, noise_std):
    fit = right_fit(x, mean, log_std, noise_std) + x.numel() * math.log(noise_std)
    return fit - right_price(mean, log_std, prior_std)


# -- 3b


def means_given(x, phi, prior_std):
    s2 = 1 / (1 / prior_std**2 + phi.sum(0))
    return s2[:, None] * (phi.T @ x), s2


def phi_given(x, m, s2):
    return (x @ m.T - 0.5 * ((m**2).sum(1) + x.shape[1] * s2)).softmax(1)


@mistake("3b", "You used |m_k|^2 for E|mu_k|^2: the mean is uncertain, so its expected square is larger.")
def cavi_sweep(x, m, s2, prior_std):
    phi = (x @ m.T - 0.5 * (m**2).sum(1)).softmax(1)
    return phi, *means_given(x, phi, prior_std)


@mistake(
    "3b", "s2 is the variance of each of the D coordinates of a mean, so E|mu_k|^2 has it D times; you have it once."
)
def cavi_sweep(x, m, s2, prior_std):
    phi = (x @ m.T - 0.5 * ((m**2).sum(1) + s2)).softmax(1)
    return phi, *means_given(x, phi, prior_std)


@mistake("3b", "E|mu_k|^2 enters phi with a factor one half, as in the exponent of a Gaussian.")
def cavi_sweep(x, m, s2, prior_std):
    phi = (x @ m.T - (m**2).sum(1) - x.shape[1] * s2).softmax(1)
    return phi, *means_given(x, phi, prior_std)


@mistake("3b", "You normalised phi over the points: each row, one point's classes, must sum to 1.")
def cavi_sweep(x, m, s2, prior_std):
    phi = (x @ m.T - 0.5 * ((m**2).sum(1) + x.shape[1] * s2)).softmax(0)
    return phi, *means_given(x, phi, prior_std)


@mistake("3b", "You made phi hard, all or nothing, as k-means does; keep the probabilities.")
def cavi_sweep(x, m, s2, prior_std):
    phi = torch.nn.functional.one_hot(phi_given(x, m, s2).argmax(1), len(m)).to(x.dtype)
    return phi, *means_given(x, phi, prior_std)


@mistake(
    "3b", "s2 is too large or too small by the prior's share: the prior adds its precision, one over its variance."
)
def cavi_sweep(x, m, s2, prior_std):
    phi = phi_given(x, m, s2)
    s2 = 1 / (prior_std**2 + phi.sum(0))
    return phi, s2[:, None] * (phi.T @ x), s2


@mistake("3b", "prior_std is a standard deviation: a precision is one over its square.")
def cavi_sweep(x, m, s2, prior_std):
    phi = phi_given(x, m, s2)
    return phi, *means_given(x, phi, math.sqrt(prior_std))


@mistake("3b", "Your third value is a standard deviation; s2 is a variance.")
def cavi_sweep(x, m, s2, prior_std):
    phi = phi_given(x, m, s2)
    m, s2 = means_given(x, phi, prior_std)
    return phi, m, s2.sqrt()


@mistake("3b", "You returned a precision: s2 is one over it.")
def cavi_sweep(x, m, s2, prior_std):
    phi = phi_given(x, m, s2)
    m, s2 = means_given(x, phi, prior_std)
    return phi, m, 1 / s2


@mistake("3b", "Your means are those of EM, plain weighted averages: the prior pulls the posterior's mean towards 0.")
def cavi_sweep(x, m, s2, prior_std):
    phi = phi_given(x, m, s2)
    _, s2 = means_given(x, phi, prior_std)
    return phi, (phi.T @ x) / phi.sum(0)[:, None], s2


@mistake("3b", "You scale the means with the old s2; they need the new one, from the new phi.")
def cavi_sweep(x, m, s2, prior_std):
    phi = phi_given(x, m, s2)
    return phi, s2[:, None] * (phi.T @ x), means_given(x, phi, prior_std)[1]


@mistake("3b", "For points far away the exponential overflows before you normalise: let softmax do both.")
def cavi_sweep(x, m, s2, prior_std):
    weight = (x @ m.T - 0.5 * ((m**2).sum(1) + x.shape[1] * s2)).exp()
    phi = weight / weight.sum(1, keepdim=True)
    return phi, *means_given(x, phi, prior_std)


# -- 3c


def slopes(log_joint, mean, log_std, eps):
    """d log p(x, z) / dz at each sample, (S, D)."""
    with torch.enable_grad():
        z = (mean + log_std.exp() * eps).detach().requires_grad_()
        (slope,) = torch.autograd.grad(log_joint(z).sum(), z)
    return slope


@mistake("3c", "The entropy of q is missing: it does not depend on the mean, and pulls each log_std up.")
def reparam_gradient(log_joint, mean, log_std, eps):
    slope = slopes(log_joint, mean, log_std, eps)
    return slope.mean(0), (slope * eps * log_std.exp()).mean(0)


@mistake("3c", "The entropy has the wrong sign: the ELBO is E[log p] PLUS the entropy of q, so a wider q is rewarded.")
def reparam_gradient(log_joint, mean, log_std, eps):
    slope = slopes(log_joint, mean, log_std, eps)
    return slope.mean(0), (slope * eps * log_std.exp()).mean(0) - 1


@mistake("3c", "You summed over the samples: the expectation is estimated by their mean.")
def reparam_gradient(log_joint, mean, log_std, eps):
    slope = slopes(log_joint, mean, log_std, eps)
    return slope.sum(0), (slope * eps * log_std.exp()).sum(0) + 1


@mistake(
    "3c", "That is the gradient in the standard deviation; by the chain rule the one in its logarithm has a factor std."
)
def reparam_gradient(log_joint, mean, log_std, eps):
    slope = slopes(log_joint, mean, log_std, eps)
    return slope.mean(0), (slope * eps).mean(0) + (-log_std).exp()


@mistake(
    "3c", "The slope reaches log_std through z = mean + exp(log_std) eps: your derivative of z lacks exp(log_std)."
)
def reparam_gradient(log_joint, mean, log_std, eps):
    slope = slopes(log_joint, mean, log_std, eps)
    return slope.mean(0), (slope * eps).mean(0) + 1


@mistake("3c", "The slope reaches log_std through z = mean + exp(log_std) eps: your derivative of z lacks the noise.")
def reparam_gradient(log_joint, mean, log_std, eps):
    slope = slopes(log_joint, mean, log_std, eps)
    return slope.mean(0), (slope * log_std.exp()).mean(0) + 1


@mistake("3c", "You took log_std for the logarithm of the variance: exp(log_std) is the standard deviation itself.")
def reparam_gradient(log_joint, mean, log_std, eps):
    slope = slopes(log_joint, mean, 0.5 * log_std, eps)
    return slope.mean(0), (slope * eps * (0.5 * log_std).exp()).mean(0) / 2 + 0.5


@mistake("3c", "You treat exp(log_std) as the variance and multiply the noise by it twice: z = mean + std * eps.")
def reparam_gradient(log_joint, mean, log_std, eps):
    slope = slopes(log_joint, mean, 2 * log_std, eps)
    return slope.mean(0), 2 * (slope * eps * (2 * log_std).exp()).mean(0) + 1


@mistake("3c", "You return the gradient of the negative ELBO, of a loss; the gradient of the ELBO itself is asked for.")
def reparam_gradient(log_joint, mean, log_std, eps):
    slope = slopes(log_joint, mean, log_std, eps)
    return -slope.mean(0), -(slope * eps * log_std.exp()).mean(0) - 1


@mistake("3c", "You evaluated the slope at q's mean only: take it at every sample z, then average.")
def reparam_gradient(log_joint, mean, log_std, eps):
    slope = slopes(log_joint, mean, log_std, torch.zeros_like(eps))
    return slope.mean(0), (slope * eps * log_std.exp()).mean(0) + 1


# -- 3d


def score_parts(log_joint, mean, log_std, z):
    """f (S,), and the scores in mean and log_std (S, D)."""
    eps = (z - mean) / log_std.exp()
    log_q = -(0.5 * eps**2 + log_std + HALF_LOG_TWO_PI).sum(1)
    return log_joint(z) - log_q, eps / log_std.exp(), eps**2 - 1


def leave_one_out(f):
    return (f.sum() - f) / (len(f) - 1)


def combine(f, score_mean, score_log_std):
    return (f[:, None] * score_mean).mean(0), (f[:, None] * score_log_std).mean(0)


@mistake("3d", "log q is missing from f: f = log p(x, z) - log q(z), or the entropy has no say.")
def score_gradient(log_joint, mean, log_std, z, baseline=False):
    _, score_mean, score_log_std = score_parts(log_joint, mean, log_std, z)
    f = log_joint(z)
    return combine(f - leave_one_out(f) if baseline else f, score_mean, score_log_std)


@mistake("3d", "log q has the wrong sign in f: the ELBO is E[log p(x, z)] minus E[log q(z)].")
def score_gradient(log_joint, mean, log_std, z, baseline=False):
    f, score_mean, score_log_std = score_parts(log_joint, mean, log_std, z)
    f = 2 * log_joint(z) - f
    return combine(f - leave_one_out(f) if baseline else f, score_mean, score_log_std)


@mistake("3d", "The entropy is counted twice: -log q inside f stands for it already, so no 1 is added for log_std.")
def score_gradient(log_joint, mean, log_std, z, baseline=False):
    f, score_mean, score_log_std = score_parts(log_joint, mean, log_std, z)
    in_mean, in_log_std = combine(f - leave_one_out(f) if baseline else f, score_mean, score_log_std)
    return in_mean, in_log_std + 1


@mistake(
    "3d", "You differentiated log q through the samples: as z moves along with the mean, that score is 0. Hold z fixed."
)
def score_gradient(log_joint, mean, log_std, z, baseline=False):
    f = score_parts(log_joint, mean, log_std, z)[0]
    f = f - leave_one_out(f) if baseline else f
    return torch.zeros_like(mean), -f.mean() * torch.ones_like(log_std)


@mistake("3d", "That is the gradient of 3c: here nothing may be differentiated through the samples or the model.")
def score_gradient(log_joint, mean, log_std, z, baseline=False):
    eps = (z - mean) / log_std.exp()
    slope = slopes(log_joint, mean, log_std, eps)
    return slope.mean(0), (slope * eps * log_std.exp()).mean(0) + 1


@mistake("3d", "The score in log_std lacks its -1, which comes from the normaliser -log s of q.")
def score_gradient(log_joint, mean, log_std, z, baseline=False):
    f, score_mean, score_log_std = score_parts(log_joint, mean, log_std, z)
    return combine(f - leave_one_out(f) if baseline else f, score_mean, score_log_std + 1)


@mistake("3d", "The score in the mean is (z - m) / s^2, over the variance; you divided by the standard deviation once.")
def score_gradient(log_joint, mean, log_std, z, baseline=False):
    f, score_mean, score_log_std = score_parts(log_joint, mean, log_std, z)
    return combine(f - leave_one_out(f) if baseline else f, score_mean * log_std.exp(), score_log_std)


@mistake(
    "3d", "That is the score in the standard deviation; by the chain rule the one in its logarithm has a factor std."
)
def score_gradient(log_joint, mean, log_std, z, baseline=False):
    f, score_mean, score_log_std = score_parts(log_joint, mean, log_std, z)
    return combine(f - leave_one_out(f) if baseline else f, score_mean, score_log_std / log_std.exp())


@mistake("3d", "You summed over the samples: the expectation is estimated by their mean.")
def score_gradient(log_joint, mean, log_std, z, baseline=False):
    f, score_mean, score_log_std = score_parts(log_joint, mean, log_std, z)
    in_mean, in_log_std = combine(f - leave_one_out(f) if baseline else f, score_mean, score_log_std)
    return len(z) * in_mean, len(z) * in_log_std


@mistake(
    "3d", "The constants of log q (its 2 pi) are missing from f: without a baseline they matter for the given samples."
)
def score_gradient(log_joint, mean, log_std, z, baseline=False):
    f, score_mean, score_log_std = score_parts(log_joint, mean, log_std, z)
    f = f - HALF_LOG_TWO_PI * z.shape[1]
    return combine(f - leave_one_out(f) if baseline else f, score_mean, score_log_std)


@mistake("3d", "Your baseline contains the sample that it is taken from, which shrinks the gradient: use the OTHERS.")
def score_gradient(log_joint, mean, log_std, z, baseline=False):
    f, score_mean, score_log_std = score_parts(log_joint, mean, log_std, z)
    return combine(f - f.mean() if baseline else f, score_mean, score_log_std)


@mistake("3d", "Your baseline is the sum of the other S - 1 samples over S: divide by how many they are.")
def score_gradient(log_joint, mean, log_std, z, baseline=False):
    f, score_mean, score_log_std = score_parts(log_joint, mean, log_std, z)
    return combine(f - (f.sum() - f) / len(f) if baseline else f, score_mean, score_log_std)


@mistake("3d", "The baseline is to be subtracted from f; you added it, which makes the noise worse.")
def score_gradient(log_joint, mean, log_std, z, baseline=False):
    f, score_mean, score_log_std = score_parts(log_joint, mean, log_std, z)
    return combine(f + leave_one_out(f) if baseline else f, score_mean, score_log_std)


@mistake(
    "3d", "Your baseline changes nothing: with baseline=True the mean of f over the other samples comes off each f."
)
def score_gradient(log_joint, mean, log_std, z, baseline=False):
    return combine(*score_parts(log_joint, mean, log_std, z))


# -- 3e


def repeated(estimator, log_joint, mean, log_std, eps):
    """The estimates of all repetitions, two tensors (R, D)."""
    estimates = [estimator(log_joint, mean, log_std, one) for one in eps]
    return torch.stack([g for g, _ in estimates]), torch.stack([g for _, g in estimates])


@mistake("3e", "Your variance divides by R; the unbiased one divides by R - 1.")
def gradient_variance(estimator, log_joint, mean, log_std, eps):
    a, b = repeated(estimator, log_joint, mean, log_std, eps)
    return a.var(0, correction=0), b.var(0, correction=0)


@mistake("3e", "Those are standard deviations: the variances are their squares.")
def gradient_variance(estimator, log_joint, mean, log_std, eps):
    a, b = repeated(estimator, log_joint, mean, log_std, eps)
    return a.std(0), b.std(0)


@mistake(
    "3e", "You took the variance of single samples: call the estimator once a repetition, with all of its S samples."
)
def gradient_variance(estimator, log_joint, mean, log_std, eps):
    a, b = repeated(estimator, log_joint, mean, log_std, eps.reshape(-1, 1, eps.shape[-1]))
    return a.var(0), b.var(0)


@mistake(
    "3e", "You divided by R once more: that is the variance of the mean of all repetitions, not that of one estimate."
)
def gradient_variance(estimator, log_joint, mean, log_std, eps):
    a, b = repeated(estimator, log_joint, mean, log_std, eps)
    return a.var(0) / len(a), b.var(0) / len(b)


@mistake(
    "3e", "The estimates are means over S samples already: their variance over repetitions is not divided by S again."
)
def gradient_variance(estimator, log_joint, mean, log_std, eps):
    a, b = repeated(estimator, log_joint, mean, log_std, eps)
    return a.var(0) / eps.shape[1], b.var(0) / eps.shape[1]


@mistake("3e", "That is the mean square of the estimates: take their own mean off before squaring.")
def gradient_variance(estimator, log_joint, mean, log_std, eps):
    a, b = repeated(estimator, log_joint, mean, log_std, eps)
    return (a**2).sum(0) / (len(a) - 1), (b**2).sum(0) / (len(b) - 1)


@mistake("3e", "The two variances stand in the wrong order: first that of the gradient in mean, then that in log_std.")
def gradient_variance(estimator, log_joint, mean, log_std, eps):
    a, b = repeated(estimator, log_joint, mean, log_std, eps)
    return b.var(0), a.var(0)


@mistake("3e", "You averaged over the coordinates: one variance for each of the D coordinates is asked for.")
def gradient_variance(estimator, log_joint, mean, log_std, eps):
    a, b = repeated(estimator, log_joint, mean, log_std, eps)
    return a.var(0).mean(), b.var(0).mean()


@mistake("3e", "You took the variance over the coordinates, within each repetition: it belongs over the repetitions.")
def gradient_variance(estimator, log_joint, mean, log_std, eps):
    a, b = repeated(estimator, log_joint, mean, log_std, eps)
    return a.var(1), b.var(1)


# -- 4a


class RightValue:
    """The right operations, for the wrong ones to inherit from."""

    def __init__(self, data, parents=()):
        self.data, self.grad, self.parents = float(data), 0.0, parents

    def wrap(self, other):
        return other if isinstance(other, RightValue) else type(self)(other)

    def make(self, data, *parents):
        return type(self)(data, parents)

    def __add__(self, other):
        other = self.wrap(other)
        return self.make(self.data + other.data, (self, 1.0), (other, 1.0))

    def __mul__(self, other):
        other = self.wrap(other)
        return self.make(self.data * other.data, (self, other.data), (other, self.data))

    def __sub__(self, other):
        other = self.wrap(other)
        return self.make(self.data - other.data, (self, 1.0), (other, -1.0))

    def __truediv__(self, other):
        other = self.wrap(other)
        return self.make(self.data / other.data, (self, 1 / other.data), (other, -self.data / other.data**2))

    def __pow__(self, p):
        return self.make(self.data**p, (self, p * self.data ** (p - 1)))

    def __neg__(self):
        return self.make(-self.data, (self, -1.0))

    def __radd__(self, other):
        return self + other

    def __rmul__(self, other):
        return self * other

    def __rsub__(self, other):
        return self.wrap(other) - self

    def __rtruediv__(self, other):
        return self.wrap(other) / self

    def exp(self):
        return self.make(math.exp(self.data), (self, math.exp(self.data)))

    def log(self):
        return self.make(math.log(self.data), (self, 1 / self.data))

    def tanh(self):
        return self.make(math.tanh(self.data), (self, 1 - math.tanh(self.data) ** 2))

    def relu(self):
        return self.make(max(self.data, 0.0), (self, float(self.data > 0)))


@mistake("4a", "The derivative of a product by one factor is the OTHER factor.")
class Value(RightValue):
    def __mul__(self, other):
        other = self.wrap(other)
        return self.make(self.data * other.data, (self, self.data), (other, other.data))


@mistake("4a", "The local derivatives of * are 1, as those of a sum: a product's depend on the data.")
class Value(RightValue):
    def __mul__(self, other):
        other = self.wrap(other)
        return self.make(self.data * other.data, (self, 1.0), (other, 1.0))


@mistake("4a", "a - b falls as b grows: the local derivative by b has a sign.")
class Value(RightValue):
    def __sub__(self, other):
        other = self.wrap(other)
        return self.make(self.data - other.data, (self, 1.0), (other, 1.0))


@mistake("4a", "The derivative of -a by a is -1, not 1.")
class Value(RightValue):
    def __neg__(self):
        return self.make(-self.data, (self, 1.0))


@mistake("4a", "a * a depends on a twice: list a among the parents for each of its two uses.")
class Value(RightValue):
    def __mul__(self, other):
        other = self.wrap(other)
        parents = {id(self): (self, other.data), id(other): (other, self.data)}
        return self.make(self.data * other.data, *parents.values())


@mistake("4a", "a / b falls as b grows (for a > 0): the local derivative by b has a minus sign.")
class Value(RightValue):
    def __truediv__(self, other):
        other = self.wrap(other)
        return self.make(self.data / other.data, (self, 1 / other.data), (other, self.data / other.data**2))


@mistake("4a", "The derivative of 1/b is -1/b^2: in a / b the denominator is squared.")
class Value(RightValue):
    def __truediv__(self, other):
        other = self.wrap(other)
        return self.make(self.data / other.data, (self, 1 / other.data), (other, -self.data / other.data))


@mistake("4a", "In the derivative of a ** p the exponent goes down by one.")
class Value(RightValue):
    def __pow__(self, p):
        return self.make(self.data**p, (self, p * self.data**p))


@mistake("4a", "In the derivative of a ** p the exponent comes to the front as a factor.")
class Value(RightValue):
    def __pow__(self, p):
        return self.make(self.data**p, (self, self.data ** (p - 1)))


@mistake("4a", "exp is its own derivative, so the local derivative is exp(a), not a.")
class Value(RightValue):
    def exp(self):
        return self.make(math.exp(self.data), (self, self.data))


@mistake("4a", "The derivative of the logarithm is one over its INPUT; you divided by its output.")
class Value(RightValue):
    def log(self):
        return self.make(math.log(self.data), (self, 1 / math.log(self.data)))


@mistake("4a", "The logarithm is the natural one, math.log.")
class Value(RightValue):
    def log(self):
        return self.make(math.log10(self.data), (self, 1 / (self.data * math.log(10))))


@mistake("4a", "The derivative of tanh is one minus its SQUARE.")
class Value(RightValue):
    def tanh(self):
        return self.make(math.tanh(self.data), (self, 1 - math.tanh(self.data)))


@mistake("4a", "The derivative of tanh is one minus the square of its output; you squared the input.")
class Value(RightValue):
    def tanh(self):
        return self.make(math.tanh(self.data), (self, 1 - self.data**2))


@mistake("4a", "relu lets nothing through below zero: its derivative there is 0.")
class Value(RightValue):
    def relu(self):
        return self.make(max(self.data, 0.0), (self, 1.0))


@mistake("4a", "For 2 - a Python calls a.__rsub__(2): the plain number stands on the LEFT, and you have a - 2.")
class Value(RightValue):
    def __rsub__(self, other):
        return self - other


@mistake("4a", "For 4 / a Python calls a.__rtruediv__(4): the plain number stands on the LEFT, and you have a / 4.")
class Value(RightValue):
    def __rtruediv__(self, other):
        return self / other


# -- 4b


def children_first(root):
    """A topological order, each child before its parents."""
    order, seen, stack = [], {id(root)}, [(root, iter(root.parents))]
    while stack:
        node, rest = stack[-1]
        for parent, _ in rest:
            if id(parent) not in seen:
                seen.add(id(parent))
                stack.append((parent, iter(parent.parents)))
                break
        else:
            order.append(node)
            stack.pop()
    return order[::-1]


def run_backward(root, order):
    gradient = {id(root): 1.0}
    for node in order:
        outgoing = gradient[id(node)]
        node.grad += outgoing
        for parent, local in node.parents:
            gradient[id(parent)] = gradient.get(id(parent), 0.0) + outgoing * local


@mistake("4b", "A shared node keeps only what its last use delivered: gradients of several uses add up (+=, not =).")
def backward(root):
    gradient = {id(root): 1.0}
    for node in children_first(root):
        node.grad += gradient[id(node)]
        for parent, local in node.parents:
            gradient[id(parent)] = gradient[id(node)] * local


@mistake(
    "4b", "You pass on the local derivative alone: the chain rule multiplies it by the gradient of the node itself."
)
def backward(root):
    gradient = {id(root): 1.0}
    for node in children_first(root):
        node.grad += gradient[id(node)]
        for parent, local in node.parents:
            gradient[id(parent)] = gradient.get(id(parent), 0.0) + local


@mistake("4b", "A node passes its gradient on before all of its children have delivered: sort the nodes first.")
def backward(root):
    gradient, seen, stack = {id(root): 1.0}, {id(root)}, [root]
    while stack:
        node = stack.pop()
        node.grad += gradient[id(node)]
        gradient_here = gradient[id(node)]
        for parent, local in node.parents:
            gradient[id(parent)] = gradient.get(id(parent), 0.0) + gradient_here * local
            if id(parent) not in seen:
                seen.add(id(parent))
                stack.append(parent)


@mistake(
    "4b", "Level by level from the root is no topological order: a node may have a child on a level below its own."
)
def backward(root):
    order, seen = [root], {id(root)}
    for node in order:
        for parent, _ in node.parents:
            if id(parent) not in seen:
                seen.add(id(parent))
                order.append(parent)
    run_backward(root, order)


@mistake("4b", "The root has no gradient to pass on unless it starts with d root / d root = 1.")
def backward(root):
    for node in children_first(root):
        for parent, local in node.parents:
            parent.grad += node.grad * local


@mistake("4b", "The root's own grad stays as it was; the derivative of the root by itself is 1 and belongs there.")
def backward(root):
    run_backward(root, children_first(root))
    root.grad -= 1.0


@mistake("4b", "Where a node is used twice by the same child, you count one use only: do not merge equal parents.")
def backward(root):
    gradient = {id(root): 1.0}
    for node in children_first(root):
        node.grad += gradient[id(node)]
        for parent, local in {id(parent): (parent, local) for parent, local in node.parents}.values():
            gradient[id(parent)] = gradient.get(id(parent), 0.0) + gradient[id(node)] * local


@mistake("4b", "You set the gradients to 0 first: backward must ADD to what grad holds, so that two losses add up.")
def backward(root):
    order = children_first(root)
    for node in order:
        node.grad = 0.0
    run_backward(root, order)


@mistake(
    "4b", "The second pass hands on what the first one left in grad: keep each pass's gradients apart, then add them."
)
def backward(root):
    root.grad += 1.0
    for node in children_first(root):
        for parent, local in node.parents:
            parent.grad += node.grad * local


@mistake("4b", "Your recursion is as deep as the graph, and Python stops at about 1,000 calls: use a loop.")
def backward(root):
    order, seen = [], set()

    def visit(node):
        if id(node) not in seen:
            seen.add(id(node))
            for parent, _ in node.parents:
                visit(parent)
            order.append(node)

    visit(root)
    run_backward(root, order[::-1])


@mistake("4b", "You follow every path, and paths double with each doubling: visit each node once, when it is complete.")
def backward(root):
    stack = [(root, 1.0)]
    while stack:
        node, outgoing = stack.pop()
        node.grad += outgoing
        stack.extend((parent, outgoing * local) for parent, local in node.parents)


# -- 4c


def all_parameters(params):
    return [v for row in params["W1"] for v in row] + params["b1"] + params["w2"] + [params["b2"]]


def descend(params, points, labels, lr, steps, sign=-1.0, mean=True, zero="before", late=False):
    """The right training loop, with switches for what may go wrong."""
    losses = []

    def evaluate():
        total = sum(((network(params, p) * (sign * y)).exp() + 1.0).log() for p, y in zip(points, labels, strict=True))
        return total / len(points) if mean else total

    for _ in range(steps):
        loss = evaluate()
        for p in all_parameters(params):
            p.grad = 0.0 if zero != "never" else p.grad
        backward(loss)
        for p in all_parameters(params):
            p.grad = 0.0 if zero == "after" else p.grad
            p.data -= lr * p.grad
        losses.append(evaluate().data if late else loss.data)
    return losses


def output(params, point, bias=True, last_bias=True, activation="tanh"):
    out = params["b2"] if last_bias else 0.0
    for weights, b, w2 in zip(params["W1"], params["b1"], params["w2"], strict=True):
        hidden = b if bias else 0.0
        for weight, coordinate in zip(weights, point, strict=True):
            hidden = hidden + weight * coordinate
        out = out + w2 * (getattr(hidden, activation)() if activation else hidden)
    return out


@mistake("4c", "The hidden units' biases b1 are missing.")
def network(params, point):
    return output(params, point, bias=False)


@mistake("4c", "The output's bias b2 is missing.")
def network(params, point):
    return output(params, point, last_bias=False)


@mistake("4c", "The tanh is missing: without it the network is one straight line, however many units it has.")
def network(params, point):
    return output(params, point, activation=None)


@mistake("4c", "The hidden units are tanh units; you used relu.")
def network(params, point):
    return output(params, point, activation="relu")


@mistake("4c", "The output itself goes through a tanh: f(x) is a logit and may be of any size.")
def network(params, point):
    return output(params, point).tanh()


@mistake(
    "4c", "The gradients were not set to 0 before each pass, so each step follows the sum of all gradients so far."
)
def train_network(params, points, labels, lr, steps):
    return descend(params, points, labels, lr, steps, zero="never")


@mistake("4c", "The gradients are set to 0 between the backward pass and the update: no parameter ever moves.")
def train_network(params, points, labels, lr, steps):
    return descend(params, points, labels, lr, steps, zero="after")


@mistake("4c", "The step goes uphill: subtract the gradient of a loss.")
def train_network(params, points, labels, lr, steps):
    return descend(params, points, labels, -lr, steps)


@mistake("4c", "The loss is the mean over the points; yours is the sum.")
def train_network(params, points, labels, lr, steps):
    return descend(params, points, labels, lr, steps, mean=False)


@mistake("4c", "The sign in the exponent is wrong: a point on the right side, y f(x) > 0, must have a small loss.")
def train_network(params, points, labels, lr, steps):
    return descend(params, points, labels, lr, steps, sign=1.0)


@mistake("4c", "Your losses are those after each update; return those before it.")
def train_network(params, points, labels, lr, steps):
    return descend(params, points, labels, lr, steps, late=True)
