"""The perceptrons against the composition that they stand for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from genmodels.nets.mlp import MLP, TimeMLP, time_network
from genmodels.nets.unet import UNet
from tests.diffusion.exact import randomise


@pytest.mark.parametrize("hidden", [(), (7,), (5, 6, 4)])
def test_mlp_is_linear_maps_with_an_activation_between(hidden: tuple[int, ...]) -> None:
    net = MLP(3, hidden, 2, activation=nn.Tanh).double()
    randomise(net)
    x = np.random.default_rng(0).normal(size=(11, 3))
    h = x
    linear = [m for m in net if isinstance(m, nn.Linear)]
    assert len(linear) == len(hidden) + 1
    for i, layer in enumerate(linear):
        h = h @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()
        h = np.tanh(h) if i < len(hidden) else h
    np.testing.assert_allclose(net(torch.from_numpy(x)).detach().numpy(), h, rtol=1e-10)


def test_time_mlp_adds_time_and_class_to_the_features() -> None:
    net = TimeMLP(2, width=8, depth=2, num_classes=3, time_scale=10.0).double()
    randomise(net)
    x, t, y = torch.randn(4, 2).double(), torch.tensor([0.1, 0.5, 0.7, 1.0]), torch.tensor([0, 1, 2, 3])
    h = x @ net.embed_x.weight.T + net.embed_x.bias + net.embed_t(t) + net.embed_y.table.weight[y]
    torch.testing.assert_close(net(x, t, y), net.net[1](h * torch.sigmoid(h)))
    torch.testing.assert_close(net(x, t), net(x, t, torch.full((4,), 3)))
    assert net(x, t, y).shape == (4, 2)


def test_time_mlp_depth_and_conditions() -> None:
    net = TimeMLP(2, width=8, depth=4).double()
    randomise(net)
    assert sum(isinstance(m, nn.Linear) for m in net.net.modules()) == 4
    x = torch.randn(3, 2).double()
    a, b = net(x, torch.tensor([1, 1, 1])), net(x, torch.tensor([1, 2, 1]))
    assert torch.equal(a[[0, 2]], b[[0, 2]])
    assert not torch.equal(a[1], b[1])


def test_time_scale_stretches_time() -> None:
    short, long = TimeMLP(2, width=8, time_scale=1000.0).double(), TimeMLP(2, width=8).double()
    randomise(short)
    long.load_state_dict(short.state_dict())
    x = torch.randn(3, 2).double()
    torch.testing.assert_close(short(x, torch.tensor([0.001, 0.5, 1.0])), long(x, torch.tensor([1, 500, 1000])))


def test_frequencies_are_seen_by_the_first_layer() -> None:
    net = TimeMLP(2, width=8, frequencies=3).double()
    randomise(net)
    x, t = torch.randn(4, 2).double(), torch.tensor([1, 2, 3, 4])
    features = [x]
    for f in (torch.sin, torch.cos):
        features += [f(x[:, [i]] * w) for i in (0, 1) for w in (0.5, 1.0, 2.0)]
    h = torch.cat(features, 1) @ net.embed_x.weight.T + net.embed_x.bias + net.embed_t(t)
    torch.testing.assert_close(net(x, t), net.net[1](h * torch.sigmoid(h)))


def test_the_usual_network_for_a_shape() -> None:
    points, images = (
        time_network((5,), num_classes=2, depth=2, frequencies=4),
        time_network((3, 8, 8), width=16, time_scale=1000.0),
    )
    assert isinstance(points, TimeMLP)
    assert points.embed_x.weight.shape == (256, 45)
    assert points.embed_y is not None
    assert isinstance(images, UNet)
    assert images.stem.out_channels == 16
    assert images.embed_t.scale == 1000.0
    assert images.embed_y is None
