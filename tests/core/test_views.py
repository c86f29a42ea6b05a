"""Logits averaged over mirror images, scales and quarter turns."""

import torch
from torch import nn

from core.views import logits


def test_a_classifiers_logits_are_the_mean_over_the_image_and_its_mirror_image():
    network, images = nn.Sequential(nn.Flatten(), nn.Linear(48, 5)), torch.rand(2, 3, 4, 4)
    mean = (network(images) + network(images.flip(3))) / 2
    assert torch.equal(logits(network, images, True), mean)
    assert torch.equal(logits(network, images), network(images))


def test_quarter_turns_are_turned_back_before_the_mean():
    torch.manual_seed(0)
    network = nn.Conv2d(3, 7, 3, padding=1)
    images = torch.rand(2, 3, 40, 64)
    rotated = logits(network, images, True, (1.0,), True)
    assert rotated.shape == (2, 7, 40, 64)
    # Whatever the network has learned, the mean over all eight symmetries commutes with each.
    for turned in (images.rot90(1, (2, 3)), images.flip(2)):
        back = logits(network, turned, True, (1.0,), True)
        back = back.rot90(-1, (2, 3)) if turned.shape[2] == 64 else back.flip(2)
        assert torch.allclose(back, rotated, atol=1e-6)
    plain = logits(network, images, False)
    assert not torch.allclose(plain, rotated, atol=1e-3)
    assert torch.allclose(plain, network(images))
    nn.init.zeros_(network.weight)  # the mean of equal logits is the same logits
    equal = network.bias.view(1, 7, 1, 1).expand(2, 7, 40, 64)
    assert torch.allclose(logits(network, images, True, (0.5, 1.0), True), equal)


def test_scales_are_averaged_in_the_images_own_size():
    network = nn.Conv2d(3, 7, 3, padding=1)
    images = torch.randn(1, 3, 70, 64)
    with torch.no_grad():
        both = logits(network, images, True, (0.5, 1.0))
        half, full = (logits(network, images, True, (scale,)) for scale in (0.5, 1.0))
    assert both.shape == (1, 7, 70, 64)
    torch.testing.assert_close(both, (half + full) / 2)
