"""Print the work that no program can avoid: ``python3 -m benchmarks.floors CHECKPOINT...``.

The output is JSON. ``peak``: the GFLOP/s of a large convolution in oneDNN, the best of five.
``gflop``: the work of each checkpoint's network for one view of one image, where a multiplication
and an addition are two operations. ``views``: how many views it averages over, by their pixels.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from core import checkpoint

SIDE = {"p1": 32, "p2": 128, "p3": 512}


def peak() -> float:
    """GFLOP/s of a 3x3 convolution: 256 channels, float32, channels last, oneDNN's weight order."""
    images = torch.randn(8, 256, 64, 64).contiguous(memory_format=torch.channels_last)
    geometry = ([1, 1], [1, 1], [1, 1], 1)
    weight = torch.ops.mkldnn._reorder_convolution_weight(
        torch.randn(256, 256, 3, 3), *geometry, list(images.shape)
    )
    seconds = []
    for _ in range(6):
        start = time.perf_counter()
        torch.ops.mkldnn._convolution_pointwise(images, weight, None, *geometry, "none", [], "")
        seconds.append(time.perf_counter() - start)
    return 2 * 8 * 64 * 64 * 256 * 256 * 9 / min(seconds[1:]) / 1e9


def gflop(path: Path) -> float:
    problem = checkpoint.read(path)["problem"]
    saved = checkpoint.load(path, problem)
    build = importlib.import_module(f"{problem}.model").build
    network = build(saved.architecture, len(saved.classes)).eval()
    counter = FlopCounterMode(display=False)
    with counter, torch.inference_mode():
        network(torch.zeros(1, 3, SIDE[problem], SIDE[problem]))
    return counter.get_total_flops() / 1e9


def views(path: Path) -> float:
    """How many views of an image the network sees (mirrored, turned, scaled), by their pixels."""
    fields = checkpoint.read(path)
    scales = fields.get("test_scales", [1.0])
    turns = 4 if fields.get("rotate_test") else 1
    return sum(scale**2 for scale in scales) * (2 if fields["flip_test"] else 1) * turns


if __name__ == "__main__":
    with torch.inference_mode():
        found: dict[str, Any] = {
            "peak": peak(),
            "gflop": {},
            "views": {},
        }
    for name in sys.argv[1:]:
        found["gflop"][name], found["views"][name] = gflop(Path(name)), views(Path(name))
    print(json.dumps(found))
