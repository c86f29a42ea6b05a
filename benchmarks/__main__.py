"""Compare our programs with others, as whole processes: ``python3 -m benchmarks``.

The programs run in turn (A B A B ...), ``--repeats`` times each, so that a machine that is slow for
a while is slow for all of them. The results go to benchmarks/results.json and, as tables, to
benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import marks, steps
from benchmarks.marks import ratio
from benchmarks.processes import ROOT, Use, in_turn, measure, same_lines, same_pixels, same_rows
from core.cli import Parser, entry, positive, say
from core.files import atomic_write

COUNTS = {
    "p1": 2500,
    "p2": 406,
    "p3": 257,
    "metric": 257,
}  # numbers of images in the course's validation sets
NAIVE_BATCH = {"p1": 32, "p2": 32, "p3": 8}
ONCE = ("ours bf16", "naive")  # run in the first turn only: the naive program takes minutes
PARTS = ("metric", "p1", "p2", "p3", "growth", "steps")
RESULTS = ROOT / "benchmarks" / "results.json"
README = ROOT / "benchmarks" / "README.md"
MARK = "<!-- what follows is made by python3 -m benchmarks -->"


def main() -> None:
    args = arguments()
    results: dict[str, Any] = {
        "machine": machine(), "repeats": args.repeats, "share": args.share, "minutes": {},
        "parts": {},
    }  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="benchmarks.") as folder:
        for part in args.parts:
            say(f"{part}: {args.repeats} turns")
            start = time.monotonic()
            results["parts"][part] = MEASURES[part](args, Path(folder, part))
            results["minutes"][part] = round((time.monotonic() - start) / 60, 1)
            say("\n".join(TABLES[part](results["parts"][part])))
    if args.write:
        write(results)


def arguments() -> argparse.Namespace:
    parser = Parser(prog="python3 -m benchmarks", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)} (all)")
    parser.add_argument("--repeats", type=positive, default=3, help="number of turns (%(default)s)")
    parser.add_argument(
        "--share",
        type=float,
        default=1.0,
        help="fraction of the course's images (%(default)s); less than 1 only shows that it runs",
    )
    for problem, name in (("p1", "p1_c.pt"), ("p2", "p2_c.pt"), ("p3", "p3_c.pt")):
        checkpoint = ROOT / "checkpoints" / name
        parser.add_argument(f"--{problem}", type=Path, default=checkpoint, metavar="CHECKPOINT")
    parser.add_argument(
        "--write",
        action=argparse.BooleanOptionalAction,
        help="write results.json and README.md; the default if everything is measured",
    )
    args = parser.parse_args()
    if foreign := set(args.parts) - set(PARTS):
        parser.error(f"unknown part {', '.join(sorted(foreign))}; choose from {', '.join(PARTS)}")
    args.parts = [part for part in PARTS if part in (args.parts or PARTS)]
    if args.write is None:  # some of the measurements must not replace all of them
        args.write = args.parts == list(PARTS) and args.share == 1
    return args


def machine() -> dict[str, object]:
    """The processor, and the versions of the packages that take the time."""
    lines = (
        Path("/proc/cpuinfo").read_text().splitlines() if os.path.exists("/proc/cpuinfo") else []
    )
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    packages = ["torch", "torchvision", "numpy", "pillow"]
    packages += [name for name in steps.PACKAGES if steps.is_there(name)]
    return {
        "processor": models[0] if models else platform.machine(),
        "cores": os.cpu_count(),
        "load before": round(os.getloadavg()[0], 2),
        "date": time.strftime("%Y-%m-%d"),
        "python": platform.python_version(),
        **{package: metadata.version(package) for package in packages},
    }


def draw(kind: str, folder: Path, count: int, *source: Path) -> None:
    # In another process, to keep this one small: see benchmarks.processes.
    measure("draw", ["python3", "-m", "benchmarks.draw", kind, folder, count, *source])


def count_of(args: argparse.Namespace, part: str) -> int:
    return max(2, round(COUNTS[part] * args.share))


def ours(args: argparse.Namespace, problem: str, images: Path, output: Path, *more: str) -> list:
    table = [images.with_suffix(".csv")] if problem == "p2" else []
    script = ["bash", f"hw1_{problem[1]}.sh", *table, images, output]
    checkpoint = ["--checkpoint", getattr(args, problem).resolve()]
    return [*script, *checkpoint, "--device", "cpu", "--max-minutes", "inf", *more]


# --- the parts ------------------------------------------------------------------------------------


def inference(problem: str, args: argparse.Namespace, folder: Path) -> dict:
    """Measure ours (float32 and bfloat16), the naive program, and what makes up the floor."""
    images, count = folder / "images", count_of(args, problem)
    draw(problem, images, count)
    checkpoint = getattr(args, problem).resolve()
    outputs = {name: folder / name for name in ("ours", "ours bf16", "naive")}
    table = ["--table", images.with_suffix(".csv")] if problem == "p2" else []
    programs = {
        "ours": ours(args, problem, images, outputs["ours"]),
        "ours bf16": ours(args, problem, images, outputs["ours bf16"], "--bf16"),
        "naive": [
            "python3", "-m", "benchmarks.naive", problem, "--checkpoint", checkpoint,
            "--images", images, "--output", outputs["naive"],
            "--batch-size", NAIVE_BATCH[problem], *table,
        ],
        "import torch": ["python3", "-c", "import torch"],
        "floors": ["python3", "-m", "benchmarks.floors", checkpoint],
    }  # fmt: skip
    runs, printed = in_turn(programs, args.repeats, ONCE)
    del runs["floors"]
    every = [json.loads(text) for text in printed["floors"]]
    peak = max(found["peak"] for found in every)
    work = count * every[0]["gflop"][str(checkpoint)] * every[0]["views"][str(checkpoint)]
    share = same_pixels if problem == "p3" else same_rows
    return {
        "images": count,
        "checkpoint": checkpoint.name,
        "runs": as_fields(runs),
        "identical": {
            name: share(outputs["ours"], outputs[name]) for name in ("ours bf16", "naive")
        },
        "gflop": round(work, 1),
        "peak gflop/s": round(peak, 1),
        "floor s": median(use.wall for use in runs["import torch"]) + work / peak,
    }


def metric(args: argparse.Namespace, folder: Path) -> dict:
    """Measure our metric, decoding alone, and the formula computed literally."""
    count = count_of(args, "metric")
    draw("masks", folder, count)
    folders = ["-g", folder / "truth", "-p", folder / "predicted"]
    programs = {
        "ours": ["python3", "mean_iou_evaluate.py", *folders],
        "decode": ["python3", "-m", "benchmarks.metric", "decode", *folders],
        "naive": ["python3", "-m", "benchmarks.metric", "naive", *folders],
    }
    runs, printed = in_turn(programs, args.repeats)
    return {
        "images": count,
        "runs": as_fields(runs),
        "identical": {"naive": same_lines(printed["ours"][0], printed["naive"][0])},
    }


def growth(args: argparse.Namespace, folder: Path) -> dict:
    """Measure ours once each with a hundredth of the images, a tenth, and all of them."""
    sizes: dict[str, list[dict]] = {}
    for problem in ("p1", "p2", "p3"):
        count = count_of(args, problem)
        draw(problem, folder / problem, max(2, count // 10))
        sizes[problem] = []
        for images in (max(2, count // 100), max(2, count // 10), count):
            source = folder / f"{problem}_{len(sizes[problem])}"
            draw("grown", source, images, folder / problem)
            output = source.with_name(f"{source.name}_out")
            use, _ = measure("ours", ours(args, problem, source, output))
            sizes[problem].append({"images": images, **dataclasses.asdict(use)})
    return sizes


def training_steps(args: argparse.Namespace, folder: Path) -> dict:
    """Seconds per step of each program of ``benchmarks.steps``, and which are not installed.

    One turn is enough, because each program already returns a median over steps.
    """
    measured = {group: steps.measured(group, 1) for group in steps.GROUPS}
    return {group: {"steps": times, "left out": out} for group, (times, out) in measured.items()}


def as_fields(runs: dict[str, list[Use]]) -> dict[str, list[dict[str, float]]]:
    return {name: [dataclasses.asdict(use) for use in uses] for name, uses in runs.items()}


MEASURES: dict[str, Callable[[argparse.Namespace, Path], dict]] = {
    "metric": metric,
    **{problem: functools.partial(inference, problem) for problem in ("p1", "p2", "p3")},
    "growth": growth,
    "steps": training_steps,
}


# --- tables ---------------------------------------------------------------------------------------


def side_by_side(found: dict) -> list[str]:
    """A table with a line per program: medians (min–max), and our time divided by the program's."""
    lines = [
        "| program | wall s | CPU s | peak MiB | ours / it, wall | ours / it, CPU | identical |",
        "|---|---|---|---|---|---|---|",
    ]
    own = found["runs"]["ours"]
    for name, uses in found["runs"].items():
        share = found["identical"].get(name)
        cells = [spread([use[field] for use in uses]) for field in ("wall", "cpu")]
        cells.append(f"{median(use['peak'] for use in uses):.0f}")
        for field in ("wall", "cpu"):
            cells.append("-" if name == "ours" else f"{ratio(name, field)(found):.3f}")
        cells.append("-" if share is None else f"{100 * share:.3f} %")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    if "floor s" in found:
        wall = median(use["wall"] for use in own)
        lines += [
            "",
            f"Floor: {found['floor s']:.2f} s, `import torch` and {found['gflop']:,.0f} GFLOP at "
            f"the {found['peak gflop/s']:.0f} GFLOP/s that a large convolution reaches; ours takes "
            f"{wall / found['floor s']:.2f} times that.",
        ]
    return lines


def growing(found: dict) -> list[str]:
    """A table with a line per number of images, and the CPU time of each additional image."""
    lines = [
        "| problem | images | wall s | CPU s | CPU ms each image more | peak MiB |",
        "|---|---|---|---|---|---|",
    ]
    for problem, uses in found.items():
        for before, use in zip([uses[0], *uses[:-1]], uses, strict=True):
            more = use["images"] - before["images"]
            each = f"{1000 * (use['cpu'] - before['cpu']) / more:.1f}" if more else "-"
            cells = (problem, f"{use['images']:,}", f"{use['wall']:.1f}", f"{use['cpu']:.1f}", each)
            lines.append(f"| {' | '.join(cells)} | {use['peak']:.0f} |")
    return lines


def rates(found: dict) -> list[str]:
    tables = [steps.table(group, one["steps"], one["left out"]) for group, one in found.items()]
    return "\n".join(tables).rstrip().splitlines()


def spread(values: list[float]) -> str:
    if len(values) == 1:
        return f"{values[0]:.2f}"
    return f"{median(values):.2f} ({min(values):.2f}–{max(values):.2f})"


TABLES: dict[str, Callable[[dict], list[str]]] = {
    **dict.fromkeys(("metric", "p1", "p2", "p3"), side_by_side),
    "growth": growing,
    "steps": rates,
}
TITLES = {
    "metric": "Metric",
    "p1": "Problem 1",
    "p2": "Problem 2",
    "p3": "Problem 3",
    "growth": "As the work grows",
    "steps": "Training steps",
}


def write(results: dict) -> None:
    """Write results.json, and its tables after the mark in README.md."""
    with atomic_write(RESULTS) as file:
        file.write((json.dumps(results, indent=1) + "\n").encode())
    text = README.read_text().split(MARK)[0]
    with atomic_write(README) as file:
        file.write((text + MARK + "\n" + "\n".join(page(results)) + "\n").encode())


def page(results: dict) -> list[str]:
    about = ", ".join(f"{name} {value}" for name, value in results["machine"].items())
    lines = ["", f"Machine: {about}. Medians of {results['repeats']} turns (least–most)."]
    costs = ", ".join(f"{TITLES[part]} {cost}" for part, cost in results["minutes"].items())
    lines.append(f"Minutes that each part takes: {costs}.")
    if results["share"] != 1:
        lines.append(f"**Only {results['share']:g} of the images: no measurement.**")
    lines += ["", "### Marks", "", *marks.table(results["parts"])]
    for part, found in results["parts"].items():
        title = TITLES[part]
        if "images" in found:
            title += f", {found['images']:,} images"
        if "checkpoint" in found:
            title += f", {found['checkpoint']}"
        lines += ["", f"### {title}", "", *TABLES[part](found)]
    return lines


if __name__ == "__main__":
    sys.argv[0] = "benchmarks"
    entry(main)
