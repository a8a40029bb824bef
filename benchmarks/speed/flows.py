"""RealNVP beside zuko, normflows and nflows; MAF beside zuko: same sizes, same number of parameters, same data.

Every contender starts from small random weights (a peer's own start, ours nudged off the identity), so that none
multiplies by zeros. Peers step with Adam as their own examples do, we with the trainer's fused AdamW.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from benchmarks.speed import Case, Contender

D, BATCH = 64, 256
COUPLINGS, COUPLING_HIDDEN = 8, 128
MAF_LAYERS, MAF_HIDDEN = 5, 256


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def data() -> Tensor:
    return torch.randn(BATCH, D, generator=torch.Generator().manual_seed(0))


def stepper(loss: Callable[[], Tensor], optimizer: torch.optim.Optimizer) -> Callable[[], None]:
    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss().backward()
        optimizer.step()

    return step


def without_grad(f: Callable[[], object]) -> Callable[[], object]:
    def run() -> object:
        with torch.no_grad():
            return f()

    return run


def contenders(
    task: str,
    models: dict[str, nn.Module],
    log_probs: dict[str, Callable[[Tensor], Tensor]],
    samplers: dict[str, Callable[[], object]],
) -> dict[str, Contender]:
    """The named task ("step", "log_prob", "sample") of each model."""
    x = data()
    found = {}
    for name, model in models.items():
        if task == "step":
            parameters = list(model.parameters())
            optimizer: torch.optim.Optimizer = (
                torch.optim.AdamW(parameters, lr=1e-5, weight_decay=0.0, fused=True)
                if name == "ours"
                else torch.optim.Adam(parameters, lr=1e-5)
            )
            run = stepper(lambda name=name: -log_probs[name](x).mean(), optimizer)
        elif task == "log_prob":
            run = without_grad(lambda name=name: log_probs[name](x))
        else:
            run = without_grad(samplers[name])
        found[name] = Contender(run, count(model))
    return found


def nudge(model: nn.Module) -> None:
    """Move parameters that start at zero a little away from it."""
    for p in model.parameters():
        if not p.detach().any():
            nn.init.normal_(p, std=0.01)


def realnvp(task: str) -> dict[str, Contender]:
    import normflows
    import zuko
    from nflows.distributions import StandardNormal
    from nflows.flows.base import Flow as NFlow
    from nflows.nn.nets import MLP
    from nflows.transforms import AffineCouplingTransform, CompositeTransform

    from genmodels.flows.realnvp import RealNVP

    torch.manual_seed(0)
    hidden = (COUPLING_HIDDEN, COUPLING_HIDDEN)
    ours = RealNVP((D,), COUPLINGS, hidden)
    zuko_flow = zuko.flows.RealNVP(D, transforms=COUPLINGS, hidden_features=hidden)

    flows = []
    for _ in range(COUPLINGS):
        net = normflows.nets.MLP([D // 2, *hidden, D], init_zeros=False)
        flows += [normflows.flows.AffineCouplingBlock(net), normflows.flows.Permute(D, mode="swap")]
    base = normflows.distributions.DiagGaussian(D, trainable=False)
    normflow = normflows.NormalizingFlow(base, flows)

    class Conditioner(MLP):  # nflows passes a context, which its perceptron does not take
        def forward(self, x: Tensor, context: None = None) -> Tensor:
            return super().forward(x)

    def conditioner(d_in: int, d_out: int) -> nn.Module:
        return Conditioner([d_in], [d_out], list(hidden))

    couplings = [AffineCouplingTransform((torch.arange(D) % 2 == k % 2).int(), conditioner) for k in range(COUPLINGS)]
    nflow = NFlow(CompositeTransform(couplings), StandardNormal([D]))
    models: dict[str, nn.Module] = {"ours": ours, "zuko": zuko_flow, "normflows": normflow, "nflows": nflow}
    for model in models.values():
        nudge(model)
    return contenders(
        task,
        models,
        {
            "ours": ours.log_prob,
            "zuko": lambda x: zuko_flow().log_prob(x),
            "normflows": normflow.log_prob,
            "nflows": nflow.log_prob,
        },
        {
            "ours": lambda: ours.sample(BATCH),
            "zuko": lambda: zuko_flow().sample((BATCH,)),
            "normflows": lambda: normflow.sample(BATCH),
            "nflows": lambda: nflow.sample(BATCH),
        },
    )


def maf(task: str) -> dict[str, Contender]:
    import zuko

    from genmodels.flows.maf import MAF

    torch.manual_seed(0)
    hidden = (MAF_HIDDEN, MAF_HIDDEN)
    ours = MAF((D,), MAF_LAYERS, hidden)
    zuko_flow = zuko.flows.MAF(D, transforms=MAF_LAYERS, hidden_features=hidden)
    nudge(ours)
    return contenders(
        task,
        {"ours": ours, "zuko": zuko_flow},
        {"ours": ours.log_prob, "zuko": lambda x: zuko_flow().log_prob(x)},
        {"ours": lambda: ours.sample(BATCH), "zuko": lambda: zuko_flow().sample((BATCH,))},
    )


CASES = [
    Case("RealNVP train step", lambda: realnvp("step"), must=0.9, aim=0.6, rounds=31),
    Case("RealNVP log_prob", lambda: realnvp("log_prob"), must=0.9, aim=0.6, rounds=31),
    Case("RealNVP sample", lambda: realnvp("sample"), must=0.9, aim=0.6, rounds=31),
    Case("MAF train step", lambda: maf("step"), must=1.0, aim=0.8, rounds=31),
    Case("MAF sample", lambda: maf("sample"), must=0.9, aim=0.5, rounds=9),
]
