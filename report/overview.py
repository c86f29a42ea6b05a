"""The first section of the page, which compares all scores, and the last, which lists the runs."""

from __future__ import annotations

from matplotlib.axes import Axes

from report import charts, problem1, problem2, problem3
from report import problem2_figures as p2
from report.measures import Site
from report.original import PUBLISHED, SCORES
from report.page import Block, Code, Drawing, Heading, Part, Parts, Table, Text, logged
from report.runs import CHOICE, RunLog, best_of, named
from training.provenance import commits, machines

SETTINGS = {
    "A": "no pre-training",
    "B": "labels, all trained",
    "C": "BYOL, all trained",
    "D": "labels, head only",
    "E": "BYOL, head only",
}
ROWS = {  # problem and model or setting -> name of the row
    f"p{problem}_{name}": f"Problem {problem}, {kind} {name}: {what}"
    for problem, kind, names in (
        (1, "model", problem1.NAMES),
        (2, "setting", SETTINGS),
        (3, "model", problem3.NAMES),
    )
    for name, what in names.items()
}
WORDS = {"accuracy": "accuracy", "mean_iou": "mean IoU", "loss": "training loss"}


def original(row: str) -> str:
    """Return the original report's score for one of ``ROWS``, in words; "-" if it has none."""
    what = WORDS["mean_iou" if row.startswith("p3") else "accuracy"]
    return f"{what} {SCORES[row]}" if row in SCORES else "-"


def shown(logs: list[RunLog]) -> dict[str, RunLog]:
    """Return the run to show in each of ``ROWS``, without the rows that have no run.

    The settings of problem 2 come from one group of comparable runs.
    """
    runs = {row: best_of(named(logs, f"{row}_*")) for row in ROWS if not row.startswith("p2")}
    runs |= {f"p2_{name}": run for name, run in p2.comparable(named(logs, "p2_*")).items()}
    return {row: runs[row] for row in ROWS if runs.get(row)}


def choice(logs: list[RunLog]) -> str:
    """Explain how ``shown`` chose between several runs; "" if there was no choice."""
    runs, rules = shown(logs), []
    models = [row for row in ROWS if not row.startswith("p2")]
    if chosen := [runs[row].name for row in models if len(named(logs, f"{row}_*")) > 1]:
        rules.append(f"{CHOICE} Chosen here: {', '.join(chosen)}.")
    settings = [run for run in named(logs, "p2_*") if "setting" in run.metadata["data"]]
    if len(settings) > sum(row.startswith("p2") for row in runs):
        rules.append(
            "Of problem 2's runs, the largest group of finished runs with one recipe, seed and "
            "data is shown."
        )
    return " ".join(rules)


def missing(row: str, runs: dict[str, RunLog]) -> tuple[str, str]:
    """Return what to say in a row of ``ROWS`` without a run, and the command that makes the run."""
    problem, name = row.split("_")
    if problem == "p2":
        settings = {row.split("_")[1]: run for row, run in runs.items() if row.startswith("p2")}
        words = "not run yet with the others' recipe, seed and data" if settings else "not run yet"
        return words, problem2.train_command(name, settings)
    return "not run yet", {"p1": problem1.MAKE, "p3": problem3.MAKE}[problem][name]


def score(run: RunLog) -> tuple[Part, ...]:
    """Return the name and value of the last epoch's score."""
    return f"{WORDS[run.watched]} ", logged(run, run.last, run.watched)


def scores_on(axes: Axes, runs: dict[str, RunLog]) -> None:
    """Draw the scores of ``runs``, of the original report and the best published, row by row."""
    ours = {row: run.last[run.watched] for row, run in runs.items()}
    originals = {row: score.value for row, score in SCORES.items()}
    for name, scores, marker, colour, size in (
        ("best published", PUBLISHED, "D", charts.MUTED, 26),
        ("original report", originals, "s", charts.SERIES[1], 34),
        ("here", ours, "o", charts.SERIES[0], 48),
    ):
        places = [list(ROWS).index(row) for row in scores]
        style = (
            {"color": colour} if name == "here" else {"facecolors": "none", "edgecolors": colour}
        )
        axes.scatter(list(scores.values()), places, marker=marker, s=size, label=name, **style)
    # The others' scores of problem 2 are of the course's data, ours of a stand-in.
    names = [what + " *" * row.startswith("p2") for row, what in ROWS.items()]
    axes.set(xlim=(0, 1), yticks=range(len(ROWS)), yticklabels=names)
    axes.set_ylim(len(ROWS) - 0.5, -0.5)
    axes.set_xlabel("accuracy or mean IoU (* ours on other data)")
    axes.tick_params(axis="y", length=0, labelcolor=charts.INK, labelsize=8.5)
    charts.legend(axes, ncols=3, loc="lower right", bbox_to_anchor=(1.0, 1.0))


def opening(site: Site) -> list[Block]:
    runs = shown(site.logs)
    rows = []
    for row, what in ROWS.items():
        here: Parts
        if row in runs:
            run = runs[row]
            here = (*score(run), run.marks)
            source = run.name
        else:
            here, source = missing(row, runs)
        rows.append(
            {
                "model or setting": what,
                "here": here,
                "original report": original(row),
                "best published": str(PUBLISHED.get(row, "-")),
                "run, or how to make it": Code(source),
            }
        )
    caption = (
        "Validation scores of the last epoch, from the log of each run. The original report and "
        "the published results give the best epoch instead. For problem 2 they used the course's "
        "data, where this project has only a stand-in."
    )
    figure, axes = charts.panel(8.0, 0.9 + 0.27 * len(ROWS))
    scores_on(axes, runs)
    drawing = Drawing(
        figure,
        "The scores in the table below. The hollow square far to the right in problem 1 is the "
        "original report's contaminated score.",
        "Scores by model and setting: here, in the original report, and the best published ones",
        tuple(runs.values()),
    )
    rules = choice(site.logs)
    return [
        Heading("At a glance"),
        drawing,
        Table(caption, rows),
        *([Text(rules)] if rules else []),
    ]


def closing(site: Site) -> list[Block]:
    rows = [
        {
            "run": run.name,
            "score of the last epoch": score(run),
            "epochs": f"{run.last['epoch']} of {run.metadata['recipe']['epochs']}",
            "seed": str(run.metadata["seed"]),
            "commit": commits(run.metadata),
            "machine": machines(run.metadata),
            "command": Code(run.metadata["command"]),
        }
        for run in site.logs
    ]
    caption = (
        "Every run that this page was made from, according to its run.json. If a commit ends in "
        "-dirty, the code had uncommitted changes."
    )
    return [
        Heading("Runs"),
        Text(
            "The commits and commands below reproduce the numbers. A run that starts from another "
            "run's weights needs that one first."
        ),
        Table(caption, rows),
    ]
