"""What holds for the networks of all three problems."""

import math

import pytest
import torch

from core import checkpoint
from p1 import model as p1
from p2 import model as p2
from p3 import model as p3


@pytest.mark.parametrize("make", [lambda: p1.mobilenet_v2(50), lambda: p3.DeepLabv3()])
def test_networks_survive_the_checkpoint(make, tmp_path):
    network, other = make(), make()
    checkpoint.save(
        tmp_path / "x.pt",
        checkpoint.Checkpoint(
            "p1", "a", (), None, (0.0,) * 3, (1.0,) * 3, False, {}, {}, {}, network.state_dict()
        ),
    )
    checkpoint.load_weights(other, checkpoint.load(tmp_path / "x.pt", "p1").weights, "x.pt")
    images = torch.rand(2, 3, 64, 64)
    assert torch.allclose(network.eval()(images), other.eval()(images), atol=0.02)


@pytest.mark.parametrize(
    ("make", "size"),
    [
        (lambda: p1.mobilenet_v2(50), 32),
        (lambda: p1.build("efficientnet_lite0_64", 50), 32),
        (p3.DeepLabv3, 64),
        (p3.DeepLabv3Plus, 64),
    ],
    ids=["p1 A", "p1 C", "p3 B", "p3 C"],
)
def test_a_network_starts_near_chance_and_learns_one_batch_by_heart(make, size):
    network, images = make().train(), torch.rand(4, 3, size, size)
    classes, *pixels = network(images).shape[1:]
    truth = torch.randint(classes, (4, *(2 for _ in pixels)))
    for dimension, side in enumerate(pixels, 1):
        truth = truth.repeat_interleave(side // 2, dimension)
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    losses = []
    for _ in range(20):
        loss = torch.nn.functional.cross_entropy(network(images), truth)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert abs(losses[0] - math.log(classes)) < 1, losses
    assert losses[-1] < 0.5 * losses[0], losses


@pytest.mark.parametrize(
    "make",
    [p1.mobilenet_v2, p1.build, p2.make_backbone, p3.FCN32s, p3.DeepLabv3, p3.DeepLabv3Plus],
)
def test_no_network_comes_with_ready_made_weights(monkeypatch, make):
    def refuse(*_, **__):
        pytest.fail("weights were asked for")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", refuse)
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", refuse)
    given = {p1.mobilenet_v2: (50,), p1.build: ("efficientnet_lite0_64", 50)}
    with torch.device("meta"):  # draws no weights
        make(*given.get(make, ()))
