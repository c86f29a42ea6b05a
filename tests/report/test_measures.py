"""What the report measures is kept as long as what it was made from."""

import json
import os
import re

import numpy as np
import pytest

from core.cli import InputError
from report import measures
from report.measures import Measures, digest_of_code, file_name

KEY = "p3_B_hour/epoch_0001/mask"


def measured(out, made_from, numbers=None):
    """(whether it was measured anew, the measure) by a new ``Measures``, as of a new program."""
    calls = []

    def compute():
        calls.append(1)
        return (numbers or {"mean": 0.5}) | {"mask": np.arange(6)}

    one = Measures(out).of(KEY, made_from, compute)
    assert one.numbers == {"mean": 0.5} and one.arrays["mask"].tolist() == list(range(6))
    return bool(calls), one


@pytest.fixture
def folder(tmp_path):
    """A folder of two files."""
    (tmp_path / "data").mkdir()
    for name in "ab":
        (tmp_path / "data" / name).write_text(name)
    return tmp_path / "data"


def test_a_measure_is_read_back(tmp_path, folder):
    assert measured(tmp_path / "out", [folder])[0]
    assert not measured(tmp_path / "out", [folder])[0]


def test_a_file_that_changes_in_a_folder_is_noticed(tmp_path, folder):
    measured(tmp_path / "out", [folder])
    before = folder.stat()
    (folder / "a").write_text("another text")  # the folder's own time stays
    os.utime(folder, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert measured(tmp_path / "out", [folder])[0]


def test_changed_code_is_noticed(tmp_path, folder, monkeypatch):
    measured(tmp_path / "out", [folder])
    code = tmp_path / "code"
    code.mkdir()
    (code / "model.py").write_text("x = 1")
    monkeypatch.setattr(measures, "ROOT", tmp_path)
    monkeypatch.setitem(measures.CODE, "p3", ("code/*.py",))
    digest_of_code.cache_clear()
    assert measured(tmp_path / "out", [folder])[0]
    assert not measured(tmp_path / "out", [folder])[0]
    (code / "model.py").write_text("x = 2")
    digest_of_code.cache_clear()
    assert measured(tmp_path / "out", [folder])[0]
    monkeypatch.undo()
    digest_of_code.cache_clear()


def test_the_code_of_every_problem_is_there_and_named():
    for problem, patterns in measures.CODE.items():
        assert all(list(measures.ROOT.glob(pattern)) for pattern in patterns), problem
        assert f"{problem}/model.py" in patterns and f"{problem}/data.py" in patterns
    assert len({digest_of_code(problem) for problem in measures.CODE}) == 3


@pytest.mark.parametrize("problem", ["p1", "p2", "p3"])
def test_the_code_that_a_prediction_imports_from_core_counts(problem):
    names = f"{problem}/model.py", f"{problem}/inference.py", "prediction/predictor.py"
    text = "\n".join((measures.ROOT / name).read_text() for name in names)
    used = set(re.findall(r"^ *from core\.(\w+) import", text, re.M))
    for several in re.findall(r"^ *from core import ([\w, ]+)", text, re.M):
        used |= {name.strip() for name in several.split(",")}
    used -= {"cli", "files"}
    assert used and {f"core/{name}.py" for name in used} <= set(measures.CODE[problem])


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 cut", b"no archive at all", None])
def test_damaged_arrays_are_measured_anew_with_a_word(tmp_path, folder, capsys, damage):
    measured(tmp_path / "out", [folder])
    stored = tmp_path / "out" / "arrays" / file_name(KEY)
    if damage is None:
        stored.write_bytes(stored.read_bytes()[:-40])
    else:
        stored.write_bytes(damage)
    assert measured(tmp_path / "out", [folder])[0]
    assert "is damaged or missing" in capsys.readouterr().err
    assert not measured(tmp_path / "out", [folder])[0]


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"a": 1}',
        '{"a": {"numbers": {}, "arrays": []}}',
        '{"a": {"made_from": {}, "numbers": {"x": "1"}, "arrays": []}}',
        "[" * 100_000,
    ],
)
def test_damaged_numbers_are_one_line_and_fresh_helps(tmp_path, text):
    (tmp_path / "measures.json").write_text(text)
    with pytest.raises(
        InputError, match=r"measures.json is damaged \(.*measure again with --fresh"
    ):
        Measures(tmp_path)
    Measures(tmp_path, fresh=True).close()
    assert json.loads((tmp_path / "measures.json").read_text()) == {}
