"""The README's tables are those that the committed logs give."""

from conftest import ROOT

from results.__main__ import differences, glance, table


def test_the_readmes_tables_come_from_the_logs():
    assert glance().count("\n") >= 3
    assert glance() in (ROOT / "README.md").read_text()
    assert table().count("\n") >= 3
    assert table() in (ROOT / "README.md").read_text()
    assert differences().count("\n") >= 3
    assert differences() in (ROOT / "README.md").read_text()
