"""Batched augmentation: each operation takes a batch and draws parameters for every image.

Each operation has two functions. The plain one (``window``, ``rotate``, ``adjust_hue``, ...)
applies given parameters, one value per image, and matches torchvision's function for a single
image. The ``random_`` one draws the parameters from a CPU generator, so that a step makes the same
draws on every device.

Images are (N, C, H, W). Geometry that only moves pixels keeps the dtype and accepts any number of
channels, so an image and its mask can be stacked as channels and move together. Colour operations
take float32 RGB in 0..1. CutMix is in ``training.mixing``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

# Of ImageNet, as torchvision's weights use them.
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
GREY = (0.2989, 0.587, 0.114)  # ITU-R 601-2 luma, rounded as in torchvision


def normalise(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Return (value - mean) / std for each channel."""
    return (images - _channels(images, mean)) / _channels(images, std)


def to_float(images: Tensor) -> Tensor:
    """Convert uint8 0..255 to float32 0..1."""
    return images.float() / 255


def to_bytes(images: Tensor) -> Tensor:
    """Round float 0..1 to uint8 0..255; values outside the range are clipped."""
    return (images * 255).round().clamp(0, 255).to(torch.uint8)


# --- geometry that moves whole pixels -------------------------------------------------------------


def window(images: Tensor, top: Tensor, left: Tensor, size: tuple[int, int]) -> Tensor:
    """Cut a window of ``size`` (h, w) with the upper left corner (top, left), (N,) int64 each.

    Pixels outside the image are 0.
    """
    height, width = images.shape[2:]
    ys = top.to(images.device)[:, None] + torch.arange(size[0], device=images.device)
    xs = left.to(images.device)[:, None] + torch.arange(size[1], device=images.device)
    cut = _gather(images, ys.clamp(0, height - 1), xs.clamp(0, width - 1))
    outside = ((ys < 0) | (ys >= height))[:, :, None] | ((xs < 0) | (xs >= width))[:, None, :]
    return cut.masked_fill(outside[..., None], 0).permute(0, 3, 1, 2)


def random_crop(images: Tensor, size: int, rng: torch.Generator, padding: int = 0) -> Tensor:
    """Pad each image with ``padding`` zero pixels and cut a random square out of it.

    This is torchvision's ``RandomCrop(size, padding)``.
    """
    n, _, height, width = images.shape
    top = torch.randint(0, height + 2 * padding - size + 1, (n,), generator=rng) - padding
    left = torch.randint(0, width + 2 * padding - size + 1, (n,), generator=rng) - padding
    return window(images, top, left, (size, size))


def flip(images: Tensor, horizontal: Tensor, vertical: Tensor | None = None) -> Tensor:
    """Mirror the images selected by the masks ``horizontal`` and ``vertical``, (N,) bool."""
    images = torch.where(_each(horizontal, images), images.flip(3), images)
    return (
        images if vertical is None else torch.where(_each(vertical, images), images.flip(2), images)
    )


def random_flip(images: Tensor, rng: torch.Generator) -> Tensor:
    """Mirror each image left to right with probability 0.5."""
    return flip(images, _coin(images, 0.5, rng))


def random_symmetry(images: Tensor, rng: torch.Generator) -> Tensor:
    """Apply one of the eight symmetries of the square at random; images must be square."""
    images = flip(images, _coin(images, 0.5, rng), _coin(images, 0.5, rng))
    return torch.where(_each(_coin(images, 0.5, rng), images), images.transpose(2, 3), images)


def rotate(images: Tensor, degrees: Tensor) -> Tensor:
    """Rotate counter-clockwise about the centre by ``degrees``, (N,) float.

    The nearest pixel is taken; corners that come from outside the image are 0.
    """
    n, _, height, width = images.shape
    angle = torch.deg2rad(degrees.to(images.device, torch.float32))
    sin, cos, zero = angle.sin(), angle.cos(), torch.zeros_like(angle)
    # Maps output pixels to input pixels, relative to the centre. grid_sample's unit is half a side,
    # hence the aspect ratios.
    theta = torch.stack(
        [cos, -sin * height / width, zero, sin * width / height, cos, zero], 1
    ).view(n, 2, 3)
    grid = torch.nn.functional.affine_grid(theta, list(images.shape), align_corners=False)
    turned = torch.nn.functional.grid_sample(
        images.float(), grid, mode="nearest", align_corners=False
    )
    return turned.to(images.dtype)


def random_rotation(images: Tensor, degrees: float, rng: torch.Generator) -> Tensor:
    """Rotate by an angle that is uniform in -degrees..degrees, as torchvision does."""
    return rotate(images, _uniform(images, -degrees, degrees, rng))


def resized_crop_nearest(
    images: Tensor, top: Tensor, left: Tensor, height: Tensor, width: Tensor, size: int
) -> Tensor:
    """Cut the same boxes as ``resized_crop``, but take the nearest pixel, as masks need.

    Equal to torchvision's ``resized_crop(..., NEAREST)``.
    """
    return _gather(
        images, _nearest(top, height, size, images), _nearest(left, width, size, images)
    ).permute(0, 3, 1, 2)


def _gather(images: Tensor, ys: Tensor, xs: Tensor) -> Tensor:
    # Picks each image's own rows (N, h) and columns (N, w) and returns (N, h, w, C). Indices on
    # both sides of the channel slice put the channels last, which is the memory layout we want.
    which = torch.arange(len(images), device=images.device)[:, None, None]
    return images[which, :, ys[:, :, None], xs[:, None, :]]


def _nearest(start: Tensor, length: Tensor, outputs: int, like: Tensor) -> Tensor:
    # Returns the input pixel of each output pixel, (N, outputs) int64.
    start, length = start.to(like.device)[:, None], length.to(like.device)[:, None]
    pixel = torch.arange(outputs, device=like.device)
    return (start + torch.minimum((pixel * (length / outputs)).floor(), length - 1)).long()


# --- geometry that interpolates -------------------------------------------------------------------


def resized_crop(
    images: Tensor, top: Tensor, left: Tensor, height: Tensor, width: Tensor, size: int
) -> Tensor:
    """Cut a box from each image and resize it to ``size``, bilinear with antialiasing.

    The box is given in pixels, (N,) each; images are float. Equal to torchvision's
    ``resized_crop(..., antialias=True)``. The filter is separable, so each crop is two fast matrix
    products, with (size, H) and (size, W) weights.
    """
    rows = _resize_weights(top, height, images.shape[2], size, images)
    columns = _resize_weights(left, width, images.shape[3], size, images)
    # All channels' rows at once: one product of 384 rows is faster than three of 128.
    narrow = (images.flatten(1, 2) @ columns.transpose(1, 2)).unflatten(1, images.shape[1:3])
    return rows[:, None] @ narrow


def _resize_weights(
    start: Tensor, length: Tensor, inputs: int, outputs: int, like: Tensor
) -> Tensor:
    # Returns the weights (N, outputs, inputs) of a triangle filter. Its half-width is an output
    # pixel or an input pixel, whichever is larger.
    start, length = (
        start.to(like.device, torch.float32)[:, None],
        length.to(like.device, torch.float32)[:, None],
    )
    scale = length / outputs
    centre = start + (torch.arange(outputs, device=like.device) + 0.5) * scale
    pixel = torch.arange(inputs, device=like.device)
    weights = 1 - ((pixel + 0.5 - centre[..., None]) / scale.clamp(min=1)[..., None]).abs()
    inside = (pixel >= start[..., None]) & (pixel < (start + length)[..., None])
    weights = weights.clamp(min=0) * inside
    return (weights / weights.sum(-1, keepdim=True)).to(like.dtype)


def random_resized_crop(
    images: Tensor,
    size: int,
    rng: torch.Generator,
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> Tensor:
    """Batched version of torchvision's ``RandomResizedCrop(size, scale, ratio)``."""
    return resized_crop(images, *random_box(images, rng, scale, ratio), size)


def random_box(
    images: Tensor,
    rng: torch.Generator,
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Draw boxes for ``random_resized_crop``: (top, left, height, width), (N,) each.

    If none of ten tries fits, the box is the largest central one. To cut an image and its mask
    alike, pass the same box to both: ``resized_crop(image, *box, size)`` and
    ``resized_crop_nearest(mask, *box, size)``.
    """
    n, _, height, width = images.shape
    w, h = _ten_tries(images, scale, ratio, rng)
    fits = (w > 0) & (w <= width) & (h > 0) & (h <= height)
    w, h, none = _first(fits, w), _first(fits, h), ~fits.any(1)
    w[none] = min(width, round(height * ratio[1]))
    h[none] = min(height, round(width / ratio[0]))
    top = (torch.rand(n, generator=rng) * (height - h + 1)).long()
    left = (torch.rand(n, generator=rng) * (width - w + 1)).long()
    top[none], left[none] = (height - h[none]) // 2, (width - w[none]) // 2
    return top, left, h, w


# --- colour ---------------------------------------------------------------------------------------


def grey(images: Tensor) -> Tensor:
    """Convert RGB (N, 3, H, W) to luma (N, 1, H, W)."""
    red, green, blue = images.split(1, 1)
    return (red * GREY[0]).add_(green, alpha=GREY[1]).add_(blue, alpha=GREY[2])


def adjust_brightness(images: Tensor, factor: Tensor) -> Tensor:
    """Blend with black. ``factor``: (N,), where 1 leaves the image unchanged."""
    return (images * _each(factor, images)).clamp_(0, 1)


def adjust_contrast(images: Tensor, factor: Tensor) -> Tensor:
    """Blend with the mean luma of the image. ``factor``: (N,); 1: no change, 0: all grey."""
    mean = grey(images).mean((1, 2, 3), keepdim=True)
    return _blend(images, mean, factor)


def adjust_saturation(images: Tensor, factor: Tensor) -> Tensor:
    """Blend each pixel with its luma. ``factor``: (N,); 1: no change, 0: grey."""
    return _blend(images, grey(images), factor)


def adjust_hue(images: Tensor, shift: Tensor) -> Tensor:
    """Shift the hue (through HSV, as torchvision does) by ``shift``, (N,) in -0.5..0.5 turns."""
    red, green, blue = images.unbind(1)
    high, low = images.amax(1), images.amin(1)
    spread = high - low
    # The hue in turns: a sixth times the difference of the two channels other than the highest, in
    # units of the spread, from 0 (red), 1/3 (green) or 2/3 (blue). Grey pixels have no hue.
    is_red, is_green = high == red, high == green
    difference = torch.where(is_red, green - blue, torch.where(is_green, blue - red, red - green))
    start = torch.where(is_red, 0.0, torch.where(is_green, 1 / 3, 2 / 3))
    hue = start + difference / (6 * spread).clamp_(min=torch.finfo(images.dtype).tiny)
    hue += _each(shift, images)[:, 0]
    # HSV to RGB in one formula: a channel is low at the opposite of its own hue (0, 1/3, 2/3). It
    # rises to high within a sixth of a turn, from a sixth away to two sixths away on both sides.
    opposite = hue[:, None] + _channels(images, (1 / 2, 1 / 6, -1 / 6))
    distance = opposite.sub_(opposite.round()).abs_()
    return torch.addcmul(low[:, None], spread[:, None], distance.mul_(6).sub_(1).clamp_(0, 1))


ADJUSTMENTS = (adjust_brightness, adjust_contrast, adjust_saturation, adjust_hue)


def colour_jitter(images: Tensor, factors: Tensor, order: Tensor) -> Tensor:
    """Adjust brightness, contrast, saturation and hue, in a separate order for each image.

    ``factors`` (N, 4): by how much. ``order`` (N, 4): the adjustments' indices, first to last.
    """
    images = images.clone()
    for turn in range(4):
        for which, adjust in enumerate(ADJUSTMENTS):
            chosen = (order[:, turn] == which).nonzero()[:, 0]
            neutral = 0.0 if adjust is adjust_hue else 1.0
            chosen = chosen[factors[chosen, which] != neutral]
            if len(chosen):
                where = chosen.to(images.device)  # one way: a copy back waits for the GPU
                images[where] = adjust(images[where], factors[chosen, which])
    return images


def random_jitter(
    images: Tensor, strength: Sequence[float], rng: torch.Generator, p: float = 1.0
) -> Tensor:
    """Apply torchvision's ``ColorJitter(*strength)`` to each image with probability ``p``.

    ``strength``: brightness, contrast, saturation, hue.
    """
    b, c, s, h = strength
    ranges = [(max(0.0, 1 - b), 1 + b), (max(0.0, 1 - c), 1 + c), (max(0.0, 1 - s), 1 + s), (-h, h)]
    factors = torch.stack([_uniform(images, low, high, rng) for low, high in ranges], 1)
    order = torch.rand(len(images), 4, generator=rng).argsort(1)
    factors[~_coin(images, p, rng)] = torch.tensor([1.0, 1.0, 1.0, 0.0])
    return colour_jitter(images, factors, order)


def random_grey(images: Tensor, p: float, rng: torch.Generator) -> Tensor:
    """Batched version of torchvision's ``RandomGrayscale(p)``."""
    return _where(_coin(images, p, rng), grey, images)


def blur(images: Tensor, sigma: Tensor, size: int) -> Tensor:
    """Gaussian blur with an odd kernel ``size`` and mirrored edges.

    ``sigma``: (N,) in pixels.
    """
    n, channels, height, width = images.shape
    reach = size // 2
    offsets = torch.arange(-reach, reach + 1, device=images.device, dtype=images.dtype)
    kernel = torch.exp(-0.5 * (offsets / sigma.to(images.device, images.dtype)[:, None]) ** 2)
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(channels, 0)[:, None, :]
    padded = torch.nn.functional.pad(images, (reach,) * 4, mode="reflect").reshape(
        1, n * channels, height + 2 * reach, width + 2 * reach
    )
    rows = torch.nn.functional.conv2d(padded, kernel[:, :, None, :], groups=n * channels)
    return torch.nn.functional.conv2d(rows, kernel[:, :, :, None], groups=n * channels).reshape(
        images.shape
    )


def random_blur(
    images: Tensor, size: int, sigma: tuple[float, float], p: float, rng: torch.Generator
) -> Tensor:
    """Apply torchvision's ``GaussianBlur(size, sigma)`` to each image with probability ``p``."""
    chosen = _coin(images, p, rng)
    sigmas = _uniform(images, *sigma, rng)[chosen]
    return _where(chosen, lambda some: blur(some, sigmas, size), images)


def solarize(images: Tensor, threshold: float = 0.5) -> Tensor:
    """Invert the values, 0..1, that are ``threshold`` or more."""
    return torch.where(images >= threshold, 1 - images, images)


def random_solarize(images: Tensor, p: float, rng: torch.Generator) -> Tensor:
    """Batched version of torchvision's ``RandomSolarize(0.5, p)``."""
    return _where(_coin(images, p, rng), solarize, images)


# --- random draws ---------------------------------------------------------------------------------


def _coin(images: Tensor, p: float, rng: torch.Generator) -> Tensor:
    return torch.rand(len(images), generator=rng) < p


def _uniform(images: Tensor, low: float, high: float, rng: torch.Generator) -> Tensor:
    return torch.empty(len(images)).uniform_(low, high, generator=rng)


def _ten_tries(
    images: Tensor, scale: tuple[float, float], ratio: tuple[float, float], rng: torch.Generator
) -> tuple[Tensor, Tensor]:
    # Draws the widths and heights, (N, 10) each, of boxes with ``scale`` times the image's area.
    # Their aspect ratio, width / height, is uniform in log space within ``ratio``.
    n, _, height, width = images.shape
    area = height * width * torch.empty(n, 10).uniform_(*scale, generator=rng)
    aspect = (
        torch.empty(n, 10).uniform_(math.log(ratio[0]), math.log(ratio[1]), generator=rng).exp()
    )
    return (area * aspect).sqrt().round().long(), (area / aspect).sqrt().round().long()


def _first(fits: Tensor, values: Tensor) -> Tensor:
    # Returns, for each row (N, 10), the value of the first try that fits, or of the first try if
    # none does.
    return values.gather(1, fits.int().argmax(1, keepdim=True))[:, 0]


def _each(values: Tensor, images: Tensor) -> Tensor:
    return values.to(images.device).view(-1, 1, 1, 1)


def _channels(images: Tensor, values: Sequence[float]) -> Tensor:
    return torch.tensor(values, device=images.device).view(1, -1, 1, 1)


def _blend(images: Tensor, other: Tensor, factor: Tensor) -> Tensor:
    return torch.lerp(other, images, _each(factor, images)).clamp_(0, 1)


def _where(chosen: Tensor, change: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    # Changes a copy of the images selected by the mask ``chosen``, (N,) bool, and no others.
    if not chosen.any():
        return images
    index = chosen.nonzero()[:, 0].to(images.device)  # one way: a copy back waits for the GPU
    return images.index_copy(0, index, change(images[index]).expand(-1, *images.shape[1:]))
