"""How every command ends at what the user named, and what it prints."""

import argparse
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT, refused

from core import cli
from core.cli import entry


def test_what_the_system_refuses_of_a_named_file_is_one_line_and_status_2(call):
    refused(call(lambda: os.stat("/dev/null/" + 300 * "x")), "/dev/null/xxx")


def test_what_the_system_refuses_of_nothing_named_is_no_bad_input():
    def broken():
        raise BrokenPipeError(32, "Broken pipe")

    with pytest.raises(BrokenPipeError):
        entry(broken)


def test_the_budget_counts_from_the_start_of_the_program_or_of_its_torchrun(monkeypatch):
    before = time.monotonic()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        after = time.monotonic()
        time.sleep(0.3)
        started = cli._started(process.pid)
        process.communicate(b"\n")
    assert before - 0.05 <= started <= after + 0.05
    monkeypatch.setattr(cli, "_started", float)  # as if a process's number were its start
    assert cli.minutes_from_start("2") == os.getpid() + 120
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    assert cli.minutes_from_start("2") == os.getppid() + 120


# --- streams that cannot be written ---

SPEAKER = """
import sys
from core.cli import entry, note, say, warn

def main():
    for message in ("a line", "ein n\\u00e4chste\\ud83d", "another"):
        say(message), note(message), warn(message)
    sys.stderr.write("left in the buffer")
    open("reached", "w").close()
    return 3

entry(main)
"""


def shell(command, cwd, **environment):
    ours = {"PYTHONPATH": str(ROOT), "PYTHON": sys.executable, "PYTHONUNBUFFERED": ""}
    environment = os.environ | ours | environment
    return subprocess.run(
        ["bash", "-c", command], cwd=cwd, env=environment, capture_output=True, text=True
    )


@pytest.fixture
def speaker(tmp_path):
    """Run the program above by ``command``; it must get to its end."""

    def run(command, **environment):
        done = shell(command.replace("SPEAKER", '"$PYTHON" speaker.py'), tmp_path, **environment)
        assert (tmp_path / "reached").read_bytes() == b"" and "Traceback" not in done.stderr
        return done

    (tmp_path / "speaker.py").write_text(SPEAKER)
    return run


@pytest.mark.parametrize(
    "redirection",
    ["", "2>&-", ">&-", "<&- >&- 2>&-", ">/dev/full", "2>/dev/full", ">/dev/full 2>&1"],
)
def test_a_program_works_on_where_nobody_can_read_what_it_says(speaker, redirection):
    assert speaker(f"SPEAKER {redirection}").returncode == 3


def test_a_reader_that_leaves_ends_nothing(speaker, tmp_path):
    done = speaker("(SPEAKER; echo $? >status) 2>&1 | true")
    assert (tmp_path / "status").read_text() == "3\n" and done.stderr == ""


def test_a_letter_that_the_terminal_lacks_is_written_as_its_number(speaker):
    done = speaker("SPEAKER", PYTHONIOENCODING="ascii")
    assert done.returncode == 3 and "ein n\\xe4chste\\ud83d\n" in done.stdout


def test_an_answer_that_cannot_be_written_is_one_line_and_status_2(tmp_path):
    program = "from core.cli import answer, entry; entry(lambda: answer('it'))"
    done = shell(f'"$PYTHON" -c "{program}" >/dev/full', tmp_path)
    assert done.returncode == 2
    assert done.stderr == "-c: cannot write to stdout: No space left on device\n"


@pytest.mark.parametrize("encoding", ["ascii", "utf-8:strict", "latin-1"])
def test_an_answer_with_a_letter_that_the_terminal_lacks_is_written(tmp_path, encoding):
    program = "from core.cli import answer, entry; entry(lambda: answer('\\u4e2d\\udcff'))"
    done = shell(f'"$PYTHON" -c "{program}"', tmp_path, PYTHONIOENCODING=encoding)
    assert (done.returncode, done.stderr) == (0, "") and "\\udcff" in done.stdout


@pytest.mark.parametrize("kind", [cli.positive, cli.minutes, cli.gibibytes])
def test_a_flags_value_that_is_not_a_number_is_named_in_plain_words(call, kind):
    def main():
        parser = cli.Parser()
        parser.add_argument("--much", type=kind)
        parser.parse_args()

    refused(call(main, "--much", "abc"), "'abc' is not a")
    refused(call(main, "--much=-1"), "'-1' is not a")


def test_what_is_left_in_a_buffer_that_cannot_be_written_leaves_the_status(tmp_path):
    program = "import sys; from core.cli import entry; entry(lambda: sys.stdout.write('it'))"
    done = shell(f'"$PYTHON" -c "{program}" >/dev/full', tmp_path)
    assert (done.returncode, done.stderr) == (2, "")  # what write returns


# --- the command line, and being ended ---


@pytest.mark.parametrize("arguments", [[], ["--epochs", "none"], ["--unknown", "1"]])
def test_a_wrong_command_line_is_one_line_without_the_usage(call, arguments):
    def main():
        parser = cli.Parser()
        parser.add_argument("--epochs", type=int, required=True)
        parser.parse_args()

    refused(call(main, *arguments), "see --help")


ENDLESS = """
import core
{before}
from pathlib import Path
from core.cli import entry
from core.files import atomic_write

def main():
    with atomic_write(Path("out")) as file:
        print("ready", flush=True)
        import time
        time.sleep(60)

entry(main)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("when", ["importing", "writing"])
def test_ctrl_c_is_one_line_and_what_was_being_written_is_removed(tmp_path, number, when):
    before = (
        "print('ready', flush=True); import time; time.sleep(60)" if when == "importing" else ""
    )
    process = subprocess.Popen(
        [sys.executable, "-c", ENDLESS.format(before=before)],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # In the background of a script SIGINT is ignored, by all children too.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    _, error = process.communicate(timeout=30)
    if number == signal.SIGINT:
        assert (process.returncode, error) == (130, "-c: interrupted\n")
    else:  # nothing is being written while it imports, so the signal may do what it always does
        assert process.returncode in ((-15,) if when == "importing" else (143,)) and error == ""
    assert list(tmp_path.iterdir()) == []


def test_a_path_that_ends_like_a_folder_is_no_file():
    assert str(cli.file_path("a/out")) == "a/out"
    for text in ("out/", "missing/out/", "/"):
        with pytest.raises(argparse.ArgumentTypeError, match="is a folder; give a file name"):
            cli.file_path(text)


def test_files_that_a_container_holds_in_its_memory_count_as_free(tmp_path, monkeypatch):
    texts = {
        "memory.max": "1000",
        "memory.current": "900",
        "memory.stat": "anon 300\ninactive_file 500\nactive_file 7\n",
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(
        cli, "Path", lambda path: tmp_path if path == "/sys/fs/cgroup" else Path(path)
    )
    assert cli.free_memory() == 600
    (tmp_path / "memory.current").write_text("1900")
    assert cli.free_memory() == 0


@pytest.mark.parametrize(
    ("command", "name"), [("-m p1.score a b", "p1.score"), ("p1/score.py a b", "score.py")]
)
def test_a_program_is_called_as_its_user_called_it(command, name):
    done = shell(f'"$PYTHON" {command}', ROOT)
    assert done.returncode == 2 and done.stderr.startswith(f"{name}: ")
