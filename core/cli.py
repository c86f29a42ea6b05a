"""What all commands share: how they fail, how they print, and the types of their flags."""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import re
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, TextIO

BAD_INPUT = 2  # an exit status: the input, or a file to write, cannot be used
PARTIAL = 3  # everything was written, but some rows or masks are the documented fallback
STOPPED = 75  # EX_TEMPFAIL of sysexits.h: stopped and saved; the same command continues
TERMINAL = (100, 24)  # columns and rows of a terminal that does not report its size


class InputError(Exception):
    """The user's input cannot be used. The message is one line: what, where, what to do."""


class Parser(argparse.ArgumentParser):
    """An argparse parser that reports a wrong command line in one line, as an InputError."""

    def error(self, message: str) -> NoReturn:
        """Always raise InputError."""
        raise InputError(f"{message}; see --help")


def entry(main: Callable[[], int | None]) -> None:
    """Run ``main`` as a program and exit with its status.

    Bad input leads to one line on stderr and exit status 2, never to a traceback. SIGTERM and
    SIGHUP (the terminal is gone) end the program as Ctrl-C does, so that half-written files are
    removed.
    """
    try:
        with contextlib.suppress(ValueError):  # only the main thread may set handlers
            for number in (signal.SIGTERM, signal.SIGHUP):
                if signal.getsignal(number) is signal.SIG_DFL:
                    signal.signal(number, _terminate)
        sys.exit(main())
    except InputError as error:
        _fail(str(error), BAD_INPUT)
    except OSError as error:
        if error.filename is None:  # from a pipe, a socket or a library, not a file of the user
            raise
        _fail(f"{error.filename}: {error.strerror}", BAD_INPUT)
    except KeyboardInterrupt:
        _fail("interrupted", 128 + signal.SIGINT)
    finally:
        for stream in (sys.stdout, sys.stderr):
            _write(stream, "", end="")  # flush leftovers now: Python would fail on them at exit


def _fail(message: str, status: int) -> NoReturn:
    note(f"{program()}: {' '.join(message.split())}")
    sys.exit(status)


def program() -> str:
    """Return the program's name as the user knows it: ``hw1_1.sh``, ``p1.train`` or a file name."""
    main = sys.modules["__main__"]
    spec = getattr(main, "__spec__", None)  # set by python3 -m
    if spec and sys.argv[0] == getattr(main, "__file__", None):
        name = spec.name.removesuffix(".__main__")
    else:
        name = Path(sys.argv[0]).name
    return os.environ.get("HW1_PROGRAM") or name


def _terminate(number: int, frame: Any) -> NoReturn:
    sys.exit(128 + number)


def some(names: list[str], at_most: int = 5) -> str:
    """List the first few of ``names`` and count the rest, for a one-line error message."""
    more = f" and {len(names) - at_most} more" if len(names) > at_most else ""
    return ", ".join(names[:at_most]) + more


def answer(text: str) -> None:
    """Print the program's result on stdout. Raises InputError if it cannot be written."""
    try:
        print(_printable(sys.stdout, text), flush=True)
    except OSError as error:
        raise InputError(f"cannot write to stdout: {error.strerror}") from error


def say(message: str) -> None:
    """Print a line on stdout immediately. The program goes on even if printing fails."""
    _write(sys.stdout, message)


def note(message: str) -> None:
    """Like ``say``, but on stderr: for everything that is not the program's result."""
    _write(sys.stderr, message)


def warn(message: str) -> None:
    """Like ``note``, as a warning."""
    note(f"warning: {message}")


def _write(stream: TextIO, message: str, end: str = "\n") -> None:
    # The program must survive the loss of its terminal, its pipe or the disk that holds its log.
    try:
        print(_printable(stream, message), end=end, file=stream, flush=True)
    except (OSError, ValueError):  # ValueError: the stream is closed
        with contextlib.suppress(OSError, ValueError):
            # Otherwise Python would write the rest at exit, and fail again.
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _printable(stream: TextIO, text: str) -> str:
    # Escapes the characters of file names that the stream's encoding lacks.
    encoding = getattr(stream, "encoding", None) or "utf-8"
    try:
        text.encode(encoding, getattr(stream, "errors", None) or "strict")
        return text
    except UnicodeEncodeError:
        return text.encode(encoding, "backslashreplace").decode(encoding)


def terminal_size() -> tuple[int, int]:
    """Return the columns and rows of the terminal behind stderr.

    Some terminals, as in a container, report 0 of each, and tqdm would show no bar at all.
    """
    try:
        columns, rows = os.get_terminal_size(sys.stderr.fileno())
    except (OSError, ValueError):  # not a real terminal
        return TERMINAL
    return columns or TERMINAL[0], rows or TERMINAL[1]


def file_path(text: str) -> Path:
    """An argparse type: the path of a file to write. ``out/`` is refused, as it is a folder."""
    if text.endswith(os.sep):
        raise argparse.ArgumentTypeError(f"{text} is a folder; give a file name")
    return Path(text)


def positive(text: str) -> int:
    """An argparse type: an integer of at least 1."""
    if not re.fullmatch(r"\+?\d+", text) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def minutes(text: str) -> float:
    """An argparse type: a number of minutes, 0 or more."""
    return _number(text, "minutes")


def _number(text: str, unit: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of {unit}, 0 or more")
    return value


def minutes_from_start(text: str) -> float:
    """An argparse type: minutes after the program's start, as a time of ``time.monotonic``.

    Under torchrun they count from torchrun's own start, so that processes that it restarts after a
    failure only get the time that is left.
    """
    process = os.getppid() if "TORCHELASTIC_RUN_ID" in os.environ else os.getpid()
    return _started(process) + 60 * minutes(text)


def _started(process: int) -> float:
    """Return when ``process`` started, by ``time.monotonic``, or now if that is unknown."""
    now = time.monotonic()
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        ticks = int(fields[19])  # since boot: see proc(5)
        return now - (time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK"))
    except (OSError, AttributeError, ValueError, IndexError):
        return now


def gibibytes(text: str) -> float:
    """An argparse type: a number of GiB, 0 or more, converted to bytes."""
    return _number(text, "GiB") * 2**30


def free_memory() -> int:
    """Return the bytes available without swapping, by MemAvailable or the container's limit."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = 1024 * next(
            int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")
        )
    except (OSError, StopIteration):
        free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        group = Path("/sys/fs/cgroup")
        allowed = int((group / "memory.max").read_text())
        allowed -= int((group / "memory.current").read_text())
        # The page cache of recently used files counts as used, but can be reclaimed.
        lines = (group / "memory.stat").read_text().splitlines()
        allowed += sum(int(line.split()[1]) for line in lines if line.startswith("inactive_file "))
        return max(0, min(free, allowed))
    except (OSError, ValueError):  # no container, or its limit is "max"
        return free
