"""BYOL's formulas against the paper's, written out; and that it learns and can be watched."""

import math

import pytest
import torch
from conftest import one_layer

from core.randomness import generator
from p2 import byol
from p2.pretrain import view
from p2.recipes import PRETRAIN


def small():
    torch.manual_seed(0)
    return byol.BYOL(one_layer(), 8, hidden=32, projection=16)


def test_loss_is_the_papers_symmetric_squared_distance_of_unit_vectors():
    model, views = small(), (torch.rand(6, 3, 16, 16), torch.rand(6, 3, 16, 16))
    loss, _ = model(*views)
    expected = 0.0
    for a, b in (views, views[::-1]):
        q = model.predictor(model.online(a))
        z = model.target(b)
        unit = q / q.norm(dim=1, keepdim=True) - z / z.norm(dim=1, keepdim=True)
        expected += unit.pow(2).sum(1).mean().item()
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_the_target_has_no_gradient_and_follows_parameters_and_statistics():
    model = small()
    loss, _ = model(torch.rand(6, 3, 16, 16), torch.rand(6, 3, 16, 16))
    loss.backward()
    assert all(p.grad is None for p in model.target.parameters())
    assert all(p.grad is not None for p in model.online.parameters())
    with torch.no_grad():
        for value in model.online.state_dict().values():
            value.add_(1)
    before = {name: value.clone() for name, value in model.target.state_dict().items()}
    model.update_target(0.9)
    for name, value in model.target.state_dict().items():
        online = model.online.state_dict()[name]
        wanted = 0.9 * before[name] + 0.1 * online if value.is_floating_point() else online
        assert torch.allclose(value, wanted, atol=1e-6), name


def test_target_decay_rises_to_one_by_a_cosine_or_stays():
    quarter = 1 - 0.004 * (math.cos(math.pi / 4) + 1) / 2
    for step, decay in ((0, 0.996), (25, quarter), (100, 1)):
        assert byol.target_decay(0.996, "cosine", step, 100) == pytest.approx(decay)
    assert byol.target_decay(0.99, "constant", 50, 100) == 0.99


def test_the_spread_is_zero_at_a_collapse_and_about_one_without():
    assert byol.spread(torch.ones(64, 256)).item() == 0
    assert byol.spread(torch.randn(512, 256)).item() == pytest.approx(1, abs=0.02)


def test_the_loss_falls_on_one_batch():
    model = small()
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    views = torch.rand(16, 3, 16, 16), torch.rand(16, 3, 16, 16)
    losses = []
    for _ in range(40):
        loss, _ = model(*views)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        model.update_target(0.99)
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize("name", PRETRAIN)
def test_views_of_one_image_differ_between_the_images_of_a_batch(name):
    image = torch.rand(1, 3, 128, 128).expand(4, -1, -1, -1)
    for how in PRETRAIN[name].views:
        made, again = (view(image, how, PRETRAIN[name], generator(0, 0, 0)) for _ in range(2))
        assert made.shape == (4, 3, 128, 128) and torch.equal(made, again)
        assert all(not torch.allclose(made[0], made[k], atol=1e-2) for k in range(1, 4))
