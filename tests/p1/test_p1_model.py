"""MobileNetV2 and EfficientNet-Lite: sizes, keys, what transfers."""

import math

import pytest
import torch
from conftest import ROOT
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


def loss_at_the_start(network, images, classes, shape=()):
    truth = torch.randint(classes, (len(images), *shape))
    return nn.functional.cross_entropy(network.eval()(images), truth).item()


def test_p1_is_the_published_network_for_32x32():
    network = p1.mobilenet_v2(50)
    assert sum(p.numel() for p in network.parameters()) == 4_405_426
    assert network.last_channel == p1.FEATURES == 1792
    assert network.features[:-1](torch.rand(1, 3, 32, 32)).shape[2:] == (
        4,
        4,
    )  # 32 / 8: two of five halvings left out
    assert loss_at_the_start(network, torch.rand(8, 3, 32, 32), 50) == pytest.approx(
        math.log(50), rel=0.05
    )


def test_p1_features_are_what_the_classifier_reads():
    network = p1.mobilenet_v2(50).eval()
    images = torch.rand(2, 3, 32, 32)
    read = p1.features(network, images)
    assert read.shape == (2, 1792)
    assert torch.allclose(network.classifier(read), network(images), atol=1e-6)


def test_p1_takes_every_published_weight_but_the_head():
    weights, network = published_p1(), p1.mobilenet_v2(50)
    head = network.classifier[1].weight.clone()
    said = p1.load_pretrained(network, weights, "published.pt")
    assert "classifier.1.weight (100, 1792) -> (50, 1792)" in said
    for name, value in network.state_dict().items():
        if name.startswith("classifier."):
            continue
        assert torch.equal(value, weights[name]), name
    assert torch.equal(network.classifier[1].weight, head)


def test_p1_refuses_other_weights_by_name():
    weights = published_p1()
    weights["features.99.weight"] = weights.pop("features.0.0.weight")
    with pytest.raises(
        InputError, match=r"missing: features\.0\.0\.weight; unexpected: features\.99\.weight"
    ):
        p1.load_pretrained(p1.mobilenet_v2(50), weights, "other.pt")
    with pytest.raises(InputError, match="not a MobileNetV2"):
        p1.load_pretrained(p1.mobilenet_v2(50), {}, "empty.pt")


def test_p1_flip_test_is_blind_to_mirroring():
    network, images = p1.mobilenet_v2(50).eval(), torch.rand(2, 3, 32, 32)
    assert torch.allclose(
        p1.logits(network, images, True), p1.logits(network, images.flip(3), True), atol=1e-6
    )


def test_p1_c_takes_a_finished_networks_weights_at_another_size():
    torch.manual_seed(0)
    finished, network = (p1.build(f"efficientnet_lite0_{side}", 50) for side in (64, 96))
    said = p1.load_pretrained(network, finished.state_dict(), "last.pt")
    assert said == "loaded the whole network from last.pt"
    for name, value in network.state_dict().items():
        assert torch.equal(value, finished.state_dict()[name]), name
