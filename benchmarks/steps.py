"""Compare training steps: ``python3 -m benchmarks.steps [p1 byol p3 views] [--repeats N]``.

Each program runs in its own process and prints the median wall and CPU time of its steps on random
images. The programs of a group run in turn (A B A B ...), so that a slow minute is slow for all of
them. ``ours`` is this project's network, number format, memory layout, allocator and step;
``naive`` is the same network with PyTorch's defaults (float32, channels first). BYOL is compared
with two published packages, byol-pytorch (lucidrains) and lightly. A package that is not installed
is left out, and the table says so.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from statistics import median

from benchmarks.processes import ROOT
from core.cli import InputError, Parser, entry, note, positive, say

SIZES = {"p1": (256, 32), "byol": (64, 128), "p3": (8, 256), "views": (64, 128)}  # images, side
GROUPS = {  # the programs of each group, ours first
    "p1": ("ours", "naive"),
    "byol": ("ours", "ours, float32", "lightly", "byol-pytorch"),
    "p3": ("ours", "naive"),
    "views": ("ours", "naive"),
}
PACKAGES = {"lightly": "lightly", "byol-pytorch": "byol_pytorch"}
STEPS = 3  # timed steps in a process, after one that is not timed

Step = Callable[[], None]


def main() -> None:
    parser = Parser(prog="python3 -m benchmarks.steps", description=__doc__)
    parser.add_argument("groups", nargs="*", metavar="GROUP", help=f"{', '.join(GROUPS)} (all)")
    parser.add_argument(
        "--repeats", type=positive, default=3, help="runs of each program (%(default)s)"
    )
    parser.add_argument("--program", help=argparse.SUPPRESS)  # time this one, in this process
    args = parser.parse_args()
    if unknown := set(args.groups) - GROUPS.keys():
        raise InputError(f"unknown group {sorted(unknown)[0]}; choose from {', '.join(GROUPS)}")
    if args.program:
        print(json.dumps(seconds(args.groups[0], args.program)))
        return
    for group in args.groups or GROUPS:
        say(table(group, *measured(group, args.repeats)))


Seconds = dict[str, float]  # wall and cpu time of a step


def measured(group: str, repeats: int) -> tuple[dict[str, list[Seconds]], list[str]]:
    """The time of a step for each program of ``group``, in each turn; and the programs left out."""
    there = [name for name in GROUPS[group] if is_there(name)]
    times: dict[str, list[Seconds]] = {name: [] for name in there}
    for _ in range(repeats):
        for name in there:
            command = [sys.executable, "-m", "benchmarks.steps", group, "--program", name]
            done = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True)
            if done.returncode != 0:
                reason = (done.stderr.strip().splitlines() or ["nothing on stderr"])[-1]
                raise InputError(f"the program {name!r} of {group} failed: {reason}")
            times[name].append(json.loads(done.stdout))
            note(f"{group}: {name} {times[name][-1]['wall']:.2f} s a step")
    return times, [name for name in GROUPS[group] if name not in there]


def is_there(program: str) -> bool:
    package = PACKAGES.get(program)
    return package is None or importlib.util.find_spec(package) is not None


def table(group: str, times: dict[str, list[Seconds]], left_out: list[str]) -> str:
    """A Markdown table: images per second, and how many times as fast the first program is."""
    count, side = SIZES[group]
    ours = next(iter(times.values()))
    rows = [
        f"{group}: {count} images of {side} pixels a step, {len(ours)} turn{'s' * (len(ours) > 1)}",
        "",
        "| program | images/s | its / ours, wall | its / ours, CPU |",
        "| --- | --- | --- | --- |",
    ]
    for name, steps in times.items():
        rate = median(count / step["wall"] for step in steps)
        ratios = [
            median(its[field] / own[field] for own, its in zip(ours, steps, strict=True))
            for field in ("wall", "cpu")
        ]
        rows.append(f"| {name} | {rate:.1f} | {ratios[0]:.2f} | {ratios[1]:.2f} |")
    rows += [f"| {name} | not installed | | |" for name in left_out]
    return "\n".join([*rows, ""])


def seconds(group: str, program: str) -> Seconds:
    """The median wall and CPU time of a step of one program, in this process."""
    step = {"p1": p1_step, "byol": byol_step, "p3": p3_step, "views": views_step}[group](program)
    walls, cpus = [], []
    for _ in range(1 + STEPS):
        start, cpu = time.perf_counter(), time.process_time()
        step()
        walls.append(time.perf_counter() - start)
        cpus.append(time.process_time() - cpu)
    return {"wall": median(walls[1:]), "cpu": median(cpus[1:])}


def p1_step(program: str) -> Step:
    import torch

    from p1.model import mobilenet_v2

    return supervised_step(program == "ours", mobilenet_v2(50), *SIZES["p1"], torch.Size([]), 50)


def p3_step(program: str) -> Step:
    import torch

    from p3.model import DeepLabv3

    side = SIZES["p3"][1]
    return supervised_step(
        program == "ours", DeepLabv3(), *SIZES["p3"], torch.Size([side, side]), 7
    )


def supervised_step(ours: bool, network, count: int, side: int, pixels, classes: int) -> Step:
    """A step of forward, cross entropy, backward and SGD, on images already in memory."""
    import torch

    from core import devices

    torch.manual_seed(0)
    device = torch.device("cpu")
    images = torch.randn(count, 3, side, side)
    truth = torch.randint(classes, (count, *pixels))
    if ours:
        network = devices.prepare(network, device)
        images = images.to(memory_format=torch.channels_last)
    network.train()
    optimiser = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)

    def step() -> None:
        with devices.autocast(device, bf16=ours):
            out = network(images)
        loss = torch.nn.functional.cross_entropy(out.float(), truth)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    return step


def byol_step(program: str) -> Step:
    """One step of BYOL on a ResNet50, without the time to make the views.

    byol-pytorch makes its own views inside its forward pass, so it gets functions that return the
    images unchanged.
    """
    import torch
    from torchvision.models import resnet50

    torch.manual_seed(0)
    count, side = SIZES["byol"]
    views = torch.rand(2, count, 3, side, side)
    if program.startswith("ours"):
        from core import devices
        from p2.byol import BYOL
        from p2.model import FEATURES, make_backbone

        device = torch.device("cpu")
        byol = devices.prepare(BYOL(make_backbone(), FEATURES), device).train()
        first, second = (view.to(memory_format=torch.channels_last) for view in views)
        optimiser = torch.optim.Adam([p for p in byol.parameters() if p.requires_grad], lr=3e-4)

        def step() -> None:
            with devices.autocast(device, bf16=program == "ours"):
                loss, _ = byol(first, second)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            byol.update_target(0.99)

        return step
    if program == "byol-pytorch":
        # Imported by name because no requirements file lists it: it is optional.
        learner = importlib.import_module("byol_pytorch").BYOL(
            resnet50(weights=None),
            image_size=side,
            hidden_layer="avgpool",
            augment_fn=torch.nn.Identity(),
            augment_fn2=torch.nn.Identity(),
        )
        optimiser = torch.optim.Adam(learner.parameters(), lr=3e-4)

        def step() -> None:
            loss = learner(views[0])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            learner.update_moving_average()

        return step
    return lightly_step(views)


def lightly_step(views) -> Step:
    """BYOL assembled from lightly's parts, as in its documentation."""
    import copy

    import torch
    from torchvision.models import resnet50

    heads, utils, loss = (
        importlib.import_module(f"lightly.{name}")
        for name in ("models.modules", "models.utils", "loss")
    )
    backbone = torch.nn.Sequential(*list(resnet50(weights=None).children())[:-1])
    projector = heads.BYOLProjectionHead(2048, 4096, 256)
    predictor = heads.BYOLPredictionHead(256, 4096, 256)
    backbone_target, projector_target = copy.deepcopy(backbone), copy.deepcopy(projector)
    utils.deactivate_requires_grad(backbone_target)
    utils.deactivate_requires_grad(projector_target)
    networks = torch.nn.ModuleList([backbone, projector, predictor])
    optimiser = torch.optim.Adam(networks.parameters(), lr=3e-4)
    criterion = loss.NegativeCosineSimilarity()

    def step() -> None:
        utils.update_momentum(backbone, backbone_target, m=0.99)
        utils.update_momentum(projector, projector_target, m=0.99)
        predicted = [predictor(projector(backbone(view).flatten(1))) for view in views]
        with torch.no_grad():
            targets = [projector_target(backbone_target(view).flatten(1)) for view in views]
        total = criterion(predicted[0], targets[1]) + criterion(predicted[1], targets[0])
        optimiser.zero_grad()
        total.backward()
        optimiser.step()

    return step


def views_step(program: str) -> Step:
    """Make BYOL's two views of a batch, with our code or with torchvision on Pillow images."""
    import torch

    count, side = SIZES["views"]
    pixels = torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8)
    if program == "ours":
        from core import augment
        from core.randomness import generator
        from p2.pretrain import view
        from p2.recipes import PRETRAIN

        recipe = PRETRAIN["paper"]

        def step() -> None:
            batch = augment.to_float(pixels)
            for number, how in enumerate(recipe.views):
                view(batch, how, recipe, generator(0, number))

        return step
    from torchvision import transforms
    from torchvision.transforms.functional import to_pil_image

    images = [to_pil_image(image) for image in pixels]
    jitter = transforms.ColorJitter(0.4, 0.4, 0.2, 0.1)

    def pipeline(blur: float, solarize: float) -> transforms.Compose:
        return transforms.Compose(
            [
                transforms.RandomResizedCrop(side),
                transforms.RandomHorizontalFlip(),
                transforms.RandomApply([jitter], 0.8),
                transforms.RandomGrayscale(0.2),
                transforms.RandomApply([transforms.GaussianBlur(13)], blur),
                transforms.RandomSolarize(128, solarize),
                transforms.ToTensor(),
            ]
        )

    both = pipeline(1.0, 0.0), pipeline(0.1, 0.2)

    def step() -> None:
        torch.set_num_threads(1)  # as in a DataLoader worker
        for transform in both:
            torch.stack([transform(image) for image in images])

    return step


if __name__ == "__main__":
    sys.argv[0] = "benchmarks.steps"
    entry(main)
