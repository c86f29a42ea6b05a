"""ResNet50 and its head: what they compute, and what transfers."""

import pytest
import torch
from torchvision import models

from core.cli import InputError
from p2 import model as p2


def test_a_classifier_is_torchvisions_resnet50_and_takes_its_weights_key_for_key(tmp_path):
    network, reference = p2.Classifier(65).eval(), models.resnet50(num_classes=65).eval()
    weights = reference.state_dict()
    without_fc = {name: value for name, value in weights.items() if not name.startswith("fc.")}
    short = dict(without_fc)
    del short["layer4.2.bn3.running_var"]
    for name, content in (("whole", weights), ("without_fc", without_fc), ("short", short)):
        torch.save(content, tmp_path / f"{name}.pt")
    for name in ("without_fc", "whole"):  # the course's file has an fc
        p2.load_backbone(network.backbone, tmp_path / f"{name}.pt")
        loaded = network.backbone.state_dict()
        assert all(torch.equal(loaded[key], value) for key, value in without_fc.items())
    with pytest.raises(InputError, match=r"missing: layer4\.2\.bn3\.running_var"):
        p2.load_backbone(network.backbone, tmp_path / "short.pt")

    network.head.load_state_dict({key: weights[f"fc.{key}"] for key in ("weight", "bias")})
    images = torch.rand(2, 3, 128, 128)
    with torch.no_grad():
        assert network.backbone(images).shape == (2, 2048)
        assert torch.allclose(network(images), reference(images), atol=1e-5)
