"""The page's first table, what was reached beside the original report, and its last, how every run was made."""

from __future__ import annotations

from core.provenance import commits
from p1 import figures as p1
from p2 import figures as p2
from report import problem1, problem3
from report.measures import Site
from report.page import Block, Code, Heading, Parts, Table, Text, logged

SETTINGS = {
    "A": "no pre-training",
    "B": "labels, all trained",
    "C": "BYOL, all trained",
    "D": "labels, head only",
    "E": "BYOL, head only",
}
ROWS = (  # runs, what they are, the original report's figure, and the command that makes such a run
    (
        "p1_A_*",
        "Problem 1, model A: MobileNetV2 from scratch",
        f"accuracy {p1.ORIGINAL['A'][0]}",
        "python3 -m p1.train --model A",
    ),
    (
        "p1_B_*",
        "Problem 1, model B: the same, pre-trained",
        f"accuracy {p1.ORIGINAL['B'][0]}, contaminated",
        "python3 -m p1.train --model B",
    ),
    *(
        (
            f"p2_{name}_*",
            f"Problem 2, setting {name}: {what}",
            f"accuracy {p2.ORIGINAL[name]}, other data",
            f"python3 -m p2.train --setting {name}",
        )
        for name, what in SETTINGS.items()
    ),
    ("p3_A_*", "Problem 3, model A: VGG16-FCN32s", f"mean IoU {problem3.ORIGINAL['A']}", "python3 -m p3.train --model A"),
    ("p3_B_*", "Problem 3, model B: DeepLabv3", f"mean IoU {problem3.ORIGINAL['B']}", "python3 -m p3.train --model B"),
)
WORDS = {"accuracy": "accuracy", "mean_iou": "mean IoU", "loss": "training loss"}


def opening(site: Site) -> list[Block]:
    rows: list[tuple[Parts, ...]] = []
    for pattern, what, original, command in ROWS:
        run = problem1.best_clean(site.named(pattern))
        if run is None:
            rows.append((what, "not run yet", original, (Code(command),)))
        else:
            rows.append((what, (f"{WORDS[run.watched]} ", logged(run, run.last, run.watched)), original, (Code(run.name),)))
    caption = (
        "Validation scores of the last epoch, as each run's log has them; of several runs, the one with the best last epoch. "
        "The original's problem 2 was scored on the course's data; the data that this project has for it are a stand-in."
    )
    return [Heading("At a glance"), Table(caption, ("what", "ours", "original report", "run, or how to make it"), rows)]


def closing(site: Site) -> list[Block]:
    rows: list[tuple[Parts, ...]] = []
    for run in site.logs:
        rows.append(
            (
                run.name,
                (WORDS[run.watched], " ", logged(run, run.last, run.watched)),
                f"{run.last['epoch']} of {run.about['recipe']['epochs']}",
                str(run.about["seed"]),
                commits(run.about),
                run.about["device"],
                (Code(run.about["command"]),),
            )
        )
    header = ("run", "last epoch's", "epochs", "seed", "commit", "machine", "command")
    caption = "Every run that this page was made from, as its run.json tells. A commit that ends in -dirty had changes on top."
    return [Heading("Runs"), Text("Whoever doubts a figure can make it again."), Table(caption, header, rows)]
