"""Show a training batch as a picture, as the network sees it after augmentation."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from core import augment
from core.cli import InputError, say
from core.files import atomic_write, writable_file
from core.randomness import generator
from training import loop

AT_MOST = 32  # pictures at most
COLUMNS = 8
SIDE = 128  # minimum side of a picture in pixels; smaller ones are enlarged
LINE = 14  # height of a line of text in pixels


def pictures(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Undo the normalisation of (N, 3, H, W) float images: (N, 3, H, W) uint8 on the CPU."""
    shown = images.cpu().float() * torch.tensor(std).view(1, -1, 1, 1)
    return augment.to_bytes(shown + torch.tensor(mean).view(1, -1, 1, 1))


def labelled(
    args: argparse.Namespace,
    recipe: Any,
    images: Tensor,
    labels: Tensor,
    classes: Sequence[str],
    augmented: Callable[[Tensor, Any, torch.Generator], Tensor],
) -> None:
    """Write ``--preview``'s picture of labelled images (N, 3, H, W) uint8, as ``write`` does.

    ``labels``: (N,) int64, indices of ``classes``. ``augmented``: the training's own function.
    """
    index, keys = loop.first_batch(len(images), recipe.batch_size, args.seed)
    inputs = augmented(images[index], recipe, generator(*keys))
    captions = [classes[k] for k in labels[index].tolist()]
    write(args, pictures(inputs, recipe.mean, recipe.std), captions)


def write(args: argparse.Namespace, shown: Tensor, captions: Sequence[str] = ()) -> None:
    """Write the first pictures, (N, 3, H, W) uint8, in rows to ``--preview``'s PNG file.

    ``captions``: texts below the pictures. Raises InputError if the file cannot be written, or is
    in the folder of the data.
    """
    path: Path = args.preview
    if path.resolve().is_relative_to(args.data.resolve()):
        raise InputError(f"{path} is in the folder of the data; choose another --preview")
    writable_file(path)
    shown = shown[:AT_MOST]
    times = max(1, -(-SIDE // min(shown.shape[2:])))
    height, width = (side * times for side in shown.shape[2:])
    columns = min(COLUMNS, len(shown))
    rows = -(-len(shown) // columns)
    sheet = Image.new("RGB", (columns * (width + 2), rows * (height + LINE + 2)), "white")
    pen = ImageDraw.Draw(sheet)
    for k, picture in enumerate(shown.permute(0, 2, 3, 1).numpy()):
        left, top = k % columns * (width + 2), k // columns * (height + LINE + 2)
        enlarged = np.repeat(np.repeat(picture, times, 0), times, 1)
        sheet.paste(Image.fromarray(enlarged), (left, top))
        if captions:
            pen.text((left + 2, top + height + 1), captions[k][: width // 6], fill="black")
    with atomic_write(path) as file:
        sheet.save(file, "PNG")
    say(f"wrote {path}: {len(shown)} images of the first batch, as the network would see them")
