"""Batched augmentation: every operation takes a batch and gives every image its own draw.

Each operation comes in two parts. The plain one (``window``, ``rotate``, ``adjust_hue``, ...)
applies given parameters, one value an image, and equals torchvision's function of one image. The
``random_`` one draws the parameters from a generator on the CPU, so that a step draws the same on
every device.

Images are (N, C, H, W). Geometry that only moves pixels keeps the dtype and takes any number of
channels, so an image and its mask, stacked as channels, move together. Colour works on RGB in
float32, 0..1. CutMix is in ``training.mixing``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

GREY = (0.2989, 0.587, 0.114)  # ITU-R 601-2 luma, with torchvision's digits


def normalise(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """(value - mean) / std, channel by channel."""
    return (images - _channels(images, mean)) / _channels(images, std)


def to_float(images: Tensor) -> Tensor:
    """uint8 0..255 to float32 0..1."""
    return images.float() / 255


def to_bytes(images: Tensor) -> Tensor:
    """float 0..1 to the nearest of uint8 0..255; what lies outside is cut off."""
    return (images * 255).round().clamp(0, 255).to(torch.uint8)


# --- geometry that moves whole pixels -------------------------------------------------------------


def window(images: Tensor, top: Tensor, left: Tensor, size: tuple[int, int]) -> Tensor:
    """Cut the window of ``size`` (h, w) whose upper left corner is (top, left), (N,) int64.

    What lies outside the image is 0.
    """
    height, width = images.shape[2:]
    ys = top.to(images.device)[:, None] + torch.arange(size[0], device=images.device)
    xs = left.to(images.device)[:, None] + torch.arange(size[1], device=images.device)
    cut = _gather(images, ys.clamp(0, height - 1), xs.clamp(0, width - 1))
    outside = ((ys < 0) | (ys >= height))[:, :, None] | ((xs < 0) | (xs >= width))[:, None, :]
    return cut.masked_fill(outside[..., None], 0).permute(0, 3, 1, 2)


def random_crop(images: Tensor, size: int, rng: torch.Generator, padding: int = 0) -> Tensor:
    """torchvision's ``RandomCrop(size, padding)``: a square window anywhere in the image, which has
    ``padding`` pixels of 0 around it.
    """
    n, _, height, width = images.shape
    top = torch.randint(0, height + 2 * padding - size + 1, (n,), generator=rng) - padding
    left = torch.randint(0, width + 2 * padding - size + 1, (n,), generator=rng) - padding
    return window(images, top, left, (size, size))


def flip(images: Tensor, horizontal: Tensor, vertical: Tensor | None = None) -> Tensor:
    """Mirror the images chosen by the masks ``horizontal`` and ``vertical``, (N,) bool."""
    images = torch.where(_each(horizontal, images), images.flip(3), images)
    return (
        images if vertical is None else torch.where(_each(vertical, images), images.flip(2), images)
    )


def random_flip(images: Tensor, rng: torch.Generator) -> Tensor:
    """Mirror left and right with probability a half."""
    return flip(images, _coin(images, 0.5, rng))


def random_symmetry(images: Tensor, rng: torch.Generator) -> Tensor:
    """One of the square's eight symmetries, evenly: quarter turns and mirror images. Images must be
    square.
    """
    images = flip(images, _coin(images, 0.5, rng), _coin(images, 0.5, rng))
    return torch.where(_each(_coin(images, 0.5, rng), images), images.transpose(2, 3), images)


def rotate(images: Tensor, degrees: Tensor) -> Tensor:
    """Turn counter-clockwise about the centre by ``degrees``, (N,) float, nearest neighbour.

    The corners that come from outside the image are 0.
    """
    n, _, height, width = images.shape
    angle = torch.deg2rad(degrees.to(images.device, torch.float32))
    sin, cos, zero = angle.sin(), angle.cos(), torch.zeros_like(angle)
    # Output pixel to input pixel, about the centre; grid_sample's unit is half a side, hence the
    # aspect ratios.
    theta = torch.stack(
        [cos, -sin * height / width, zero, sin * width / height, cos, zero], 1
    ).view(n, 2, 3)
    grid = torch.nn.functional.affine_grid(theta, list(images.shape), align_corners=False)
    turned = torch.nn.functional.grid_sample(
        images.float(), grid, mode="nearest", align_corners=False
    )
    return turned.to(images.dtype)


def random_rotation(images: Tensor, degrees: float, rng: torch.Generator) -> Tensor:
    """torchvision's ``RandomRotation(degrees)``: an angle evenly from -degrees to degrees."""
    return rotate(images, _uniform(images, -degrees, degrees, rng))


def resized_crop_nearest(
    images: Tensor, top: Tensor, left: Tensor, height: Tensor, width: Tensor, size: int
) -> Tensor:
    """Cut boxes as ``resized_crop`` does, but take the nearest pixel: for the masks of images that
    ``resized_crop`` cuts.

    Equal to torchvision's ``resized_crop(..., NEAREST)``.
    """
    return _gather(
        images, _nearest(top, height, size, images), _nearest(left, width, size, images)
    ).permute(0, 3, 1, 2)


def _gather(images: Tensor, ys: Tensor, xs: Tensor) -> Tensor:
    # The pixels of each image's own rows (N, h) and columns (N, w): (N, h, w, C). An index on both
    # sides of the channel slice puts the channels last, which is the memory layout wanted.
    which = torch.arange(len(images), device=images.device)[:, None, None]
    return images[which, :, ys[:, :, None], xs[:, None, :]]


def _nearest(start: Tensor, length: Tensor, outputs: int, like: Tensor) -> Tensor:
    # Which input pixel, (N, outputs) int64, an output pixel is.
    start, length = start.to(like.device)[:, None], length.to(like.device)[:, None]
    pixel = torch.arange(outputs, device=like.device)
    return (start + torch.minimum((pixel * (length / outputs)).floor(), length - 1)).long()


# --- geometry that interpolates -------------------------------------------------------------------


def resized_crop(
    images: Tensor, top: Tensor, left: Tensor, height: Tensor, width: Tensor, size: int
) -> Tensor:
    """Cut boxes, (N,) each in pixels, and resize them to ``size`` by an antialiased bilinear
    filter.

    Float images; equal to torchvision's ``resized_crop(..., antialias=True)``. The filter is
    separable, so a box is two products with (size, H) and (size, W) weights: as fast as the machine
    multiplies.
    """
    rows = _resize_weights(top, height, images.shape[2], size, images)
    columns = _resize_weights(left, width, images.shape[3], size, images)
    resized = rows[:, None] @ images @ columns[:, None].transpose(2, 3)
    return resized.contiguous(memory_format=torch.channels_last)


def _resize_weights(
    start: Tensor, length: Tensor, inputs: int, outputs: int, like: Tensor
) -> Tensor:
    # Weights (N, outputs, inputs) of a triangle filter as wide as an output pixel, or as an input
    # pixel if that is wider.
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
    """torchvision's ``RandomResizedCrop(size, scale, ratio)``."""
    return resized_crop(images, *random_box(images, rng, scale, ratio), size)


def random_box(
    images: Tensor,
    rng: torch.Generator,
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """``random_resized_crop``'s box: (top, left, height, width), (N,) each. Ten tries, else the
    largest central one.

    By it an image and its mask are cut alike: ``resized_crop(image, *box, size)``,
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
    """(N, 3, H, W) to luma (N, 1, H, W)."""
    return (images * _channels(images, GREY)).sum(1, keepdim=True)


def adjust_brightness(images: Tensor, factor: Tensor) -> Tensor:
    """Blend with black; ``factor``: (N,), 1 leaves the image as it is."""
    return (images * _each(factor, images)).clamp(0, 1)


def adjust_contrast(images: Tensor, factor: Tensor) -> Tensor:
    """Blend with the mean luma."""
    mean = grey(images).mean((1, 2, 3), keepdim=True)
    return _blend(images, mean, factor)


def adjust_saturation(images: Tensor, factor: Tensor) -> Tensor:
    """Blend with the luma."""
    return _blend(images, grey(images), factor)


def adjust_hue(images: Tensor, shift: Tensor) -> Tensor:
    """Turn the hue by ``shift``, (N,) in -0.5..0.5 of the colour circle (through HSV, as
    torchvision does).
    """
    high, low = images.amax(1), images.amin(1)
    spread = high - low
    safe = torch.where(spread > 0, spread, 1)
    r, g, b = ((high[:, None] - images) / safe[:, None]).unbind(1)
    red, green, blue = images.unbind(1)
    hue = torch.where(high == red, b - g, torch.where(high == green, 2 + r - b, 4 + g - r))
    hue = torch.where(spread > 0, hue / 6, 0) + _each(shift, images)[:, 0]
    saturation = spread / torch.where(high > 0, high, 1)
    # HSV to RGB in one formula: channel n of (5, 3, 1) is v - v s max(0, min(k, 4 - k, 1)), k = (n
    # + 6h) mod 6.
    k = (_channels(images, (5.0, 3.0, 1.0)) + 6 * hue[:, None]) % 6
    return high[:, None] * (1 - saturation[:, None] * torch.minimum(k, 4 - k).clamp(0, 1))


ADJUSTMENTS = (adjust_brightness, adjust_contrast, adjust_saturation, adjust_hue)


def colour_jitter(images: Tensor, factors: Tensor, order: Tensor) -> Tensor:
    """Adjust brightness, contrast, saturation and hue by ``factors`` (N, 4), each image in its own
    ``order`` (N, 4).
    """
    images = images.clone()
    for turn in range(4):
        for which, adjust in enumerate(ADJUSTMENTS):
            chosen = (order[:, turn] == which).nonzero()[:, 0]
            neutral = 0.0 if adjust is adjust_hue else 1.0
            chosen = chosen[factors[chosen, which] != neutral]
            if len(chosen):
                where = chosen.to(images.device)  # and never back: that would wait for the GPU
                images[where] = adjust(images[where], factors[chosen, which])
    return images


def random_jitter(
    images: Tensor, strength: Sequence[float], rng: torch.Generator, p: float = 1.0
) -> Tensor:
    """torchvision's ``ColorJitter(brightness, contrast, saturation, hue)``, applied to an image
    with probability ``p``.
    """
    b, c, s, h = strength
    ranges = [(max(0.0, 1 - b), 1 + b), (max(0.0, 1 - c), 1 + c), (max(0.0, 1 - s), 1 + s), (-h, h)]
    factors = torch.stack([_uniform(images, low, high, rng) for low, high in ranges], 1)
    order = torch.rand(len(images), 4, generator=rng).argsort(1)
    factors[~_coin(images, p, rng)] = torch.tensor([1.0, 1.0, 1.0, 0.0])
    return colour_jitter(images, factors, order)


def random_grey(images: Tensor, p: float, rng: torch.Generator) -> Tensor:
    """torchvision's ``RandomGrayscale(p)``."""
    return torch.where(_each(_coin(images, p, rng), images), grey(images), images)


def blur(images: Tensor, sigma: Tensor, size: int) -> Tensor:
    """Gaussian blur by a kernel of ``size`` x ``size`` (odd), edges mirrored; ``sigma``: (N,) in
    pixels.
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
    """torchvision's ``GaussianBlur(size, sigma)`` with probability ``p``."""
    chosen = _coin(images, p, rng).nonzero()[:, 0]
    sigmas = _uniform(images, *sigma, rng)
    if not len(chosen):
        return images
    images, where = images.clone(), chosen.to(images.device)
    images[where] = blur(images[where], sigmas[chosen], size)
    return images


def solarize(images: Tensor, chosen: Tensor, threshold: float = 0.5) -> Tensor:
    """Invert the values from ``threshold`` up in the images chosen by the mask (N,) bool."""
    return torch.where(_each(chosen, images) & (images >= threshold), 1 - images, images)


def random_solarize(images: Tensor, p: float, rng: torch.Generator) -> Tensor:
    """torchvision's ``RandomSolarize(0.5, p)``."""
    return solarize(images, _coin(images, p, rng))


# --- draws ----------------------------------------------------------------------------------------


def _coin(images: Tensor, p: float, rng: torch.Generator) -> Tensor:
    return torch.rand(len(images), generator=rng) < p


def _uniform(images: Tensor, low: float, high: float, rng: torch.Generator) -> Tensor:
    return torch.empty(len(images)).uniform_(low, high, generator=rng)


def _ten_tries(
    images: Tensor, scale: tuple[float, float], ratio: tuple[float, float], rng: torch.Generator
) -> tuple[Tensor, Tensor]:
    # Sides (N, 10) of boxes of ``scale`` times the image's area; ``ratio`` is the first side by the
    # second, even in its log.
    n, _, height, width = images.shape
    area = height * width * torch.empty(n, 10).uniform_(*scale, generator=rng)
    aspect = (
        torch.empty(n, 10).uniform_(math.log(ratio[0]), math.log(ratio[1]), generator=rng).exp()
    )
    return (area * aspect).sqrt().round().long(), (area / aspect).sqrt().round().long()


def _first(fits: Tensor, values: Tensor) -> Tensor:
    # Of each row (N, 10) the value of the first try that fits, or of the first try if none does.
    return values.gather(1, fits.int().argmax(1, keepdim=True))[:, 0]


def _each(values: Tensor, images: Tensor) -> Tensor:
    return values.to(images.device).view(-1, 1, 1, 1)


def _channels(images: Tensor, values: Sequence[float]) -> Tensor:
    return torch.tensor(values, device=images.device).view(1, -1, 1, 1)


def _blend(images: Tensor, other: Tensor, factor: Tensor) -> Tensor:
    factor = _each(factor, images)
    return (images * factor + other * (1 - factor)).clamp(0, 1)


# --- at test --------------------------------------------------------------------------------------


def logits(network: torch.nn.Module, images: Tensor, flip_test: bool) -> Tensor:
    """A classifier's logits (N, classes) in float32, for normalised images (N, C, H, W).

    With ``flip_test``, their mean with the logits of the mirror images.
    """
    out = network(images).float()
    return (out + network(images.flip(3)).float()) / 2 if flip_test else out
