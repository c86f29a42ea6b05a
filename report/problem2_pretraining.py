"""The first part of problem 2's section: BYOL, the two kinds of pre-training, and kNN probes."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path

from p2 import data, knn
from prediction.tables import read_rows
from report import charts, recipes
from report import problem2_figures as figures
from report.measures import FETCH, INTERVAL, Computed, Measured, Site
from report.page import Block, Drawing, Gap, Grid, Heading, Parts, Table, Text, logged, unfinished
from report.runs import RunLog

STARTS = {"nothing": "nothing", "byol": "BYOL", "labels": "with labels"}
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
    parts = figures.parts(networks)
    features, *_ = figures.widths(parts["projector"])
    shapes = {"backbone": f"3 x {data.SIZE} x {data.SIZE} → {features}"} | {
        name: " → ".join(map(str, figures.widths(parts[name])))
        for name in ("projector", "predictor")
    }
    yield Heading("How BYOL works", 3)
    yield Drawing(
        figures.method(networks),
        "From one view, the online network learns to predict what the target network computes "
        "from the other. The target gets no gradients; it is a moving average (EMA) of the online "
        "network. After pre-training only the backbone is kept.",
        "Two columns: view 1 passes the online backbone, projector and predictor; view 2 passes "
        "the target's backbone and projector and a stop-gradient; both end in the loss",
    )
    yield Table(
        "The parts of BYOL, read from its modules.",
        [
            {
                "part": part,
                "sizes": shape,
                "parameters": sizes.value(name, 0),
                "updated by": updated_by,
            }
            for part, shape, name, updated_by in (
                *((name, shape, name, "gradient") for name, shape in shapes.items()),
                ("target: backbone and projector", "as in the online network", "target", "average"),
                ("all that have gradients", "", "trained", ""),
            )
        ],
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
        {
            STARTS[start]: {
                **recipes.made(site, run, "random"),
                **{
                    LOGGED[name]: logged(run, run.last, name) for name in LOGGED if name in run.last
                },
            }
            for start, run in runs.items()
        },
        runs.values(),
    )
    if "byol" in runs:
        views = runs["byol"].metadata["recipe"]["views"]
        yield recipes.table(
            "BYOL's two views. In addition, each is mirrored with probability 1/2. Every image "
            "gets its own random draws.",
            {f"view {k}": recipes.in_words(view) for k, view in enumerate(views, 1)},
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
                unit = LOGGED.get(name, "accuracy of the kNN probe")
                figure = charts.lines({what: (epochs, values)}, x="epoch", y=unit)
                caption, alt = f"Pre-training, {what}.", f"Curve over the epochs, {what}"
                drawn.append(Drawing(figure, caption, alt, (run,)))
    if drawn:
        yield Grid(*drawn)
    yield from probes(site, runs)


def probes(site: Site, runs: dict[str, RunLog]) -> Iterator[Block]:
    folder = site.data / "p2_data" / "office"
    tables = [folder / "train.csv", folder / "val.csv"]
    there = office(site) is not None and tables[0].is_file()
    # Loaded once for all backbones, and only if one has to be measured.
    images = functools.cache(lambda: knn.load(folder))

    def measure(key: str, run: RunLog, path: Path | None) -> Measured:
        def compute() -> Computed:
            return figures.probed(run, path, images(), site.device)

        images_in = [folder / "train", folder / "val"]
        made_from = [*tables, *images_in, *([path] if path else [])]
        return site.measures.of(f"{key}/knn", made_from, compute)

    header = ("pre-training", "accuracy", "95 % interval", "measured")
    rows: list[tuple[Parts, ...]] = []
    for start, run in runs.items():
        name = STARTS[start]
        if "knn" in run.last:
            accuracy = logged(run, run.last, "knn")
            rows.append((name, accuracy, interval(site, run, "knn"), "in training"))
        elif there and run.checkpoint.is_file():
            probe = measure(run.key(), run, run.checkpoint)
            accuracy = probe.value("knn")
            rows.append((name, accuracy, probe.words(INTERVAL), "by this report, on last.pt"))
        elif not there:
            yield Gap(
                f"the kNN probe of a pre-training run ({name}), as the images of office "
                "are not here.",
                FETCH,
            )
        else:
            yield Gap(
                f"the kNN probe of {run.name}, as its last.pt is not here.", run.metadata["command"]
            )
    if there and rows:
        run = next(iter(runs.values()))
        seed = run.metadata["seed"]
        probe = measure(f"p2/random_backbone_{seed}", run, None)
        name = f"nothing: random weights, seed {seed}"
        rows.append((name, probe.value("knn"), probe.words(INTERVAL), "by this report"))
    if rows:
        yield Table(
            f"kNN probe: the images of office/val are classified by the {knn.NEIGHBOURS} nearest "
            "features of office/train, without any training on them. The random backbone is the "
            "one from which pre-training with this seed starts: pre-training has to beat it.",
            [dict(zip(header, row, strict=True)) for row in rows],
            tuple(runs.values()),
        )


def interval(site: Site, run: RunLog, name: str) -> Parts:
    """Return the interval of the last accuracy on office/val that a run logged.

    Returns "-" if the images are missing, or are not as many as the accuracy was measured on.
    """
    folder = office(site)
    if folder is None:
        return "-"
    table = folder / "val.csv"
    count = len(read_rows(table, ("filename", "label")))
    return site.interval(f"{run.key()}/{name}_interval", run, name, table, count) or "-"


def office(site: Site) -> Path | None:
    """Return the folder of the labelled images; None if they are missing."""
    folder = site.data / "p2_data" / "office"
    return folder if all(path.exists() for path in validation(site)) else None


def validation(site: Site) -> list[Path]:
    """Return what a measure on office/val is made from, apart from a checkpoint."""
    folder = site.data / "p2_data" / "office"
    return [folder / "val.csv", folder / "val"]
