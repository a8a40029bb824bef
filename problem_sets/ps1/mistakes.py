"""Typical wrong answers to problem set 1, each with the hint that a student who makes it reads.

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
