"""What a run's files say cannot get out of its place in the page, in HTML or in Markdown."""

import re

import pytest
import torch
from conftest import metadata

from report import html, markdown, overview
from report.measures import Measures, Site
from report.page import Code, Gap, Table, Text, unfinished
from report.runs import RunLog

EVIL = "<script>alert(1)</script>"


def log_of(tmp_path, **fields):
    record = metadata({"epochs": 2}, **fields)
    return RunLog(tmp_path / "p1_A_x", record, [{"epoch": 1, "accuracy": 0.5}])


@pytest.mark.parametrize("field", ["seed", "command", "commit", "device"])
def test_no_field_of_a_record_is_html(tmp_path, field):
    run = log_of(tmp_path, **{field: EVIL})
    site = Site([run], tmp_path, (), Measures(tmp_path / "out"), torch.device("cpu"))
    blocks = [*overview.closing(site), Text(Code(EVIL)), Gap(EVIL, EVIL)]
    page = html.render("title", blocks)
    assert EVIL not in page and page.count("&lt;script&gt;alert(1)") > 3


@pytest.mark.parametrize("text", ["a", "`", "``", "x ` y `` z", "a|b", "a\n\nb", f"`{EVIL}`"])
def test_a_code_span_ends_where_it_should(text):
    """By CommonMark 6.1: it ends at the next run of exactly as many backticks as it began with."""
    span = markdown.code(text)
    fence = re.match("`+", span)[0]
    inner = span[len(fence) : -len(fence)]
    assert span.endswith(fence) and "\n" not in span
    assert fence not in re.findall("`+", inner)
    assert not re.search(r"(?<!\\)\|", span)  # nor does it end a table's cell
    shown = inner.replace(r"\|", "|").strip()
    assert shown == re.sub(r"\s", " ", text).strip()


def test_a_backtick_in_a_command_lets_nothing_out(tmp_path):
    run = log_of(tmp_path, command=f"python3 ` {EVIL}")
    blocks = [Table("caption", [{"a": "b"}], (run,)), Gap("nothing", f"x ` {EVIL}")]
    text = markdown.render("title", blocks, tmp_path / "figures")
    outside = re.sub(r"(`+)(?!`).*?(?<!`)\1(?!`)", "", text)
    assert EVIL in text and "<script>" not in outside


def test_a_command_with_an_open_quote_is_shown_as_it_is(tmp_path):
    run = log_of(tmp_path, command="python3 -m p1.train --run 'open")
    assert unfinished(run).command == "python3 -m p1.train --run 'open"
    run = log_of(tmp_path, command="python3 -m p1.train --run 'a b' --fresh")
    assert unfinished(run).command == "python3 -m p1.train --run 'a b'"
