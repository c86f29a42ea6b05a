"""The page's first table, what was reached beside the original report, and its last, how every run was made."""

from __future__ import annotations

from core.provenance import commits
from report import problem1, problem2, problem3
from report import problem1_figures as p1
from report import problem2_figures as p2
from report.measures import Site
from report.page import Block, Code, Heading, Parts, Table, Text, logged
from report.runs import RunLog, named

SETTINGS = {
    "A": "no pre-training",
    "B": "labels, all trained",
    "C": "BYOL, all trained",
    "D": "labels, head only",
    "E": "BYOL, head only",
}
ROWS = {  # problem, and model or setting: what that is, and the original report's figure
    "p1_A": ("Problem 1, model A: MobileNetV2 from scratch", f"accuracy {p1.ORIGINAL['A'][0]}"),
    "p1_B": (
        "Problem 1, model B: the same, pre-trained",
        f"accuracy {p1.ORIGINAL['B'][0]}, contaminated",
    ),
    **{
        f"p2_{name}": (
            f"Problem 2, setting {name}: {what}",
            f"accuracy {p2.ORIGINAL[name]}, other data",
        )
        for name, what in SETTINGS.items()
    },
    "p3_A": ("Problem 3, model A: VGG16-FCN32s", f"mean IoU {problem3.ORIGINAL['A']}"),
    "p3_B": ("Problem 3, model B: DeepLabv3", f"mean IoU {problem3.ORIGINAL['B']}"),
}
WORDS = {"accuracy": "accuracy", "mean_iou": "mean IoU", "loss": "training loss"}


def shown(logs: list[RunLog]) -> dict[str, RunLog]:
    """The run that stands for each of ``ROWS`` that has one, as in the sections: problem 2's settings are of one group."""
    models = {
        row: problem1.best_clean(named(logs, f"{row}_*"))
        for row in ROWS
        if not row.startswith("p2")
    }
    settings = {f"p2_{name}": run for name, run in p2.comparable(named(logs, "p2_*")).items()}
    return {row: run for row, run in (models | settings).items() if run}


def choice(logs: list[RunLog]) -> str:
    """The rules by which ``shown`` chose, as far as there was a choice."""
    runs, rules = shown(logs), []
    if chosen := [
        runs[row].name
        for row in ROWS
        if not row.startswith("p2") and len(named(logs, f"{row}_*")) > 1
    ]:
        rules.append(f"{problem1.CHOICE} So chosen here: {', '.join(chosen)}.")
    settings = [run for run in named(logs, "p2_*") if "setting" in run.about["data"]]
    if len(settings) > sum(row.startswith("p2") for row in runs):
        rules.append(
            "Of problem 2's runs the largest group of finished ones with one recipe, seed and data is shown."
        )
    return " ".join(rules)


def missing(row: str, runs: dict[str, RunLog]) -> tuple[str, str]:
    """Words for a row that ``shown`` has no run for, and the command that makes one."""
    problem, name = row.split("_")
    if problem == "p2":
        settings = {row.split("_")[1]: run for row, run in runs.items() if row.startswith("p2")}
        words = "not run yet with the others' recipe, seed and data" if settings else "not run yet"
        return words, problem2.train_command(name, settings)
    return "not run yet", {"p1": problem1.MAKE, "p3": problem3.MAKE}[problem][name]


def marks(run: RunLog) -> str:
    """What has to stand beside a run's figures, with a comma before; mostly nothing."""
    seen = ", contaminated" if problem1.contaminated(run) else ""
    return (
        seen
        if run.is_finished
        else f"{seen}, unfinished: epoch {run.last['epoch']} of {run.about['recipe']['epochs']}"
    )


def opening(site: Site) -> list[Block]:
    runs = shown(site.logs)
    rows: list[tuple[Parts, ...]] = []
    for row, (what, original) in ROWS.items():
        if row in runs:
            run = runs[row]
            figure = (f"{WORDS[run.watched]} ", logged(run, run.last, run.watched), marks(run))
            rows.append((what, figure, original, (Code(run.name),)))
        else:
            words, command = missing(row, runs)
            rows.append((what, words, original, (Code(command),)))
    caption = (
        "Validation scores of the last epoch, as each run's log has them. "
        "The original's problem 2 was scored on the course's data; the data that this project has for it are a stand-in."
    )
    table = Table(caption, ("what", "ours", "original report", "run, or how to make it"), rows)
    rules = choice(site.logs)
    return [Heading("At a glance"), table, *([Text(rules)] if rules else [])]


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
    return [
        Heading("Runs"),
        Text("Whoever doubts a figure can make it again."),
        Table(caption, header, rows),
    ]
