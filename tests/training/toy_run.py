"""A run of the smallest network there is, for the tests of runs; as a program it can be held."""

import contextlib
import copy
import dataclasses
import functools
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import torch
from conftest import ROOT, log
from torch import nn

from core import checkpoint
from core.cli import entry, say
from core.randomness import generator, seed_of, steps_per_epoch
from training import optim
from training.optim import update_average, warmed_up
from training.run import Run

CPU = torch.device("cpu")
VOLATILE = ("seconds", "command", "commit")
MODEL = {
    "problem": "p1",
    "architecture": "tiny",
    "classes": ("a", "b", "c"),
    "input_size": None,
    "mean": (0.5,) * 3,
    "std": (1.0,) * 3,
    "flip_test": False,
}


@dataclasses.dataclass(frozen=True)
class Recipe:
    epochs: int = 3
    batch_size: int = 4
    lr: float = 0.1
    mean: tuple[float, float] = (0.5, 0.25)


@dataclasses.dataclass(frozen=True)
class Scheduled(Recipe):
    name: str = "original"
    source: str = "nowhere"
    schedule: str = "constant"
    added: tuple[int, int] = (1, 2)


LONG = Recipe(epochs=12)
STEPS = 3 * 3  # of the whole run: 14 images are 3 batches of 4


def train(folder, recipe=Recipe(), seed=0, data="fixed", in_a_step=lambda run: None, **options):
    """The loop of p1/train.py on a small network and random numbers, with a call in each step."""
    inputs = torch.randn(14, 5, generator=generator(0, "inputs"))
    labels = inputs[:, :3].argmax(1)
    torch.manual_seed(seed_of(seed, "weights"))
    network = nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Dropout(0.3), nn.Linear(6, 3))
    average = copy.deepcopy(network)
    optimizer = optim.make("sgd", network, recipe.lr, 1e-3, decay_vectors=False)
    steps = steps_per_epoch(len(inputs), recipe.batch_size)
    run = Run(
        folder,
        recipe=recipe,
        data={"train": data},
        model=MODEL,
        seed=seed,
        device=CPU,
        watch="accuracy",
        state={"network": network, "average": average, "optimizer": optimizer},
        **options,
    )
    for _ in run.epochs(recipe.epochs):
        network.train()
        for index in run.batches(len(inputs), recipe.batch_size):
            factor = optim.warmup_cosine(run.total_steps, steps, recipe.epochs * steps)
            optim.set_lr(optimizer, recipe.lr * factor)
            noise = torch.randn(len(index), 5, generator=generator(*run.keys()))
            loss = nn.functional.cross_entropy(network(inputs[index] + 0.1 * noise), labels[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            update_average(average, network, warmed_up(0.9, run.total_steps))
            in_a_step(run)
            run.step(loss=loss)
        run.begin_evaluation()
        average.eval()
        accuracy = (average(inputs).argmax(1) == labels).float().mean().item()
        rate = optimizer.param_groups[0]["lr"]
        run.end_epoch(average.state_dict(), lr=rate, accuracy=accuracy)
    return run


class Interrupted(Exception):
    pass


def steps_of(folder, *arguments, fail_at=None, in_a_step=lambda run: None, **options):
    """Train; return the numbers of the steps taken, before the run fails in step ``fail_at``."""
    taken = []

    def fail_or_count(run):
        in_a_step(run)
        if run.total_steps == fail_at:
            raise Interrupted
        taken.append(run.total_steps)

    with contextlib.nullcontext() if fail_at is None else pytest.raises(Interrupted):
        train(folder, *arguments, in_a_step=fail_or_count, **options)
    return taken


def outcome(folder):
    """All that a finished run has left but times, so that == means bit for bit."""
    content = {
        str(path.relative_to(folder)): plain(checkpoint.read(path))
        for path in sorted(folder.rglob("[!.]*.pt"))
    }
    assert {"state.pt", "last.pt", "best.pt", "snapshots/epoch_0001.pt"} <= content.keys()
    return content | {"log.jsonl": plain(log(folder))}


@functools.cache
def undisturbed(recipe=Recipe(), seed=0):
    """The outcome of a run that nobody interrupts."""
    with tempfile.TemporaryDirectory() as folder:
        train(Path(folder) / "run", recipe, seed)
        return outcome(Path(folder) / "run")


def plain(value):
    if isinstance(value, torch.Tensor):
        return str(value.dtype), tuple(value.shape), value.numpy().tobytes()
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items() if key not in VOLATILE}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def new_run(folder, **options):
    """A run of nothing, watched by its loss, unless ``options`` say otherwise."""
    usual = {"recipe": Recipe(), "data": {}, "model": MODEL, "seed": 0, "state": {}}
    return Run(folder, **usual | {"device": CPU, "watch": "loss"} | options)


def score_epochs(folder, scores, patience=0, patience_from=0, total=None, **options):
    """A run without steps with the ``scores`` of its epochs; an epoch's number is its weights."""
    run = new_run(folder, watch="score", **options)
    for epoch in run.epochs(total or len(scores), patience, patience_from):
        run.end_epoch({"epoch": torch.tensor([epoch + 1])}, score=scores[epoch])
    return run


def epoch_of(path):
    """The epoch that a checkpoint is of, by its weights and by its own account."""
    loaded = checkpoint.load(path, "p1")
    assert loaded.made["epoch"] == loaded.weights["epoch"].item()
    return loaded.made["epoch"]


def lose(
    folder,
    losses=None,
    epochs=2,
    steps=40,
    in_a_step=lambda run: None,
    evaluate=lambda epoch: None,
    **options,
):
    """A run of nothing whose loss is ``losses[epoch, step]``, from 1, else 1.0."""
    counter = nn.Linear(1, 1)  # stands for what changes in training
    run = new_run(folder, state={"counter": counter}, **options)
    for epoch in run.epochs(epochs):
        for step, _ in enumerate(run.batches(steps, 1)):
            counter.weight.data += 1
            in_a_step(run)
            run.step(
                loss=torch.tensor((losses or {}).get((epoch + 1, step + 1), 1.0)),
                spread=torch.tensor(float(step)),
            )
        run.begin_evaluation()
        evaluate(epoch)
        run.end_epoch(counter.state_dict())
    return run


def start(folder, hold):
    """The toy as a program of its own, which waits after ``hold`` steps for the file "go"."""
    command = [sys.executable, __file__, str(folder), str(hold)]
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def wait_for_steps(process, count):
    while count:
        count -= next(process.stdout).startswith("step")


def program():
    """Train LONG, saved and said at each step; after ``hold`` steps wait for the file "go"."""
    folder, hold = Path(sys.argv[1]), int(sys.argv[2])
    said = 0

    def report(run):
        nonlocal said
        said += 1
        say(f"step {run.total_steps}")
        end = time.monotonic() + 60  # a test that has failed writes no "go"
        while said == hold and not folder.with_name("go").exists() and time.monotonic() < end:
            time.sleep(0.01)

    train(folder, LONG, in_a_step=report, save_minutes=0)


if __name__ == "__main__":
    entry(program)
