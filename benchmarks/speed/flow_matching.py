"""Flow matching beside torchcfm (steps, optimal-transport pairs) and torchdiffeq (Euler steps of the same field).

The network is the same in each pair: a perceptron of 3 hidden layers of 256 on (x, t), as torchcfm's own is, with
equal parameter counts. Peers step with Adam as torchcfm's examples do, we with the trainer's fused AdamW.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from benchmarks.speed import Case, Contender
from benchmarks.speed.flows import count, stepper, without_grad
from genmodels.flow_matching.flow_matching import FlowMatching
from genmodels.flow_matching.ot_cfm import OTFlowMatching, ot_pairing
from genmodels.nets.mlp import MLP

WIDTH, DEPTH, BATCH = 256, 3, 256


class Field(nn.Module):
    """A perceptron on (x, t): (B, 2), (B,) to (B, 2), the shape of torchcfm's."""

    def __init__(self) -> None:
        super().__init__()
        self.net = MLP(3, [WIDTH] * DEPTH, 2, activation=nn.SELU)

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        return self.net(torch.cat([x, t[:, None]], dim=-1))


def points(n: int, seed: int) -> Tensor:
    return torch.randn(n, 2, generator=torch.Generator().manual_seed(seed))


def step(optimal: bool) -> dict[str, Contender]:
    from torchcfm.conditional_flow_matching import ConditionalFlowMatcher, ExactOptimalTransportConditionalFlowMatcher
    from torchcfm.models.models import MLP as TheirMLP

    torch.manual_seed(0)
    x_1 = 2 * points(BATCH, 1) + 1
    ours = (OTFlowMatching if optimal else FlowMatching)((2,), net=Field())
    theirs = TheirMLP(dim=2, time_varying=True, w=WIDTH)
    matcher = (ExactOptimalTransportConditionalFlowMatcher if optimal else ConditionalFlowMatcher)(sigma=0.0)

    def their_loss() -> Tensor:
        x_0 = torch.randn_like(x_1)
        t, x_t, u_t = matcher.sample_location_and_conditional_flow(x_0, x_1)
        return torch.mean((theirs(torch.cat([x_t, t[:, None]], dim=-1)) - u_t) ** 2)

    our_optimizer = torch.optim.AdamW(ours.parameters(), lr=1e-4, weight_decay=0.0, fused=True)
    their_optimizer = torch.optim.Adam(theirs.parameters(), lr=1e-4)
    return {
        "ours": Contender(stepper(lambda: ours.loss(x_1), our_optimizer), count(ours)),
        "torchcfm": Contender(stepper(their_loss, their_optimizer), count(theirs)),
    }


def pairing() -> dict[str, Contender]:
    """Eight Gaussians and moons, 1,024 each: from two batches to two batches in the order of the pairs."""
    from torchcfm.optimal_transport import OTPlanSampler

    from genmodels.data.points import draw

    generator = torch.Generator().manual_seed(0)
    x_0, x_1 = draw("eight_gaussians_cfm", 1024, generator), draw("moons_cfm", 1024, generator)
    sampler = OTPlanSampler(method="exact")
    return {
        "ours": Contender(lambda: (x_0, x_1[ot_pairing(x_0, x_1)])),
        "torchcfm": Contender(lambda: sampler.sample_plan(x_0, x_1)),
    }


def euler() -> dict[str, Contender]:
    """100 Euler steps of 2,000 points through one field."""
    from torchdiffeq import odeint as their_odeint

    torch.manual_seed(0)
    model = FlowMatching((2,), net=Field())
    x_0, t = points(2000, 0), torch.linspace(0, 1, 101)

    def field(t: Tensor, x: Tensor) -> Tensor:
        return model.velocity(x, t)

    return {
        "ours": Contender(without_grad(lambda: model.sample(2000, noise=x_0, steps=100, method="euler")), count(model)),
        "torchdiffeq": Contender(without_grad(lambda: their_odeint(field, x_0, t, method="euler")), count(model)),
    }


CASES = [
    Case("flow-matching step", lambda: step(False), must=1.0, aim=0.9, rounds=51),
    Case("flow-matching step, optimal pairs", lambda: step(True), must=1.0, aim=0.9, rounds=51),
    Case("optimal pairs, 1,024 points", pairing, must=1.0, aim=0.7, rounds=9),
    Case("100 Euler steps, 2,000 points", euler, must=1.0, aim=0.95, rounds=9),
]
