"""The README's tables are those that the committed logs give."""

import json

import pytest
from conftest import ROOT, write_run

from core.cli import InputError
from results.__main__ import differences, glance, stages, table, with_tables
from training.provenance import machines


def run_of(folder, accuracy, pretrained="None", epochs=1, name="hour", **data):
    recipe, data = {"name": name, "epochs": epochs}, {"pretrained": pretrained, **data}
    write_run(folder, [{"accuracy": accuracy}], recipe, data=data)


def row_of(what, folder):
    return next(line for line in glance(folder).splitlines() if what in line)


def test_a_run_from_contaminated_weights_is_shown_and_marked_only_where_there_is_no_other(tmp_path):
    run_of(tmp_path / "p1_B_report", 0.97, "cifar100_x.pt")
    row = row_of("model B: the same", tmp_path)
    assert "0.9700 (1), contaminated" in row and row.endswith("p1_B_report |")
    assert "Chosen here" not in glance(tmp_path)
    run_of(tmp_path / "p1_B_hour", 0.5, "runs/p1_pretrain_hour/last.pt")
    row = row_of("model B: the same", tmp_path)
    assert "| 0.5000 (1) |" in row and row.endswith("p1_B_hour |")
    assert glance(tmp_path).endswith("slightly optimistic. Chosen here: p1_B_hour.")


def test_a_run_that_is_not_finished_is_shown_and_marked_only_where_there_is_no_other(tmp_path):
    run_of(tmp_path / "p1_A_report", 0.7, epochs=200)
    assert "0.7000 (1), unfinished: epoch 1 of 200" in row_of("model A: MobileNetV2", tmp_path)
    run_of(tmp_path / "p1_A_hour", 0.5)
    assert "| 0.5000 (1) |" in row_of("model A: MobileNetV2", tmp_path)


def test_problem_2s_settings_are_of_one_group(tmp_path):
    for name, recipe in (("A", "report"), ("A", "hour"), ("B", "hour"), ("C", "demo")):
        data = {"setting": name, "train": "t", "val": "v", "backbone": "None"}
        run_of(tmp_path / f"p2_{name}_{recipe}", 0.5, name=recipe, **data)
    for name in "AB":
        assert row_of(f"setting {name}", tmp_path).endswith(f"p2_{name}_hour |")
    assert "| not run yet with the others' recipe, seed and data |" in row_of("setting C", tmp_path)
    assert glance(tmp_path).endswith("with one recipe, seed and data is shown.")


def test_a_run_that_went_on_elsewhere_shows_all_its_machines(tmp_path):
    lines, recipe = [{"accuracy": 0.5, "seconds": 60.0}], {"name": "hour", "epochs": 1}
    write_run(tmp_path / "p1_A_hour", lines, recipe)
    file = tmp_path / "p1_A_hour" / "run.json"
    told = json.loads(file.read_text())
    later = ("EPYC, 2 threads", "Tesla T4", "EPYC, 1 threads")
    told["device"] = "EPYC, 1 threads"
    told["continued"] = [{"command": "c", "commit": "a", "device": device} for device in later]
    file.write_text(json.dumps(told))
    assert table(tmp_path).endswith("| 1 thread, later 2 threads, later Tesla T4 |")
    said = machines(told)
    assert said == "EPYC, 1 thread, later EPYC, 2 threads, later Tesla T4"


def test_the_runs_that_made_a_models_weights_stand_in_a_row_with_their_epochs(tmp_path):
    lines, hour = [{"accuracy": 0.5, "seconds": 60.0}] * 2, {"name": "hour", "epochs": 2, "lr": 0.1}
    write_run(tmp_path / "p1_A_hour", lines, hour)
    again = {"name": "recalibrated", "epochs": 1, "lr": 0.0}
    start = {"pretrained": "runs/p1_A_hour/last.pt"}
    write_run(tmp_path / "p1_A_recalibrated", [lines[0] | {"accuracy": 0.6}], again, data=start)
    write_run(tmp_path / "p1_B_hour", lines, hour)  # a single run: in the table of all runs only
    _, _, row = stages(tmp_path).splitlines()
    assert row.startswith("| Problem 1, model A")
    assert row.endswith("| p1_A_hour (2), p1_A_recalibrated (no step) | 2 | 3 |")


def test_the_readmes_tables_come_from_the_logs():
    pages = [ROOT / "README.md", ROOT / "results" / "README.md"]
    written = "\n".join(path.read_text() for path in pages if path.is_file())
    for made in (glance(), stages(), table(), differences()):
        assert made.count("\n") >= 3 and made in written


def test_tables_are_made_anew_between_their_marks(tmp_path):
    page = "a\n<!-- runs -->\nold\n<!-- end -->\nb\n<!-- runs -->\n<!-- end -->\n"
    made = "<!-- runs -->\nnew\n<!-- end -->\n"
    assert with_tables(page, {"runs": "new"}, tmp_path) == f"a\n{made}b\n{made}"
    unknown = page.replace("runs", "rows")
    for text, reason in ((unknown, "an unknown table 'rows'"), ("none", "no marks")):
        with pytest.raises(InputError, match=reason):
            with_tables(text, {"runs": "new"}, tmp_path)
