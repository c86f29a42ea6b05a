"""What the report's tests read in a page's blocks."""

import json

import pytest

from report.page import Gap, Grid, Table, Text, Value, parts_of


def flat(blocks):
    """The blocks, those of a grid one by one."""
    for block in blocks:
        yield from flat(block.blocks) if isinstance(block, Grid) else [block]


def of_kind(blocks, kind):
    return [block for block in flat(blocks) if isinstance(block, kind)]


def words(parts):
    return "".join(part if isinstance(part, str) else part.text for part in parts_of(parts))


def parts_in(blocks):
    """The parts of all paragraphs, captions and cells."""
    for block in flat(blocks):
        if isinstance(block, Text):
            yield from block.parts
        elif not isinstance(block, Gap) and hasattr(block, "caption"):
            yield from parts_of(block.caption)
            for row in getattr(block, "rows", []):
                for cell in row.values():
                    yield from parts_of(cell)


def text_of(blocks):
    return words(tuple(parts_in(blocks)))


def paragraphs(blocks):
    return [words(tuple(block.parts)) for block in of_kind(blocks, Text)]


def values_in(blocks):
    return [part for part in parts_in(blocks) if isinstance(part, Value)]


def gaps(blocks):
    """What is missing: the command that makes it."""
    return {block.what: block.command for block in of_kind(blocks, Gap)}


def table(blocks, beginning="", column=None):
    """The first table whose caption begins so, and that has this column."""
    return next(
        block
        for block in of_kind(blocks, Table)
        if words(block.caption).startswith(beginning) and column in (None, *block.header)
    )


def cells(block):
    """A table's rows as texts, by their first cell."""
    rows = [[words(cell) for cell in row.values()] for row in block.rows]
    return {first: rest for first, *rest in rows}


def recorded(source, runs, out):
    """The number that a ``Value``'s source names: in a run's log, or in ``out``'s measures."""
    file, place = source.split("#")
    key, name = place.rsplit("/", 1)
    if file == "measures.json":
        return json.loads((out / file).read_text())[key]["numbers"][name]
    lines = [json.loads(line) for line in (runs / file).read_text().splitlines()]
    return next(line for line in lines if line["epoch"] == int(key))[name]


def check_values(blocks, runs, out):
    """Each number of the page is the one that its source has; returns how many there are."""
    values = values_in(blocks)
    for value in values:
        number = recorded(value.source, runs, out)
        digits = len(value.text.partition(".")[2])
        assert number == value.value and value.text == f"{number:,.{digits}f}", value.source
    return len(values)


def never(*arguments):
    pytest.fail("measured again")
