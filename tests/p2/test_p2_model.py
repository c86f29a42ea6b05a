"""ResNet50 and its head: keys, what transfers, what is frozen."""

import pytest
import torch
from torch import nn
from torchvision import models

from core.cli import InputError
from p2 import model as p2
from p2.settings import SETTINGS


def test_p2_head_reads_the_2048_pooled_features_of_torchvisions_resnet50():
    network, reference = p2.Classifier(65).eval(), models.resnet50(num_classes=65).eval()
    reference.load_state_dict(
        {
            **network.backbone.state_dict(),
            "fc.weight": network.head.weight,
            "fc.bias": network.head.bias,
        }
    )
    images = torch.rand(2, 3, 128, 128)
    assert network.backbone(images).shape == (2, 2048)
    assert torch.allclose(network(images), reference(images), atol=1e-5)


@pytest.mark.parametrize("with_fc", [True, False])
def test_p2_backbone_loads_the_courses_file_key_for_key(tmp_path, with_fc):
    weights = models.resnet50(num_classes=64).state_dict()
    if not with_fc:
        weights = {name: value for name, value in weights.items() if not name.startswith("fc.")}
    torch.save(weights, tmp_path / "pretrain_model_SL.pt")
    backbone = p2.make_backbone()
    p2.load_backbone(backbone, tmp_path / "pretrain_model_SL.pt")
    assert all(torch.equal(value, weights[name]) for name, value in backbone.state_dict().items())
    torch.save(
        {name: value for name, value in weights.items() if name != "layer4.2.bn3.running_var"},
        tmp_path / "short.pt",
    )
    with pytest.raises(InputError, match=r"missing: layer4\.2\.bn3\.running_var"):
        p2.load_backbone(backbone, tmp_path / "short.pt")


@pytest.mark.parametrize("name", "AD")
def test_p2_a_frozen_backbone_does_not_move_by_a_bit_and_a_free_one_does(name):
    network = p2.Classifier(5, frozen=SETTINGS[name].frozen)
    before = {key: value.clone() for key, value in network.backbone.state_dict().items()}
    head = network.head.weight.clone()
    optimizer = torch.optim.SGD(
        [p for p in network.parameters() if p.requires_grad], lr=0.1, momentum=0.9, weight_decay=0.1
    )
    for _ in range(2):
        network.train()
        nn.functional.cross_entropy(network(torch.rand(4, 3, 64, 64)), torch.arange(4)).backward()
        optimizer.step()
    after = network.backbone.state_dict()
    same = {key for key in before if torch.equal(before[key], after[key])}
    assert not torch.equal(head, network.head.weight)
    assert (
        (same == set(before))
        if name in "DE"
        else ({"conv1.weight", "bn1.running_mean"} & same == set())
    )
