"""What every command shares: how it fails, and the types of its flags."""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, TextIO

BAD_INPUT = 2  # nothing was written
PARTIAL = 3  # everything was written, but some rows or masks are the stated fallback
STOPPED = 75  # EX_TEMPFAIL of sysexits.h: stopped and saved; the same command goes on


class InputError(Exception):
    """Something the user gave cannot be used. The message is one line: what, where, what to do."""


class Parser(argparse.ArgumentParser):
    """argparse's parser, but a wrong command line is an InputError: one line, without the usage."""

    def error(self, message: str) -> NoReturn:
        """Raises InputError, always."""
        raise InputError(f"{message}; --help says more")


def entry(main: Callable[[], int | None]) -> None:
    """Run ``main`` as a program and exit with its status.

    Bad input is one line on stderr and exit status 2, never a traceback. SIGTERM ends the program
    as Ctrl-C does, so that what it was writing is removed.
    """
    try:
        with contextlib.suppress(ValueError):  # signals belong to the main thread
            if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
                signal.signal(signal.SIGTERM, _terminate)
        sys.exit(main())
    except InputError as error:
        _fail(str(error), BAD_INPUT)
    except OSError as error:
        if error.filename is None:  # of a pipe, a socket, a library: not of what the user named
            raise
        _fail(f"{error.filename}: {error.strerror}", BAD_INPUT)
    except KeyboardInterrupt:
        _fail("interrupted", 128 + signal.SIGINT)
    finally:
        for stream in (sys.stdout, sys.stderr):
            _write(stream, "", end="")  # what others left there: Python would fail at its end


def _fail(message: str, status: int) -> NoReturn:
    note(f"{program()}: {' '.join(message.split())}")
    sys.exit(status)


def program() -> str:
    """The running program as its user named it: ``hw1_1.sh``, ``p1.train`` or a file's name."""
    main = sys.modules["__main__"]
    spec = getattr(main, "__spec__", None)  # of python3 -m
    if spec and sys.argv[0] == getattr(main, "__file__", None):
        name = spec.name.removesuffix(".__main__")
    else:
        name = Path(sys.argv[0]).name
    return os.environ.get("HW1_PROGRAM") or name


def _terminate(*_: Any) -> NoReturn:
    sys.exit(128 + signal.SIGTERM)


def some(names: list[str], at_most: int = 5) -> str:
    """The first few of ``names`` in words, and how many more there are, for an error's one line."""
    more = f" and {len(names) - at_most} more" if len(names) > at_most else ""
    return ", ".join(names[:at_most]) + more


def answer(text: str) -> None:
    """Print what the program was asked for. Raises InputError if it cannot be written."""
    try:
        print(text, flush=True)
    except OSError as error:
        raise InputError(f"cannot write on stdout: {error.strerror}") from error


def say(message: str) -> None:
    """Print a line on stdout at once. The work goes on where nobody can read it."""
    _write(sys.stdout, message)


def note(message: str) -> None:
    """The same on stderr: what is not the program's answer."""
    _write(sys.stderr, message)


def warn(message: str) -> None:
    """The same on stderr, as a warning."""
    note(f"warning: {message}")


def _write(stream: TextIO, message: str, end: str = "\n") -> None:
    # A program must not end because its terminal, its pipe or the disk under its log has.
    encoding = getattr(stream, "encoding", None) or "utf-8"
    try:  # the encoding may lack a letter of a file's name
        message = message.encode(encoding, "backslashreplace").decode(encoding)
        print(message, end=end, file=stream, flush=True)
    except (OSError, ValueError):  # ValueError: it is closed
        with contextlib.suppress(OSError, ValueError):
            # Or Python would write what is left, and fail again, at its end.
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def file_path(text: str) -> Path:
    """An argparse type: the path of a file to write. ``out/`` would be a folder's."""
    if text.endswith(os.sep):
        raise argparse.ArgumentTypeError(f"{text} is a folder; name a file")
    return Path(text)


def positive(text: str) -> int:
    """An argparse type: an integer from 1 up."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a number from 1 up")
    return value


def minutes(text: str) -> float:
    """An argparse type: a number of minutes from 0 up."""
    value = float(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a number of minutes")
    return value


def minutes_from_start(text: str) -> float:
    """An argparse type: so many minutes after the program's start, as a time of ``time.monotonic``.

    Under torchrun they count from its own start, so that processes which it starts again after a
    failure have what is left.
    """
    process = os.getppid() if "TORCHELASTIC_RUN_ID" in os.environ else os.getpid()
    return _started(process) + 60 * minutes(text)


def _started(process: int) -> float:
    """When ``process`` started, by ``time.monotonic``; now, if the system does not tell."""
    now = time.monotonic()
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        ticks = int(fields[19])  # since boot: see proc(5)
        return now - (time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK"))
    except (OSError, AttributeError, ValueError, IndexError):
        return now


def gibibytes(text: str) -> float:
    """An argparse type: a number of GiB from 0 up, as bytes."""
    value = float(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a number of GiB")
    return value * 2**30


def free_memory() -> int:
    """Bytes to be had without swapping: Linux's MemAvailable, or what a container is allowed."""
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
        # Files that were read or written lately count as used, but they make way.
        lines = (group / "memory.stat").read_text().splitlines()
        allowed += sum(int(line.split()[1]) for line in lines if line.startswith("inactive_file "))
        return max(0, min(free, allowed))
    except (OSError, ValueError):  # no container, or "max"
        return free
