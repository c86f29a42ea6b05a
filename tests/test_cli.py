"""How every command ends at what the user named, and what it prints."""

import os
import subprocess
import sys
import time

import pytest

from core import cli
from core.cli import entry


def test_what_the_system_refuses_of_a_named_file_is_one_line_and_status_2(capsys):
    with pytest.raises(SystemExit) as stop:
        entry(lambda: os.stat("/dev/null/" + 300 * "x"))
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.count("\n") == 1 and "/dev/null/xxx" in error


def test_what_the_system_refuses_of_nothing_named_is_no_bad_input():
    def broken():
        raise BrokenPipeError(32, "Broken pipe")

    with pytest.raises(BrokenPipeError):
        entry(broken)


def test_the_budget_counts_from_the_start_of_the_program_or_of_its_torchrun(monkeypatch):
    before = time.monotonic()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        time.sleep(0.3)
        started = cli._started(process.pid)
        process.communicate(b"\n")
    assert before - 0.05 <= started <= before + 0.2
    own, parents = cli._started(os.getpid()), cli._started(os.getppid())
    assert cli.minutes_from_start("2") == pytest.approx(own + 120, abs=0.1)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    assert cli.minutes_from_start("2") == pytest.approx(parents + 120, abs=0.1) and parents < own
