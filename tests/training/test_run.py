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
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from toy_run import (
    LONG,
    STEPS,
    Interrupted,
    Recipe,
    epoch_of,
    interrupt_at,
    log,
    lose,
    new_run,
    outcome,
    score_epochs,
    start,
    train,
    wait_for_steps,
)

from core import checkpoint
from core.cli import STOPPED, InputError, entry
from training.runfolder import MAX_SNAPSHOTS
from training.values import CHECK_EVERY

pytestmark = pytest.mark.usefixtures("quick")


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """What a run leaves that nobody interrupts, by its recipe."""
    outcomes, numbers = {}, (signal.SIGINT, signal.SIGTERM)
    before = [signal.getsignal(number) for number in numbers]
    for name, recipe in (("short", Recipe()), ("long", LONG)):
        folder = tmp_path_factory.mktemp(name) / "run"
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "fsync", lambda handle: None)
            patch.setattr("training.provenance.commit", lambda: "0123")
            train(folder, recipe)
        outcomes[name] = outcome(folder)
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)
    return outcomes


def test_a_run_is_a_function_of_its_seed(tmp_path):
    for name, seed in [("a", 0), ("b", 0), ("c", 1)]:
        train(tmp_path / name, seed=seed)
    assert outcome(tmp_path / "a") == outcome(tmp_path / "b")
    for name in ("state.pt", "last.pt", "log.jsonl"):
        assert outcome(tmp_path / "a")[name] != outcome(tmp_path / "c")[name]


def test_a_run_stopped_by_its_budget_after_every_step_ends_where_an_unbroken_one_does(
    unbroken, tmp_path
):
    for _ in range(STEPS):
        with pytest.raises(SystemExit) as stop:
            train(tmp_path / "stopped", stop_at=0)
        assert stop.value.code == STOPPED == 75
    train(tmp_path / "stopped", stop_at=0)  # no step is left, so nothing is there to stop after
    assert outcome(tmp_path / "stopped") == unbroken["short"]


@pytest.mark.parametrize("save_minutes", [0, 5], ids=["saved at each step", "saved at each epoch"])
@pytest.mark.parametrize("step", range(STEPS))
def test_a_run_that_fails_in_any_step_ends_where_an_unbroken_one_does(
    unbroken, tmp_path, step, save_minutes
):
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
    assert outcome(tmp_path / "failed") == unbroken["short"]


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_run_that_ends_at_any_of_its_writes_goes_on_to_where_an_unbroken_one_ends(
    unbroken, tmp_path, monkeypatch, moment
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
    train(tmp_path / "counted")
    total = next(writes)
    # run.json; of each epoch the last, the snapshot, the state and the log; each is the best so
    # far, which is written and renamed;
    # the state before the first evaluation, as nothing says how long that will take; the log.
    assert total == 1 + 3 * 4 + 3 * 2 + 1 + 1
    for at in range(total):
        writes = itertools.count()
        monkeypatch.setattr(os, "replace", fatal(at))
        with pytest.raises(Interrupted):
            train(tmp_path / str(at))
        train(tmp_path / str(at))
        assert outcome(tmp_path / str(at)) == unbroken["short"], at


def test_a_run_killed_at_random_moments_ends_where_an_unbroken_one_does(unbroken, tmp_path):
    moments = random.Random(0)
    for _ in range(3):
        with start(tmp_path / "killed", hold=8) as process:
            wait_for_steps(process, moments.randint(1, 6))
            time.sleep(moments.uniform(0, 0.03))
            process.kill()
        assert process.returncode == -signal.SIGKILL
    train(tmp_path / "killed", LONG)
    assert outcome(tmp_path / "killed") == unbroken["long"]


def test_a_full_disk_stops_with_one_line_and_the_old_files_whole(unbroken, tmp_path, capsys):
    def fill(
        run,
    ):  # no file may grow past 3 kB from here on, and the state has more
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
    assert outcome(tmp_path / "broken") == unbroken["short"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_program_after_its_step_with_status_75_and_the_same_command_goes_on(
    unbroken, tmp_path, number
):
    with start(tmp_path / "stopped", hold=5) as process:
        wait_for_steps(process, 5)
        process.send_signal(number)
        (tmp_path / "go").touch()
        rest = process.stdout.read().splitlines()
    assert process.returncode == STOPPED
    assert f"stopped by {number.name} after step" in rest[-1]
    assert rest[-1].endswith("run the same command to continue")
    seen = []
    train(tmp_path / "stopped", LONG, in_a_step=lambda run: seen.append(run.total_steps))
    assert seen == list(range(5, 36))
    assert outcome(tmp_path / "stopped") == unbroken["long"]


def test_a_second_signal_does_not_wait_for_the_step_and_loses_no_more_than_it(
    unbroken, tmp_path, monkeypatch
):
    clock = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])

    def twice(run):
        if run.total_steps == 4:
            signal.raise_signal(signal.SIGINT)
            clock[0] += 2
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "stopped", in_a_step=twice, save_minutes=0)
    seen = []
    train(tmp_path / "stopped", in_a_step=lambda run: seen.append(run.total_steps))
    assert seen[0] == 4 and outcome(tmp_path / "stopped") == unbroken["short"]


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
    run = new_run(tmp_path, state={"c": counter}, stop_at=60)
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
    assert "after epoch 1; run the same command to continue" in capsys.readouterr().out


def test_an_evaluation_that_would_end_too_late_is_left_to_the_next_start(
    tmp_path, monkeypatch, capsys
):
    clock, seen, evaluations = [0.0], [], []
    monkeypatch.setattr("time.monotonic", lambda: clock[0])

    def epochs_of_two_minutes(stop_at):
        counter = nn.Linear(1, 1)
        run = new_run(tmp_path, state={"c": counter}, stop_at=stop_at)
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
        "stopped by --max-minutes after step 4 of epoch 2; run the same command to continue"
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
        run = new_run(tmp_path, state={"c": counter}, save_minutes=5)
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
    run = new_run(tmp_path)
    with pytest.raises(
        InputError, match="a batch has 1 image per process; this network needs 2 or more"
    ):
        list(run.batches(4, 1, at_least=2))


def test_a_finished_run_does_nothing_more(tmp_path):
    train(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.pt")}
    train(tmp_path, in_a_step=lambda run: pytest.fail("a step too many"))
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.pt")} == before


@pytest.mark.parametrize("when", ["half-way", "at the end"])
def test_a_log_that_was_deleted_is_written_again(unbroken, tmp_path, when):
    if when == "half-way":
        with pytest.raises(Interrupted):
            train(tmp_path / "other", in_a_step=interrupt_at(7))
    else:
        train(tmp_path / "other")
    (tmp_path / "other" / "log.jsonl").unlink()
    train(tmp_path / "other")
    assert outcome(tmp_path / "other") == unbroken["short"]


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
    assert epoch_of(tmp_path / "best.pt") == 2 and checkpoint.load(
        tmp_path / "best.pt", "p1"
    ).scores == {"score": 0.7}
    assert not (tmp_path / "best.next.pt").exists()


def test_a_training_outlives_its_terminal(unbroken, tmp_path):
    with start(tmp_path / "run", hold=0) as process:
        wait_for_steps(process, 1)
        process.stdout.close()
        process.wait()
    assert process.returncode == 0 and outcome(tmp_path / "run") == unbroken["long"]


@pytest.mark.parametrize(
    ("value", "step"),
    [(math.nan, 1), (math.inf, 7), (-math.inf, 25), (math.nan, 26), (math.nan, 40)],
)
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
    first, second = log(tmp_path)
    assert (first["epoch"], first["steps"], first["loss"], first["spread"]) == (1, 40, 1.0, 19.5)
    assert (second["epoch"], second["steps"], second["loss"], second["spread"]) == (
        2,
        80,
        2.0,
        19.5,
    )
    assert run.best_epoch() == 2  # watch may be one of the steps' values


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


def test_a_score_from_numpy_does_not_make_files_that_cannot_be_read_again(tmp_path):
    score_epochs(tmp_path, [np.float64(0.5), np.float32(0.25)])
    assert score_epochs(tmp_path, [], total=2).best_epoch() == epoch_of(tmp_path / "best.pt") == 1


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
    # Epoch 4 only equals epoch 2; but patience from epoch 3 on does not look at epoch 2.
    scores = [1, 3, 2, 3, 2, 2, 2, 4, 1, 1]
    assert score_epochs(tmp_path, scores, patience, patience_from).epoch == epochs


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
    with pytest.raises(InputError, match="recipe.epochs was 3, is now 1, but 3 are already done"):
        score_epochs(tmp_path, [], recipe=dataclasses.replace(recipe, epochs=1))


def test_a_finished_run_under_a_cosine_says_why_it_cannot_be_longer(tmp_path):
    recipe = Scheduled(epochs=2, schedule="cosine")
    score_epochs(tmp_path, [0.1, 0.3], recipe=recipe)
    with pytest.raises(
        InputError, match="every step depends on the number of epochs .because of schedule"
    ):
        score_epochs(tmp_path, [], recipe=dataclasses.replace(recipe, epochs=3))


def test_patience_is_not_renewed_by_an_interruption(tmp_path):
    scores = [1, 3, 2, 2, 2, 2, 2, 2]
    for total in (1, 2, 3, 4):
        score_epochs(tmp_path, scores, patience=3, total=total)
    assert score_epochs(tmp_path, scores, patience=3).epoch == 5
    assert score_epochs(tmp_path, scores, patience=3).epoch == 5


def test_a_score_that_is_no_number_is_never_the_best(tmp_path):
    run = score_epochs(tmp_path / "run", [float("nan"), 0.1, float("nan"), 0.3, 0.2])
    assert run.best_epoch() == 4 and epoch_of(tmp_path / "run" / "best.pt") == 4
