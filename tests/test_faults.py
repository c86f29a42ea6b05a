"""The harnesses that break the machine, in short: see ``tests.faults`` and ``tests.mutations``."""

import re
import subprocess
import sys

import pytest
from conftest import ROOT


def harness(name, *flags):
    """The last line that a harness prints; it must have found nothing."""
    done = subprocess.run(
        [sys.executable, "-m", f"tests.{name}", *flags], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()[-1]


FILES = ("checkpoint", "cache", "ship", "download", "p1", "p2", "p3")


@pytest.mark.parametrize(
    ("tasks", "every", "at_least"),
    [(FILES, "7", 29), (("training",), "35", 6), (("report",), "50", 4)],
    ids=str,
)
def test_a_disk_that_fails_or_a_kill_at_any_step_loses_nothing(tasks, every, at_least):
    line = harness("faults", "--tasks", *tasks, "--kinds", "full", "killed", "--every", every)
    faults, broken = re.fullmatch(
        r"(\d+) faults in \d+ tasks, (\d+) promises broken", line
    ).groups()
    assert int(faults) >= at_least and broken == "0"


def test_files_that_are_broken_or_crafted_are_read_or_refused():
    line = harness("mutations", "--count", "100")
    inputs, faults = re.match(r"(\d+) inputs, (\d+) faults, ", line).groups()
    assert int(inputs) > 1300 and faults == "0"


@pytest.mark.exhaustive  # 15 times as many files
def test_many_files_that_are_broken_or_crafted_are_read_or_refused():
    assert re.match(r"(\d+) inputs, 0 faults, ", harness("mutations", "--count", "1500"))


@pytest.mark.exhaustive  # starts each program anew at every step
def test_every_kind_of_fault_at_every_step_loses_nothing():
    assert harness("faults").endswith("9 tasks, 0 promises broken")


def test_each_promise_names_a_test_that_there_is():
    promises = (ROOT / "tests" / "README.md").read_text()
    named = re.findall(r"`([\w/]*test_\w+\.py)::(\w+)`", promises)
    assert len(named) > 15 and len(named) == promises.count("::")
    rows = [row for row in promises.splitlines() if row.startswith("| ")][1:]
    assert all("test_" in row or "python3 -m tests." in row for row in rows)
    assert "tests/README.md" in (ROOT / "README.md").read_text()
    for file, test in named:
        (path,) = (ROOT / "tests").rglob(file)
        assert f"\ndef {test}(" in path.read_text(), f"{file}::{test}"
