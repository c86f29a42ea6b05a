"""A run ends bit for bit where it would have ended unbroken, however often and wherever it is interrupted."""

import copy
import dataclasses
import itertools
import json
import math
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import ROOT
from torch import nn

from core import checkpoint
from core.cli import STOPPED, InputError, entry, say
from core.randomness import generator, seed_of, steps_per_epoch
from training import optim, provenance
from training.optim import update_average, warmed_up
from training.provenance import commit, digest, fingerprint
from training.run import CHECK_EVERY, Run
from training.runfolder import MAX_SNAPSHOTS

pytestmark = pytest.mark.usefixtures("quick")
CPU = torch.device("cpu")
VOLATILE = ("seconds", "command", "commit")


@dataclasses.dataclass(frozen=True)
class Recipe:
    epochs: int = 3
    batch_size: int = 4
    lr: float = 0.1
    mean: tuple[float, float] = (0.5, 0.25)


STEPS = 3 * 3  # of the whole run: 14 images are 3 batches of 4


def train(folder, recipe=Recipe(), seed=0, data="fixed", in_a_step=lambda run: None, **options):
    """The loop of p1/train.py, on a linear network and numbers drawn at random; ``in_a_step`` is called in each."""
    inputs = torch.randn(14, 5, generator=generator(0, "inputs"))
    labels = inputs[:, :3].argmax(1)
    torch.manual_seed(seed_of(seed, "weights"))
    network = nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Dropout(0.3), nn.Linear(6, 3))
    average = copy.deepcopy(network)
    optimizer = optim.make("sgd", network, recipe.lr, 1e-3, decay_vectors=False)
    steps = steps_per_epoch(len(inputs), recipe.batch_size)
    run = Run(
        folder, recipe=recipe, data={"train": data}, model=MODEL, seed=seed, device=CPU, watch="accuracy",
        state={"network": network, "average": average, "optimizer": optimizer}, **options,
    )  # fmt: skip
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
        run.end_epoch(
            average.state_dict(),
            lr=optimizer.param_groups[0]["lr"],
            accuracy=accuracy,
        )
    return run


MODEL = {
    "problem": "p1",
    "architecture": "tiny",
    "classes": ("a", "b", "c"),
    "input_size": None,
    "mean": (0.5,) * 3,
    "std": (1.0,) * 3,
    "flip_test": False,
}


def outcome(folder):
    """All that a finished run has left, in a form in which == means bit for bit; but when and how fast it was made."""
    content = {
        str(path.relative_to(folder)): plain(checkpoint.read(path))
        for path in sorted(folder.rglob("[!.]*.pt"))
    }
    assert {"state.pt", "last.pt", "best.pt", "snapshots/epoch_0001.pt"} <= content.keys()
    return content | {"log.jsonl": plain(log(folder))}


def log(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def plain(value):
    if isinstance(value, torch.Tensor):
        return str(value.dtype), tuple(value.shape), value.numpy().tobytes()
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items() if key not in VOLATILE}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def score_epochs(folder, scores, patience=0, patience_from=0, total=None, **options):
    """A run without steps that scores ``scores``, one an epoch; its weights are the epoch's number."""
    options = {
        "recipe": Recipe(),
        "data": {},
        "seed": 0,
        "state": {},
        "device": CPU,
        "model": MODEL,
        "watch": "score",
    } | options
    run = Run(folder, **options)
    for epoch in run.epochs(total or len(scores), patience, patience_from):
        run.end_epoch({"epoch": torch.tensor([epoch + 1])}, score=scores[epoch])
    return run


def epoch_of(path):
    """The epoch that a checkpoint is of, by its weights and by its own account."""
    loaded = checkpoint.load(path, "p1")
    assert loaded.made["epoch"] == loaded.weights["epoch"].item()
    return loaded.made["epoch"]


class Interrupted(Exception):
    pass


def interrupt_at(step):
    def in_a_step(run):
        if run.total_steps == step:
            raise Interrupted

    return in_a_step


# --- interruptions ----------------------------------------------------------------------------------------------------


def test_a_run_is_a_function_of_its_seed(tmp_path):
    for name, seed in [("a", 0), ("b", 0), ("c", 1)]:
        train(tmp_path / name, seed=seed)
    assert outcome(tmp_path / "a") == outcome(tmp_path / "b")
    for name in ("state.pt", "last.pt", "log.jsonl"):
        assert outcome(tmp_path / "a")[name] != outcome(tmp_path / "c")[name]


def test_a_run_stopped_by_its_budget_after_every_step_ends_where_an_unbroken_one_does(tmp_path):
    train(tmp_path / "unbroken")
    for _ in range(STEPS):
        with pytest.raises(SystemExit) as stop:
            train(tmp_path / "stopped", stop_at=0)
        assert stop.value.code == STOPPED == 75
    train(tmp_path / "stopped", stop_at=0)  # no step is left, so nothing is there to stop after
    assert outcome(tmp_path / "stopped") == outcome(tmp_path / "unbroken")


@pytest.mark.parametrize("save_minutes", [0, 5], ids=["saved at each step", "saved at each epoch"])
@pytest.mark.parametrize("step", range(STEPS))
def test_a_run_that_fails_in_any_step_ends_where_an_unbroken_one_does(tmp_path, step, save_minutes):
    train(tmp_path / "unbroken")
    with pytest.raises(Interrupted):
        train(tmp_path / "failed", in_a_step=interrupt_at(step), save_minutes=save_minutes)
    seen = []
    train(
        tmp_path / "failed",
        in_a_step=lambda run: seen.append(run.total_steps),
        save_minutes=save_minutes,
    )
    assert seen == list(range(step if save_minutes == 0 else step - step % 3, STEPS)), (
        "no step is lost, none is done twice"
    )
    assert outcome(tmp_path / "failed") == outcome(tmp_path / "unbroken")


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_run_that_ends_at_any_of_its_writes_goes_on_to_where_an_unbroken_one_ends(
    tmp_path, monkeypatch, moment
):
    replace, writes = os.replace, itertools.count()

    def fatal(at):
        def count_and_replace(*paths):
            number = next(writes)
            if number != at or moment == "after":
                replace(*paths)
            if number == at:
                raise Interrupted

        return count_and_replace

    monkeypatch.setattr(os, "replace", fatal(at=None))
    train(tmp_path / "unbroken")
    total = next(writes)
    # run.json; of each epoch the last, the snapshot, the state and the log, and as each is the best so far the best, renamed;
    # the state before the first evaluation, as nothing says how long that will take; the log.
    assert total == 1 + 3 * 4 + 3 * 2 + 1 + 1
    for at in range(total):
        writes = itertools.count()
        monkeypatch.setattr(os, "replace", fatal(at))
        with pytest.raises(Interrupted):
            train(tmp_path / str(at))
        train(tmp_path / str(at))
        assert outcome(tmp_path / str(at)) == outcome(tmp_path / "unbroken"), at


LONG = Recipe(epochs=12)


def start(folder):
    """This file as a program of its own that trains LONG, slowly enough to be caught at it; a line a step."""
    command, environment = (
        [sys.executable, __file__, folder],
        os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"},
    )
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def program():
    def report(run):
        say(f"step {run.total_steps}")
        time.sleep(0.02)

    train(Path(sys.argv[1]), LONG, in_a_step=report, save_minutes=0)


def wait_for_steps(process, count):
    while count:
        count -= next(process.stdout).startswith("step")


def test_a_run_killed_at_random_moments_ends_where_an_unbroken_one_does(tmp_path):
    train(tmp_path / "unbroken", LONG)
    moments = random.Random(0)
    for _ in range(3):
        with start(tmp_path / "killed") as process:
            wait_for_steps(process, moments.randint(1, 6))
            time.sleep(moments.uniform(0, 0.03))
            process.kill()
        assert process.returncode == -signal.SIGKILL
    train(tmp_path / "killed", LONG)
    assert outcome(tmp_path / "killed") == outcome(tmp_path / "unbroken")


def test_a_full_disk_stops_with_one_line_and_the_old_files_whole(tmp_path, capsys):
    def fill(
        run,
    ):  # no file may grow past 3 kB from here on: the state has more, and its zip cannot be closed either
        if run.total_steps == 4:
            resource.setrlimit(resource.RLIMIT_FSIZE, (3000, limits[1]))

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with pytest.raises(SystemExit) as stop:
            entry(lambda: train(tmp_path / "broken", in_a_step=fill, save_minutes=0))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.count("\n") == 1
    assert f"cannot write {tmp_path / 'broken/state.pt'}: File too large" in error
    assert not list((tmp_path / "broken").rglob("*.part"))
    assert checkpoint.read(tmp_path / "broken/state.pt")["total_steps"] == 4
    train(tmp_path / "broken")
    train(tmp_path / "unbroken")
    assert outcome(tmp_path / "broken") == outcome(tmp_path / "unbroken")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_program_after_its_step_with_status_75_and_the_same_command_goes_on(
    tmp_path, number
):
    train(tmp_path / "unbroken", LONG)
    with start(tmp_path / "stopped") as process:
        wait_for_steps(process, 4)
        process.send_signal(number)
        rest = process.stdout.read().splitlines()
    assert process.returncode == STOPPED
    assert f"stopped by {number.name} after step" in rest[-1] and rest[-1].endswith(
        "the same command goes on"
    )
    seen = []
    train(tmp_path / "stopped", LONG, in_a_step=lambda run: seen.append(run.total_steps))
    assert 4 <= seen[0] < 12 and seen == list(range(seen[0], 36))
    assert outcome(tmp_path / "stopped") == outcome(tmp_path / "unbroken")


def test_a_second_signal_does_not_wait_for_the_step_and_loses_no_more_than_it(
    tmp_path, monkeypatch
):
    clock = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])

    def twice(run):
        if run.total_steps == 4:
            signal.raise_signal(signal.SIGINT)
            clock[0] += 2
            signal.raise_signal(signal.SIGINT)

    train(tmp_path / "unbroken")
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "stopped", in_a_step=twice, save_minutes=0)
    seen = []
    train(tmp_path / "stopped", in_a_step=lambda run: seen.append(run.total_steps))
    assert seen[0] == 4 and outcome(tmp_path / "stopped") == outcome(tmp_path / "unbroken")


def test_one_request_that_comes_twice_is_one(tmp_path):
    def told_by_two(run):  # as by a service manager and by torchrun
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)

    with pytest.raises(SystemExit) as stop:
        train(tmp_path, in_a_step=told_by_two)
    assert stop.value.code == STOPPED and checkpoint.read(tmp_path / "state.pt")["total_steps"] == 1


@pytest.mark.parametrize("what", ["budget", "signal"])
def test_what_asks_to_stop_during_an_evaluation_stops_before_the_next_epoch(
    tmp_path, monkeypatch, capsys, what
):
    clock, seen = [0.0], []
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    counter = nn.Linear(1, 1)
    run = Run(
        tmp_path,
        recipe=Recipe(),
        data={},
        model=MODEL,
        seed=0,
        state={"c": counter},
        device=CPU,
        watch="loss",
        stop_at=60,
    )
    with pytest.raises(SystemExit) as stop:
        for epoch in run.epochs(3):
            for _ in run.batches(4, 1):
                seen.append(epoch)
                run.step(loss=torch.tensor(1.0))
            run.begin_evaluation()
            if what == "budget":
                clock[0] += 90
            else:
                signal.raise_signal(signal.SIGTERM)
            run.end_epoch(counter.state_dict())
    assert stop.value.code == STOPPED and seen == [0] * 4
    assert "after epoch 1; the same command goes on" in capsys.readouterr().out


def test_an_evaluation_that_would_end_too_late_is_left_to_the_next_start(
    tmp_path, monkeypatch, capsys
):
    clock, seen, evaluations = [0.0], [], []
    monkeypatch.setattr("time.monotonic", lambda: clock[0])

    def epochs_of_two_minutes(stop_at):
        counter = nn.Linear(1, 1)
        run = Run(
            tmp_path,
            recipe=Recipe(),
            data={},
            model=MODEL,
            seed=0,
            state={"c": counter},
            device=CPU,
            watch="loss",
            stop_at=stop_at,
        )
        for epoch in run.epochs(3):
            for _ in run.batches(4, 1):
                clock[0] += 15
                seen.append((epoch, run.next_step))
                run.step(loss=torch.tensor(1.0))
            run.begin_evaluation()
            clock[0] += 60
            evaluations.append(epoch)
            run.end_epoch(counter.state_dict())

    with pytest.raises(SystemExit) as stop:
        epochs_of_two_minutes(
            stop_at=200
        )  # is 180 after the second epoch's steps, and evaluating takes 60
    assert stop.value.code == STOPPED and clock[0] == 180 and evaluations == [0]
    assert (
        "stopped by --max-minutes after step 4 of epoch 2; the same command goes on"
        in capsys.readouterr().out
    )
    epochs_of_two_minutes(stop_at=math.inf)
    assert evaluations == [0, 1, 2] and seen == [
        (epoch, step) for epoch in range(3) for step in range(4)
    ]


def test_no_more_than_save_minutes_are_lost_and_a_budget_is_kept_to_the_step(tmp_path, monkeypatch):
    clock = SimpleNamespace(minutes=0, monotonic=lambda: 60 * clock.minutes)
    monkeypatch.setattr("training.run.time", clock)

    recipe = Recipe(epochs=1, batch_size=2)  # 7 steps
    seen = []

    def a_minute_each(run):
        seen.append(run.total_steps)
        clock.minutes += 1
        if len(seen) == 6:
            raise Interrupted

    with pytest.raises(Interrupted):
        train(tmp_path, recipe, in_a_step=a_minute_each, save_minutes=2)
    with pytest.raises(SystemExit):
        train(tmp_path, recipe, in_a_step=a_minute_each, stop_at=60 * (clock.minutes + 3))
    assert seen == [0, 1, 2, 3, 4, 5] + [4, 5, 6], (
        "saved after two steps and after four; stopped after three more"
    )


def test_the_seconds_in_the_log_count_the_saving_too(tmp_path, quick, monkeypatch):
    clock, save, write = [0.0], checkpoint.save, checkpoint.write

    def slow_save(path, content):
        clock[0] += 10
        save(path, content)

    def slow_write(path, content):  # of the state, and once more of each checkpoint
        clock[0] += 1
        write(path, content)

    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    monkeypatch.setattr("core.checkpoint.save", slow_save)
    monkeypatch.setattr("core.checkpoint.write", slow_write)
    train(tmp_path)
    seconds = [line["seconds"] for line in log(tmp_path)]
    assert len(seconds) == 3 and all(value >= 22 for value in seconds)  # last.pt and a snapshot
    assert sum(seconds) == clock[0] - 1  # nothing is logged after the last epoch's state


def test_an_epochs_seconds_count_what_was_done_before_an_interruption(tmp_path, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])

    def a_minute_each(run):
        clock[0] += 60
        interrupt_at(4)(run)

    with pytest.raises(Interrupted):
        train(tmp_path, in_a_step=a_minute_each, save_minutes=0)
    clock[0] += 10_000  # the machine was off
    train(tmp_path, in_a_step=lambda run: clock.__setitem__(0, clock[0] + 60))
    assert [line["seconds"] for line in log(tmp_path)] == [180, 180, 180]


@pytest.mark.parametrize("killed", [0, 1])
def test_a_kill_during_an_evaluation_loses_no_more_than_save_minutes(tmp_path, monkeypatch, killed):
    clock, seen = [0.0], []
    monkeypatch.setattr("time.monotonic", lambda: clock[0])

    def epochs_of_a_minute(evaluate):
        counter = nn.Linear(1, 1)
        run = Run(
            tmp_path,
            recipe=Recipe(),
            data={},
            model=MODEL,
            seed=0,
            state={"c": counter},
            device=CPU,
            watch="loss",
            save_minutes=5,
        )
        for epoch in run.epochs(3):
            for _ in run.batches(4, 1):
                clock[0] += 15
                seen.append((epoch, run.next_step))
                run.step(loss=torch.tensor(1.0))
            run.begin_evaluation()
            evaluate(epoch)
            run.end_epoch(counter.state_dict())

    def evaluate(epoch):
        clock[0] += 270
        if epoch == killed:
            raise Interrupted

    with pytest.raises(Interrupted):
        epochs_of_a_minute(evaluate)
    del seen[:]
    epochs_of_a_minute(lambda epoch: None)
    assert seen == [(epoch, step) for epoch in range(killed + 1, 3) for step in range(4)]


def test_a_batch_that_is_too_small_for_the_network_is_refused(tmp_path):
    run = Run(
        tmp_path, recipe=Recipe(), data={}, model=MODEL, seed=0, state={}, device=CPU, watch="loss"
    )
    with pytest.raises(
        InputError, match="a batch has 1 image for each process; this network needs 2 or more"
    ):
        list(run.batches(4, 1, at_least=2))


def test_a_finished_run_does_nothing_more(tmp_path):
    train(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.pt")}
    train(tmp_path, in_a_step=lambda run: pytest.fail("a step too many"))
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.pt")} == before


@pytest.mark.parametrize("when", ["half-way", "at the end"])
def test_a_log_that_was_deleted_is_written_again(tmp_path, when):
    train(tmp_path / "unbroken")
    if when == "half-way":
        with pytest.raises(Interrupted):
            train(tmp_path / "other", in_a_step=interrupt_at(7))
    else:
        train(tmp_path / "other")
    (tmp_path / "other" / "log.jsonl").unlink()
    train(tmp_path / "other")
    assert outcome(tmp_path / "other") == outcome(tmp_path / "unbroken")


# --- another run in the folder ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("other", "says"),
    [
        ({"recipe": Recipe(lr=0.2)}, "recipe.lr was 0.1, is now 0.2"),
        ({"recipe": Recipe(mean=(0.5, 0.3))}, "recipe.mean was [0.5, 0.25], is now [0.5, 0.3]"),
        ({"data": "another"}, "data.train was 'fixed', is now 'another'"),
        ({"seed": 3}, "seed was 0, is now 3"),
        (
            {"seed": 3, "recipe": Recipe(lr=0.2, epochs=9)},
            "recipe.epochs was 3, is now 9; recipe.lr was 0.1, is now 0.2; seed",
        ),
    ],
)
def test_a_changed_recipe_data_set_or_seed_is_refused_by_name_and_nothing_is_touched(
    tmp_path, other, says
):
    train(tmp_path / "run")
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*.*")}
    with pytest.raises(InputError) as error:
        train(tmp_path / "run", **other)
    assert (
        says in str(error.value)
        and str(tmp_path / "run") in str(error.value)
        and "--fresh" in str(error.value)
    )
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*.*")} == before


def test_fresh_starts_over_and_keeps_every_older_run_aside(tmp_path, capsys):
    for seed in (0, 1, 2):
        train(tmp_path / "run", seed=seed, fresh=True)
        train(tmp_path / f"unbroken {seed}", seed=seed)
    for name, seed in [("run", 2), ("run.old-2", 1), ("run.old-1", 0)]:
        assert outcome(tmp_path / name) == outcome(tmp_path / f"unbroken {seed}")
    assert f"kept in {tmp_path / 'run.old-2'}" in capsys.readouterr().out


def test_fresh_sets_aside_nothing_that_is_no_run(tmp_path):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "notes").touch()
    train(tmp_path / "runs", fresh=True)
    assert (
        sorted(path.name for path in tmp_path.iterdir()) == ["runs"]
        and (tmp_path / "runs" / "notes").exists()
    )


def test_fresh_renames_a_link_and_not_what_it_leads_to(tmp_path):
    train(tmp_path / "disk" / "run")
    (tmp_path / "run").symlink_to(tmp_path / "disk" / "run")
    train(tmp_path / "run", seed=1, fresh=True)
    assert (tmp_path / "run.old-1").is_symlink() and not (tmp_path / "run").is_symlink()
    assert json.loads((tmp_path / "run.old-1" / "run.json").read_text())["seed"] == 0


def test_a_restart_of_torchruns_goes_on_with_what_fresh_began_and_sets_aside_what_it_did_not(
    tmp_path, monkeypatch
):
    train(tmp_path, seed=1)
    monkeypatch.setattr("training.processes.launch", lambda: "a launch")
    restarts = [0]
    monkeypatch.setattr("training.processes.restarts", lambda: restarts[0])
    before, seen = tmp_path.with_name(f"{tmp_path.name}.old-1"), []
    with pytest.raises(
        Interrupted
    ):  # whether this is a start or a restart: the older run is not this launch's
        train(tmp_path, fresh=True, in_a_step=interrupt_at(4), save_minutes=0)
    restarts[0] = 1
    train(tmp_path, fresh=True, in_a_step=lambda run: seen.append(run.total_steps))
    assert (
        seen[0] == 4 and before.exists() and not before.with_name(f"{tmp_path.name}.old-2").exists()
    )
    restarts[0] = 0  # another launch, which in a container may have the name of the one before
    train(tmp_path, fresh=True, in_a_step=lambda run: seen.append(run.total_steps))
    assert seen[5] == 0 and before.with_name(f"{tmp_path.name}.old-2").exists()


def test_a_disk_that_is_full_at_the_start_is_one_line(tmp_path, monkeypatch, capsys):
    train(tmp_path)
    monkeypatch.setattr("training.processes.launch", lambda: "a launch")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with pytest.raises(SystemExit) as stop:
            entry(
                lambda: (resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1])), train(tmp_path))
            )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    error = capsys.readouterr().err
    assert (
        stop.value.code == 2
        and error.count("\n") == 1
        and f"cannot write {tmp_path / '.lock'}: File too large" in error
    )


@pytest.mark.parametrize("fresh", [False, True])
def test_a_folder_that_another_program_is_training_in_is_left_to_it(tmp_path, fresh):
    with start(tmp_path / "run") as process:
        wait_for_steps(process, 2)
        with pytest.raises(InputError, match="another program is training in"):
            train(tmp_path / "run", LONG, fresh=fresh)
        wait_for_steps(process, 2)
        process.kill()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]
    train(tmp_path / "run", LONG)


def test_what_a_killed_program_was_writing_is_removed_by_the_next(tmp_path):
    (tmp_path / "snapshots").mkdir()
    for left in (".state.pt.abc.part", "snapshots/.epoch_0001.pt.abc.part"):
        (tmp_path / left).write_bytes(b"half")
    (tmp_path / "mine.part").touch()
    train(tmp_path)
    assert [path.name for path in tmp_path.rglob("*.part")] == ["mine.part"]


def test_the_best_epochs_weights_are_kept_until_the_state_knows_of_better_ones(
    tmp_path, monkeypatch
):
    # Killed while it saves the state of a better epoch; done again, as by other processes, that epoch is not as good.
    score_epochs(tmp_path, [0.5, 0.7, 0.1], total=2)

    write = checkpoint.write

    def all_but_the_state(path, content):
        if path.name == "state.pt":
            raise Interrupted
        write(path, content)

    with monkeypatch.context() as broken:
        broken.setattr("core.checkpoint.write", all_but_the_state)
        with pytest.raises(Interrupted):
            score_epochs(tmp_path, [0.5, 0.7, 0.9])
    assert epoch_of(tmp_path / "best.pt") == 2
    score_epochs(tmp_path, [0.5, 0.7, 0.6])
    assert epoch_of(tmp_path / "best.pt") == 2 and checkpoint.load(
        tmp_path / "best.pt", "p1"
    ).scores == {"score": 0.7}
    assert not (tmp_path / "best.next.pt").exists()


def test_a_training_outlives_its_terminal(tmp_path):
    with start(tmp_path / "run") as process:
        wait_for_steps(process, 1)
        process.stdout.close()
        process.wait()
    train(tmp_path / "unbroken", LONG)
    assert process.returncode == 0 and outcome(tmp_path / "run") == outcome(tmp_path / "unbroken")


def test_a_damaged_state_is_refused_by_name(tmp_path):
    train(tmp_path)
    (tmp_path / "state.pt").write_bytes((tmp_path / "state.pt").read_bytes()[:-100])
    with pytest.raises(InputError, match=r"state\.pt: it is cut short or damaged"):
        train(tmp_path)


# --- what a folder holds that no run has written -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        lambda state: state.pop("identity"),
        lambda state: state.pop("epoch"),
        lambda state: state.update(identity=["recipe"]),
        lambda state: state.update(identity={}),
        lambda state: state.update(history=[{}]),
        lambda state: state.update(total_steps="3"),
        lambda state: state.update(history=[1, 2]),
        lambda state: state.update(sums=None),
        lambda state: state["state"].clear(),
        lambda state: state["state"].update(counter=None),
        lambda state: state["state"].update(counter={"weight": 1, "bias": "b"}),
    ],
)
def test_a_state_of_something_else_is_one_line_and_stays_as_it_is(tmp_path, quick, change):
    lose(tmp_path, {}, epochs=1)
    state = checkpoint.read(tmp_path / "state.pt")
    change(state)
    checkpoint.write(tmp_path / "state.pt", state)
    before = (tmp_path / "state.pt").read_bytes()
    with pytest.raises(InputError, match="--fresh") as error:
        lose(tmp_path, {})
    assert "\n" not in str(error.value) and (tmp_path / "state.pt").read_bytes() == before


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", "[" * 100_000, '{"commit": 1}', '{"commit": "a", "continued": 3}']
    + ['{"commit": "a", "continued": [{}]}', '{"commit": "a", "data": []}'],
)
def test_a_run_json_of_something_else_is_as_none(tmp_path, quick, text):
    lose(tmp_path, {}, epochs=1)
    (tmp_path / "run.json").write_text(text)
    lose(tmp_path, {})
    assert json.loads((tmp_path / "run.json").read_text())["commit"] == "0123"


def test_a_finished_run_says_so_and_a_resumed_one_where_it_goes_on(tmp_path, quick, capsys):
    lose(tmp_path, {}, epochs=1)
    capsys.readouterr()
    lose(tmp_path, {}, epochs=1)
    out = capsys.readouterr().out
    assert "resumed" not in out and out.startswith(f"{tmp_path} is done: 1 epochs.")
    lose(tmp_path, {}, epochs=2)
    assert capsys.readouterr().out.startswith(f"resumed {tmp_path} at epoch 2, step 1\n")


# --- losses -----------------------------------------------------------------------------------------------------------


def lose(folder, losses, epochs=2, **options):
    """A run whose loss is ``losses[epoch, step]``, from 1, and 1.0 where nothing is said; 40 steps an epoch."""
    counter = nn.Linear(1, 1)  # stands for what changes in training
    run = Run(
        folder,
        recipe=Recipe(),
        data={},
        model=MODEL,
        seed=0,
        state={"counter": counter},
        device=CPU,
        watch="loss",
        **options,
    )
    for epoch in run.epochs(epochs):
        for step, _ in enumerate(run.batches(40, 1)):
            counter.weight.data += 1
            run.step(
                loss=torch.tensor(losses.get((epoch + 1, step + 1), 1.0)),
                spread=torch.tensor(float(step)),
            )
        run.begin_evaluation()
        run.end_epoch(counter.state_dict())
    return run


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("step", [1, 7, 25, 26, 40])
def test_a_loss_that_is_not_finite_ends_the_run_by_name_and_is_never_saved(tmp_path, value, step):
    lose(tmp_path, {}, epochs=1)
    before = (tmp_path / "state.pt").read_bytes()
    with pytest.raises(InputError, match=f"loss is {value} at step {step} of epoch 2"):
        lose(tmp_path, {(2, step): value})
    assert (tmp_path / "state.pt").read_bytes() == before
    assert (
        len(log(tmp_path)) == 1 and checkpoint.load(tmp_path / "last.pt", "p1").made["epoch"] == 1
    )


def test_a_loss_that_is_not_finite_is_found_out_soon_and_before_any_saving(tmp_path):
    run = Run(
        tmp_path, recipe=Recipe(), data={}, model=MODEL, seed=0, state={}, device=CPU, watch="loss"
    )
    for _ in range(CHECK_EVERY - 1):
        run.step(loss=torch.tensor(math.nan))
    with pytest.raises(InputError, match="step 1 of epoch 1"):
        run.step(loss=torch.tensor(1.0))
    saving = Run(
        tmp_path,
        recipe=Recipe(),
        data={},
        model=MODEL,
        seed=0,
        state={},
        device=CPU,
        watch="loss",
        save_minutes=0,
    )
    with pytest.raises(InputError, match="step 1 of epoch 1"):
        saving.step(loss=torch.tensor(math.nan))
    assert not (tmp_path / "state.pt").exists()


def test_the_log_has_the_means_of_an_epochs_steps_and_the_steps_so_far(tmp_path):
    run = lose(tmp_path, {(2, 1): 41.0})
    first, second = log(tmp_path)
    assert (first["epoch"], first["steps"], first["loss"], first["spread"]) == (1, 40, 1.0, 19.5)
    assert (second["epoch"], second["steps"], second["loss"], second["spread"]) == (
        2,
        80,
        2.0,
        19.5,
    )
    assert run.best_epoch() == 2  # watch may be one of the steps' values


# --- what is kept -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("epochs", [1, 5, 8, 9, 30, 100])
def test_snapshots_are_few_evenly_spread_and_begin_with_the_first_epoch(tmp_path, epochs):
    score_epochs(tmp_path, [0.5] * epochs)
    kept = sorted(epoch_of(path) for path in (tmp_path / "snapshots").iterdir())
    assert kept[0] == 1 and len(kept) <= MAX_SNAPSHOTS == 8
    assert len({later - earlier for earlier, later in itertools.pairwise(kept)}) <= 1
    spacing = kept[1] - kept[0] if len(kept) > 1 else 1
    assert kept[-1] + spacing > epochs, "they reach the end"
    assert len(kept) > min(epochs, MAX_SNAPSHOTS) / 2, "and are not too few"


def test_best_is_the_first_epoch_with_the_highest_score_and_last_the_last(tmp_path):
    run = score_epochs(tmp_path, [0.1, 0.7, 0.3, 0.7, 0.2])
    assert (
        run.best_epoch() == epoch_of(tmp_path / "best.pt") == 2
        and epoch_of(tmp_path / "last.pt") == 5
    )
    assert [line["score"] for line in log(tmp_path)] == [0.1, 0.7, 0.3, 0.7, 0.2]


def test_best_is_the_lowest_where_lower_is_better(tmp_path):
    score_epochs(tmp_path, [0.5, 0.1, 0.3], better=min)
    assert epoch_of(tmp_path / "best.pt") == 2


def test_what_is_noted_of_the_data_is_told_as_it_was_at_first_and_may_change(tmp_path):
    for path, scores in (("here/weights.pt", [0.5]), ("there/weights.pt", [0.5, 0.6])):
        score_epochs(tmp_path, scores, data={"train": "a"}, notes={"pretrained": path})
    noted = {"train": "a", "pretrained": "here/weights.pt"}
    assert json.loads((tmp_path / "run.json").read_text())["data"] == noted
    assert checkpoint.load(tmp_path / "last.pt", "p1").made["data"] == noted


def test_a_checkpoint_says_how_it_was_made_and_what_it_scored(tmp_path):
    train(tmp_path, seed=4)
    last = checkpoint.load(tmp_path / "last.pt", "p1")
    assert last.recipe == {"epochs": 3, "batch_size": 4, "lr": 0.1, "mean": [0.5, 0.25]}
    assert last.scores == {name: log(tmp_path)[-1][name] for name in ("lr", "accuracy")}
    assert (
        last.made["seed"] == 4
        and last.made["epoch"] == 3
        and last.made["data"] == {"train": "fixed"}
    )
    assert last.made["commit"] == "0123" and last.made["command"].startswith("python3 ")
    about = json.loads((tmp_path / "run.json").read_text())
    assert (
        about["recipe"] == last.recipe
        and about["seed"] == 4
        and about["torch"] == torch.__version__
    )


def test_a_run_tells_which_commits_it_was_made_by_and_a_finished_one_keeps_that(
    tmp_path, monkeypatch
):
    def about():
        return json.loads((tmp_path / "run.json").read_text())

    for step, now in ((2, "0123"), (4, "0123"), (5, "4567")):
        monkeypatch.setattr("training.provenance.commit", lambda now=now: now)
        with pytest.raises(Interrupted):
            train(tmp_path, in_a_step=interrupt_at(step), save_minutes=0)
    train(tmp_path)
    told = about()
    assert told["commit"] == "0123" and told["recipe"]["epochs"] == 3
    (later,) = told["continued"]
    assert (later["commit"], later["epoch"], later["step"]) == ("4567", 2, 2)
    assert checkpoint.load(tmp_path / "last.pt", "p1").made["commit"] == "0123, later 4567"
    monkeypatch.setattr("training.provenance.commit", lambda: "89ab")
    train(tmp_path)
    assert about() == told


@pytest.mark.parametrize("text", [None, "", "[]", "{}"])
def test_a_run_whose_account_of_itself_is_lost_or_damaged_goes_on_and_tells_what_it_knows(
    tmp_path, text
):
    with pytest.raises(Interrupted):
        train(tmp_path, in_a_step=interrupt_at(4), save_minutes=0)
    if text is None:
        (tmp_path / "run.json").unlink()
    else:
        (tmp_path / "run.json").write_text(text)
    train(tmp_path)
    told = json.loads((tmp_path / "run.json").read_text())
    assert told["commit"] == "0123" and told["recipe"]["epochs"] == 3 and "continued" not in told


def test_a_score_from_numpy_does_not_make_files_that_cannot_be_read_again(tmp_path):
    score_epochs(tmp_path, [np.float64(0.5), np.float32(0.25)])
    assert score_epochs(tmp_path, [], total=2).best_epoch() == epoch_of(tmp_path / "best.pt") == 1


# --- patience ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("patience", "patience_from", "epochs"),
    [
        (0, 0, 10),
        (1, 0, 3),
        (3, 0, 5),
        (5, 0, 7),
        (6, 0, 10),
        (3, 3, 7),
        (3, 4, 10),
        (2, 4, 7),
        (2, 9, 10),
    ],
)
def test_patience_ends_a_run_after_so_many_epochs_without_a_better_score(
    tmp_path, patience, patience_from, epochs
):
    # The equal score of epoch 4 is no better than epoch 2's; but to patience from epoch 3 on, epoch 2 is nothing.
    scores = [1, 3, 2, 3, 2, 2, 2, 4, 1, 1]
    assert score_epochs(tmp_path, scores, patience, patience_from).epoch == epochs


# --- longer runs, and runs of former versions -------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Scheduled(Recipe):
    name: str = "original"
    source: str = "nowhere"
    schedule: str = "constant"
    added: tuple[int, int] = (1, 2)


@pytest.mark.parametrize("schedule", ["constant", "plateau"])
def test_a_finished_run_goes_on_to_more_epochs_where_its_schedule_allows_it(tmp_path, schedule):
    recipe = Scheduled(epochs=2, schedule=schedule)
    score_epochs(tmp_path, [0.1, 0.3], recipe=recipe)
    longer = dataclasses.replace(recipe, epochs=3)
    assert score_epochs(tmp_path, [0.1, 0.3, 0.2], recipe=longer).epoch == 3
    assert json.loads((tmp_path / "run.json").read_text())["recipe"]["epochs"] == 3
    with pytest.raises(InputError, match="recipe.epochs was 3, is now 1, but 3 are done"):
        score_epochs(tmp_path, [], recipe=dataclasses.replace(recipe, epochs=1))


def test_a_finished_run_under_a_cosine_says_why_it_cannot_be_longer(tmp_path):
    recipe = Scheduled(epochs=2, schedule="cosine")
    score_epochs(tmp_path, [0.1, 0.3], recipe=recipe)
    with pytest.raises(InputError, match="by its schedule every step depends on the number of"):
        score_epochs(tmp_path, [], recipe=dataclasses.replace(recipe, epochs=3))


def test_a_run_of_a_recipe_by_its_former_name_and_fields_goes_on(tmp_path):
    recipe = Scheduled(epochs=2)
    score_epochs(tmp_path, [0.1, 0.3], recipe=recipe, total=1)
    saved = checkpoint.read(tmp_path / "state.pt")
    assert "source" not in saved["identity"]["recipe"]
    saved["identity"]["recipe"]["name"] = "report"
    del saved["identity"]["recipe"]["added"]
    checkpoint.write(tmp_path / "state.pt", saved)
    other = dataclasses.replace(recipe, added=(1, 3))
    with pytest.raises(InputError, match=r"recipe.added was \[1, 2\], is now \[1, 3\]"):
        score_epochs(tmp_path, [], recipe=other)
    assert score_epochs(tmp_path, [0.1, 0.3], recipe=recipe).epoch == 2


def test_patience_is_not_renewed_by_an_interruption(tmp_path):
    scores = [1, 3, 2, 2, 2, 2, 2, 2]
    for total in (1, 2, 3, 4):
        score_epochs(tmp_path, scores, patience=3, total=total)
    assert score_epochs(tmp_path, scores, patience=3).epoch == 5
    assert score_epochs(tmp_path, scores, patience=3).epoch == 5


# --- where it comes from ----------------------------------------------------------------------------------------------


def test_the_commit_is_that_of_the_project_and_not_of_a_folder_round_it(monkeypatch, tmp_path):
    def git(*words):
        command = ["git", "-c", "user.name=a", "-c", "user.email=b", *words]
        return subprocess.run(command, cwd=outer, check=True, capture_output=True, text=True).stdout

    outer, project = tmp_path / "outer", tmp_path / "outer" / "project"
    (project / "core").mkdir(parents=True)
    monkeypatch.setattr(provenance, "__file__", str(project / "core" / "provenance.py"))
    git("init", "-q"), git("commit", "-q", "--allow-empty", "-m", "another project's")
    assert commit() == "unknown"
    monkeypatch.setenv("GIT_DIR", str(outer / ".git"))  # as in a hook of the other project
    assert commit() == "unknown"
    monkeypatch.delenv("GIT_DIR")
    (outer / ".git").rename(project / ".git")
    outer = project
    assert commit() == git("rev-parse", "HEAD")[:12]
    (project / "core" / "new.py").touch()
    git("add", "-A")
    assert commit() == git("rev-parse", "HEAD")[:12] + "-dirty"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert commit() == "unknown"


def test_a_fingerprint_tells_a_data_set_from_a_changed_one(tmp_path):
    paths = [tmp_path / "a.png", tmp_path / "b.png"]
    for path in paths:
        path.write_bytes(b"one")
        os.utime(path, (1, 1))
    prints = [fingerprint(paths), fingerprint(paths[:1]), fingerprint(paths[::-1])]
    paths[0].write_bytes(b"more")
    os.utime(paths[0], (1, 1))
    prints.append(fingerprint(paths))
    paths[0].write_bytes(b"two")
    os.utime(paths[0], (2, 2))
    prints.append(fingerprint(paths))
    assert len(set(prints)) == 5 and fingerprint(paths) == prints[-1]


def test_content_is_known_again_wherever_and_whenever_it_was_made(tmp_path):
    images = torch.randint(0, 256, (5, 3, 7, 9), dtype=torch.uint8)
    labels, table, moved = torch.arange(5), tmp_path / "a.csv", tmp_path / "b.csv"
    table.write_bytes(b"0,a.png,3")
    before = digest(images, labels, table)
    moved.write_bytes(b"0,a.png,3")
    os.utime(moved, (1, 1))
    assert digest(images.clone(memory_format=torch.channels_last), labels, moved) == before
    other = images.clone()
    other[4, 2, 6, 8] ^= 1
    moved.write_bytes(b"0,a.png,4")
    changed = [(other, labels, table), (images, labels.flip(0), table), (images, labels, moved), (images[:4], labels, table),
               (images.flip(0), labels, table), (images.view(5, 3, 9, 7), labels, table), (images, table)]  # fmt: skip
    assert len({before, *(digest(*parts) for parts in changed)}) == 8


def test_content_of_many_pieces_is_that_of_their_bytes(monkeypatch):
    images = torch.randint(0, 256, (40, 3, 7, 9), dtype=torch.uint8)
    monkeypatch.setattr("training.provenance.PIECE", 400)
    before = digest(images)
    for image in range(40):
        changed = images.clone()
        changed[image, 0, 0, 0] ^= 1
        assert digest(changed) != before


if __name__ == "__main__":
    entry(program)


def test_a_folder_whose_state_was_deleted_is_not_overwritten(tmp_path):
    score_epochs(tmp_path / "run", [0.1, 0.2])
    before = (tmp_path / "run" / "last.pt").read_bytes()
    (tmp_path / "run" / "state.pt").unlink()
    with pytest.raises(InputError, match="without its state.pt"):
        score_epochs(tmp_path / "run", [0.1, 0.2])
    assert (tmp_path / "run" / "last.pt").read_bytes() == before


def test_a_state_of_other_code_is_refused_in_one_line(tmp_path):
    score_epochs(tmp_path / "run", [0.1], state={"network": nn.Linear(2, 2)})
    for state in ({"network": nn.Linear(3, 2)}, {"other": nn.Linear(2, 2)}):
        with pytest.raises(InputError, match="made by other code"):
            score_epochs(tmp_path / "run", [0.1], state=state)


def test_a_score_that_is_no_number_is_never_the_best(tmp_path):
    run = score_epochs(tmp_path / "run", [float("nan"), 0.1, float("nan"), 0.3, 0.2])
    assert run.best_epoch() == 4 and epoch_of(tmp_path / "run" / "best.pt") == 4
