"""Batched augmentation equals torchvision's of one image, and every image has a draw of its own."""

import itertools

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms.v2 import functional as F

from core import augment


def photos(n=6, height=17, width=23, channels=3, seed=0):
    """(N, C, H, W) float32 noise in 0..1, in which no two pixels are alike."""
    return torch.rand(n, channels, height, width, generator=rng(seed))


def bytes_of(images):
    return (images * 255).round().to(torch.uint8)


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def one_by_one(images, function):
    """``function(image, i)`` of every image, as a batch: what torchvision would do."""
    return torch.stack([function(image, i) for i, image in enumerate(images)])


def close(ours, theirs, atol=1e-5):
    torch.testing.assert_close(ours, theirs, atol=atol, rtol=0)


def catch(monkeypatch, name):
    """The arguments of each call of the operation ``name``, which then does nothing."""
    calls = []
    monkeypatch.setattr(augment, name, lambda images, *args: calls.append(args) or images)
    return calls


# --- plain operations against torchvision ---


def test_to_float_and_normalise_equal_torchvision():
    mean, std = (0.5, 0.4, 0.3), (0.1, 0.2, 0.3)
    images = bytes_of(photos())
    floats = augment.to_float(images)
    close(floats, F.to_dtype(images, torch.float32, scale=True), atol=1e-7)
    close(augment.normalise(floats, mean, std), F.normalize(floats, list(mean), list(std)))


PLACE = st.integers(-30, 30)
LAYOUT = st.sampled_from([torch.contiguous_format, torch.channels_last])


@given(
    corners=st.lists(st.tuples(PLACE, PLACE), min_size=1, max_size=6),
    size=st.tuples(st.integers(1, 30), st.integers(1, 30)),
    channels=st.sampled_from([1, 3, 4]),
    kind=st.sampled_from([bytes_of, torch.Tensor.float]),
    layout=LAYOUT,
)
def test_window_equals_pad_and_crop_wherever_it_lies(corners, size, channels, kind, layout):
    images = kind(photos(len(corners), channels=channels)).contiguous(memory_format=layout)

    def padded_and_cropped(image, i):
        top, left = corners[i]
        return F.crop(F.pad(image, [60]), top + 60, left + 60, *size)

    ours = augment.window(images, *torch.tensor(corners).T, size)
    assert torch.equal(ours, one_by_one(images, padded_and_cropped)) and ours.dtype == images.dtype
    assert ours.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("channels", [3, 4])
def test_flip_mirrors_the_chosen_images_only(channels):
    images = bytes_of(photos(4, channels=channels))
    horizontal = torch.tensor([True, False, True, False])
    vertical = torch.tensor([False, True, True, False])
    both = F.vertical_flip(F.horizontal_flip(images[2]))
    theirs = [F.horizontal_flip(images[0]), F.vertical_flip(images[1]), both, images[3]]
    assert torch.equal(augment.flip(images, horizontal, vertical), torch.stack(theirs))
    assert torch.equal(augment.flip(images, horizontal)[1], images[1])


@pytest.mark.parametrize(("height", "width"), [(32, 32), (31, 45), (40, 24)])
def test_rotate_equals_torchvision_but_for_ties(height, width):
    angles = torch.tensor([0.0, 30.0, -17.3, 45.0, 90.0, 180.0, -135.5, 3.0])
    images = photos(len(angles), height, width)
    theirs = one_by_one(images, lambda image, i: F.rotate(image, angles[i].item()))
    ours = augment.rotate(images, angles)
    differing = (ours != theirs).any(1).float().mean((1, 2))
    assert differing.max() < 0.02  # a sine of a half puts whole rows half-way between two pixels
    assert differing[[2, 6, 7]].max() < 0.002, "no pixel lies half-way at these angles"
    assert (ours[1] == 0).any(), "the corners come from outside the image and are black"


def span(side):
    """(start, length) of a part of a side, which may be all of it or one pixel."""
    return st.integers(1, side).flatmap(
        lambda length: st.tuples(st.integers(0, side - length), st.just(length))
    )


# (top, left, height, width)
BOX = st.tuples(span(33), span(47)).map(lambda two: (two[0][0], two[1][0], two[0][1], two[1][1]))
BOXES = st.lists(BOX, min_size=1, max_size=6)


@given(boxes=BOXES, size=st.integers(1, 64))
@example(boxes=[(0, 0, 33, 47), (32, 46, 1, 1), (3, 4, 19, 19)], size=19)
def test_a_resized_crop_and_its_mask_equal_torchvisions_smaller_and_larger(boxes, size):
    images, parts = photos(len(boxes), 33, 47, channels=4), torch.tensor(boxes).T
    cut = augment.resized_crop(images, *parts, size)
    close(cut, one_by_one(images, lambda image, i: F.resized_crop(image, *boxes[i], [size] * 2)))
    masks, nearest = bytes_of(images[:, 3:]) % 7, F.InterpolationMode.NEAREST
    theirs = one_by_one(
        masks, lambda mask, i: F.resized_crop(mask, *boxes[i], [size] * 2, interpolation=nearest)
    )
    cut = augment.resized_crop_nearest(masks, *parts, size)
    assert torch.equal(cut, theirs) and cut.dtype == torch.uint8


FACTORS = torch.tensor([0.0, 0.3, 0.8, 1.0, 1.4, 2.5])


@pytest.mark.parametrize("name", ["adjust_brightness", "adjust_contrast", "adjust_saturation"])
def test_adjustments_equal_torchvision(name):
    images, theirs = photos(), getattr(F, name)
    ours = getattr(augment, name)(images, FACTORS)
    close(ours, one_by_one(images, lambda image, i: theirs(image, FACTORS[i].item())))


def test_adjust_hue_equals_torchvision_greys_and_ties_of_channels_included():
    shifts = torch.tensor([-0.5, -0.2, 0.0, 0.1, 0.33, 0.5])
    images = photos()
    # Black, greys, white, pure and mixed colours.
    corners = torch.tensor(list(itertools.product((0.0, 0.25, 1.0), repeat=3)))
    images[:, :, 0, :23], images[:, :, 1, :4] = corners[:23].T, corners[23:].T
    ours = augment.adjust_hue(images, shifts)
    close(ours, one_by_one(images, lambda image, i: F.adjust_hue(image, shifts[i].item())))


def test_grey_equals_torchvision():
    images = photos()
    close(augment.grey(images), F.rgb_to_grayscale(images, num_output_channels=1))


def test_colour_jitter_applies_each_images_own_factors_in_its_own_order():
    orders = torch.tensor(list(itertools.permutations(range(4))))
    images = photos(len(orders), 9, 11)
    factors = torch.rand(len(orders), 4, generator=rng(1)) + 0.5
    factors[:, 3] -= 1
    factors[[0, 1, 2, 3], [0, 1, 2, 3]] = torch.tensor([1.0, 1.0, 1.0, 0.0])  # leave the image
    theirs = (F.adjust_brightness, F.adjust_contrast, F.adjust_saturation, F.adjust_hue)

    def in_turn(image, i):
        for which in orders[i].tolist():
            image = theirs[which](image, factors[i, which].item())
        return image

    close(augment.colour_jitter(images, factors, orders), one_by_one(images, in_turn))


@pytest.mark.parametrize("size", [3, 5, 9])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_blur_equals_torchvision_at_each_images_own_sigma(size, layout):
    sigma = torch.tensor([0.1, 0.5, 1.0, 1.7, 2.0, 5.0])
    images = photos()
    theirs = one_by_one(
        images, lambda image, i: F.gaussian_blur(image, [size, size], [sigma[i].item()] * 2)
    )
    close(augment.blur(images.contiguous(memory_format=layout), sigma, size), theirs)


@pytest.mark.parametrize("threshold", [0.25, 0.5])
def test_solarize_equals_torchvision(threshold):
    images = photos()
    images[:, :, 0, 0] = threshold  # which itself is inverted
    theirs = one_by_one(images, lambda image, i: F.solarize(image, threshold))
    assert torch.equal(augment.solarize(images, threshold), theirs)


# --- what all random operations promise ---

RANDOM = {
    "random_crop": lambda x, g: augment.random_crop(x, 16, g, padding=2),
    "random_flip": augment.random_flip,
    "random_symmetry": augment.random_symmetry,
    "random_rotation": lambda x, g: augment.random_rotation(x, 30, g),
    "random_resized_crop": lambda x, g: augment.random_resized_crop(x, 16, g),
    "random_jitter": lambda x, g: augment.random_jitter(x, (0.5, 0.5, 0.5, 0.1), g, p=0.8),
    "random_grey": lambda x, g: augment.random_grey(x, 0.5, g),
    "random_blur": lambda x, g: augment.random_blur(x, 5, (0.1, 2.0), 0.5, g),
    "random_solarize": lambda x, g: augment.random_solarize(x, 0.5, g),
}
every_random = pytest.mark.parametrize("name", RANDOM)


@every_random
def test_a_draw_is_each_images_own_and_a_function_of_the_generator_given(name):
    images = photos(1, 16, 16).repeat(16, 1, 1, 1)
    copy, before = images.clone(), torch.get_rng_state()
    once = RANDOM[name](images, rng(5))
    different = once.flatten(1).unique(dim=0)
    assert len(different) >= (2 if name in ("random_flip", "random_grey", "random_solarize") else 5)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(once, RANDOM[name](images, rng(5)))
    assert not torch.equal(once, RANDOM[name](images, rng(6)))
    assert torch.equal(images, copy)
    assert once.shape == images.shape and once.dtype == torch.float32
    assert once.min() >= 0 and once.max() <= 1 + 1e-6


@pytest.mark.parametrize(
    "name", ["random_crop", "random_flip", "random_symmetry", "random_rotation"]
)
def test_operations_that_move_pixels_take_bytes_and_move_a_mask_along(name):
    images = bytes_of(photos(16, 16, 16))
    moved = RANDOM[name](torch.cat([images, images[:, :1]], 1), rng())
    assert moved.dtype == torch.uint8 and moved.shape == (16, 4, 16, 16)
    assert torch.equal(moved[:, 3], moved[:, 0]), "the fourth channel moves with the first"
    assert torch.equal(moved[:, :3], RANDOM[name](images, rng())), "and the others as without it"


# --- what each of them draws ---


def test_random_crop_draws_every_window_of_the_padded_image(monkeypatch):
    calls = catch(monkeypatch, "window")
    augment.random_crop(photos(4000, 12, 14, channels=1), 10, rng(), padding=3)
    ((top, left, size),) = calls
    assert set(top.tolist()) == set(range(-3, 6)) and set(left.tolist()) == set(range(-3, 8))
    assert torch.bincount(top + 3).min() > 4000 / 9 * 0.8
    assert abs(torch.corrcoef(torch.stack([top, left]).float())[0, 1]) < 0.1
    assert size == (10, 10)


def test_random_crop_without_padding_stays_inside():
    images = bytes_of(photos(200, 12, 12)).clamp(min=1)
    assert augment.random_crop(images, 10, rng()).min() > 0


def test_random_flip_mirrors_about_half():
    images = photos(1000, 4, 4)
    flipped = (augment.random_flip(images, rng()) == images.flip(3)).flatten(1).all(1)
    assert 0.45 < flipped.float().mean() < 0.55


def test_random_symmetry_gives_all_eight_evenly_and_nothing_else():
    image = bytes_of(photos(1, 8, 8, channels=4))
    eight = torch.cat(
        [turned.rot90(k, (2, 3)) for turned in (image, image.flip(3)) for k in range(4)]
    ).flatten(1)
    drawn = augment.random_symmetry(image.repeat(1600, 1, 1, 1), rng()).flatten(1)
    matches = (drawn[:, None] == eight).all(2)
    assert (matches.sum(1) == 1).all()
    assert matches.sum(0).min() > 150 and matches.sum(0).max() < 250


def test_random_rotation_draws_evenly_to_both_sides(monkeypatch):
    calls = catch(monkeypatch, "rotate")
    augment.random_rotation(torch.empty(4000, 1, 1, 1), 30, rng())
    ((degrees,),) = calls
    assert degrees.shape == (4000,) and degrees.min() >= -30 and degrees.max() <= 30
    assert torch.histc(degrees, 6, -30, 30).min() > 4000 / 6 * 0.85


def test_random_resized_crop_draws_boxes_as_torchvision_does(monkeypatch):
    height, width, scale, ratio = 96, 128, (0.2, 0.9), (1 / 2, 2)
    calls = catch(monkeypatch, "resized_crop")
    augment.random_resized_crop(torch.empty(3000, 3, height, width), 64, rng(), scale, ratio)
    *box, size = calls[0]
    top, left, h, w = box
    assert size == 64 and min(top.min(), left.min()) >= 0
    assert (top + h).max() <= height and (left + w).max() <= width
    share, aspect = h * w / (height * width), w / h
    # The sides are rounded to pixels.
    assert share.min() > scale[0] - 0.02 and share.max() < scale[1] + 0.02
    assert aspect.min() > ratio[0] - 0.03 and aspect.max() < ratio[1] + 0.06
    image, quartiles = torch.empty(3, height, width), torch.tensor([0.25, 0.5, 0.75])
    theirs = torch.tensor(
        [RandomResizedCrop.get_params(image, list(scale), list(ratio)) for _ in range(3000)]
    )
    difference = torch.stack(box, 1).float().quantile(quartiles, 0) - theirs.float().quantile(
        quartiles, 0
    )
    assert difference.abs().max() < 4


@pytest.mark.parametrize(("height", "width"), [(10, 100), (100, 10), (20, 20), (15, 16)])
def test_random_resized_crop_takes_the_largest_central_box_where_none_fits_as_torchvision_does(
    monkeypatch, height, width
):
    scale, ratio = (1.5, 2.0), (3 / 4, 4 / 3)  # more area than there is: no try can succeed
    calls = catch(monkeypatch, "resized_crop")
    augment.random_resized_crop(torch.empty(3, 1, height, width), 8, rng(), scale, ratio)
    theirs = RandomResizedCrop.get_params(torch.empty(1, height, width), list(scale), list(ratio))
    assert [tuple(box) for box in torch.stack(calls[0][:4], 1).tolist()] == [theirs] * 3


def test_random_jitter_draws_factors_in_range_orders_of_all_kinds_and_leaves_the_rest_alone(
    monkeypatch,
):
    calls = catch(monkeypatch, "colour_jitter")
    augment.random_jitter(torch.empty(4000, 3, 1, 1), (0.4, 1.5, 0.2, 0.1), rng(), p=0.7)
    ((factors, order),) = calls
    alone = (factors == torch.tensor([1.0, 1.0, 1.0, 0.0])).all(1)
    assert 0.27 < alone.float().mean() < 0.33
    lowest = torch.tensor([0.6, 0.0, 0.8, -0.1])  # a factor is never below 0, as in torchvision
    highest = torch.tensor([1.4, 2.5, 1.2, 0.1])
    low, high = factors[~alone].amin(0), factors[~alone].amax(0)
    assert (lowest <= low).all() and (low < lowest + 0.01).all()
    assert (highest >= high).all() and (high > highest - 0.01).all()
    orders, counts = order.unique(dim=0, return_counts=True)
    assert len(orders) == 24 and counts.min() > 4000 / 24 * 0.7


def test_random_jitter_of_no_strength_leaves_every_image_as_it_is():
    images = photos()
    assert torch.equal(augment.random_jitter(images, (0, 0, 0, 0), rng()), images)


def test_random_blur_draws_sigmas_in_range_for_the_chosen(monkeypatch):
    calls = catch(monkeypatch, "blur")
    augment.random_blur(torch.empty(4000, 1, 1, 1), 9, (0.1, 2.0), 0.4, rng())
    ((sigma, size),) = calls
    assert size == 9 and 0.37 < len(sigma) / 4000 < 0.43
    assert sigma.min() >= 0.1 and sigma.max() <= 2.0
    assert torch.histc(sigma, 5, 0.1, 2.0).min() > len(sigma) / 5 * 0.8


def blurred(images, p):
    return augment.random_blur(images, 3, (1.0, 1.0), p, rng())


@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
@pytest.mark.parametrize(
    ("draw", "changed"),
    [
        (lambda x, p: augment.random_grey(x, p, rng()), lambda x: augment.grey(x).expand_as(x)),
        (blurred, lambda x: augment.blur(x, torch.ones(len(x)), 3)),
        (lambda x, p: augment.random_solarize(x, p, rng()), augment.solarize),
    ],
    ids=["grey", "blur", "solarize"],
)
def test_an_image_is_changed_wholly_with_probability_p_and_else_left_alone(draw, changed, p):
    images = photos(1000, 4, 4)
    after, entirely = draw(images, p), changed(images)
    done = (after - entirely).abs().amax((1, 2, 3)) < 1e-6
    assert abs(done.float().mean() - p) < (0.05 if 0 < p < 1 else 1e-6)
    assert torch.equal(after[~done], images[~done])
