"""The mean of a network's logits over several views of the images."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor, nn

if TYPE_CHECKING:
    from core.checkpoint import Checkpoint

SMALLEST = 32  # the smallest side in pixels to which images are scaled


def logits(
    network: nn.Module,
    images: Tensor,
    flip: bool = False,
    scales: Sequence[float] = (1.0,),
    rotate: bool = False,
) -> Tensor:
    """Return the mean of the logits, float32, over views of normalised images (N, 3, H, W).

    The result is (N, classes), or (N, classes, H, W) if the network classifies pixels. The views
    are the images at each of ``scales``, which multiply the sides; with ``flip`` also mirrored, and
    with ``rotate`` in all four quarter turns. Logits of pixels are transformed back before the
    mean.
    """
    views = [
        (turns, is_mirrored)
        for turns in range(4 if rotate else 1)
        for is_mirrored in ([False, True] if flip else [False])
    ]
    total: Tensor | None = None
    for scale in scales:
        scaled = images
        if scale != 1:
            size = [max(SMALLEST, round(int(side) * scale)) for side in images.shape[2:]]
            scaled = nn.functional.interpolate(
                images, size, mode="bilinear", align_corners=False, antialias=scale < 1
            )
        out = seen_as(network, scaled, *views[0])
        for view in views[1:]:
            out = out + seen_as(network, scaled, *view)
        out = out / len(views)
        if scale != 1 and out.ndim == 4:
            size = list(images.shape[2:])
            out = nn.functional.interpolate(out, size, mode="bilinear", align_corners=False)
        total = out if total is None else total + out
    if total is None:
        raise ValueError("there is no test scale")
    return total if len(scales) == 1 else total / len(scales)


def seen_as(network: nn.Module, images: Tensor, turns: int, is_mirrored: bool) -> Tensor:
    """Return the float32 logits of one view of images (N, 3, H, W); those of pixels turned back.

    The network sees the images after ``turns`` quarter turns and, optionally, mirrored.
    """
    view = turned(images, turns)
    out = network(view.flip(3) if is_mirrored else view).float()
    if out.ndim < 4:
        return out
    return turned(out.flip(3) if is_mirrored else out, -turns)


def turned(images: Tensor, turns: int) -> Tensor:
    """Turn (N, C, H, W) counter-clockwise by quarter turns; ONNX export lacks ``torch.rot90``."""
    if turns % 2:
        return images.transpose(2, 3).flip(2 if turns % 4 == 1 else 3)
    return images.flip(2, 3) if turns % 4 else images


@dataclasses.dataclass
class Views:
    """The views over which logits are averaged. ``scales``: factors of the image's sides."""

    flip: bool
    scales: tuple[float, ...] = (1.0,)
    rotate: bool = False

    @classmethod
    def of(cls, saved: Checkpoint, flip: bool | None = None, rotate: bool | None = None) -> Views:
        """The views that a checkpoint asks for, unless ``flip`` or ``rotate`` say otherwise."""
        return cls(
            saved.flip_test if flip is None else flip,
            saved.test_scales,
            saved.rotate_test if rotate is None else rotate,
        )

    def logits(self, network: nn.Module, images: Tensor) -> Tensor:
        """The mean of the logits over the views of normalised images: see the function."""
        return logits(network, images, self.flip, self.scales, self.rotate)

    def reduce(self) -> str:
        """Drop the quarter turns, then the mirror images, then all scales but the smallest.

        Each call drops one of them and returns its name, or "" if nothing is left to drop.
        """
        if self.rotate:
            self.rotate = False
            return "quarter turns"
        if self.flip:
            self.flip = False
            return "mirror images"
        if len(self.scales) > 1:
            self.scales = (min(self.scales),)
            return f"scales but {self.scales[0]:g}"
        return ""
