"""The first part of problem 2's section: BYOL, the two kinds of pre-training, and kNN probes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from p2 import data, knn
from prediction.tables import read_rows, wilson
from report import charts, recipes
from report import problem2_figures as figures
from report.measures import Computed, Measured, Site
from report.page import Block, Drawing, Gap, Grid, Heading, Parts, Table, Text, logged, unfinished
from report.runs import RunLog

STARTS = {"nothing": "nothing", "byol": "BYOL", "labels": "with labels"}
FETCH = "bash hw1_download.sh data"
TRAIN = {
    "byol": "python3 -m p2.pretrain --recipe {recipe}",
    "labels": "python3 -m p2.supervise --recipe {recipe}",
}
LOGGED = {  # values in the logs of pre-training runs, besides the probe
    "loss": "training loss",
    "spread": "spread of the projections",
    "train_accuracy": "accuracy on the training images",
}


def method(site: Site) -> Iterator[Block]:
    networks = figures.networks()
    sizes = site.measures.of("p2/byol/parameters", [], lambda: figures.parameters(networks))
    yield Heading("How BYOL works", 3)
    caption = (
        "From one view, the online network learns to predict what the target network computes "
        "from the other. "
    )
    more = (
        "The target gets no gradients; it is a moving average (EMA) of the online network. "
        "After pre-training only the backbone is kept."
    )
    alt = (
        "Two columns: view 1 passes the online backbone, projector and predictor; view 2 passes "
        "the target's backbone and projector and a stop-gradient; both end in the loss"
    )
    yield Drawing(figures.method(networks), caption + more, alt)
    shapes = {
        "backbone": f"3 x {data.SIZE} x {data.SIZE} → {figures.widths(networks.online[1])[0]}"
    }
    for name, part in list(figures.parts(networks).items())[1:3]:
        shapes[name] = " → ".join(map(str, figures.widths(part)))
    rows = [(name, shape, sizes.value(name, 0), "gradient") for name, shape in shapes.items()]
    rows.append(
        (
            "target: backbone and projector",
            "as in the online network",
            sizes.value("target", 0),
            "average",
        )
    )
    rows.append(("all that have gradients", "", sizes.value("trained", 0), ""))
    yield Table(
        "The parts of BYOL, read from its modules.",
        ("part", "sizes", "parameters", "updated by"),
        rows,
    )


def pretrained(site: Site, runs: dict[str, RunLog]) -> Iterator[Block]:
    yield Heading("The two pre-training runs", 3)
    for start in ("byol", "labels"):
        if start not in runs:
            yield Gap(f"a pre-training run ({STARTS[start]}).", TRAIN[start].format(recipe="hour"))
        elif not runs[start].is_finished:
            yield unfinished(runs[start])
    if not runs:
        return
    yield recipes.table(
        "How the backbones were pre-trained, as recorded in the runs. Loss, spread and accuracy "
        "are means over the last epoch.",
        [STARTS[start] for start in runs],
        [recipes.made(site, run, "random") | logged_at_the_end(run) for run in runs.values()],
        runs.values(),
    )
    if "byol" in runs:
        views = [recipes.in_words(view) for view in runs["byol"].metadata["recipe"]["views"]]
        yield recipes.table(
            "BYOL's two views. In addition, each is mirrored with probability 1/2. Every image "
            "gets its own random draws.",
            [f"view {k + 1}" for k in range(len(views))],
            views,
            (runs["byol"],),
        )
    yield Text(
        "The two losses are of different kinds: BYOL's lies between 0 and 8, the other is a "
        "cross entropy. The spread shows whether the projections have collapsed. It is the "
        "standard deviation of the normalised projections times the square root of their size: "
        "about 1 if they point in all directions, 0 if they are the same for all images."
    )
    drawn = []
    for start, run in runs.items():
        for name in (*LOGGED, "knn"):
            epochs, values = run.column(name)
            if len(epochs) > 1:
                what = f"{STARTS[start]}: {LOGGED.get(name, 'kNN probe')}"
                figure = charts.lines(
                    {what: (epochs, values)},
                    x="epoch",
                    y=LOGGED.get(name, "accuracy of the kNN probe"),
                )
                figure.axes[0].xaxis.get_major_locator().set_params(integer=True)
                drawn.append(
                    Drawing(
                        figure, f"Pre-training, {what}.", f"Curve over the epochs, {what}", (run,)
                    )
                )
    if drawn:
        yield Grid(*drawn)
    yield from probes(site, runs)


def logged_at_the_end(run: RunLog) -> dict[str, Parts]:
    return {what: logged(run, run.last, name) for name, what in LOGGED.items() if name in run.last}


def probes(site: Site, runs: dict[str, RunLog]) -> Iterator[Block]:
    folder = site.data / "p2_data" / "office"
    tables = [folder / "train.csv", folder / "val.csv"]
    there = office(site) is not None and tables[0].is_file()
    loaded: list[knn.Probe] = []

    def measure(key: str, run: RunLog, path: Path | None) -> Measured:
        def compute() -> Computed:
            if not loaded:  # load once for all backbones, and only if one has to be measured
                loaded.append(knn.load(folder))
            return figures.probed(run, path, loaded[0], site.device)

        return site.measures.of(key, [*tables, *([path] if path else [])], compute)

    rows: list[tuple[Parts, ...]] = []
    for start, run in runs.items():
        if "knn" in run.last:
            rows.append(
                (
                    STARTS[start],
                    logged(run, run.last, "knn"),
                    interval(site, run, run.last, "knn"),
                    "in training",
                )
            )
        elif there and last(run).is_file():
            probe = measure(f"{name_of(run)}/knn", run, last(run))
            rows.append(
                (STARTS[start], probe.value("knn"), between(probe), "by this report, on last.pt")
            )
        elif not there:
            yield Gap(
                f"the kNN probe of a pre-training run ({STARTS[start]}), as the images of office "
                "are not here.",
                FETCH,
            )
        else:
            yield Gap(
                f"the kNN probe of {run.name}, as its last.pt is not here.", run.metadata["command"]
            )
    if there and rows:
        run = next(iter(runs.values()))
        probe = measure(f"p2/random_backbone_{run.metadata['seed']}/knn", run, None)
        rows.append(
            (
                f"nothing: random weights, seed {run.metadata['seed']}",
                probe.value("knn"),
                between(probe),
                "by this report",
            )
        )
    if rows:
        caption = (
            f"kNN probe: the images of office/val are classified by the {knn.NEIGHBOURS} nearest "
            "features of office/train, without any training on them. The random backbone is the "
            "one from which pre-training with this seed starts: pre-training has to beat it."
        )
        yield Table(
            caption,
            ("pre-training", "accuracy", "95 % interval", "measured"),
            rows,
            tuple(runs.values()),
        )


def interval(site: Site, run: RunLog, line: dict[str, Any], name: str) -> Parts:
    """Return Wilson's interval of a logged accuracy on office/val.

    Returns "-" if the images are missing, or are not as many as the accuracy was measured on.
    """
    folder = office(site)
    if folder is None:
        return "-"
    count = len(read_rows(folder / "val.csv", ("filename", "label")))
    right = line[name] * count
    if abs(right - round(right)) > 1e-4:
        return "-"
    key, files = (
        f"{run.name}/epoch_{line['epoch']:04d}/{name}_interval",
        [run.folder / "log.jsonl", folder / "val.csv"],
    )
    ends = dict(zip(("low", "high"), wilson(round(right), count), strict=True))
    return between(site.measures.of(key, files, lambda: ends))


def between(measured: Measured) -> Parts:
    return measured.words("{low:3} to {high:3}")


def office(site: Site) -> Path | None:
    """Return the folder of the labelled images; None if they are missing."""
    folder = site.data / "p2_data" / "office"
    return folder if (folder / "val.csv").is_file() and (folder / "val").is_dir() else None


def last(run: RunLog) -> Path:
    return run.folder / "last.pt"


def name_of(run: RunLog) -> str:
    return f"{run.name}/epoch_{run.last['epoch']:04d}"
