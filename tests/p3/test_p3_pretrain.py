"""Pre-training of a backbone: what it saves is the network's own backbone."""

import torch
from conftest import thin_fcn32s
from torch import nn

from p3 import model, pretrain


def classifier(network):
    network.CHANNELS = network.features[28].out_channels
    return pretrain.Classifier(network, classes=5)


def test_vgg16s_saved_weights_compute_what_it_computed_with_batchnorm():
    torch.manual_seed(0)
    trained, network = classifier(thin_fcn32s()).train(), thin_fcn32s()
    images = torch.randn(4, 3, 64, 64)
    for _ in range(20):  # until the running statistics are those of the images
        trained(2 + 3 * images)
    trained.eval()
    said = model.load_pretrained(network, trained.weights(), "last.pt")
    assert "loaded the backbone from last.pt" in said
    with torch.inference_mode():
        torch.testing.assert_close(
            network.features(images), trained.backbone(images), rtol=1e-4, atol=1e-4
        )


def test_saving_leaves_the_training_as_it_was():
    torch.manual_seed(0)
    trained = classifier(thin_fcn32s()).train()
    before = {name: value.clone() for name, value in trained.state_dict().items()}
    trained.weights()
    assert trained.training and before.keys() == trained.state_dict().keys()
    assert all(torch.equal(value, before[name]) for name, value in trained.state_dict().items())
    assert sum(isinstance(layer, nn.BatchNorm2d) for layer in trained.modules()) == 13
