"""How every command ends at what the user named, and what it prints."""

import os

import pytest

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
