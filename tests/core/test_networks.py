"""What holds for the networks of all three problems."""

import math

import pytest
import torch

from core import checkpoint
from core.cli import InputError
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
    "make", [lambda: p1.build("efficientnet_lite0_64", 50), p3.DeepLabv3Plus], ids=["p1", "p3"]
)
def test_models_c_start_near_chance_and_learn_one_batch(make):
    network = make()
    images = torch.randn(4, 3, 32, 32) if hasattr(network, "side") else torch.randn(2, 3, 64, 64)
    out = network.train()(images)
    classes = out.shape[1]
    truth = torch.arange(len(images)).view(-1, *[1] * (out.ndim - 2)).expand(-1, *out.shape[2:])
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    losses = []
    for _ in range(12):
        loss = torch.nn.functional.cross_entropy(network(images), truth)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert abs(losses[0] - math.log(classes)) < 1
    assert losses[-1] < 0.7 * losses[0]


def test_an_unknown_network_is_named():
    with pytest.raises(InputError, match="no network 'efficientnet_lite9_64'"):
        p1.build("efficientnet_lite9_64", 50)


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
    make(*given.get(make, ()))
