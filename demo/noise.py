"""Smooth random fields for backgrounds and landscapes."""

from __future__ import annotations

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageFilter


def smooth(rng: Generator, height: int, width: int, bumps: float) -> np.ndarray:
    """A smooth random field with ``bumps`` bumps along its longer side.

    (height, width) float32, mean 0, standard deviation near 0.8.
    """
    step = max(height, width) / bumps
    rows, columns = int(np.ceil(height / step)), int(np.ceil(width / step))
    grid = Image.fromarray(rng.standard_normal((rows + 2, columns + 2), dtype=np.float32))
    # A row of knots outside keeps the border as varied as the rest.
    box = (1, 1, 1 + width / step, 1 + height / step)
    return np.asarray(grid.resize((width, height), Image.Resampling.BICUBIC, box=box))


def fractal(rng: Generator, size: int, bumps: float) -> np.ndarray:
    """The sum of five ``smooth`` fields, each twice as fine as the last and about half as strong.

    (size, size), standard deviation near 1.
    """
    quarter = (size + 3) // 4  # enough for the three coarse fields, and far faster
    coarse = sum(0.57**i * smooth(rng, quarter, quarter, bumps * 2**i) for i in range(3))
    coarse = np.asarray(Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC))
    return coarse + sum(0.57**i * smooth(rng, size, size, bumps * 2**i) for i in (3, 4))


def crowns(rng: Generator, size: int) -> np.ndarray:
    """Round clumps about 5 pixels wide: (size, size) float32, mean 0, standard deviation 1.

    They are blurred white noise, because at so small a scale ``smooth`` would show its lattice.
    """
    half = (size + 1) // 2
    noise = Image.fromarray(rng.integers(256, size=(half, half), dtype=np.uint8)).filter(
        ImageFilter.GaussianBlur(0.9)
    )
    field = np.asarray(noise.resize((size, size), Image.Resampling.BICUBIC), dtype=np.float32)
    return (field - field.mean()) / field.std()
