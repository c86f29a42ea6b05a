"""Problem 2's figures and section: drawn from the modules, measured by our program."""

import json
import re
import shlex
import shutil
import sys

import numpy as np
import pytest
import torch
from conftest import HALF, draw, write_run
from pages import cells, check_values, gaps, of_kind, paragraphs, table, values_in
from torch import nn

from core import checkpoint
from core.cli import InputError
from core.randomness import seed_of
from p2 import data, inference, knn, pretrain, supervise, train
from p2.byol import BYOL
from p2.model import BACKBONE, FEATURES, make_backbone
from p2.settings import SETTINGS
from prediction.tables import read_labels
from report import charts, measures, problem2, problem2_differences, problem2_pretraining
from report import problem2_figures as figures
from report import runs as runlog
from report.measures import Measures, Site
from report.page import Drawing, Gap, Grid
from training.provenance import digest, fingerprint

VIEW = {
    "crop_scale": [0.08, 1.0],
    "crop_last": False,
    "jitter": [0.4, 0.4, 0.2, 0.1],
    "jitter_p": 0.8,
    "grey_p": 0.2,
    "blur_size": 13,
    "blur_sigma": [0.1, 2.0],
    "blur_p": 1.0,
    "solarize_p": 0.0,
}
RECIPE = {
    "name": "hour",
    "epochs": 2,
    "patience": 0,
    "batch_size": 64,
    "optimiser": "adamw",
    "lr": 5e-4,
    "schedule": "cosine",
    "warmup_epochs": 0.1,
    "weight_decay": 0.05,
    "decay_vectors": False,
    "bf16": True,
    "mean": HALF,
    "std": HALF,
}
BYOL_RECIPE = {
    **RECIPE,
    "views": [VIEW, {**VIEW, "solarize_p": 0.2}],
    "target_decay": 0.97,
    "target_schedule": "cosine",
}
CLASSIFIER = {**RECIPE, "crop_scale": [0.35, 1.0], "label_smoothing": 0.1}


def run_of(folder, recipe, data, lines, seed=0):
    command = f"train {folder.name}"
    return runlog.read(write_run(folder, lines, recipe, data=data, seed=seed, command=command))


def setting_of(folder, name, accuracies=(0.25, 0.5), val="v", backbone="None", seed=0):
    """With the keys of p2/train.py."""
    lines = [{"loss": 2.0 - accuracy, "accuracy": accuracy} for accuracy in accuracies]
    file = None if backbone == "None" else f"digest of {backbone}"
    known = {
        "setting": name,
        "train": "t",
        "val": val,
        "labels": "l",
        "backbone": backbone,
        "backbone_file": file,
    }
    return run_of(folder, CLASSIFIER, known, lines, seed)


def site_of(tmp_path):
    return Site(
        runlog.read_all(tmp_path / "runs"),
        tmp_path / "data",
        (),
        Measures(tmp_path / "out"),
        torch.device("cpu"),
    )


# --- the drawing ---


def test_the_drawing_reads_its_sizes_from_the_modules():
    small = BYOL(nn.Linear(3, 8), 8, hidden=513, projection=65)
    drawn = charts.svg(figures.method(small))
    assert "8 → 513 → 65" in drawn and "65 → 513 → 65" in drawn and "8 features" in drawn
    assert "4096" not in drawn and "256" not in drawn


def test_the_networks_drawn_are_those_that_are_trained():
    counts = figures.parameters(figures.networks())
    drawn = charts.svg(figures.method(figures.networks()))
    assert "2048 → 4096 → 256" in drawn and "256 → 4096 → 256" in drawn and "23.5 M" in drawn
    assert counts["backbone"] == sum(p.numel() for p in make_backbone().parameters())
    assert counts["projector"] == 2048 * 4096 + 4096 + 2 * 4096 + 4096 * 256 + 256
    assert counts["target"] == counts["backbone"] + counts["projector"]
    assert counts["trained"] == counts["target"] + counts["predictor"]


def test_a_difference_is_clear_if_its_interval_does_not_hold_0():
    drawn = charts.svg(figures.difference_chart({"B - A": (3.0, -1.0, 7.0)}))
    assert f"var({charts.VARIABLES[charts.SERIES[0]]})" not in drawn
    drawn = charts.svg(
        figures.difference_chart({"B - A": (3.0, 1.0, 7.0), "C - A": (-3.0, -7.0, -1.0)})
    )
    assert f"var({charts.VARIABLES[charts.SERIES[0]]})" in drawn and "C - A" in drawn
    assert not figures.is_clear(0.0, 1.0)


# --- which runs stand together ---


def test_only_settings_of_one_recipe_seed_and_data_stand_together(tmp_path):
    for name in "ABC":
        setting_of(tmp_path / f"p2_{name}_hour", name)
    setting_of(tmp_path / "p2_C_again", "C")
    setting_of(tmp_path / "p2_D_hour", "D", val="other images")
    setting_of(tmp_path / "p2_E_hour", "E", seed=1)
    run_of(tmp_path / "p2_byol_hour", BYOL_RECIPE, {"train": "t"}, [{"loss": 1.0}])
    chosen = figures.comparable(runlog.read_all(tmp_path))
    assert {name: run.name for name, run in chosen.items()} == {
        name: f"p2_{name}_hour" for name in "ABC"
    }
    assert figures.comparable([]) == {}


def test_finished_settings_stand_before_others(tmp_path):
    for name in "ABCD":
        setting_of(tmp_path / f"p2_{name}_new", name, (0.9,), val="new")  # one epoch of two
    for name in "AB":
        setting_of(tmp_path / f"p2_{name}_old", name)
    setting_of(tmp_path / "p2_A_hour", "A", (0.1,))
    setting_of(tmp_path / "p2_C_hour", "C", (0.1,))
    chosen = figures.comparable(runlog.read_all(tmp_path))
    assert {name: run.name for name, run in chosen.items()} == {
        "A": "p2_A_old",
        "B": "p2_B_old",
        "C": "p2_C_hour",
    }


def test_a_setting_is_not_taken_for_the_pretraining_with_labels(tmp_path):
    settings = {name: setting_of(tmp_path / f"p2_{name}_hour", name) for name in "AB"}
    assert figures.pretraining(runlog.read_all(tmp_path), settings) == {}


def test_the_pretraining_shown_is_the_one_that_the_settings_began_from(tmp_path):
    run_of(tmp_path / "p2_byol_long", BYOL_RECIPE, {"train": "t"}, [{"loss": 1.0}] * 9)
    run_of(tmp_path / "p2_byol_hour", BYOL_RECIPE, {"train": "t"}, [{"loss": 1.0}] * 2)
    run_of(
        tmp_path / "p2_supervised_hour", CLASSIFIER, {"train": "t", "labels": "l"}, [{"loss": 1.0}]
    )
    runs = runlog.read_all(tmp_path)
    setting = setting_of(tmp_path / "p2_C_hour", "C", backbone="runs/p2_byol_hour/last.pt")
    shown = figures.pretraining(runs, {"C": setting})
    assert {start: run.name for start, run in shown.items()} == {
        "byol": "p2_byol_hour",
        "labels": "p2_supervised_hour",
    }
    assert figures.pretraining(runs, {})["byol"].name == "p2_byol_long"


# --- measures ---


def test_the_answers_are_those_of_the_graders_script(tmp_path, call, p2_checkpoint, p2_images):
    table, folder = p2_images
    office = tmp_path / "office"
    shutil.copytree(folder, office / "val")
    (office / "val.csv").write_text(table.read_text().replace("None", "Lamp"))
    assert (
        call(
            inference.main,
            table,
            folder,
            tmp_path / "out.csv",
            "--checkpoint",
            p2_checkpoint,
            "--device",
            "cpu",
        )[0]
        == 0
    )
    files = office / "val.csv", office / "val"
    labels, truth = figures.answers(p2_checkpoint, *files, torch.device("cpu"))
    assert labels.tolist() == list(read_labels(tmp_path / "out.csv").values())
    assert len(set(labels.tolist())) > 1 and truth.tolist() == ["Lamp"] * 4


def test_the_random_backbone_is_the_one_before_the_first_step():
    torch.manual_seed(seed_of(5, "weights"))
    began = BYOL(make_backbone(), FEATURES, hidden=8).backbone.state_dict()
    before = torch.random.get_rng_state()
    ours = figures.first_backbone(5).state_dict()
    assert all(torch.equal(began[name], ours[name]) for name in began)
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_probe_is_of_the_file_in_the_runs_own_normalisation(tmp_path):
    run = run_of(
        tmp_path / "p2_byol_hour", {**BYOL_RECIPE, "bf16": False}, {"train": "t"}, [{"loss": 1.0}]
    )
    images = torch.randint(
        0, 256, (12, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    probe = knn.Probe(
        images[:8], torch.arange(8), images[:4], torch.tensor([0, 1, 2, 7])
    )  # the last is not its own
    found = figures.probed(run, None, probe, torch.device("cpu"))
    assert found["knn"] == 0.75 and found["low"] < 0.75 < found["high"]
    weights = {
        name: torch.zeros_like(value) for name, value in make_backbone().state_dict().items()
    }
    collapsed = checkpoint.Checkpoint(
        "p2", BACKBONE, (), 128, HALF, HALF, False, {}, {}, {}, weights
    )
    checkpoint.save(tmp_path / "last.pt", collapsed)
    assert figures.probed(run, tmp_path / "last.pt", probe, torch.device("cpu"))["knn"] <= 0.25


# --- the section ---


@pytest.fixture
def five(tmp_path, monkeypatch):
    """Runs with answers to 40 images: A 10 right, B 11, C 30 (A's 10 among them), E 12."""
    office = tmp_path / "data" / "p2_data" / "office"
    truth = np.array([str(k % 20) for k in range(40)])
    for k in range(40):
        draw(office / "val" / f"{k}.jpg", 8, 8, k)
    (office / "val.csv").write_text(
        "id,filename,label\n" + "".join(f"{k},{k}.jpg,{truth[k]}\n" for k in range(40))
    )
    right = {"A": range(10), "B": range(20, 31), "C": range(30), "E": range(12)}
    for name, chosen in right.items():
        backbone = {"B": "runs/p2_supervised_hour/last.pt", "A": "None"}.get(
            name, "runs/p2_byol_hour/last.pt"
        )
        run = setting_of(
            tmp_path / "runs" / f"p2_{name}_hour", name, (0.1, len(chosen) / 40), backbone=backbone
        )
        (run.folder / "last.pt").write_text(name)
    run_of(
        tmp_path / "runs" / "p2_byol_hour",
        BYOL_RECIPE,
        {"train": "t"},
        [{"loss": 1.5, "spread": 0.5}],
    )

    def answers(path, table, folder, device):
        chosen = np.isin(np.arange(40), list(right[path.read_text()]))
        return np.where(chosen, truth, "none"), truth

    monkeypatch.setattr(figures, "answers", answers)
    return tmp_path


def test_the_section_compares_the_settings_on_the_same_images(five):
    blocks = problem2.section(site_of(five))
    rows = cells(table(blocks, column="setting"))
    assert list(rows) == ["A", "B", "C", "E"]
    assert rows["C"][:5] == ["BYOL", "all", "0.7500 (2)", "0.598 to 0.858", "0.7500"]
    assert (
        rows["A"][0] == "nothing"
        and rows["C"][7] == "runs/p2_byol_hour/last.pt"
        and rows["E"][1] == "head only"
        and rows["E"][6] == "0.3087"
    )
    rows = {what[:5]: row for what, row in cells(table(blocks, column="difference")).items()}
    assert list(rows) == ["B - A", "C - A", "C - B", "C - E"]
    assert rows["C - A"][0] == "+50.0" and rows["C - A"][2:] == ["clear: C above A", "+17.0"]
    assert (
        rows["B - A"][0] == "+2.5"
        and rows["B - A"][1].startswith("-")
        and rows["B - A"][2] == "not clear"
    )
    finding = next(text for text in paragraphs(blocks) if text.startswith("Not cl"))
    assert (
        "Not clear: B - A +2.5 (-" in finding
        and "the same sign as in the original report: C - A +50.0 (" in finding
    )
    assert check_values(blocks, five / "runs", five / "out") > 60


def test_the_section_says_what_is_missing_and_how_to_make_it(five):
    (five / "runs" / "p2_E_hour" / "last.pt").unlink()
    blocks = problem2.section(site_of(five))
    found = gaps(blocks)
    where = next(command for what, command in found.items() if "setting D" in what)
    assert (
        where == "python3 -m p2.train --setting D --recipe hour"
        " --backbone runs/p2_supervised_hour/last.pt"
    )
    assert any(
        "setting E's predictions" in what and command == "train p2_E_hour"
        for what, command in found.items()
    )
    assert any(
        "a pre-training run (with labels)" in what and "p2.supervise" in command
        for what, command in found.items()
    )
    assert any("C - E" in text for text in paragraphs(blocks))
    assert list(cells(table(blocks, column="setting"))) == ["A", "B", "C", "E"]


def test_without_data_and_runs_the_section_is_gaps_and_the_method(five):
    shutil.rmtree(five / "data")
    blocks = problem2.section(site_of(five))
    assert measures.FETCH in gaps(blocks).values()
    assert cells(table(blocks, column="setting"))["A"][3] == "-"
    check_values(blocks, five / "runs", five / "out")
    shutil.rmtree(five / "runs")
    blocks = problem2.section(site_of(five))
    assert len(of_kind(blocks, Gap)) == 2 + 5 and of_kind(blocks, Drawing)


def test_a_setting_in_training_stays_out_of_the_differences(five):
    log = five / "runs" / "p2_C_hour" / "log.jsonl"
    log.write_text(log.read_text().splitlines(keepends=True)[0])
    blocks = problem2.section(site_of(five))
    assert any("epoch 1 of 2" in what for what in gaps(blocks))
    assert "C" in cells(table(blocks, column="setting"))
    differences = cells(table(blocks, column="difference"))
    assert list(differences) == ["B - A: with labels against nothing"]


def test_what_is_not_finished_is_said_with_the_command_that_goes_on(five):
    """A pre-training in its first epoch of two, and a setting whose command began with --fresh."""
    run = five / "runs" / "p2_C_hour"
    about = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(
        json.dumps(about | {"command": "python3 -m p2.train --fresh --run 'runs/p2 C'"})
    )
    (run / "log.jsonl").write_text((run / "log.jsonl").read_text().splitlines(keepends=True)[0])
    found = gaps(problem2.section(site_of(five)))
    assert found["the end of p2_byol_hour: it is at epoch 1 of 2."] == "train p2_byol_hour"
    said = "the end of p2_C_hour: it is at epoch 1 of 2, and stays out of the differences."
    assert found[said] == "python3 -m p2.train --run 'runs/p2 C'"


def test_a_difference_that_is_one_of_pretrainings_too_is_named(five):
    """E began from another file than C; D is missing."""
    said = "also contain the difference between two pre-training runs"
    assert not [text for text in paragraphs(problem2.section(site_of(five))) if said in text]
    run = five / "runs" / "p2_E_hour" / "run.json"
    about = json.loads(run.read_text())
    about["data"]["backbone_file"] = "another digest"
    run.write_text(json.dumps(about))
    (text,) = [text for text in paragraphs(problem2.section(site_of(five))) if said in text]
    assert text.endswith(": C - E.")
    del about["data"]["backbone_file"]  # as of an older run: by the name, which is the same
    run.write_text(json.dumps(about))
    assert not [text for text in paragraphs(problem2.section(site_of(five))) if said in text]


def test_it_is_said_if_the_runs_were_validated_on_something_else(five):
    def is_said(val):
        for path in (five / "runs").glob("p2_[ABCE]_hour/run.json"):
            about = json.loads(path.read_text())
            about["data"]["val"] = val
            path.write_text(json.dumps(about))
        return any(
            text.startswith("The digest of the validation set")
            for text in paragraphs(problem2.section(site_of(five)))
        )

    office = five / "data" / "p2_data" / "office"
    images, labels, paths, _ = data.load_labelled(office / "val.csv", office / "val")
    assert not is_said(digest(images, labels)) and not is_said(
        fingerprint(paths)
    )  # as now, and as in older runs
    assert is_said("of something else")


def test_a_missing_settings_command_keeps_the_others_data_and_changes(tmp_path):
    run = setting_of(tmp_path / "p2_A_hour", "A")
    run.metadata["command"] = (
        "python3 -m p2.train --setting A --data 'my data' --epochs 5 --set lr=0.1 --set bf16=False "
        "--run demo/runs/p2_A_hour --device cpu --fresh"
    )
    flags = train_flags = problem2.train_command("C", {"A": run}).split(" && ")[-1]
    assert flags.startswith("python3 -m p2.train --setting C --recipe hour --data 'my data'")
    assert "--epochs 5 --set lr=0.1 --set bf16=False --run demo/runs/p2_C_hour" in train_flags
    assert "--device" not in flags and "--fresh" not in flags
    before, _ = problem2.train_command("C", {"A": run}).split(" && ")
    assert before.endswith("--data 'my data'")  # the pre-training has the same data


@pytest.mark.parametrize("recipe", ["hour", "report", "demo"])
@pytest.mark.parametrize("others", ["", "E"])
def test_a_missing_settings_command_makes_what_it_begins_from(
    tmp_path, monkeypatch, recipe, others
):
    settings = {
        name: setting_of(tmp_path / name, name, backbone="runs/p2_byol_mine/last.pt")
        for name in others
    }
    settings["A"] = setting_of(tmp_path / "A", "A")
    monkeypatch.chdir(tmp_path)  # where no run is
    for run in settings.values():
        run.metadata["recipe"] = {**CLASSIFIER, "name": recipe}
    for name in "BCD":
        *before, command = (
            shlex.split(part) for part in problem2.train_command(name, settings).split(" && ")
        )
        monkeypatch.setattr(sys, "argv", command[2:])
        args, used = train.arguments()
        assert command[:3] == ["python3", "-m", "p2.train"] and args.setting == name
        assert used.name == ("original" if recipe == "report" else recipe)
        with pytest.raises(InputError) as missing:
            train.initial_backbone(SETTINGS[name], args, used)
        if name == "C" and others:
            assert not before and "no file runs/p2_byol_mine/last.pt" in str(missing.value)
            continue
        start = re.search("(?:starts from|no file) ([^,;]*)", str(missing.value))[1]
        monkeypatch.setattr(sys, "argv", before[0][2:])
        byol = SETTINGS[name].start == "byol"
        assert before[0][2] == ("p2.pretrain" if byol else "p2.supervise")
        _, made = (pretrain if byol else supervise).arguments()
        assert start == f"runs/p2_{'byol' if byol else 'supervised'}_{made.name}/last.pt"


def test_a_second_build_measures_nothing(five, monkeypatch):
    first = [value.text for value in values_in(problem2.section(site_of(five)))]
    monkeypatch.setattr(figures, "answers", None)
    monkeypatch.setattr(problem2_differences, "paired_bootstrap", None)
    assert [value.text for value in values_in(problem2.section(site_of(five)))] == first


def test_curves_are_drawn_of_two_epochs_and_more(five):
    assert not [
        b
        for b in problem2_pretraining.pretrained(
            site_of(five), figures.pretraining(site_of(five).logs, {})
        )
        if isinstance(b, Grid)
    ]
    log = five / "runs" / "p2_byol_hour" / "log.jsonl"
    log.write_text(log.read_text() + log.read_text().replace('"epoch": 1', '"epoch": 2'))
    blocks = problem2.section(site_of(five))
    grids = [block for block in blocks if isinstance(block, Grid)]
    assert len(grids) == 2 and len(grids[0].blocks) == 2
    drawn = charts.svg(grids[1].blocks[0].figure)
    assert (
        all(f">{name}<" in drawn for name in "ABCE")
        and f"var({charts.VARIABLES[charts.SERIES[4]]})" in drawn
    )
