"""Code that the three problems share: images, augmentation, checkpoints, files, devices.

Every program imports this package first, so this file does what must happen before any other
import: it checks the versions of Python and of the packages, opens missing standard streams and
makes Ctrl-C print a single line. Python 3.8 must be able to parse this file and the programs that
import it first; otherwise they could not report that Python is too old.
"""

import importlib.util as _util
import os as _os
import re as _re
import sys as _sys

PYTHON = (3, 10)
# Module -> the package that provides it and the lowest version that works. requirements.txt gives
# the reasons.
PACKAGES = {
    "torch": ("torch", "2.6"),
    "torchvision": ("torchvision", "0.21"),
    "numpy": ("numpy", "1.26"),
    "PIL": ("pillow", "10.1"),
    "tqdm": ("tqdm", "4.66"),
    "matplotlib": ("matplotlib", "3.8"),
    "sklearn": ("scikit-learn", "1.4"),
}


def require(*modules: str) -> None:
    """Exit with one line and status 2 if Python or one of ``modules`` is missing or too old."""
    faults = []
    if _sys.version_info < PYTHON:
        version = ".".join(map(str, _sys.version_info[:3]))
        faults.append(f"Python {version}, but {PYTHON[0]}.{PYTHON[1]} or newer is needed")
    for module in modules:
        package, lowest = PACKAGES[module]
        version = _version(module, package)
        if version == "":
            faults.append(f"no {module}, but {package} {lowest} or newer is needed")
        elif _numbers(version) < _numbers(lowest):
            faults.append(f"{package} {version}, but {lowest} or newer is needed")
    if faults:
        _complain(
            f"this Python ({_sys.executable}) has {'; '.join(faults)}. "
            "Run: pip install -r requirements.txt (or use .venv: . .venv/bin/activate)"
        )
        _sys.exit(2)


def _version(module: str, package: str) -> str:
    # Reads the version without importing the module, since a package that is too old may fail to
    # import. Returns "" if it is missing.
    if _util.find_spec(module) is None:
        return ""
    from importlib import metadata  # torch imports it anyway, so this costs nothing

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:  # not installed by pip: assume it is new enough
        return PACKAGES[module][1]


def _numbers(version: str) -> "list[int]":
    # "2.6.0a0+git1" -> [2, 6]. PACKAGES only has these two numbers.
    return [int("".join(filter(str.isdigit, part)) or 0) for part in version.split(".")[:2]]


def _complain(message: str) -> None:
    program = _os.environ.get("HW1_PROGRAM") or _os.path.basename(_sys.argv[0])
    if program == "-m":  # python3 -m NAME: Python has not found the file of NAME yet
        words = getattr(_sys, "orig_argv", ["-m", "python3"])  # Python 3.10 has it
        flag = next((k for k, word in enumerate(words) if _re.fullmatch("-[A-Za-z]*m", word)), 0)
        program = words[flag + 1] if flag else "python3 -m"
    try:
        _sys.stderr.write(f"{program}: {message}\n")
        _sys.stderr.flush()
    except OSError:  # stderr cannot be written either
        pass


def _open_streams() -> None:
    # Python sets a stream to None if its descriptor was closed before the program started, as by
    # 2>&-. Printing would then fail, and the next file to be opened would get the descriptor,
    # together with everything that C code prints there.
    for name in ("stdin", "stdout", "stderr"):
        if getattr(_sys, name) is None:
            # The closed descriptor is the lowest free one, so open returns it.
            stream = open(_os.devnull, "r" if name == "stdin" else "w")  # noqa: SIM115
            setattr(_sys, name, stream)


def _say_interrupted(kind, error, traceback) -> None:
    # core.cli.entry does the same while a program runs; this hook covers the imports before it.
    if issubclass(kind, KeyboardInterrupt):
        _complain("interrupted")
        _sys.exit(130)
    _sys.__excepthook__(kind, error, traceback)


_sys.excepthook = _say_interrupted
_open_streams()
require("torch", "torchvision", "numpy", "PIL", "tqdm")
