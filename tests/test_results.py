"""The README's table is the one that the committed logs give."""

from conftest import ROOT

from results.__main__ import table


def test_the_readmes_table_comes_from_the_logs():
    assert table().count("\n") >= 3
    assert table() in (ROOT / "README.md").read_text()
