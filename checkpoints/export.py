"""Export a checkpoint as ONNX: ``python3 -m checkpoints.export --checkpoint F.pt --onnx F.onnx``.

The exported model maps images (N, 3, H, W) uint8 in RGB to logits. It includes normalisation and
the averaging over mirror images, scales and quarter turns that the checkpoint asks for. N is
dynamic; H and W are fixed by ``--size``.
"""

from __future__ import annotations

import argparse
import io
import warnings
from pathlib import Path
from typing import Any

import torch
from torch.onnx import symbolic_helper

from checkpoints.models import load
from core.cli import InputError, Parser, entry, file_path, positive, say
from core.files import atomic_write, check_outputs, writable_file

SIZE = {"p1": 32, "p2": 128, "p3": 512}
OPSET = 18


def arguments() -> argparse.Namespace:
    parser = Parser(description=__doc__)
    parser.add_argument(
        "--checkpoint", type=Path, required=True, help="a checkpoint that pN.train wrote"
    )
    parser.add_argument("--onnx", type=file_path, required=True, help="file to write")
    parser.add_argument(
        "--size", type=positive, help="problem 3: side of the images in pixels (512)"
    )
    return parser.parse_args()


def main() -> None:
    args = arguments()
    check_outputs([writable_file(args.onnx)], [args.checkpoint])
    try:
        import onnx  # noqa: F401
    except ImportError as error:
        raise InputError(
            "the export needs the package onnx; install it with: pip install onnx"
        ) from error
    model = load(args.checkpoint)
    problem = model.checkpoint.problem
    if args.size and problem != "p3":
        raise InputError(f"--size is for problem 3; {args.checkpoint} is a checkpoint of {problem}")
    side = args.size or SIZE[problem]
    images = torch.zeros(2, 3, side, side, dtype=torch.uint8)
    exported = io.BytesIO()
    torch.onnx.register_custom_op_symbolic("aten::_upsample_bilinear2d_aa", shrink, OPSET)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they say that the trace fixes values, which is intended
        torch.onnx.export(
            model,
            (images,),
            exported,
            input_names=["images"],
            output_names=["logits"],
            dynamic_axes={"images": {0: "n"}, "logits": {0: "n"}},
            opset_version=OPSET,
            dynamo=False,
        )
    with atomic_write(args.onnx) as file:
        file.write(exported.getvalue())
    say(f"wrote {args.onnx}: (N, 3, {side}, {side}) uint8 -> logits")


def shrink(graph: Any, images: Any, size: Any, *_: Any) -> Any:
    """Antialiased bilinear resizing as ONNX's Resize of opset 18; torch's exporter lacks it."""
    sides = torch.tensor(symbolic_helper._maybe_get_const(size, "is"))
    none = graph.op("Constant", value_t=torch.tensor([], dtype=torch.float32))
    return graph.op(
        "Resize",
        images,
        none,
        none,
        graph.op("Constant", value_t=sides),
        axes_i=[2, 3],
        antialias_i=1,
        exclude_outside_i=1,
        mode_s="linear",
        coordinate_transformation_mode_s="half_pixel",
    )


if __name__ == "__main__":
    entry(main)
