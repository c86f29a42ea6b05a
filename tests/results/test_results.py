"""The README's tables are those that the committed logs give."""

import pytest
from conftest import ROOT, write_run

from core.cli import InputError
from results.__main__ import differences, glance, table, with_tables


def run_of(folder, accuracy, pretrained="None", epochs=1, name="hour", **data):
    recipe, data = {"name": name, "epochs": epochs}, {"pretrained": pretrained, **data}
    write_run(folder, [{"accuracy": accuracy}], recipe, data=data)


def row_of(what, folder):
    return next(line for line in glance(folder).splitlines() if what in line)


def test_a_run_from_contaminated_weights_is_shown_and_marked_only_where_there_is_no_other(tmp_path):
    run_of(tmp_path / "p1_B_report", 0.97, "cifar100_x.pt")
    assert "0.9700 (1), contaminated" in (
        row := row_of("model B: the same", tmp_path)
    ) and row.endswith("p1_B_report |")
    assert "Chosen here" not in glance(tmp_path)
    run_of(tmp_path / "p1_B_hour", 0.5, "runs/p1_pretrain_hour/last.pt")
    assert "| 0.5000 (1) |" in (row := row_of("model B: the same", tmp_path)) and row.endswith(
        "p1_B_hour |"
    )
    assert glance(tmp_path).endswith("slightly optimistic. Chosen here: p1_B_hour.")


def test_a_run_that_is_not_finished_is_shown_and_marked_only_where_there_is_no_other(tmp_path):
    run_of(tmp_path / "p1_A_report", 0.7, epochs=200)
    assert "0.7000 (1), unfinished: epoch 1 of 200" in row_of("model A: MobileNetV2", tmp_path)
    run_of(tmp_path / "p1_A_hour", 0.5)
    assert "| 0.5000 (1) |" in row_of("model A: MobileNetV2", tmp_path)


def test_problem_2s_settings_are_of_one_group(tmp_path):
    for name, recipe, accuracy in (
        ("A", "report", 0.9),
        ("A", "hour", 0.5),
        ("B", "hour", 0.6),
        ("C", "demo", 0.4),
    ):
        data = {"setting": name, "train": "t", "val": "v", "backbone": "None"}
        run_of(tmp_path / f"p2_{name}_{recipe}", accuracy, name=recipe, **data)
    assert row_of("setting A", tmp_path).endswith("p2_A_hour |") and row_of(
        "setting B", tmp_path
    ).endswith("p2_B_hour |")
    assert "| not run yet with the others' recipe, seed and data |" in row_of("setting C", tmp_path)
    assert glance(tmp_path).endswith("with one recipe, seed and data is shown.")


def test_the_readmes_tables_come_from_the_logs():
    pages = [ROOT / "README.md", ROOT / "results" / "README.md"]
    written = "\n".join(path.read_text() for path in pages if path.is_file())
    for made in (glance(), table(), differences()):
        assert made.count("\n") >= 3 and made in written


def test_tables_are_made_anew_between_their_marks(tmp_path):
    page = "a\n<!-- runs -->\nold\n<!-- end -->\nb\n<!-- runs -->\n<!-- end -->\n"
    made = "<!-- runs -->\nnew\n<!-- end -->\n"
    assert with_tables(page, {"runs": "new"}, tmp_path) == f"a\n{made}b\n{made}"
    for text, reason in (
        (page.replace("runs", "rows"), "an unknown table 'rows'"),
        ("none", "no marks"),
    ):
        with pytest.raises(InputError, match=reason):
            with_tables(text, {"runs": "new"}, tmp_path)
