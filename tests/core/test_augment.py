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


@given(
    corners=st.lists(st.tuples(PLACE, PLACE), min_size=1, max_size=6),
    size=st.tuples(st.integers(1, 30), st.integers(1, 30)),
    channels=st.sampled_from([1, 3, 4]),
)
def test_window_equals_pad_and_crop_wherever_it_lies(corners, size, channels):
    images = bytes_of(photos(len(corners), channels=channels))

    def padded_and_cropped(image, i):
        top, left = corners[i]
        return F.crop(F.pad(image, [60]), top + 60, left + 60, *size)

    top, left = torch.tensor(corners).T
    ours = augment.window(images, top, left, size)
    assert torch.equal(ours, one_by_one(images, padded_and_cropped))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_window_keeps_the_dtype_and_gives_channels_last(layout):
    for images in (photos(), bytes_of(photos(channels=4))):
        cut = augment.window(
            images.contiguous(memory_format=layout),
            torch.zeros(6).long(),
            torch.zeros(6).long(),
            (8, 9),
        )
        assert cut.shape == (6, images.shape[1], 8, 9) and cut.dtype == images.dtype
        assert cut.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("channels", [3, 4])
def test_flip_mirrors_the_chosen_images_only(channels):
    images = bytes_of(photos(4, channels=channels))
    horizontal, vertical = (
        torch.tensor([True, False, True, False]),
        torch.tensor([False, True, True, False]),
    )
    theirs = torch.stack(
        [
            F.horizontal_flip(images[0]),
            F.vertical_flip(images[1]),
            F.vertical_flip(F.horizontal_flip(images[2])),
            images[3],
        ]
    )
    assert torch.equal(augment.flip(images, horizontal, vertical), theirs)
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


def test_rotate_turns_counter_clockwise():
    images = photos(1, 16, 16).repeat(2, 1, 1, 1)
    left, right = augment.rotate(images, torch.tensor([90.0, -90.0]))
    assert torch.equal(left, images[0].rot90(1, (1, 2))) and torch.equal(
        right, images[0].rot90(-1, (1, 2))
    )


def test_an_image_and_its_mask_turn_together():
    pairs = bytes_of(photos(1, 31, 45, channels=4))
    pairs[:, 3] = pairs[:, 0]
    turned = augment.rotate(pairs, torch.tensor([-17.3]))
    assert turned.dtype == torch.uint8 and torch.equal(turned[:, 3], turned[:, 0])


def test_a_crop_of_a_padded_image_is_black_outside():
    images = bytes_of(photos(1, 8, 8)).clamp(min=1)
    cut = augment.window(images, torch.tensor([-2]), torch.tensor([3]), (8, 8))
    assert torch.equal(cut[:, :, 2:, :5], images[:, :, :6, 3:])
    assert not cut[:, :, :2].any() and not cut[:, :, :, 5:].any()
    drawn = augment.random_crop(images.repeat(20, 1, 1, 1), 8, rng(), padding=3)
    assert (drawn == 0).any(1).any(1).any(1).float().mean() > 0.9


def span(side):
    """(start, length) of a part of a side, which may be all of it or one pixel."""
    return st.integers(1, side).flatmap(
        lambda length: st.tuples(st.integers(0, side - length), st.just(length))
    )


def box(rows, columns):
    """(top, left, height, width) from two spans."""
    return rows[0], columns[0], rows[1], columns[1]


BOXES = st.lists(st.builds(box, span(33), span(47)), min_size=1, max_size=6)


@given(boxes=BOXES, size=st.integers(1, 64))
@example(boxes=[(0, 0, 33, 47), (32, 46, 1, 1)], size=19)
def test_resized_crop_equals_torchvision_smaller_and_larger(boxes, size):
    images = photos(len(boxes), 33, 47)
    theirs = one_by_one(
        images, lambda image, i: F.resized_crop(image, *boxes[i], [size, size], antialias=True)
    )
    ours = augment.resized_crop(images, *torch.tensor(boxes).T, size)
    close(ours, theirs)
    assert ours.dtype == torch.float32


@given(boxes=BOXES, size=st.integers(1, 64))
def test_the_mask_of_a_resized_crop_is_torchvisions_nearest_one(boxes, size):
    masks = bytes_of(photos(len(boxes), 33, 47, channels=1)) % 7
    nearest = F.InterpolationMode.NEAREST
    theirs = one_by_one(
        masks, lambda mask, i: F.resized_crop(mask, *boxes[i], [size, size], interpolation=nearest)
    )
    ours = augment.resized_crop_nearest(masks, *torch.tensor(boxes).T, size)
    assert torch.equal(ours, theirs) and ours.dtype == torch.uint8


def test_an_image_and_its_mask_are_cut_by_one_box():
    blocks = (
        torch.arange(6).view(2, 3).repeat_interleave(16, 0).repeat_interleave(16, 1)
    )  # large areas of one class each
    masks = blocks.to(torch.uint8).expand(8, 1, -1, -1)
    box = augment.random_box(masks, rng())
    image, mask = (
        augment.resized_crop(masks.float(), *box, 16),
        augment.resized_crop_nearest(masks, *box, 16),
    )
    assert len({tuple(values) for values in torch.stack(box, 1).tolist()}) == 8, "a box each"
    assert (
        (image - mask).abs() < 0.5
    ).float().mean() > 0.85  # but at the areas' borders, which the one blurs


def test_resized_crop_of_a_box_of_the_size_asked_for_is_a_crop():
    images = photos(2, 20, 20)
    box = torch.tensor([[3, 4, 8, 8], [0, 12, 8, 8]]).T
    close(
        augment.resized_crop(images, *box, 8),
        augment.window(images, box[0], box[1], (8, 8)),
        atol=1e-6,
    )


FACTORS = torch.tensor([0.0, 0.3, 0.8, 1.0, 1.4, 2.5])


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (augment.adjust_brightness, F.adjust_brightness),
        (augment.adjust_contrast, F.adjust_contrast),
        (augment.adjust_saturation, F.adjust_saturation),
    ],
)
def test_adjustments_equal_torchvision(ours, theirs):
    images = photos()
    close(
        ours(images, FACTORS), one_by_one(images, lambda image, i: theirs(image, FACTORS[i].item()))
    )


def test_adjust_hue_equals_torchvision_greys_and_ties_of_channels_included():
    shifts = torch.tensor([-0.5, -0.2, 0.0, 0.1, 0.33, 0.5])
    images = photos()
    corners = torch.tensor(
        list(itertools.product((0.0, 0.25, 1.0), repeat=3))
    )  # black, greys, white, pure and mixed colours
    images[:, :, 0, :23], images[:, :, 1, :4] = corners[:23].T, corners[23:].T
    ours = augment.adjust_hue(images, shifts)
    close(ours, one_by_one(images, lambda image, i: F.adjust_hue(image, shifts[i].item())))
    close(ours[2], images[2])


def test_grey_equals_torchvision():
    images = photos()
    close(augment.grey(images), F.rgb_to_grayscale(images, num_output_channels=1))


def test_colour_jitter_applies_each_images_own_factors_in_its_own_order():
    orders = torch.tensor(list(itertools.permutations(range(4))))
    images = photos(len(orders), 9, 11)
    factors = torch.rand(len(orders), 4, generator=rng(1)) + 0.5
    factors[:, 3] -= 1
    factors[:4] = factors[:4].masked_fill(
        torch.eye(4, dtype=torch.bool), 1.0
    )  # and some that leave the image as it is
    factors[3, 3] = 0.0
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
def test_equal_images_of_a_batch_draw_differently(name):
    images = photos(1, 16, 16).repeat(16, 1, 1, 1)
    different = RANDOM[name](images, rng()).flatten(1).unique(dim=0)
    assert len(different) >= (2 if name in ("random_flip", "random_grey", "random_solarize") else 5)


@every_random
def test_the_same_generator_state_gives_the_same_and_another_something_else(name):
    images = photos(16, 16, 16)
    once = RANDOM[name](images, rng(5))
    assert torch.equal(once, RANDOM[name](images, rng(5)))
    assert not torch.equal(once, RANDOM[name](images, rng(6)))


@every_random
def test_a_step_does_not_depend_on_torchs_own_generator_nor_touch_it(name):
    images = photos(16, 16, 16)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    once = RANDOM[name](images, rng())
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(once, RANDOM[name](images, rng()))


@every_random
def test_the_images_given_stay_as_they_are_and_so_do_size_and_dtype(name):
    images = photos(16, 16, 16)
    copy = images.clone()
    result = RANDOM[name](images, rng())
    assert torch.equal(images, copy)
    assert result.shape == images.shape and result.dtype == torch.float32
    assert result.min() >= 0 and result.max() <= 1 + 1e-6


@pytest.mark.parametrize("name", ["random_crop", "random_flip", "random_symmetry"])
def test_operations_that_move_pixels_take_bytes_and_move_a_mask_along(name):
    images = bytes_of(photos(16, 16, 16))
    moved = RANDOM[name](torch.cat([images, images[:, :1]], 1), rng())
    assert moved.dtype == torch.uint8 and moved.shape == (16, 4, 16, 16)
    assert torch.equal(moved[:, 3], moved[:, 0]), "the fourth channel moves with the first"
    assert torch.equal(moved[:, :3], RANDOM[name](images, rng())), (
        "and the others as they would without it"
    )


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
    assert torch.equal(augment.random_crop(images, 12, rng()), images)


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


def test_random_symmetry_only_permutes_pixels():
    images = bytes_of(photos(32, 16, 16))
    assert torch.equal(
        augment.random_symmetry(images, rng()).flatten(2).sort(2)[0], images.flatten(2).sort(2)[0]
    )


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
    assert size == 64 and all(
        value.dtype == torch.int64 and value.shape == (3000,) for value in box
    )
    assert (
        (top >= 0).all()
        and (left >= 0).all()
        and (top + h <= height).all()
        and (left + w <= width).all()
    )
    share, aspect = h * w / (height * width), w / h
    assert (
        share.min() > scale[0] - 0.02 and share.max() < scale[1] + 0.02
    )  # sides are rounded to pixels
    assert aspect.min() > ratio[0] - 0.03 and aspect.max() < ratio[1] + 0.06
    image = torch.empty(3, height, width)
    theirs = torch.tensor(
        [RandomResizedCrop.get_params(image, list(scale), list(ratio)) for _ in range(3000)]
    )
    for mine, yours in zip(
        box, theirs.T, strict=True
    ):  # top, left, height, width: the same quartiles
        quartiles = torch.tensor([0.25, 0.5, 0.75])
        assert (
            mine.float().quantile(quartiles) - yours.float().quantile(quartiles)
        ).abs().max() < 4


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
    low, high = factors[~alone].amin(0), factors[~alone].amax(0)
    close(
        low, torch.tensor([0.6, 0.0, 0.8, -0.1]), atol=0.01
    )  # a factor is never below 0, as in torchvision
    close(high, torch.tensor([1.4, 2.5, 1.2, 0.1]), atol=0.01)
    assert (low >= torch.tensor([0.6, 0.0, 0.8, -0.1])).all() and (
        high <= torch.tensor([1.4, 2.5, 1.2, 0.1])
    ).all()
    orders, counts = order.unique(dim=0, return_counts=True)
    assert len(orders) == 24 and counts.min() > 4000 / 24 * 0.7


def test_random_jitter_of_no_strength_and_of_no_probability_leaves_every_image_as_it_is():
    images = photos()
    assert torch.equal(augment.random_jitter(images, (0, 0, 0, 0), rng()), images)
    assert torch.equal(augment.random_jitter(images, (0.5, 0.5, 0.5, 0.5), rng(), p=0.0), images)


def test_random_blur_draws_sigmas_in_range_for_the_chosen(monkeypatch):
    calls = catch(monkeypatch, "blur")
    augment.random_blur(torch.empty(4000, 1, 1, 1), 9, (0.1, 2.0), 0.4, rng())
    ((sigma, size),) = calls
    assert size == 9 and 0.37 < len(sigma) / 4000 < 0.43
    assert (
        sigma.min() >= 0.1
        and sigma.max() <= 2.0
        and torch.histc(sigma, 5, 0.1, 2.0).min() > len(sigma) / 5 * 0.8
    )


@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
@pytest.mark.parametrize(
    ("draw", "changed"),
    [
        (lambda x, p: augment.random_grey(x, p, rng()), lambda x: augment.grey(x).expand_as(x)),
        (
            lambda x, p: augment.random_blur(x, 3, (1.0, 1.0), p, rng()),
            lambda x: augment.blur(x, torch.ones(len(x)), 3),
        ),
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
