"""Other right answers to sections 3 and 4: other formulas, loops, autograd in place of closed forms, other orders."""

import math

import numpy as np
import torch
from torch.distributions import Categorical, Independent, MultivariateNormal, Normal, kl_divergence

from autograder.authoring import alternative

# -- 3a


@alternative("3a", "torch's divergence")
def gaussian_kl(mean, log_std, prior_mean, prior_log_std):
    q, p = Normal(mean, log_std.exp()), Normal(prior_mean, prior_log_std.exp())
    return kl_divergence(Independent(q, 1), Independent(p, 1))


@alternative("3a", "loops and plain numbers")
def gaussian_kl(mean, log_std, prior_mean, prior_log_std):
    out = torch.zeros(len(mean), dtype=mean.dtype, device=mean.device)
    for b in range(len(mean)):
        for m, s, m0, s0 in zip(mean[b], log_std[b].exp(), prior_mean[b], prior_log_std[b].exp(), strict=True):
            out[b] += math.log(s0 / s) + (s**2 + (m - m0) ** 2) / (2 * s0**2) - 0.5
    return out


@alternative("3a", "the trace and determinants of the general formula")
def gaussian_kl(mean, log_std, prior_mean, prior_log_std):
    ratio = (2 * (log_std - prior_log_std)).exp()
    distance = ((mean - prior_mean) / prior_log_std.exp()).pow(2)
    return 0.5 * (ratio + distance - 1 - ratio.log()).sum(-1)


@alternative("3a", "expected log joint plus entropy, without the KL")
def elbo(x, mean, log_std, prior_std, noise_std):
    var = (2 * log_std).exp()
    fit = Normal(mean, noise_std).log_prob(x).sum() - 0.5 * len(x) * var.sum() / noise_std**2
    prior = Normal(0.0, prior_std).log_prob(mean).sum() - 0.5 * var.sum() / prior_std**2
    return fit + prior + Normal(mean, log_std.exp()).entropy().sum()


@alternative("3a", "the evidence less the divergence from the exact posterior")
def elbo(x, mean, log_std, prior_std, noise_std):
    n = len(x)
    cov = noise_std**2 * torch.eye(n, dtype=x.dtype, device=x.device) + prior_std**2
    evidence = MultivariateNormal(torch.zeros(n, dtype=x.dtype, device=x.device), cov).log_prob(x.T).sum()
    var = 1 / (1 / prior_std**2 + n / noise_std**2)
    posterior = Normal(var / noise_std**2 * x.sum(0), math.sqrt(var))
    return evidence - kl_divergence(Normal(mean, log_std.exp()), posterior).sum()


@alternative("3a", "expectations by two nodes m - s and m + s, which are exact for squares; a plain number comes back")
def elbo(x, mean, log_std, prior_std, noise_std):
    total = 0.0
    for m, s, column in zip(mean.tolist(), log_std.exp().tolist(), x.T.tolist(), strict=True):
        for z in (m - s, m + s):
            for value in column:
                total += 0.5 * (-0.5 * ((value - z) / noise_std) ** 2 - math.log(noise_std * math.sqrt(2 * math.pi)))
            total += 0.5 * (-0.5 * (z / prior_std) ** 2 - math.log(prior_std * math.sqrt(2 * math.pi)))
        total += math.log(s) + 0.5 * math.log(2 * math.pi * math.e)
    return total


# -- 3b


@alternative("3b", "loops over points and components, with a maximum taken out")
def cavi_sweep(x, m, s2, prior_std):
    n, d = x.shape
    k = len(m)
    phi = torch.zeros(n, k, dtype=x.dtype, device=x.device)
    for i in range(n):
        logits = [float(x[i] @ m[j] - 0.5 * (m[j] @ m[j] + d * s2[j])) for j in range(k)]
        weights = [math.exp(logit - max(logits)) for logit in logits]
        for j in range(k):
            phi[i, j] = weights[j] / sum(weights)
    new_m, new_s2 = torch.zeros_like(m), torch.zeros_like(s2)
    for j in range(k):
        new_s2[j] = 1 / (prior_std**-2 + sum(phi[i, j] for i in range(n)))
        new_m[j] = new_s2[j] * sum(phi[i, j] * x[i] for i in range(n))
    return phi, new_m, new_s2


@alternative("3b", "squared distances and log-sum-exp; the posterior as a pull towards the average")
def cavi_sweep(x, m, s2, prior_std):
    squared = (x[:, None, :] - m[None]).square().sum(-1) + x.shape[1] * s2
    logits = -0.5 * squared
    phi = (logits - logits.logsumexp(1, keepdim=True)).exp()
    count = phi.sum(0)
    pull = prior_std**2 * count / (1 + prior_std**2 * count)
    average = torch.einsum("nk,nd->kd", phi, x) / count.clamp_min(1e-300)[:, None]
    return phi, pull[:, None] * average, prior_std**2 / (1 + prior_std**2 * count)


@alternative("3b", "torch.distributions, numpy for the rest")
def cavi_sweep(x, m, s2, prior_std):
    log_density = Independent(Normal(m, 1.0), 1).log_prob(x[:, None]) - 0.5 * x.shape[1] * s2
    phi = Categorical(logits=log_density).probs
    p, points = phi.cpu().numpy(), x.cpu().numpy()
    precision = 1 / prior_std**2 + p.sum(axis=0)
    means = np.stack([np.linalg.solve(c * np.eye(points.shape[1]), p[:, k] @ points) for k, c in enumerate(precision)])
    return phi, torch.from_numpy(means).to(x.device), torch.from_numpy(1 / precision).to(x.device)


# -- 3c


@alternative("3c", "the chain rule by hand")
def reparam_gradient(log_joint, mean, log_std, eps):
    std = log_std.exp()
    z = (mean + std * eps).requires_grad_()
    (slope,) = torch.autograd.grad(log_joint(z).sum(), z)
    return slope.mean(0), (slope * eps).mean(0) * std + 1


@alternative("3c", "a loop over the samples, backward and .grad")
def reparam_gradient(log_joint, mean, log_std, eps):
    m = mean.detach().clone().requires_grad_()
    s = log_std.detach().clone().requires_grad_()
    for one in eps:
        (log_joint((m + s.exp() * one)[None])[0] / len(eps)).backward()
    s.grad += torch.ones_like(s)
    return m.grad, s.grad


@alternative("3c", "the entropy by samples of log q, whose gradient is the same along the path")
def reparam_gradient(log_joint, mean, log_std, eps):
    m, s = mean.clone().requires_grad_(), log_std.clone().requires_grad_()
    q = Independent(Normal(m, s.exp()), 1)
    z = m + s.exp() * eps
    return torch.autograd.grad((log_joint(z) - q.log_prob(z)).mean(), [m, s])


@alternative("3c", "torch's entropy")
def reparam_gradient(log_joint, mean, log_std, eps):
    parameters = torch.stack([mean, log_std]).requires_grad_()
    z = torch.addcmul(parameters[0], parameters[1].exp(), eps)
    bound = log_joint(z).sum() / eps.shape[0] + Normal(parameters[0], parameters[1].exp()).entropy().sum()
    bound.backward()
    return parameters.grad[0], parameters.grad[1]


# -- 3d


@alternative("3d", "autograd of log q at fixed samples: a surrogate loss")
def score_gradient(log_joint, mean, log_std, z, baseline=False):
    m, s = mean.clone().requires_grad_(), log_std.clone().requires_grad_()
    log_q = Independent(Normal(m, s.exp()), 1).log_prob(z.detach())
    with torch.no_grad():
        f = log_joint(z) - log_q
        if baseline:
            f = (f - f.mean()) * len(f) / (len(f) - 1)
    return torch.autograd.grad((f * log_q).mean(), (m, s))


@alternative("3d", "a loop over the samples")
def score_gradient(log_joint, mean, log_std, z, baseline=False):
    std, n = log_std.exp(), len(z)
    f = []
    for one in z:
        log_q = Normal(mean, std).log_prob(one).sum()
        f.append(float(log_joint(one[None])[0] - log_q))
    in_mean, in_log_std = torch.zeros_like(mean), torch.zeros_like(log_std)
    for j, one in enumerate(z):
        b = sum(f[:j] + f[j + 1 :]) / (n - 1) if baseline else 0.0
        in_mean += (f[j] - b) * (one - mean) / std**2 / n
        in_log_std += (f[j] - b) * ((one - mean) ** 2 / std**2 - 1) / n
    return in_mean, in_log_std


@alternative("3d", "the baseline as a matrix; no division by the standard deviation")
def score_gradient(log_joint, mean, log_std, z, baseline=False):
    s = len(z)
    precision, gap = (-2 * log_std).exp(), z - mean
    log_q = -0.5 * (gap**2 * precision).sum(1) - log_std.sum() - 0.5 * z.shape[1] * math.log(2 * math.pi)
    weights = torch.eye(s, dtype=z.dtype, device=z.device)
    if baseline:
        weights = weights - (1 - weights) / (s - 1)
    f = weights @ (log_joint(z) - log_q)
    return (gap * precision).T @ f / s, (gap**2 * precision - 1).T @ f / s


# -- 3e


@alternative("3e", "sums of squares by hand")
def gradient_variance(estimator, log_joint, mean, log_std, eps):
    repetitions = len(eps)
    first = [torch.zeros_like(mean), torch.zeros_like(mean)]
    second = [torch.zeros_like(mean), torch.zeros_like(mean)]
    for one in eps:
        for i, g in enumerate(estimator(log_joint, mean, log_std, one)):
            first[i] = first[i] + g
            second[i] = second[i] + g**2
    a, b = ((q - s**2 / repetitions) / (repetitions - 1) for s, q in zip(first, second, strict=True))
    return a, b


@alternative("3e", "Welford's running variance")
def gradient_variance(estimator, log_joint, mean, log_std, eps):
    centre = torch.zeros(2, len(mean), dtype=mean.dtype, device=mean.device)
    total = torch.zeros_like(centre)
    for r in range(eps.shape[0]):
        g = torch.stack(list(estimator(log_joint, mean, log_std, eps[r])))
        gap = g - centre
        centre = centre + gap / (r + 1)
        total = total + gap * (g - centre)
    return total[0] / (len(eps) - 1), total[1] / (len(eps) - 1)


@alternative("3e", "numpy, and half the mean squared difference of all pairs")
def gradient_variance(estimator, log_joint, mean, log_std, eps):
    pairs = [estimator(log_joint, mean, log_std, one) for one in eps]
    out = []
    for i in range(2):
        g = np.stack([pair[i].detach().cpu().numpy() for pair in pairs])
        squares = (g[:, None] - g[None]) ** 2
        out.append(squares.sum(axis=(0, 1)) / (2 * len(g) * (len(g) - 1)))
    return tuple(torch.from_numpy(v) for v in out)


# -- 4a


@alternative("4a", "few primitives: everything from +, *, a power and exp")
class Value:
    def __init__(self, data, parents=()):
        self.data, self.grad, self.parents = float(data), 0.0, tuple(parents)

    def __add__(self, other):
        if not isinstance(other, Value):
            return Value(self.data + other, [(self, 1.0)])
        return Value(self.data + other.data, [(self, 1.0), (other, 1.0)])

    def __mul__(self, other):
        if not isinstance(other, Value):
            return Value(self.data * other, [(self, other)])
        return Value(self.data * other.data, [(self, other.data), (other, self.data)])

    def __pow__(self, p):
        return Value(self.data**p, [(self, p * self.data**p / self.data)])

    def exp(self):
        e = math.exp(self.data)
        return Value(e, [(self, e)])

    def log(self):
        return Value(math.log(self.data), [(self, self.data**-1)])

    __radd__ = __add__
    __rmul__ = __mul__

    def __neg__(self):
        return self * -1

    def __sub__(self, other):
        return self + (-other)

    def __rsub__(self, other):
        return -self + other

    def __truediv__(self, other):
        return self * other**-1

    def __rtruediv__(self, other):
        return self**-1 * other

    def tanh(self):
        e = (self * 2).exp()
        return (e - 1) / (e + 1)

    def relu(self):
        return self * (self.data > 0)


@alternative("4a", "derivatives by torch's autograd")
class Value:
    def __init__(self, data, parents=()):
        self.data, self.grad, self.parents = float(data), 0.0, parents

    @staticmethod
    def of(function, *inputs):
        values = [v if isinstance(v, Value) else Value(v) for v in inputs]
        leaves = [torch.tensor(v.data, dtype=torch.float64, requires_grad=True) for v in values]
        out = function(*leaves)
        slopes = torch.autograd.grad(out, leaves)
        return Value(out.item(), tuple((v, float(s)) for v, s in zip(values, slopes, strict=True)))

    def __add__(self, other):
        return Value.of(lambda a, b: a + b, self, other)

    def __radd__(self, other):
        return Value.of(lambda a, b: a + b, other, self)

    def __sub__(self, other):
        return Value.of(lambda a, b: a - b, self, other)

    def __rsub__(self, other):
        return Value.of(lambda a, b: a - b, other, self)

    def __mul__(self, other):
        return Value.of(lambda a, b: a * b, self, other)

    def __rmul__(self, other):
        return Value.of(lambda a, b: a * b, other, self)

    def __truediv__(self, other):
        return Value.of(lambda a, b: a / b, self, other)

    def __rtruediv__(self, other):
        return Value.of(lambda a, b: a / b, other, self)

    def __pow__(self, p):
        return Value.of(lambda a: a**p, self)

    def __neg__(self):
        return Value.of(lambda a: -a, self)

    def exp(self):
        return Value.of(torch.exp, self)

    def log(self):
        return Value.of(torch.log, self)

    def tanh(self):
        return Value.of(torch.tanh, self)

    def relu(self):
        return Value.of(torch.relu, self)


# -- 4b


@alternative("4b", "depth first with a stack of its own, then the order reversed")
def backward(root):
    order, seen, stack = [], set(), [(root, False)]
    while stack:
        node, done = stack.pop()
        if done:
            order.append(node)
        elif id(node) not in seen:
            seen.add(id(node))
            stack.append((node, True))
            for parent, _ in node.parents:
                stack.append((parent, False))
    grads = {id(node): 0.0 for node in order}
    grads[id(root)] = 1.0
    for node in reversed(order):
        for parent, local in node.parents:
            grads[id(parent)] += grads[id(node)] * local
    for node in order:
        node.grad += grads[id(node)]


@alternative("4b", "a heap by depth: the longest way from a leaf")
def backward(root):
    import heapq

    depth, stack = {}, [root]
    while stack:
        node = stack[-1]
        waiting = [parent for parent, _ in node.parents if id(parent) not in depth]
        if waiting:
            stack.extend(waiting)
            continue
        stack.pop()
        depth[id(node)] = 1 + max((depth[id(parent)] for parent, _ in node.parents), default=0)
    gradient, queue = {id(root): 1.0}, [(-depth[id(root)], id(root), root)]
    while queue:
        _, name, node = heapq.heappop(queue)
        for parent, local in node.parents:
            if id(parent) not in gradient:
                gradient[id(parent)] = 0.0
                heapq.heappush(queue, (-depth[id(parent)], id(parent), parent))
            gradient[id(parent)] += gradient[name] * local
        node.grad += gradient[name]


@alternative("4b", "set .grad aside, fill it afresh, add the old values at the end")
def backward(root):
    order, seen, stack = [], {id(root)}, [(root, [parent for parent, _ in root.parents])]
    while stack:
        node, waiting = stack[-1]
        if not waiting:
            order.append(node)
            stack.pop()
            continue
        parent = waiting.pop()
        if id(parent) not in seen:
            seen.add(id(parent))
            stack.append((parent, [grandparent for grandparent, _ in parent.parents]))
    before = [node.grad for node in order]
    for node in order:
        node.grad = 0.0
    root.grad = 1.0
    for node in order[::-1]:
        for parent, local in node.parents:
            parent.grad += local * node.grad
    for node, old in zip(order, before, strict=True):
        node.grad += old


# -- 4c


@alternative("4c", "sums by sum(), the bias last")
def network(params, point):
    hidden = [
        (sum(w * c for w, c in zip(row, point, strict=True)) + b).tanh()
        for row, b in zip(params["W1"], params["b1"], strict=True)
    ]
    return sum((w * h for w, h in zip(params["w2"], hidden, strict=True)), params["b2"])


@alternative("4c", "the loss as -log of a sigmoid; gradients set to 0 after the update, and before the first pass")
def train_network(params, points, labels, lr, steps):
    losses = []
    for p in parameters_of(params):
        p.grad = 0.0
    for _ in range(steps):
        terms = []
        for point, label in zip(points, labels, strict=True):
            terms.append(-(1 / (1 + (-label * network(params, point)).exp())).log())
        loss = sum(terms) * (1 / len(terms))
        backward(loss)
        for p in parameters_of(params):
            p.data = p.data - lr * p.grad
            p.grad = 0.0
        losses.append(loss.data)
    return losses


@alternative("4c", "one backward pass a point: gradients accumulate")
def train_network(params, points, labels, lr, steps):
    losses = []
    for _ in range(steps):
        total = 0.0
        for p in parameters_of(params):
            p.grad = 0.0
        for point, label in zip(points, labels, strict=True):
            term = (1 + (network(params, point) * (-label)).exp()).log() / len(points)
            backward(term)
            total += term.data
        for p in parameters_of(params):
            p.data -= lr * p.grad
        losses.append(total)
    return losses
