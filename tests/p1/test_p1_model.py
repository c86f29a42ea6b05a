"""MobileNetV2 and EfficientNet-Lite: sizes, keys, what transfers."""

import math

import pytest
import torch
from conftest import ROOT, same
from torch import nn

from core.cli import InputError
from p1 import model as p1

KEYS = ROOT / "tests" / "p1" / "mobilenetv2_x1_4_keys.txt"


def published_p1():
    """A state dict with the keys, shapes and dtypes of the published CIFAR-100 checkpoint."""
    weights = {}
    for line in KEYS.read_text().splitlines():
        name, shape, dtype = line.split("\t")
        shape = tuple(int(side) for side in shape.strip("()").split(",") if side.strip())
        weights[name] = torch.rand(shape).to(getattr(torch, dtype.removeprefix("torch.")))
    return weights


def test_p1_is_the_published_network_for_32x32():
    network, images = p1.mobilenet_v2(50).eval(), torch.rand(8, 3, 32, 32)
    assert sum(p.numel() for p in network.parameters()) == 4_405_426
    maps = network.features[:-1](images)
    assert maps.shape[2:] == (4, 4)  # 32 / 8: two of five halvings left out
    read = p1.features(network, images)  # what the classifier reads
    assert read.shape == (8, network.last_channel) == (8, p1.FEATURES) == (8, 1792)
    assert torch.allclose(network.classifier(read), network(images), atol=1e-6)
    loss = nn.functional.cross_entropy(network(images), torch.randint(50, (8,))).item()
    assert loss == pytest.approx(math.log(50), rel=0.05)  # knows nothing yet


def test_p1_takes_every_published_weight_but_the_head():
    weights, network = published_p1(), p1.mobilenet_v2(50)
    head = network.classifier[1].weight.clone()
    said = p1.load_pretrained(network, weights, "published.pt")
    assert "classifier.1.weight (100, 1792) -> (50, 1792)" in said
    for name, value in network.state_dict().items():
        assert name.startswith("classifier.") or torch.equal(value, weights[name]), name
    assert torch.equal(network.classifier[1].weight, head)


def test_p1_refuses_other_weights_by_name():
    weights = published_p1()
    weights["features.99.weight"] = weights.pop("features.0.0.weight")
    says = r"missing: features\.0\.0\.weight; unexpected: features\.99\.weight"
    with pytest.raises(InputError, match=says):
        p1.load_pretrained(p1.mobilenet_v2(50), weights, "other.pt")
    with pytest.raises(InputError, match="not a MobileNetV2"):
        p1.load_pretrained(p1.mobilenet_v2(50), {}, "empty.pt")


def test_p1_c_takes_a_finished_networks_weights_at_another_size():
    torch.manual_seed(0)
    finished, network = (p1.build(f"efficientnet_lite0_{side}", 50) for side in (64, 96))
    said = p1.load_pretrained(network, finished.state_dict(), "last.pt")
    assert said == "loaded the whole network from last.pt"
    same(dict(network.state_dict()), dict(finished.state_dict()))


@pytest.mark.parametrize("name", ["efficientnet_lite1_128", "efficientnet_lite0_00", "resnet50"])
def test_a_network_that_does_not_exist_is_named(name):
    with pytest.raises(InputError, match=f"no network '{name}'"):
        p1.build(name, 50)
