"""Predict a large image in overlapping tiles, in little more memory than the image itself takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # torch is imported while threads decode files: see prediction.stream
    from torch import Tensor

    from prediction.predictor import Predictor

# An image with a side longer than TILE pixels is predicted in tiles. Where two tiles overlap, the
# MARGIN pixels at their borders are not used.
TILE, MARGIN = 1280, 256  # in_tiles needs TILE >= 4 * MARGIN


def in_tiles(
    predict: Predictor, image: Tensor, time_is_up: Callable[[], bool] = lambda: False
) -> np.ndarray | None:
    """What ``predict`` gives for one large image (3, H, W) uint8, computed in overlapping tiles.

    (planes, H, W) uint8, as one row of ``predict``'s result. The result is the same as for the
    whole image if the network sees at most MARGIN pixels around a pixel, as FCN32s does at scale 1
    (at scale 0.5, it sees twice as many). The DeepLabs also average over their whole input, here
    one tile. None if the time is up before the last tile. NOTE: the result overwrites ``image``, so
    that a large image needs no memory for it.
    """
    height, width = image.shape[1:]
    memory = image.permute(1, 2, 0).reshape(-1).numpy()
    for top, bottom, first_row, last_row in spans(height):
        row = []
        for left, right, first, last in spans(width):
            if time_is_up():
                return None
            tile = predict(image[None, :, top:bottom, left:right])[0]
            row.append(tile[:, first_row - top : last_row - top, first - left : last - left])
        # The result has one or two bytes per pixel and the image three, so what is written here
        # ends before the first row of the next tiles.
        planes = (
            memory[: len(row[0]) * height * width].reshape(height, width, -1).transpose(2, 0, 1)
        )
        planes[:, first_row:last_row] = np.concatenate(row, 2)
    return planes


def spans(length: int) -> list[tuple[int, int, int, int]]:
    """The tiles along a side of ``length`` pixels, each as (start, end, first, last).

    A tile covers start to end; its result is used from first to last. Tiles start at multiples of
    the networks' strides, so that their feature maps share one grid.
    """
    starts = range(0, max(1, length - 2 * MARGIN), TILE - 2 * MARGIN)
    cuts = [0, *(start + MARGIN for start in starts[1:]), length]
    return [
        (start, min(start + TILE, length), cuts[number], cuts[number + 1])
        for number, start in enumerate(starts)
    ]
