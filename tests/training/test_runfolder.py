"""A run's folder: whose it is, what lies in it, and what begins anew."""

import dataclasses
import json
import resource

import pytest
from conftest import snapshot
from torch import nn
from toy_run import (
    LONG,
    Recipe,
    Scheduled,
    lose,
    outcome,
    score_epochs,
    start,
    steps_of,
    train,
    undisturbed,
    wait_for_steps,
)

from core import checkpoint
from core.cli import InputError, entry
from training.runfolder import MAX_SNAPSHOTS, keep_snapshot

pytestmark = pytest.mark.usefixtures("quick")


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
    train(tmp_path)
    before = snapshot(tmp_path)
    with pytest.raises(InputError) as error:
        train(tmp_path, **other)
    assert all(part in str(error.value) for part in (says, str(tmp_path), "--fresh"))
    assert snapshot(tmp_path) == before


def test_fresh_starts_over_and_keeps_every_older_run_aside(tmp_path, capsys):
    for seed in (0, 1, 2):
        train(tmp_path / "run", seed=seed, fresh=True)
    assert f"moved the older run to {tmp_path / 'run.old-2'}" in capsys.readouterr().out
    for name, seed in [("run", 2), ("run.old-2", 1), ("run.old-1", 0)]:
        assert outcome(tmp_path / name) == undisturbed(seed=seed)


def test_fresh_sets_aside_nothing_that_is_no_run(tmp_path):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "notes").touch()
    train(tmp_path / "runs", fresh=True)
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]
    assert (tmp_path / "runs" / "notes").exists()


def test_fresh_renames_a_link_and_not_what_it_leads_to(tmp_path):
    train(tmp_path / "disk" / "run")
    (tmp_path / "run").symlink_to(tmp_path / "disk" / "run")
    train(tmp_path / "run", seed=1, fresh=True)
    assert (tmp_path / "run.old-1").is_symlink() and not (tmp_path / "run").is_symlink()
    assert json.loads((tmp_path / "run.old-1" / "run.json").read_text())["seed"] == 0


def test_a_restart_of_torchruns_goes_on_with_what_fresh_began_and_sets_aside_what_it_did_not(
    tmp_path, monkeypatch
):
    run, restarts = tmp_path / "run", [0]
    monkeypatch.setattr("training.processes.launch", lambda: "a launch")
    monkeypatch.setattr("training.processes.restarts", lambda: restarts[0])
    train(run, seed=1)
    steps_of(run, fresh=True, fail_at=4, save_minutes=0)  # the older run is not this launch's
    restarts[0] = 1
    assert steps_of(run, fresh=True)[0] == 4
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "run.old-1"]
    restarts[0] = 0  # another launch, which in a container may have the name of the one before
    assert steps_of(run, fresh=True)[0] == 0 and (tmp_path / "run.old-2").exists()


def test_a_disk_that_is_full_at_the_start_is_one_line(tmp_path, monkeypatch, capsys):
    train(tmp_path)
    monkeypatch.setattr("training.processes.launch", lambda: "a launch")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        with pytest.raises(SystemExit) as stop:
            entry(lambda: train(tmp_path))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.count("\n") == 1
    assert f"cannot write {tmp_path / '.lock'}: File too large" in error


def test_a_folder_that_another_program_is_training_in_is_left_to_it(tmp_path):
    with start(tmp_path / "run", hold=2) as process:
        wait_for_steps(process, 2)
        for fresh in (False, True):
            with pytest.raises(InputError, match="another program is training in"):
                train(tmp_path / "run", LONG, fresh=fresh)
        (tmp_path / "go").touch()
    assert process.returncode == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["go", "run"]


def test_what_a_killed_program_was_writing_is_removed_by_the_next(tmp_path):
    (tmp_path / "snapshots").mkdir()
    for left in (".state.pt.abc.part", "snapshots/.epoch_0001.pt.abc.part"):
        (tmp_path / left).write_bytes(b"half")
    (tmp_path / "mine.part").touch()
    train(tmp_path)
    assert [path.name for path in tmp_path.rglob("*.part")] == ["mine.part"]


def test_snapshots_are_few_evenly_spaced_and_begin_with_the_first_epoch(tmp_path, monkeypatch):
    monkeypatch.setattr("core.checkpoint.save", lambda path, final: path.touch())
    (tmp_path / "snapshots").mkdir()
    for epoch in range(1, 201):
        keep_snapshot(tmp_path, epoch, final=None)
        kept = sorted(int(path.stem[-4:]) for path in (tmp_path / "snapshots").iterdir())
        spacing = kept[1] - kept[0] if len(kept) > 1 else 1
        assert kept == list(range(1, epoch + 1, spacing))
        assert min(epoch, MAX_SNAPSHOTS) / 2 < len(kept) <= MAX_SNAPSHOTS == 8


def test_what_a_user_keeps_among_the_snapshots_stays(tmp_path):
    (tmp_path / "run/snapshots").mkdir(parents=True)
    own = [
        tmp_path / "run/snapshots" / name for name in ("epoch_0002_mine.pt", "epoch_x (copy).pt")
    ]
    for path in own:
        path.touch()
    train(tmp_path / "run", Recipe(epochs=MAX_SNAPSHOTS + 1))
    assert all(path.exists() for path in own)


def test_weights_without_their_run_are_not_overwritten_and_fresh_keeps_them_aside(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/last.pt").write_bytes(b"somebody's")
    with pytest.raises(InputError, match="without its state.pt"):
        train(tmp_path / "run")
    train(tmp_path / "run", fresh=True)
    assert (tmp_path / "run.old-1/last.pt").read_bytes() == b"somebody's"


def test_weights_of_a_run_that_was_killed_before_its_first_state_are_no_obstacle(tmp_path):
    train(tmp_path)
    for name in ("state.pt", "log.jsonl"):
        (tmp_path / name).unlink()
    train(tmp_path)
    assert outcome(tmp_path) == undisturbed()


def test_a_damaged_state_is_refused_by_name(tmp_path):
    lose(tmp_path, epochs=1)
    (tmp_path / "state.pt").write_bytes((tmp_path / "state.pt").read_bytes()[:-100])
    with pytest.raises(InputError, match=r"state\.pt: it is truncated or damaged"):
        lose(tmp_path)


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
        lambda state: state["state"].update(counter=nn.Linear(3, 2).state_dict()),
    ],
)
def test_a_state_of_something_else_is_one_line_and_stays_as_it_is(tmp_path, change):
    lose(tmp_path, epochs=1)
    state = checkpoint.read(tmp_path / "state.pt")
    change(state)
    checkpoint.write(tmp_path / "state.pt", state)
    before = (tmp_path / "state.pt").read_bytes()
    says = "is not the state of a run|was made by different code"
    with pytest.raises(InputError, match=f"{says}.*--fresh") as error:
        lose(tmp_path)
    assert "\n" not in str(error.value) and (tmp_path / "state.pt").read_bytes() == before


@pytest.mark.parametrize(
    "text",
    [None, "", "[]", "{}", "[" * 100_000, '{"commit": 1}', '{"commit": "a", "continued": 3}']
    + ['{"commit": "a", "continued": [{}]}', '{"commit": "a", "data": []}'],
)
def test_a_run_whose_account_of_itself_is_lost_or_damaged_goes_on_and_tells_what_it_knows(
    tmp_path, text
):
    lose(tmp_path, epochs=1)
    (tmp_path / "run.json").unlink()
    if text is not None:
        (tmp_path / "run.json").write_text(text)
    lose(tmp_path)
    told = json.loads((tmp_path / "run.json").read_text())
    assert told["commit"] == "0123" and told["recipe"]["epochs"] == 3 and "continued" not in told


def test_a_finished_run_says_so_and_a_resumed_one_where_it_goes_on(tmp_path, capsys):
    for epochs, says in (
        (1, ""),
        (1, f"{tmp_path} is done: 1 epochs."),
        (2, f"resumed {tmp_path} at epoch 2, step 1\n"),
    ):
        lose(tmp_path, epochs=epochs)
        assert capsys.readouterr().out.startswith(says)


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


def test_a_folder_whose_state_was_deleted_is_not_overwritten(tmp_path):
    score_epochs(tmp_path, [0.1, 0.2])
    (tmp_path / "state.pt").unlink()
    before = snapshot(tmp_path)
    with pytest.raises(InputError, match="without its state.pt"):
        score_epochs(tmp_path, [0.1, 0.2])
    assert snapshot(tmp_path) == before
