"""Typical wrong answers to problem set 1, sections 1 and 2, each with the hint that a student who makes it reads.

Read by the grader and never imported; each runs on top of the solution, one at a time.
"""

from __future__ import annotations

import math

import torch

from autograder.authoring import mistake

# 1a. A Gaussian in closed form


@mistake("1a", "Your covariance divides by N - 1. That one is unbiased; the most likely one divides by N.")
def gaussian_mle(x):
    return x.mean(0), torch.cov(x.T)


@mistake("1a", "Your covariance is a sum over the points where an average is asked for: it grows with N.")
def gaussian_mle(x):
    centred = x - x.mean(0)
    return x.mean(0), centred.T @ centred


@mistake("1a", "Your second moments are taken about the origin: a covariance is taken about the mean.")
def gaussian_mle(x):
    return x.mean(0), x.T @ x / len(x)


@mistake("1a", "Your covariance holds variances only; coordinates that vary together belong off its diagonal.")
def gaussian_mle(x):
    return x.mean(0), torch.diag(x.var(0, correction=0))


@mistake("1a", "Your diagonal holds standard deviations: a covariance has squared units, with variances there.")
def gaussian_mle(x):
    cov = torch.cov(x.T, correction=0)
    return x.mean(0), cov - torch.diag(cov.diagonal()) + torch.diag(cov.diagonal().sqrt())


@mistake("1a", "You average over the coordinates of each point: the mean of the points averages over the other axis.")
def gaussian_mle(x):
    mean = x.mean(1)
    centred = x - mean[:, None]
    return mean, centred.T @ centred / len(x)


@mistake("1a", "Your product pairs points with points, (N, N): the covariance pairs coordinates, (D, D).")
def gaussian_mle(x):
    centred = x - x.mean(0)
    return x.mean(0), centred @ centred.T / len(x)


@mistake(
    "1a", "Far from the origin, E[x x^T] minus the product of the means loses all digits: centre the points first."
)
def gaussian_mle(x):
    mean = x.mean(0)
    return mean, x.T @ x / len(x) - mean[:, None] * mean[None]


# 1b. Bernoulli pixels


@mistake("1b", "Your logarithm meets a sigmoid that has rounded to 0 or 1: go from the logits to logarithms directly.")
def bernoulli_log_prob(logits, x):
    theta = 1 / (1 + torch.exp(-logits))
    return (x * theta.log() + (1 - x) * (1 - theta).log()).sum(1)


@mistake("1b", "Keeping the probabilities away from 0 and 1 hides the infinity and gives a wrong, smaller number.")
def bernoulli_log_prob(logits, x):
    theta = torch.sigmoid(logits).clamp(1e-12, 1 - 1e-12)
    return (x * theta.log() + (1 - x) * (1 - theta).log()).sum(1)


@mistake("1b", "exp(logit) overflows for large logits: use the form of the softplus in which only exp(-|l|) appears.")
def bernoulli_log_prob(logits, x):
    return (x * logits - torch.log(1 + torch.exp(logits))).sum(1)


@mistake("1b", "Your zeros count for nothing: a pixel that is 0 has the log-probability log(1 - theta).")
def bernoulli_log_prob(logits, x):
    return (x * torch.nn.functional.logsigmoid(logits)).sum(1)


@mistake("1b", "You average over the pixels: independent pixels multiply, so their logarithms add.")
def bernoulli_log_prob(logits, x):
    return (x * logits - torch.nn.functional.softplus(logits)).mean(1)


@mistake("1b", "You add up the images: each image has a log-probability of its own, so (B,) comes back.")
def bernoulli_log_prob(logits, x):
    return (x * logits - torch.nn.functional.softplus(logits)).sum(0)


@mistake("1b", "Your sign is that of a loss: a log-probability of something discrete is at most 0.")
def bernoulli_log_prob(logits, x):
    return (torch.nn.functional.softplus(logits) - x * logits).sum(1)


@mistake("1b", "You treat zeros as ones and ones as zeros: a large logit makes a 1 probable.")
def bernoulli_log_prob(logits, x):
    return ((1 - x) * logits - torch.nn.functional.softplus(logits)).sum(1)


@mistake("1b", "bernoulli_mle returns probabilities: the logit of each is asked for.")
def bernoulli_mle(x):
    return x.mean(0)


@mistake("1b", "bernoulli_mle returns log theta: the logit also subtracts log(1 - theta).")
def bernoulli_mle(x):
    return x.mean(0).log()


@mistake("1b", "bernoulli_mle counts the ones of each image: count them for each pixel, over the images.")
def bernoulli_mle(x):
    return torch.logit(x.mean(1))


# 1c. Categorical data


@mistake("1c", "You return logits: they are log-probabilities only once log-sum-exp of all of them is subtracted.")
def categorical_log_prob(logits, x):
    return logits[x]


@mistake("1c", "exp overflows for large logits: subtract the largest one first.")
def categorical_log_prob(logits, x):
    return logits[x] - logits.exp().sum().log()


@mistake("1c", "A softmax and then a logarithm: what the softmax rounds to 0 becomes -inf. Stay in logarithms.")
def categorical_log_prob(logits, x):
    shifted = (logits - logits.max()).exp()
    return (shifted / shifted.sum()).log()[x]


@mistake("1c", "You took the largest logit out of the sum and did not put it back (or not out of both terms).")
def categorical_log_prob(logits, x):
    return logits[x] - (logits - logits.max()).exp().sum().log()


@mistake("1c", "You return probabilities, and logarithms of them are asked for.")
def categorical_log_prob(logits, x):
    return logits.softmax(0)[x]


@mistake("1c", "Your normaliser sums over the logits of the data: it sums over all K values, seen or not.")
def categorical_log_prob(logits, x):
    return logits[x] - logits[x].logsumexp(0)


@mistake("1c", "You return counts: divide by their sum.")
def categorical_mle(x, num_classes, pseudo_count=0.0):
    return torch.bincount(x, minlength=num_classes).double() + pseudo_count


@mistake("1c", "Classes that never occur are missing from your answer: it has num_classes entries.")
def categorical_mle(x, num_classes, pseudo_count=0.0):
    counts = torch.bincount(x).double() + pseudo_count
    return counts / counts.sum()


@mistake("1c", "With a pseudo-count your probabilities sum to more than 1: the divisor grows too.")
def categorical_mle(x, num_classes, pseudo_count=0.0):
    return (torch.bincount(x, minlength=num_classes).double() + pseudo_count) / len(x)


@mistake("1c", "The divisor counts the pseudo-count once: each of the K classes has been given one.")
def categorical_mle(x, num_classes, pseudo_count=0.0):
    return (torch.bincount(x, minlength=num_classes).double() + pseudo_count) / (len(x) + pseudo_count)


@mistake(
    "1c", "Only unseen classes get your pseudo-count: all of them do, or the seen ones lose more than they should."
)
def categorical_mle(x, num_classes, pseudo_count=0.0):
    counts = torch.bincount(x, minlength=num_classes).double()
    counts = torch.where(counts == 0, pseudo_count, counts)
    return counts / counts.sum()


@mistake("1c", "Your pseudo-count is ignored.")
def categorical_mle(x, num_classes, pseudo_count=0.0):
    return torch.bincount(x, minlength=num_classes).double() / len(x)


# 1d. Stochastic gradient descent


def sgd(log_prob, parameters, x, batches, rate, loss_of=None, accumulate=False):
    """The right loop with places to go wrong in."""
    parameters = [p.clone().requires_grad_() for p in parameters]
    sums = [torch.zeros_like(p) for p in parameters]
    losses = []
    for batch in batches:
        loss = loss_of(x[batch], parameters) if loss_of else -log_prob(x[batch], *parameters).mean()
        gradients = torch.autograd.grad(loss, parameters)
        sums = [s + g for s, g in zip(sums, gradients, strict=True)] if accumulate else list(gradients)
        parameters = [(p - rate * s).detach().requires_grad_() for p, s in zip(parameters, sums, strict=True)]
        losses.append(loss.item())
    return [p.detach() for p in parameters], losses


@mistake("1d", "Your loss is the sum over the batch: with the mean, the learning rate fits batches of any size.")
def fit_by_sgd(log_prob, parameters, x, batches, learning_rate):
    return sgd(log_prob, parameters, x, batches, learning_rate, lambda b, p: -log_prob(b, *p).sum())


@mistake("1d", "You climb the loss: to make it smaller, step against its gradient.")
def fit_by_sgd(log_prob, parameters, x, batches, learning_rate):
    return sgd(log_prob, parameters, x, batches, -learning_rate)


@mistake("1d", "Your loss has the sign of the likelihood: you minimise what should become large.")
def fit_by_sgd(log_prob, parameters, x, batches, learning_rate):
    return sgd(log_prob, parameters, x, batches, learning_rate, lambda b, p: log_prob(b, *p).mean())


@mistake("1d", "Gradients of earlier steps are still in your step: clear .grad before each backward pass.")
def fit_by_sgd(log_prob, parameters, x, batches, learning_rate):
    return sgd(log_prob, parameters, x, batches, learning_rate, accumulate=True)


@mistake("1d", "Each of your steps looks at all points: step t looks at the points that batches[t] names.")
def fit_by_sgd(log_prob, parameters, x, batches, learning_rate):
    everything = torch.arange(len(x)).expand(len(batches), -1)
    return sgd(log_prob, parameters, x, everything, learning_rate)


@mistake("1d", "Your losses are computed after the step: note each batch's loss before it changes the parameters.")
def fit_by_sgd(log_prob, parameters, x, batches, learning_rate):
    losses = []
    for batch in batches:
        parameters, _ = sgd(log_prob, parameters, x, batch[None], learning_rate)
        losses.append(-log_prob(x[batch], *parameters).mean().item())
    return parameters, losses


@mistake("1d", "Your step is divided by the batch's size once more: the mean has done so already.")
def fit_by_sgd(log_prob, parameters, x, batches, learning_rate):
    return sgd(log_prob, parameters, x, batches, learning_rate / batches.shape[1])


@mistake("1d", "Your gradients are all taken where you started: take each at the parameters of its step.")
def fit_by_sgd(log_prob, parameters, x, batches, learning_rate):
    losses, steps = [], []
    for batch in batches:
        after, loss = sgd(log_prob, parameters, x, batch[None], learning_rate)
        steps.append([b - a for a, b in zip(parameters, after, strict=True)])
        losses.extend(loss)
    return [p + sum(s[i] for s in steps) for i, p in enumerate(parameters)], losses


@mistake("1d", "You return the parameters that you were given: the fitted ones are asked for.")
def fit_by_sgd(log_prob, parameters, x, batches, learning_rate):
    return parameters, sgd(log_prob, parameters, x, batches, learning_rate)[1]


# 2a. The likelihood of a mixture


@mistake("2a", "exp overflows at 1e4, and log 0 is -inf: take the largest entry of each row out first.")
def log_sum_exp(a):
    return a.exp().sum(-1).log()


@mistake("2a", "One maximum for the whole array: rows far below it vanish. Each row has its own.")
def log_sum_exp(a):
    return a.max() + (a - a.max()).exp().sum(-1).log()


@mistake("2a", "The maximum that you took out of the sum has to come back outside of the logarithm.")
def log_sum_exp(a):
    return (a - a.max(-1, keepdim=True).values).exp().sum(-1).log()


@mistake("2a", "log_sum_exp averages: it is the logarithm of a sum, larger by the logarithm of the number of terms.")
def log_sum_exp(a):
    return torch.logsumexp(a, -1) - math.log(a.shape[-1])


@mistake("2a", "log_sum_exp sums over the first axis: each row of the last axis gives one number.")
def log_sum_exp(a):
    return torch.logsumexp(a, 0)


@mistake("2a", "You return the largest entry alone: the others add to it.")
def log_sum_exp(a):
    return a.max(-1).values


def log_densities(x, means, covs, half=0.5, log_det=1.0, constant=0.5, transpose=False, square=True):
    """Gaussian log-densities (N, K) with places to go wrong in."""
    factor = torch.linalg.cholesky(covs)
    centred = (x - means[:, None]).mT
    solve = torch.linalg.solve_triangular
    z = solve(factor.mT, centred, upper=True) if transpose else solve(factor, centred, upper=False)
    distance = z.square().sum(1) if square else z.abs().sum(1)
    log_dets = factor.diagonal(dim1=1, dim2=2).log().sum(1)[:, None]
    return (-half * distance - log_det * log_dets).T - constant * x.shape[1] * math.log(2 * math.pi)


@mistake("2a", "The squared distance in your Gaussian lacks its factor 1/2.")
def gaussian_log_prob(x, means, covs):
    return log_densities(x, means, covs, half=1.0)


@mistake("2a", "Your determinant counts twice: the logarithms on L's diagonal sum to half of log |Sigma| already.")
def gaussian_log_prob(x, means, covs):
    return log_densities(x, means, covs, log_det=2.0)


@mistake("2a", "Your determinant counts half: log |Sigma| is twice the sum of the logarithms on L's diagonal.")
def gaussian_log_prob(x, means, covs):
    return log_densities(x, means, covs, log_det=0.5)


@mistake("2a", "Your Gaussian has no determinant: a wide density must be a low one.")
def gaussian_log_prob(x, means, covs):
    return log_densities(x, means, covs, log_det=0.0)


@mistake("2a", "Your Gaussian lacks its constant, D/2 log 2 pi: it does not integrate to 1.")
def gaussian_log_prob(x, means, covs):
    return log_densities(x, means, covs, constant=0.0)


@mistake("2a", "The constant is 1/2 log 2 pi for each of the D dimensions, not once.")
def gaussian_log_prob(x, means, covs):
    return log_densities(x, means, covs, constant=0.5 / x.shape[1])


@mistake("2a", "You solve with the transpose of L: L z = x - mu, with L itself, whitens the point.")
def gaussian_log_prob(x, means, covs):
    return log_densities(x, means, covs, transpose=True)


@mistake("2a", "Your distance multiplies by the covariance: it is the inverse that measures distance.")
def gaussian_log_prob(x, means, covs):
    centred = x[:, None] - means
    far = torch.einsum("nki,kij,nkj->nk", centred, covs, centred)
    log_dets = torch.linalg.slogdet(covs)[1]
    return -0.5 * (far + log_dets + x.shape[1] * math.log(2 * math.pi))


@mistake("2a", "Your components all have the same weight: the logits are missing.")
def mixture_log_prob(x, logits, means, covs):
    return torch.logsumexp(gaussian_log_prob(x, means, covs), 1)


@mistake("2a", "Your weights do not sum to 1: normalise the logits first.")
def mixture_log_prob(x, logits, means, covs):
    return torch.logsumexp(logits + gaussian_log_prob(x, means, covs), 1)


@mistake("2a", "You add weights to log-densities: the logarithms of the weights belong there.")
def mixture_log_prob(x, logits, means, covs):
    return torch.logsumexp(logits.softmax(0) + gaussian_log_prob(x, means, covs), 1)


@mistake("2a", "You average log-densities: the densities are what a mixture adds up, inside of the logarithm.")
def mixture_log_prob(x, logits, means, covs):
    return gaussian_log_prob(x, means, covs) @ logits.softmax(0)


@mistake("2a", "exp of a logit overflows at 1e4: normalise the weights with log_sum_exp, in logarithms.")
def mixture_log_prob(x, logits, means, covs):
    weights = logits.exp() / logits.exp().sum()
    return torch.logsumexp(weights.log() + gaussian_log_prob(x, means, covs), 1)


# 2b. Responsibilities


@mistake("2b", "You normalise over the points: for each point, the components' responsibilities sum to 1.")
def responsibilities(logits, log_density):
    return (logits + log_density).softmax(0)


@mistake("2b", "Your prior is missing: a component that is rarely chosen is less responsible.")
def responsibilities(logits, log_density):
    return log_density.softmax(1)


@mistake("2b", "You add the weights to the log-densities: their logarithms belong there.")
def responsibilities(logits, log_density):
    return (logits.softmax(0) + log_density).softmax(1)


@mistake("2b", "Your responsibilities are not normalised: divide by their sum over the components.")
def responsibilities(logits, log_density):
    return (logits.log_softmax(0) + log_density).exp()


@mistake("2b", "exp overflows at 1e4, and far away it gives 0 / 0: normalise in logarithms (log_sum_exp helps).")
def responsibilities(logits, log_density):
    joint = (logits + log_density).exp()
    return joint / joint.sum(1, keepdim=True)


@mistake("2b", "Far from all components all your densities are 0, and you divide by their sum: stay in logarithms.")
def responsibilities(logits, log_density):
    joint = logits.softmax(0) * log_density.exp()
    return joint / joint.sum(1, keepdim=True)


@mistake("2b", "A small number in the divisor hides 0 / 0: far points then belong to no component at all.")
def responsibilities(logits, log_density):
    joint = logits.softmax(0) * log_density.exp()
    return joint / (joint.sum(1, keepdim=True) + 1e-12)


@mistake("2b", "You give each point wholly to its best component: that is k-means; EM shares it out.")
def responsibilities(logits, log_density):
    best = (logits + log_density).argmax(1)
    return torch.nn.functional.one_hot(best, len(logits)).to(log_density)


@mistake("2b", "You return logarithms of responsibilities.")
def responsibilities(logits, log_density):
    return (logits + log_density).log_softmax(1)


@mistake("2b", "You take the log-densities for densities: they may be negative, and their ratios mean nothing.")
def responsibilities(logits, log_density):
    joint = logits.softmax(0) * log_density
    return joint / joint.sum(1, keepdim=True)


# 2c. The M-step


def m_step_with(x, r, ridge, means=None, counts=None, outer=None):
    """The right M-step with places to go wrong in: the means and counts that the covariances use, and r in them."""
    count = r.sum(0)
    right = r.T @ x / count[:, None]
    means = right if means is None else means
    outer = r if outer is None else outer
    centred = x - means[:, None]
    covs = torch.einsum("nk,kni,knj->kij", outer, centred, centred)
    covs = covs / (count if counts is None else counts).expand(len(count))[:, None, None]
    return count / len(x), right, covs + ridge * torch.eye(x.shape[1], dtype=x.dtype)


@mistake("2c", "Your covariances are taken about the mean of all points: each component has a mean of its own.")
def m_step(x, r, ridge=1e-6):
    return m_step_with(x, r, ridge, means=x.mean(0).expand(r.shape[1], -1))


@mistake("2c", "Your covariances are divided by N: component k holds N_k points.")
def m_step(x, r, ridge=1e-6):
    return m_step_with(x, r, ridge, counts=torch.tensor([float(len(x))], dtype=x.dtype))


@mistake("2c", "Your covariances are divided by N_k - 1: the most likely ones divide by N_k.")
def m_step(x, r, ridge=1e-6):
    return m_step_with(x, r, ridge, counts=r.sum(0) - 1)


@mistake("2c", "Your responsibilities count twice, once in each factor of the outer product: weigh one of the two.")
def m_step(x, r, ridge=1e-6):
    return m_step_with(x, r, ridge, outer=r**2)


@mistake("2c", "All points count the same in your covariances: weigh each outer product by its responsibility.")
def m_step(x, r, ridge=1e-6):
    return m_step_with(x, r, ridge, outer=torch.ones_like(r), counts=torch.tensor([float(len(x))], dtype=x.dtype))


@mistake("2c", "Your covariances hold variances only: the outer product has entries off the diagonal too.")
def m_step(x, r, ridge=1e-6):
    weights, means, covs = m_step_with(x, r, ridge)
    return weights, means, torch.diag_embed(covs.diagonal(dim1=1, dim2=2))


@mistake("2c", "Your weights are counts N_k: divided by N they are probabilities.")
def m_step(x, r, ridge=1e-6):
    return r.sum(0), *m_step_with(x, r, ridge)[1:]


@mistake("2c", "Your weights are all the same: a component's weight is its share of the responsibilities.")
def m_step(x, r, ridge=1e-6):
    return torch.full((r.shape[1],), 1 / r.shape[1], dtype=x.dtype), *m_step_with(x, r, ridge)[1:]


@mistake("2c", "Your means are divided by N: divide by N_k, the number of points that the component holds.")
def m_step(x, r, ridge=1e-6):
    weights, _, covs = m_step_with(x, r, ridge)
    return weights, r.T @ x / len(x), covs


@mistake("2c", "Your means are not divided at all: a mean divides the weighted sum by the sum of the weights.")
def m_step(x, r, ridge=1e-6):
    weights, _, covs = m_step_with(x, r, ridge)
    return weights, r.T @ x, covs


@mistake("2c", "Each point counts for one component only: with responsibilities it counts for all, in shares.")
def m_step(x, r, ridge=1e-6):
    return m_step_with(x, torch.nn.functional.one_hot(r.argmax(1), r.shape[1]).to(x), ridge)


@mistake("2c", "The ridge is missing from your covariances.")
def m_step(x, r, ridge=1e-6):
    return m_step_with(x, r, 0.0)


@mistake("2c", "Your ridge is added to all entries: it belongs to the diagonal.")
def m_step(x, r, ridge=1e-6):
    weights, means, covs = m_step_with(x, r, 0.0)
    return weights, means, covs + ridge


@mistake("2c", "You square the ridge: it is a variance already.")
def m_step(x, r, ridge=1e-6):
    return m_step_with(x, r, ridge**2)


# 2d. EM


def em_with(x, init, steps, ridge, e_step=None, after=None):
    """The right loop with places to go wrong in."""
    params, history = init, []
    for _ in range(steps):
        weights, means, covs = params
        history.append(mixture_log_prob(x, weights.log(), means, covs).mean().item())
        r = responsibilities(weights.log(), gaussian_log_prob(x, means, covs))
        new = m_step(x, e_step(r, params) if e_step else r, ridge)
        params = after(new, params, r) if after else new
    weights, means, covs = params
    history.append(mixture_log_prob(x, weights.log(), means, covs).mean().item())
    return params, history


@mistake("2d", "Your E-step takes the weights for logits: their logarithms belong there.")
def em(x, init, steps, ridge=1e-6):
    return em_with(x, init, steps, ridge, lambda r, p: responsibilities(p[0], gaussian_log_prob(x, p[1], p[2])))


@mistake("2d", "Your weights never change: the M-step renews them too.")
def em(x, init, steps, ridge=1e-6):
    return em_with(x, init, steps, ridge, after=lambda new, old, r: (old[0], *new[1:]))


@mistake("2d", "Your covariances never change: the M-step renews them too.")
def em(x, init, steps, ridge=1e-6):
    return em_with(x, init, steps, ridge, after=lambda new, old, r: (*new[:2], old[2]))


@mistake("2d", "Your covariances are centred at the means of before: the M-step centres them at the new ones.")
def em(x, init, steps, ridge=1e-6):
    def about_old_means(new, old, r):
        shift = (new[1] - old[1])[:, :, None]
        return new[0], new[1], new[2] + shift @ shift.mT

    return em_with(x, init, steps, ridge, after=about_old_means)


@mistake("2d", "Your E-step runs once, before the loop: new parameters need new responsibilities.")
def em(x, init, steps, ridge=1e-6):
    first = responsibilities(init[0].log(), gaussian_log_prob(x, init[1], init[2]))
    return em_with(x, init, steps, ridge, lambda r, p: first)


@mistake("2d", "Each point goes wholly to one component: that is k-means with ellipses; EM shares points out.")
def em(x, init, steps, ridge=1e-6):
    return em_with(x, init, steps, ridge, lambda r, p: torch.nn.functional.one_hot(r.argmax(1), r.shape[1]).to(x))


@mistake("2d", "You do one iteration too many.")
def em(x, init, steps, ridge=1e-6):
    params, history = em_with(x, init, steps + 1, ridge)
    return params, history[: steps + 1]


@mistake("2d", "You do one iteration too few.")
def em(x, init, steps, ridge=1e-6):
    return em_with(x, init, steps - 1, ridge)[0], em_with(x, init, steps, ridge)[1]


@mistake("2d", "Your history sums over the points: the mean log-likelihood, in nats per point, is asked for.")
def em(x, init, steps, ridge=1e-6):
    params, history = em_with(x, init, steps, ridge)
    return params, [len(x) * h for h in history]


@mistake("2d", "Your history lacks the start: the first entry belongs to the parameters that you were given.")
def em(x, init, steps, ridge=1e-6):
    params, history = em_with(x, init, steps, ridge)
    return params, history[1:]


@mistake("2d", "Your history lacks its last entry: the likelihood after the last iteration.")
def em(x, init, steps, ridge=1e-6):
    params, history = em_with(x, init, steps, ridge)
    return params, history[:-1]


@mistake("2d", "Your history holds losses: a log-likelihood rises, its negative falls.")
def em(x, init, steps, ridge=1e-6):
    params, history = em_with(x, init, steps, ridge)
    return params, [-h for h in history]


@mistake("2d", "Your E-step adds no prior: components of different weight are treated alike.")
def em(x, init, steps, ridge=1e-6):
    return em_with(x, init, steps, ridge, lambda r, p: gaussian_log_prob(x, p[1], p[2]).softmax(1))


@mistake("2d", "The ridge does not reach your M-step: pass it on.")
def em(x, init, steps, ridge=1e-6):
    return em_with(x, init, steps, 1e-6)


# 2e. Sampling


def samples_with(u, eps, weights, means, covs, factor=None, k=None):
    """The right sampler with places to go wrong in."""
    if k is None:
        k = torch.searchsorted(weights.cumsum(0), u, right=True).clamp(max=len(weights) - 1)
    factor = torch.linalg.cholesky(covs) if factor is None else factor
    return means[k] + (factor[k] @ eps[:, :, None]).squeeze(2)


@mistake("2e", "You multiply the noise by the covariance: its Cholesky factor is the root that spreads it right.")
def sample_mixture(u, eps, weights, means, covs):
    return samples_with(u, eps, weights, means, covs, factor=covs)


@mistake("2e", "Your Cholesky factor is transposed: for points in rows, L eps is eps @ L.T.")
def sample_mixture(u, eps, weights, means, covs):
    return samples_with(u, eps, weights, means, covs, factor=torch.linalg.cholesky(covs).mT)


@mistake("2e", "Your coordinates do not vary together: only the variances of the covariances are used.")
def sample_mixture(u, eps, weights, means, covs):
    return samples_with(u, eps, weights, means, covs, torch.diag_embed(covs.diagonal(dim1=1, dim2=2).sqrt()))


@mistake("2e", "Your components are all equally likely: the weights are missing.")
def sample_mixture(u, eps, weights, means, covs):
    return samples_with(u, eps, weights, means, covs, k=(u * len(weights)).long())


@mistake("2e", "You compare u with the weights themselves: compare it with their cumulative sum.")
def sample_mixture(u, eps, weights, means, covs):
    k = (u[:, None] >= weights).sum(1).clamp(max=len(weights) - 1)
    return samples_with(u, eps, weights, means, covs, k=k)


@mistake("2e", "Your component is one too far along: the first is chosen for u below its weight.")
def sample_mixture(u, eps, weights, means, covs):
    k = torch.searchsorted(weights.cumsum(0), u, right=True) + 1
    return samples_with(u, eps, weights, means, covs, k=k.clamp(max=len(weights) - 1))


@mistake("2e", "You average the components of each point: a draw comes from one of them.")
def sample_mixture(u, eps, weights, means, covs):
    all_of_them = means[:, None] + eps @ torch.linalg.cholesky(covs).mT
    return (weights[:, None, None] * all_of_them).sum(0)


@mistake("2e", "All your points come from the most probable component.")
def sample_mixture(u, eps, weights, means, covs):
    return samples_with(u, eps, weights, means, covs, k=weights.argmax().expand(len(u)))


@mistake("2e", "The means are missing: your points scatter around the origin.")
def sample_mixture(u, eps, weights, means, covs):
    return samples_with(u, eps, weights, torch.zeros_like(means), covs)


@mistake("2e", "The noise is missing: your points are the components' means.")
def sample_mixture(u, eps, weights, means, covs):
    return samples_with(u, torch.zeros_like(eps), weights, means, covs)


# 2f. How many components?


@mistake("2f", "You judge by the training data, where more components always look better: judge by the other part.")
def choose_k(fit, train, held_out, candidates):
    scores = [fit(train, k)(train).mean().item() for k in candidates]
    return candidates[scores.index(max(scores))], scores


@mistake("2f", "You fit on the held-out data: then they are held out no longer.")
def choose_k(fit, train, held_out, candidates):
    scores = [fit(held_out, k)(held_out).mean().item() for k in candidates]
    return candidates[scores.index(max(scores))], scores


@mistake("2f", "You fit on both parts together: nothing is left that the fit has not seen.")
def choose_k(fit, train, held_out, candidates):
    scores = [fit(torch.cat([train, held_out]), k)(held_out).mean().item() for k in candidates]
    return candidates[scores.index(max(scores))], scores


@mistake("2f", "The two parts are exchanged: fit on train, judge on held_out.")
def choose_k(fit, train, held_out, candidates):
    scores = [fit(held_out, k)(train).mean().item() for k in candidates]
    return candidates[scores.index(max(scores))], scores


@mistake("2f", "Your scores are sums over the points: nats per point are asked for.")
def choose_k(fit, train, held_out, candidates):
    scores = [fit(train, k)(held_out).sum().item() for k in candidates]
    return candidates[scores.index(max(scores))], scores


@mistake("2f", "Your scores are losses: the log-likelihood is asked for, and the highest wins.")
def choose_k(fit, train, held_out, candidates):
    scores = [-fit(train, k)(held_out).mean().item() for k in candidates]
    return candidates[scores.index(min(scores))], scores


@mistake("2f", "You choose the lowest score: a log-likelihood is better when it is higher.")
def choose_k(fit, train, held_out, candidates):
    scores = [fit(train, k)(held_out).mean().item() for k in candidates]
    return candidates[scores.index(min(scores))], scores


@mistake("2f", "You return the place in the list: the candidate that stands there is asked for.")
def choose_k(fit, train, held_out, candidates):
    scores = [fit(train, k)(held_out).mean().item() for k in candidates]
    return scores.index(max(scores)), scores


@mistake("2f", "You sorted the candidates: the scores are asked for in the order that was given.")
def choose_k(fit, train, held_out, candidates):
    candidates = sorted(candidates)
    scores = [fit(train, k)(held_out).mean().item() for k in candidates]
    return candidates[scores.index(max(scores))], scores


# 2g. Handwritten digits


def start_of(train, k):
    """One-hot responsibilities (N, k) from k-means."""
    centres = train[torch.randperm(len(train))[:k]]
    for _ in range(20):
        nearest = torch.nn.functional.one_hot(torch.cdist(train, centres).argmin(1), k).to(train)
        count = nearest.sum(0)[:, None]
        centres = torch.where(count > 0, nearest.T @ train / count.clamp(min=1), centres)
    return 0.99 * nearest + 0.01 / k


@mistake("2g", "One Gaussian has one bump: the digits need several components.")
def fit_digits(train):
    mean, cov = gaussian_mle(train)
    return torch.ones(1, dtype=train.dtype), mean[None], cov[None]


@mistake("2g", "Your ridge is tiny: components of few images become needles, and held-out images fall beside them.")
def fit_digits(train):
    return em(train, m_step(train, start_of(train, 10), ridge=1e-6), 15, ridge=1e-6)[0]


@mistake("2g", "Your ridge is huge beside the pixels' variances (about 0.0003 to 0.1): it blurs every component.")
def fit_digits(train):
    return em(train, m_step(train, start_of(train, 10), ridge=0.02), 15, ridge=0.02)[0]


@mistake("2g", "Your components all start at the same place, and nothing tells them apart: spread them.")
def fit_digits(train):
    return em(train, m_step(train, torch.full((len(train), 10), 0.1, dtype=train.dtype), 1e-3), 2, ridge=1e-3)[0]


@mistake("2g", "Your covariances are diagonal: neighbouring pixels go together, and a full covariance knows it.")
def fit_digits(train):
    params, r = m_step(train, start_of(train, 10), 1e-3), None
    for _ in range(15):
        params = (params[0], params[1], torch.diag_embed(params[2].diagonal(dim1=1, dim2=2)))
        r = responsibilities(params[0].log(), gaussian_log_prob(train, params[1], params[2]))
        params = m_step(train, r, 1e-3)
    return (params[0], params[1], torch.diag_embed(params[2].diagonal(dim1=1, dim2=2)))


@mistake("2g", "Your weights are counts of images: they must sum to 1.")
def fit_digits(train):
    weights, means, covs = m_step(train, start_of(train, 10), ridge=1e-3)
    return weights * len(train), means, covs


@mistake("2g", "You return Cholesky factors, and covariances are asked for.")
def fit_digits(train):
    weights, means, covs = m_step(train, start_of(train, 10), ridge=1e-3)
    return weights, means, torch.linalg.cholesky(covs)


@mistake("2g", "Components with fewer images than pixels: so many of them know the training images by heart.")
def fit_digits(train):
    return em(train, m_step(train, start_of(train, 40), ridge=1e-4), 3, ridge=1e-4)[0]


@mistake("2g", "sample_digits leaves gray levels outside of [0, 1]: clip them.")
def sample_digits(n, weights, means, covs):
    u, eps = torch.rand(n, dtype=means.dtype), torch.randn(n, means.shape[1], dtype=means.dtype)
    return sample_mixture(u, eps, weights, means, covs).view(n, 8, 8)


@mistake("2g", "sample_digits returns rows of 64 pixels: images are 8 by 8.")
def sample_digits(n, weights, means, covs):
    u, eps = torch.rand(n, dtype=means.dtype), torch.randn(n, means.shape[1], dtype=means.dtype)
    return sample_mixture(u, eps, weights, means, covs).clamp(0, 1)


@mistake("2g", "The noise of your images is uniform: torch.rand is for the component, torch.randn for the pixels.")
def sample_digits(n, weights, means, covs):
    u, eps = torch.rand(n, dtype=means.dtype), torch.rand(n, means.shape[1], dtype=means.dtype)
    return sample_mixture(u, eps, weights, means, covs).clamp(0, 1).view(n, 8, 8)


@mistake("2g", "Your images use the same uniform number throughout: each image draws its own component.")
def sample_digits(n, weights, means, covs):
    u, eps = torch.rand(1, dtype=means.dtype).expand(n), torch.randn(n, means.shape[1], dtype=means.dtype)
    return sample_mixture(u.contiguous(), eps, weights, means, covs).clamp(0, 1).view(n, 8, 8)
