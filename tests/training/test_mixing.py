"""CutMix against the written-out formulas, image by image, and what they draw."""

import pytest
import torch
from conftest import same
from torch.nn.functional import cross_entropy

from training import mixing


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def photos(n=6, height=16, width=20, channels=3, seed=0):
    """(N, C, H, W) float32 noise in 0..1, in which no two pixels are alike."""
    return torch.rand(n, channels, height, width, generator=rng(seed))


def bytes_of(images):
    return (images * 255).round().to(torch.uint8)


PARTNER = torch.tensor([3, 0, 2, 5, 1, 4])
BOXES = torch.tensor(
    [(3, 5, 4, 9), (0, 0, 16, 20), (2, 2, 5, 5), (4, 4, 0, 7), (15, 19, 1, 1), (10, 0, 6, 20)]
).T


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    "kind", [photos, lambda: photos().bfloat16(), lambda: bytes_of(photos(channels=4))]
)
def test_cutmix_takes_each_images_own_box_from_its_partner(layout, kind):
    images = kind().contiguous(memory_format=layout)
    mixed = mixing.cutmix(images, *BOXES, PARTNER)
    assert mixed.dtype == images.dtype and mixed.is_contiguous(memory_format=layout)
    for i in range(6):
        expected = images[i].clone()
        top, left, height, width = BOXES[:, i].tolist()
        box = (slice(None), slice(top, top + height), slice(left, left + width))
        expected[box] = images[PARTNER[i]][box]
        assert torch.equal(mixed[i], expected)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_is_each_images_weighted_sum_of_two_cross_entropies(smoothing):
    logits, labels = torch.randn(6, 5, generator=rng(1)), torch.tensor([0, 4, 2, 2, 1, 3])
    weight = torch.tensor([0.0, 0.2, 0.5, 0.7, 0.99, 1.0])
    losses = [
        weight[i] * cross_entropy(logits[i], labels[i], label_smoothing=smoothing)
        + (1 - weight[i]) * cross_entropy(logits[i], labels[PARTNER[i]], label_smoothing=smoothing)
        for i in range(6)
    ]
    ours = mixing.cross_entropy(logits, labels, PARTNER, weight, smoothing)
    torch.testing.assert_close(ours, torch.stack(losses).mean())
    unmixed = mixing.cross_entropy(logits, labels, PARTNER, torch.ones(6), smoothing)
    torch.testing.assert_close(unmixed, cross_entropy(logits, labels, label_smoothing=smoothing))


# --- draws ---


def test_a_draw_is_each_images_own_and_a_function_of_the_generator_given():
    images, generator = photos(64), rng(5)
    before, copy = torch.get_rng_state(), images.clone()
    first = mixing.random_cutmix(images, generator, 1.0)
    _, partner, share = first
    assert partner.dtype == torch.int64 and partner.sort()[0].tolist() == list(range(64))
    assert partner.tolist() != list(range(64))
    assert share.dtype == torch.float32 and share.shape == (64,)
    assert share.min() >= 0 and share.max() <= 1 and len(share.unique()) > 20
    same(mixing.random_cutmix(images, rng(5), 1.0), first)
    for other in (rng(6), generator):  # the same generator goes on
        others = mixing.random_cutmix(images, other, 1.0)
        assert not any(torch.equal(a, b) for a, b in zip(first, others, strict=True))
    assert torch.equal(torch.get_rng_state(), before) and torch.equal(images, copy)


@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
def test_an_image_is_mixed_with_probability_p_and_else_has_weight_1_and_stays(p):
    images = photos(1000)
    mixed, _, weight = mixing.random_cutmix(images, rng(), p)
    alone = weight == 1
    slack = 0.05 if p else 0  # a box may have no pixel, or be all of the image
    assert abs((~alone).float().mean() - p) <= slack + 0.02 * (p == 1.0)
    assert torch.equal(mixed[alone], images[alone])


def test_cutmixs_weight_is_the_share_of_pixels_that_were_kept():
    images = torch.arange(200).view(-1, 1, 1, 1).expand(-1, 3, 24, 17)  # each of one value
    mixed, partner, weight = mixing.random_cutmix(images, rng(), 1.0)
    kept = (mixed == images).double().mean((1, 2, 3))
    other = partner != torch.arange(200)  # not its own partner
    torch.testing.assert_close(weight[other].double(), kept[other], atol=1e-6, rtol=0)
    assert ((mixed == images) | (mixed == images[partner])).all()


def test_cutmixs_boxes_lie_about_every_pixel_and_are_of_the_images_shape(monkeypatch):
    calls = []
    monkeypatch.setattr(mixing, "cutmix", lambda images, *args: calls.append(args) or images)
    height, width = 40, 60
    mixing.random_cutmix(torch.empty(4000, 1, height, width), rng(), 1.0)
    top, left, h, w, _ = calls[0]
    bottom, right = top + h, left + w
    assert min(top.min(), left.min()) >= 0 and bottom.max() <= height and right.max() <= width
    inside = (top > 0) & (left > 0) & (bottom < height) & (right < width)  # not clipped
    # The mean of (1 - r)^2 for r^2 even in 0..1.
    assert inside.float().mean().item() == pytest.approx(1 / 6, abs=0.03)
    # Each half side is rounded down to pixels.
    assert (h[inside] * width / height - w[inside]).abs().max() <= 3
    small = h <= 4
    centres = (top + bottom)[small] / 2
    assert torch.histc(centres, 4, 0, height).min() > small.sum() / 4 * 0.5  # at every height
