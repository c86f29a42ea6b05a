"""The README's tables are those that the committed logs give."""

import json

from conftest import ROOT

from results.__main__ import differences, glance, table


def test_a_run_from_contaminated_weights_is_shown_only_where_there_is_no_other(tmp_path):
    for name, pretrained, accuracy in (("report", "cifar100_x.pt", 0.97), ("hour", "runs/p1_pretrain_hour/last.pt", 0.5)):
        folder = tmp_path / f"p1_B_{name}"
        folder.mkdir()
        (folder / "run.json").write_text(json.dumps({"data": {"pretrained": pretrained}}))
        (folder / "log.jsonl").write_text(json.dumps({"epoch": 1, "accuracy": accuracy}) + "\n")
        row = next(line for line in glance(tmp_path).splitlines() if "model B: the same" in line)
        assert f"{accuracy:.4f} (1)" in row and row.endswith(f"p1_B_{name} |")


def test_the_readmes_tables_come_from_the_logs():
    assert glance().count("\n") >= 3
    assert glance() in (ROOT / "README.md").read_text()
    assert table().count("\n") >= 3
    assert table() in (ROOT / "README.md").read_text()
    assert differences().count("\n") >= 3
    assert differences() in (ROOT / "README.md").read_text()
