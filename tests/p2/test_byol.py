"""BYOL's formulas against the paper's, written out; and that it learns and can be watched."""

import math

import pytest
import torch
from torch import nn

from p2 import byol, knn
from p2.recipes import PRETRAIN, View


def small():
    torch.manual_seed(0)
    backbone = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )
    return byol.BYOL(backbone, 8, hidden=32, projection=16)


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
    assert byol.target_decay(0.996, "cosine", 0, 100) == pytest.approx(0.996)
    assert byol.target_decay(0.996, "cosine", 25, 100) == pytest.approx(
        1 - 0.004 * (math.cos(math.pi / 4) + 1) / 2
    )
    assert byol.target_decay(0.996, "cosine", 100, 100) == pytest.approx(1)
    assert byol.target_decay(0.99, "constant", 50, 100) == 0.99


def test_the_spread_is_zero_at_a_collapse_and_about_one_without():
    assert byol.spread(torch.ones(64, 256)).item() == 0
    assert byol.spread(
        torch.randn(512, 256, generator=torch.Generator().manual_seed(0))
    ).item() == pytest.approx(1, abs=0.02)


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


def test_views_of_one_image_differ_between_the_images_of_a_batch():
    from core.randomness import generator
    from p2.pretrain import view

    image = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(1)).expand(
        4, -1, -1, -1
    )
    for recipe in PRETRAIN.values():
        for how in recipe.views:
            assert isinstance(how, View)
            made = view(image, how, recipe, generator(0, 0, 0))
            assert made.shape == (4, 3, 128, 128)
            assert torch.equal(made, view(image, how, recipe, generator(0, 0, 0)))
            assert all(not torch.allclose(made[0], made[k], atol=1e-2) for k in range(1, 4))


def test_knn_is_the_papers_weighted_vote():
    rng = torch.Generator().manual_seed(0)
    known, asked = torch.randn(30, 5, generator=rng), torch.randn(12, 5, generator=rng)
    labels = torch.randint(4, (30,), generator=rng)
    expected = []
    for feature in asked:
        near = sorted(
            ((torch.dot(feature, other) / feature.norm() / other.norm()).item(), label)
            for other, label in zip(known, labels.tolist(), strict=True)
        )[-7:]
        votes = [
            sum(math.exp(cosine / 0.07) for cosine, label in near if label == k) for k in range(4)
        ]
        expected.append(votes.index(max(votes)))
    assert knn.classify(known, labels, asked, neighbours=7).tolist() == expected


def test_in_knn_one_near_neighbour_outvotes_two_far_ones():
    known, labels = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]), torch.tensor([2, 0, 0])
    asked = torch.tensor([[50.0, 5.0], [0.5, 5.0]])  # lengths do not count
    assert knn.classify(known, labels, asked).tolist() == [
        2,
        0,
    ]  # with fewer images than neighbours
    assert knn.classify(known, labels, asked, neighbours=1).tolist() == [2, 0]


def test_the_probe_scores_a_backbone_that_sees_the_class_and_one_that_has_collapsed():
    labels = torch.arange(3).repeat(10)
    images = torch.zeros(30, 3, 4, 4, dtype=torch.uint8)
    images[torch.arange(30), labels] = 200  # the class is the colour
    probe = knn.Probe(images, labels, images[:9], labels[:9])
    sees, collapsed = (
        nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.BatchNorm1d(3)),
        nn.Flatten(),
    )
    before = sees[2].running_mean.clone()
    cpu, recipe = torch.device("cpu"), PRETRAIN["original"]
    assert knn.accuracy(sees, probe, recipe, cpu) == 1.0
    assert torch.equal(before, sees[2].running_mean)
    black = knn.Probe(torch.zeros_like(images), labels, torch.zeros_like(images[:9]), labels[:9])
    assert knn.accuracy(collapsed, black, recipe, cpu) == pytest.approx(1 / 3)


def test_the_papers_two_views_are_its_appendix_bs():
    # Grill et al. 2020, table 6: T and T' differ in blurring and solarizing alone.
    first, second = PRETRAIN["paper"].views
    for view in (first, second):
        assert (view.jitter, view.jitter_p, view.grey_p, view.blur_sigma) == (
            (0.4, 0.4, 0.2, 0.1),
            0.8,
            0.2,
            (0.1, 2.0),
        )
        assert view.crop_scale == (0.08, 1.0) and not view.crop_last
    assert (first.blur_p, first.solarize_p) == (1.0, 0.0) and (
        second.blur_p,
        second.solarize_p,
    ) == (0.1, 0.2)


def test_the_papers_recipe_makes_the_papers_optimiser():
    from training import optim
    from training.optim import LARS

    recipe = PRETRAIN["paper"]
    optimizer = optim.make(
        recipe.optimiser, small(), recipe.lr, recipe.weight_decay, recipe.decay_vectors
    )
    assert isinstance(optimizer, LARS)
    assert [(group["lr"], group["weight_decay"]) for group in optimizer.param_groups] == [
        (0.3, 1e-6),
        (0.3, 0.0),
    ]
