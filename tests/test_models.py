"""Every network against its source: sizes, keys, what transfers, what is frozen."""

import math

import pytest
import torch
from conftest import ROOT
from torch import nn
from torchvision import models

from core import checkpoint
from core.cli import InputError
from p1 import model as p1
from p2 import model as p2
from p2.settings import SETTINGS
from p3 import model as p3

KEYS = ROOT / "tests" / "mobilenetv2_x1_4_keys.txt"


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


@pytest.mark.parametrize("name", SETTINGS)
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


def test_p2_settings_are_the_courses():
    rows = {name: (setting.start, setting.frozen) for name, setting in SETTINGS.items()}
    assert rows == {
        "A": ("nothing", False), "B": ("labels", False), "C": ("byol", False), "D": ("labels", True), "E": ("byol", True),
    }  # fmt: skip


@pytest.fixture(scope="module")
def fcn():
    torch.manual_seed(0)
    return p3.FCN32s().eval()


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (64, 95), (130, 32)])
def test_p3_logits_have_the_inputs_size(fcn, size):
    images = torch.rand(1, 3, *size)
    with torch.inference_mode():
        assert fcn(images).shape == (1, 7, *size)
        assert p3.DeepLabv3().eval()(images).shape == (1, 7, *size)


def test_p3_fcn_interpolates_its_scores_bilinearly(fcn):
    with torch.inference_mode():
        scores = torch.rand(1, 7, 4, 4)
        ours = fcn.upscore(scores)[:, :, 16:-16, 16:-16]
        theirs = nn.functional.interpolate(
            scores, scale_factor=32, mode="bilinear", align_corners=False
        )
    inner = (
        slice(None),
        slice(None),
        slice(16, -16),
        slice(16, -16),
    )  # outside these torch repeats the border
    assert torch.allclose(ours[inner], theirs[inner], atol=1e-6)


def test_p1_c_takes_a_finished_networks_weights_at_another_size():
    torch.manual_seed(0)
    finished, network = (p1.build(f"efficientnet_lite0_{side}", 50) for side in (64, 96))
    said = p1.load_pretrained(network, finished.state_dict(), "last.pt")
    assert said == "the whole network from last.pt"
    for name, value in network.state_dict().items():
        assert torch.equal(value, finished.state_dict()[name]), name


def test_p3_takes_a_finished_networks_weights_whole():
    torch.manual_seed(0)
    finished, network = (p3.build(p3.OF_MODEL["C"]) for _ in range(2))
    assert "the whole network from last.pt" in p3.load_pretrained(
        network, finished.state_dict(), "last.pt"
    )
    for name, value in network.state_dict().items():
        assert torch.equal(value, finished.state_dict()[name]), name


def test_p3_fcn_takes_vgg16s_dense_layers_as_convolutions(fcn):
    with torch.device("meta"):
        shapes = {name: value.shape for name, value in models.vgg16().state_dict().items()}
    weights = {
        name: torch.rand(shape) if "classifier.6" not in name else torch.rand(1)
        for name, shape in shapes.items()
    }
    network = p3.FCN32s()
    said = p3.load_pretrained(network, weights, "vgg16.pth")
    assert "classifier.6" in said and "score.weight" in said
    assert torch.equal(network.features[28].weight, weights["features.28.weight"])
    # a dense layer over a 512x7x7 map is the convolution's value at the map's centre
    pooled = torch.rand(1, 512, 7, 7)
    dense = nn.functional.linear(
        pooled.flatten(1), weights["classifier.0.weight"], weights["classifier.0.bias"]
    )
    assert torch.allclose(network.fc6[0](pooled)[0, :, 3, 3], dense[0], rtol=1e-4)
    with pytest.raises(InputError, match=r"classifier\.0\.weight.*Nothing was loaded"):
        p3.load_pretrained(network, {"features.0.weight": torch.rand(1)}, "other.pth")


def test_p3_deeplab_takes_the_coco_weights_but_the_heads():
    coco = models.segmentation.deeplabv3_mobilenet_v3_large(
        weights=None, weights_backbone=None, num_classes=21, aux_loss=True
    )
    network = p3.DeepLabv3()
    said = p3.load_pretrained(network, coco.state_dict(), "coco.pth")
    assert "aux_classifier" in said
    theirs = coco.state_dict()
    for name, value in network.network.state_dict().items():
        if not name.startswith("classifier.4."):
            assert torch.equal(value, theirs[name]), name


def test_p3_batchnorms_follow_the_training_quickly_enough():
    momenta = {
        module.momentum for module in p3.DeepLabv3().modules() if isinstance(module, nn.BatchNorm2d)
    }
    assert momenta == {0.1}


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


@pytest.mark.parametrize("network", [p1.build("efficientnet_lite0_64", 50), p3.DeepLabv3Plus()])
def test_models_c_start_near_chance_and_learn_one_batch(network):
    torch.manual_seed(0)
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


def test_p3_scales_are_averaged_in_the_images_own_size():
    network = p3.DeepLabv3Plus().eval()
    images = torch.randn(1, 3, 70, 64)
    with torch.no_grad():
        both = p3.logits(network, images, True, (0.5, 1.0))
        half, full = (p3.logits(network, images, True, (scale,)) for scale in (0.5, 1.0))
    assert both.shape == (1, 7, 70, 64)
    torch.testing.assert_close(both, (half + full) / 2)


def test_only_model_c_starts_from_imagenet():
    for problem, network in ((p1, p1.mobilenet_v2(50)), (p3, p3.DeepLabv3())):
        with pytest.raises(InputError, match="model C"):
            problem.pretrained_file(network, "imagenet")
    with pytest.raises(InputError, match="no network 'efficientnet_lite9_64'"):
        p1.build("efficientnet_lite9_64", 50)
