"""A run ends bit for bit where an unbroken one ends, wherever it is interrupted."""

import dataclasses
import itertools
import json
import math
import os
import random
import resource
import signal
import time

import numpy as np
import pytest
import torch
from conftest import log
from toy_run import (
    LONG,
    STEPS,
    Interrupted,
    Recipe,
    Scheduled,
    epoch_of,
    lose,
    new_run,
    outcome,
    score_epochs,
    start,
    steps_of,
    train,
    undisturbed,
    wait_for_steps,
)

from core import checkpoint
from core.cli import STOPPED, InputError, entry
from training.values import CHECK_EVERY

pytestmark = pytest.mark.usefixtures("quick")


def test_a_run_is_a_function_of_its_seed(tmp_path):
    train(tmp_path)
    assert outcome(tmp_path) == undisturbed()
    for name in ("state.pt", "last.pt", "log.jsonl"):
        assert undisturbed()[name] != undisturbed(seed=1)[name]


def test_a_run_stopped_by_its_budget_after_every_step_ends_where_an_unbroken_one_does(tmp_path):
    for _ in range(STEPS):
        with pytest.raises(SystemExit) as stop:
            train(tmp_path, stop_at=0)
        assert stop.value.code == STOPPED == 75
    train(tmp_path, stop_at=0)  # no step is left, so nothing is there to stop after
    assert outcome(tmp_path) == undisturbed()


@pytest.mark.parametrize("save_minutes", [0, 5], ids=["saved at each step", "saved at each epoch"])
def test_a_run_that_fails_in_every_step_ends_where_an_unbroken_one_does(tmp_path, save_minutes):
    saved = 0
    for step in (*range(STEPS), None):
        taken = steps_of(tmp_path, fail_at=step, save_minutes=save_minutes)
        assert taken == list(range(saved, STEPS if step is None else step)), (
            "no step is lost, none is done twice"
        )
        saved = step if save_minutes == 0 or step is None else step - step % 3
    assert outcome(tmp_path) == undisturbed()


def test_a_run_that_ends_at_any_of_its_writes_goes_on_to_where_an_unbroken_one_ends(
    tmp_path, monkeypatch
):
    undisturbed()  # before anything fails
    replace = os.replace
    for at in itertools.count():
        folder, writes = tmp_path / f"failed {at}", itertools.count()

        def fatal(*paths, at=at, writes=writes):
            if next(writes) == at:
                raise Interrupted
            replace(*paths)

        monkeypatch.setattr(os, "replace", fatal)
        try:
            train(folder)
        except Interrupted:
            train(folder)
        assert outcome(folder) == undisturbed(), at
        if next(writes) <= at:  # this write is one too many
            break
    assert at > 3 * 4, "each epoch's log, state, last and best weights"


def test_a_run_killed_and_told_to_stop_and_left_by_its_terminal_ends_where_an_unbroken_one_does(
    tmp_path,
):
    moments, run = random.Random(0), tmp_path / "run"
    with start(run, hold=8) as process:
        wait_for_steps(process, moments.randint(1, 6))
        time.sleep(moments.uniform(0, 0.03))
        process.kill()
    assert process.returncode == -signal.SIGKILL
    for number in (signal.SIGTERM, signal.SIGINT):
        with start(run, hold=5) as process:
            wait_for_steps(process, 5)
            before = checkpoint.read(run / "state.pt")["total_steps"]
            process.send_signal(number)
            (tmp_path / "go").touch()
            rest = process.stdout.read().splitlines()
        assert process.returncode == STOPPED
        assert rest[-1].startswith(f"stopped by {number.name} after step ")
        assert rest[-1].endswith("run the same command to continue")
        assert checkpoint.read(run / "state.pt")["total_steps"] == before + 1
        (tmp_path / "go").unlink()
    with start(run, hold=0) as process:
        wait_for_steps(process, 1)
        process.stdout.close()
    assert process.returncode == 0 and outcome(run) == undisturbed(LONG)


def test_a_full_disk_stops_with_one_line_and_the_old_files_whole(tmp_path, capsys):
    def fill(run):  # no file may grow past 3 kB from here on, and the state has more
        if run.total_steps == 4:
            resource.setrlimit(resource.RLIMIT_FSIZE, (3000, limits[1]))

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with pytest.raises(SystemExit) as stop:
            entry(lambda: train(tmp_path, in_a_step=fill, save_minutes=0))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.count("\n") == 1
    assert f"cannot write {tmp_path / 'state.pt'}: File too large" in error
    assert not list(tmp_path.rglob("*.part"))
    assert steps_of(tmp_path)[0] == 4 and outcome(tmp_path) == undisturbed()


def test_a_second_signal_does_not_wait_for_the_step_and_loses_no_more_than_it(
    tmp_path, clock, capfd
):
    def twice(run):
        if run.total_steps == 4:
            signal.raise_signal(signal.SIGINT)
            clock[0] += 2
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, in_a_step=twice, save_minutes=0)
    assert capfd.readouterr().err.count("stopping after this step or validation") == 1
    assert steps_of(tmp_path)[0] == 4 and outcome(tmp_path) == undisturbed()


def test_one_request_that_comes_twice_is_one(tmp_path):
    def told_by_two(run):  # as by a service manager and by torchrun
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)

    with pytest.raises(SystemExit) as stop:
        train(tmp_path, in_a_step=told_by_two)
    assert stop.value.code == STOPPED and checkpoint.read(tmp_path / "state.pt")["total_steps"] == 1


@pytest.mark.parametrize("what", ["budget", "signal"])
def test_what_asks_to_stop_during_an_evaluation_stops_before_the_next_epoch(
    tmp_path, clock, capsys, what
):
    def evaluate(epoch):
        if what == "budget":
            clock[0] += 90
        else:
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(SystemExit) as stop:
        lose(tmp_path, steps=4, evaluate=evaluate, stop_at=60)
    assert stop.value.code == STOPPED and len(log(tmp_path)) == 1
    assert "after epoch 1; run the same command to continue" in capsys.readouterr().out


@pytest.fixture
def minutes(tmp_path, clock):
    """Runs of 3 epochs in one folder, each 4 steps of a quarter of a minute: the steps it takes."""

    def run(evaluate=lambda epoch: None, **options):
        def step(run):
            clock[0] += 15
            taken.append((run.epoch, run.next_step))

        taken.clear()
        lose(tmp_path, epochs=3, steps=4, in_a_step=step, evaluate=evaluate, **options)
        return taken

    taken = run.taken = []
    return run


def steps_from(epoch):
    return [(later, step) for later in range(epoch, 3) for step in range(4)]


def test_an_evaluation_that_would_end_too_late_is_left_to_the_next_start(minutes, clock, capsys):
    def evaluate(epoch):
        clock[0] += 60
        evaluated.append(epoch)

    evaluated = []
    with pytest.raises(SystemExit) as stop:
        minutes(evaluate, stop_at=200)  # the second epoch's steps end at 180
    assert stop.value.code == STOPPED and clock[0] == 180 and evaluated == [0]
    stopped = "stopped by --max-minutes after step 4 of epoch 2; run the same command to continue"
    assert stopped in capsys.readouterr().out
    assert minutes(evaluate) == steps_from(2) and evaluated == [0, 1, 2]


@pytest.mark.parametrize("killed", [0, 1])
def test_a_kill_during_an_evaluation_loses_no_more_than_save_minutes(minutes, clock, killed):
    def evaluate(epoch):
        clock[0] += 270
        if epoch == killed:
            raise Interrupted

    with pytest.raises(Interrupted):
        minutes(evaluate, save_minutes=5)
    assert minutes(save_minutes=5) == steps_from(killed + 1)


def test_no_more_than_save_minutes_are_lost_and_a_budget_is_kept_to_the_step(tmp_path, clock):
    def a_minute(run):
        clock[0] += 60
        taken.append(run.total_steps)

    taken, recipe = [], Recipe(epochs=1, batch_size=2)  # 7 steps
    steps_of(tmp_path, recipe, in_a_step=a_minute, fail_at=5, save_minutes=2)
    with pytest.raises(SystemExit):
        train(tmp_path, recipe, in_a_step=a_minute, stop_at=clock[0] + 180)
    assert taken == [0, 1, 2, 3, 4, 5] + [4, 5, 6], (
        "saved after two steps and after four; stopped after three more"
    )


def test_the_seconds_in_the_log_count_the_saving_too(tmp_path, clock, monkeypatch):
    def slow(write, seconds):
        def slowed(*arguments):
            clock[0] += seconds
            write(*arguments)

        return slowed

    # A checkpoint is written by save, which calls write; the state by write alone.
    monkeypatch.setattr("core.checkpoint.save", slow(checkpoint.save, 10))
    monkeypatch.setattr("core.checkpoint.write", slow(checkpoint.write, 1))
    train(tmp_path)
    seconds = [line["seconds"] for line in log(tmp_path)]
    assert len(seconds) == 3 and all(value >= 22 for value in seconds)  # last.pt and a snapshot
    assert sum(seconds) == clock[0] - 1  # nothing is logged after the last epoch's state


def test_an_epochs_seconds_count_what_was_done_before_an_interruption(tmp_path, clock):
    def a_minute(run):
        clock[0] += 60

    steps_of(tmp_path, in_a_step=a_minute, fail_at=4, save_minutes=0)
    clock[0] += 10_000  # the machine was off
    train(tmp_path, in_a_step=a_minute)
    assert [line["seconds"] for line in log(tmp_path)] == [180, 180, 180]


def test_a_finished_run_does_nothing_more(tmp_path):
    train(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.pt")}
    assert steps_of(tmp_path) == []
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.pt")} == before


@pytest.mark.parametrize("fail_at", [7, None], ids=["half-way", "at the end"])
def test_a_log_that_was_deleted_is_written_again(tmp_path, fail_at):
    steps_of(tmp_path, fail_at=fail_at)
    (tmp_path / "log.jsonl").unlink()
    train(tmp_path)
    assert outcome(tmp_path) == undisturbed()


def test_the_best_epochs_weights_are_kept_until_the_state_knows_of_better_ones(
    tmp_path, monkeypatch
):
    # Killed while it saves the state of a better epoch, which is not as good when done again.
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
    assert epoch_of(tmp_path / "best.pt") == 2
    assert checkpoint.load(tmp_path / "best.pt", "p1").scores == {"score": 0.7}
    assert not (tmp_path / "best.next.pt").exists()


@pytest.mark.parametrize(
    ("value", "step"),
    [(math.nan, 1), (math.inf, 7), (-math.inf, 25), (math.nan, 26), (math.nan, 40)],
)
def test_a_loss_that_is_not_finite_ends_the_run_by_name_and_is_never_saved(tmp_path, value, step):
    lose(tmp_path, epochs=1)
    before = (tmp_path / "state.pt").read_bytes()
    with pytest.raises(InputError, match=f"loss is {value} at step {step} of epoch 2"):
        lose(tmp_path, {(2, step): value})
    assert (tmp_path / "state.pt").read_bytes() == before
    last = checkpoint.load(tmp_path / "last.pt", "p1")
    assert len(log(tmp_path)) == last.made["epoch"] == 1


def test_a_loss_that_is_not_finite_is_found_out_soon_and_before_any_saving(tmp_path):
    run = new_run(tmp_path)
    for _ in range(CHECK_EVERY - 1):
        run.step(loss=torch.tensor(math.nan))
    with pytest.raises(InputError, match="step 1 of epoch 1"):
        run.step(loss=torch.tensor(1.0))
    saving = new_run(tmp_path, save_minutes=0)
    with pytest.raises(InputError, match="step 1 of epoch 1"):
        saving.step(loss=torch.tensor(math.nan))
    assert not (tmp_path / "state.pt").exists()


def test_the_log_has_the_means_of_an_epochs_steps_and_the_steps_so_far(tmp_path):
    run = lose(tmp_path, {(2, 1): 41.0})
    names = ("epoch", "steps", "loss", "spread")
    assert [[line[name] for name in names] for line in log(tmp_path)] == [
        [1, 40, 1.0, 19.5],
        [2, 80, 2.0, 19.5],
    ]
    assert run.best_epoch() == 2  # watch may be one of the steps' values


@pytest.mark.parametrize(
    ("better", "scores", "best"),
    [
        (max, [0.1, 0.7, 0.3, 0.7, 0.2], 2),
        (min, [0.5, 0.1, 0.3], 2),
        (max, [math.nan, 0.1, math.nan, 0.3, 0.2], 4),
        (max, [np.float64(0.5), np.float32(0.25)], 1),
    ],
    ids=["equal", "lower is better", "not numbers", "numpy's numbers"],
)
def test_best_is_the_first_epoch_with_the_best_score_and_last_the_last(
    tmp_path, better, scores, best
):
    score_epochs(tmp_path, scores, better=better)
    again = score_epochs(tmp_path, scores, better=better)  # its files can be read again
    assert again.best_epoch() == epoch_of(tmp_path / "best.pt") == best
    assert epoch_of(tmp_path / "last.pt") == len(scores)
    assert all(epoch_of(path) == int(path.stem[-4:]) for path in tmp_path.glob("snapshots/*"))
    np.testing.assert_equal([line["score"] for line in log(tmp_path)], scores)


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
    assert last.made.pop("command").startswith("python3 ")
    assert last.made == {"seed": 4, "epoch": 3, "data": {"train": "fixed"}, "commit": "0123"}
    about = json.loads((tmp_path / "run.json").read_text())
    assert about["recipe"] == last.recipe and about["seed"] == 4
    assert about["torch"] == torch.__version__


def test_a_run_tells_which_commits_it_was_made_by_and_a_finished_one_keeps_that(
    tmp_path, monkeypatch
):
    for step, now in ((2, "0123"), (4, "0123"), (5, "4567"), (None, "4567")):
        monkeypatch.setattr("training.provenance.commit", lambda now=now: now)
        steps_of(tmp_path, fail_at=step, save_minutes=0)
    told = (tmp_path / "run.json").read_text()
    about = json.loads(told)
    (later,) = about["continued"]
    assert about["commit"] == "0123" and about["recipe"]["epochs"] == 3
    assert (later["commit"], later["epoch"], later["step"]) == ("4567", 2, 2)
    assert checkpoint.load(tmp_path / "last.pt", "p1").made["commit"] == "0123, later 4567"
    monkeypatch.setattr("training.provenance.commit", lambda: "89ab")
    train(tmp_path)
    assert (tmp_path / "run.json").read_text() == told


@pytest.mark.parametrize(
    ("patience", "patience_from", "epochs"),
    [
        (0, 0, 10), (1, 0, 3), (3, 0, 5), (5, 0, 7), (6, 0, 10),
        (3, 3, 7), (3, 4, 10), (2, 4, 7), (2, 9, 10),
    ],
)  # fmt: skip
def test_patience_ends_a_run_after_so_many_epochs_without_a_better_score(
    tmp_path, patience, patience_from, epochs
):
    # Epoch 4 only equals epoch 2; but patience from epoch 3 on does not look at epoch 2.
    scores = [1, 3, 2, 3, 2, 2, 2, 4, 1, 1]
    for total in (2, 4, 10, 10):  # an interruption does not renew it
        run = score_epochs(tmp_path, scores, patience, patience_from, total)
    assert run.epoch == epochs


@pytest.mark.parametrize("schedule", ["constant", "plateau"])
def test_a_finished_run_goes_on_to_more_epochs_where_its_schedule_allows_it(tmp_path, schedule):
    recipe = Scheduled(epochs=2, schedule=schedule)
    score_epochs(tmp_path, [0.1, 0.3], recipe=recipe)
    longer = dataclasses.replace(recipe, epochs=3)
    assert score_epochs(tmp_path, [0.1, 0.3, 0.2], recipe=longer).epoch == 3
    assert json.loads((tmp_path / "run.json").read_text())["recipe"]["epochs"] == 3
    with pytest.raises(InputError, match="recipe.epochs was 3, is now 1, but 3 are already done"):
        score_epochs(tmp_path, [], recipe=dataclasses.replace(recipe, epochs=1))


def test_a_finished_run_under_a_cosine_says_why_it_cannot_be_longer(tmp_path):
    recipe = Scheduled(epochs=2, schedule="cosine")
    score_epochs(tmp_path, [0.1, 0.3], recipe=recipe)
    with pytest.raises(InputError, match="depends on the number of epochs .because of schedule"):
        score_epochs(tmp_path, [], recipe=dataclasses.replace(recipe, epochs=3))
