"""FCN32s and the two DeepLabs: sizes, what transfers, scales."""

import pytest
import torch
from conftest import same, thin_fcn32s
from torch import nn
from torchvision import models

from core import devices
from core.cli import InputError
from p3 import model as p3


@pytest.mark.parametrize("build", [thin_fcn32s, p3.DeepLabv3, p3.DeepLabv3Plus])
def test_p3_logits_have_the_inputs_size(build):
    network = build().eval()
    for size in ((32, 32), (33, 47), (64, 95), (130, 32)):
        with torch.inference_mode():
            assert network(torch.rand(1, 3, *size)).shape == (1, 7, *size)


@torch.inference_mode()
def test_p3_fcn_interpolates_its_scores_bilinearly():
    scores = torch.rand(1, 7, 4, 4)
    ours = thin_fcn32s().upscore(scores)[:, :, 32:-32, 32:-32]
    theirs = nn.functional.interpolate(scores, scale_factor=32, mode="bilinear")
    assert torch.allclose(ours, theirs[:, :, 16:-16, 16:-16], atol=1e-6)  # outside: its border


def test_p3_weights_that_see_only_padding_have_finite_gradients_in_bfloat16():
    devices.keep_freed_memory()  # so that the convolution gets memory that is full of NaN
    layer = devices.prepare(nn.Conv2d(512, 512, 7, padding=3), torch.device("cpu"))
    images = torch.rand(2, 512, 2, 2).to(memory_format=torch.channels_last)
    for _ in range(4):
        layer.weight.grad = None
        torch.full((30_000_000,), float("nan"))
        with torch.autocast("cpu", torch.bfloat16):
            layer(images).sum().backward()
        assert layer.weight.grad.isfinite().all()


def test_p3_takes_a_finished_networks_weights_whole():
    torch.manual_seed(0)
    finished, network = (p3.build(p3.OF_MODEL["C"]) for _ in range(2))
    said = p3.load_pretrained(network, finished.state_dict(), "last.pt")
    assert "the whole network from last.pt" in said
    same(dict(network.state_dict()), dict(finished.state_dict()))


def test_p3_fcn_takes_vgg16s_dense_layers_as_convolutions():
    with torch.device("meta"):  # nothing is drawn that would be overwritten
        theirs, network = models.vgg16().state_dict(), p3.FCN32s()
    weights = {name: torch.zeros(1).expand(value.shape) for name, value in theirs.items()}
    drawn = ("features.28.weight", "classifier.0.weight", "classifier.0.bias")
    weights |= {name: torch.rand(theirs[name].shape) for name in drawn}
    network.to_empty(device="cpu")
    said = p3.load_pretrained(network, weights, "vgg16.pth")
    assert "classifier.6" in said and "score.weight" in said
    assert torch.equal(network.features[28].weight, weights["features.28.weight"])
    # A dense layer over a 512x7x7 map is the convolution's value at the map's centre.
    pooled = torch.rand(1, 512, 7, 7)
    dense = nn.functional.linear(pooled.flatten(1), *(weights[name] for name in drawn[1:]))
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


@pytest.mark.parametrize("build", [thin_fcn32s, p3.DeepLabv3])
def test_a_backbone_that_was_pre_trained_is_loaded_and_the_rest_stays_random(build):
    network, before = build(), build().state_dict()
    network.load_state_dict(before)
    name = "features." if build is thin_fcn32s else "network.backbone."
    trained = {key: value + 1 for key, value in before.items() if key.startswith(name)}
    assert "loaded the backbone from some.pt" in p3.load_pretrained(network, trained, "some.pt")
    same(network.state_dict(), before | trained)
    del trained[next(iter(trained))]
    with pytest.raises(InputError, match=r"some\.pt"):
        p3.load_pretrained(network, trained, "some.pt")
