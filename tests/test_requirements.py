"""The Python and the packages that are needed: declared, checked at the start, installed."""

import ast
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT, imported

import core

PROBLEMS = ("p1", "p2", "p3")
LISTS = ("requirements.txt", "requirements-dev.txt")
OURS = {path.name for path in ROOT.iterdir() if (path / "__init__.py").exists()}
OURS |= {path.stem for path in ROOT.glob("*.py")} | {"conftest", "tests"}


def listed(name):
    """Package to version specifier."""
    lines = [line.split("#")[0].strip() for line in (ROOT / name).read_text().splitlines()]
    return dict(re.fullmatch(r"([\w-]+)(.*)", line).groups() for line in lines if line)


def programs(*folders):
    """The files of these folders and of those in them; ``""`` is the root alone."""
    found = [sorted((ROOT / folder).glob("**/*.py" if folder else "*.py")) for folder in folders]
    return [path for paths in found for path in paths]


@pytest.mark.parametrize(
    ("folders", "lists"),
    [
        (("", "core", "training", "prediction", *PROBLEMS, "report", "demo", "results"), LISTS[:1]),
        (("tests", "benchmarks", "checkpoints"), LISTS),
    ],
)
def test_what_is_imported_is_declared(folders, lists):
    of_module = importlib.metadata.packages_distributions()
    declared = {name.lower() for file in lists for name in listed(file)}
    tests_own = {path.stem for path in programs("tests")}
    for path in programs(*folders):
        for module in set(imported(path)) - OURS - tests_own - sys.stdlib_module_names:
            packages = {name.lower() for name in of_module.get(module, [module])}
            assert packages & declared, f"{path} imports {module}, which {lists} do not list"


def test_the_versions_checked_at_the_start_are_the_declared_ones():
    declared = listed("requirements.txt")
    for module, (package, lowest) in core.PACKAGES.items():
        assert declared[package] == f">={lowest}", module


def test_what_was_tested_with_is_all_that_is_declared_and_recent_enough():
    tested = listed("constraints.txt")
    declared = listed(LISTS[0]) | listed(LISTS[1])
    assert tested.keys() == declared.keys()
    for package, wanted in declared.items():
        lowest = core._numbers(wanted.lstrip(">=~"))
        assert core._numbers(tested[package].removeprefix("==")) >= lowest, package


def test_a_python_that_is_too_old_can_read_the_programs_to_say_so():
    for path in [*programs(*PROBLEMS, "report"), ROOT / "core/__init__.py"]:
        text = path.read_text()
        if path.name == "__init__.py" or 'if __name__ == "__main__"' in text:
            ast.parse(text, str(path), feature_version=(3, 8))


@pytest.mark.parametrize(
    "module", ["p1.train", "p2.pretrain", "p3.inference", "checkpoints.download", "report"]
)
@pytest.mark.parametrize("found", ["1.12.1+cu113", None])
def test_a_package_that_is_too_old_or_missing_is_one_line_before_it_is_imported(
    tmp_path, module, found
):
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("raise SystemExit('imported')")
    (tmp_path / "torch-1.dist-info").mkdir()
    (tmp_path / "torch-1.dist-info" / "METADATA").write_text(f"Name: torch\nVersion: {found}\n")
    hide = "import importlib.util as u; find = u.find_spec\n"
    hide += "u.find_spec = lambda name: None if name == 'torch' else find(name)\n"
    (tmp_path / "sitecustomize.py").write_text("" if found else hide)
    done = subprocess.run(
        [sys.executable, "-m", module],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
        capture_output=True,
        text=True,
    )
    fault = f"torch {found}" if found else "no torch"
    assert done.returncode == 2 and done.stdout == "" and done.stderr.count("\n") == 1
    assert f"has {fault}, but " in done.stderr and "2.6 or newer is needed" in done.stderr
    assert sys.executable in done.stderr and "pip install -r requirements.txt" in done.stderr


def test_a_python_that_is_too_old_is_named(monkeypatch, capsys):
    monkeypatch.setattr(sys, "version_info", (3, 8, 10))
    with pytest.raises(SystemExit) as stop:
        core.require("torch")
    assert stop.value.code == 2
    assert "has Python 3.8.10, but 3.10 or newer is needed. Run: pip" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("version", "numbers"),
    [("2.6.0+cu124", [2, 6]), ("2.14.0a0+git1", [2, 14]), ("10", [10]), ("v1.x", [1, 0])],
)
def test_versions_of_every_form_are_compared(version, numbers):
    assert core._numbers(version) == numbers


@pytest.mark.parametrize(
    ("configuration", "has_uv", "installer"),
    [("", True, "uv"), ("", False, "pip"), ("global.constraint='c.txt'", True, "pip")],
)
def test_an_environment_is_made_once_by_uv_or_as_pip_is_configured(
    tmp_path, configuration, has_uv, installer
):
    repository, tools = tmp_path / "the repository", tmp_path / "bin"
    repository.mkdir(), tools.mkdir()
    for name in ("venv.sh", *LISTS):
        (repository / name).write_bytes((ROOT / name).read_bytes())
    python = f"""#!/bin/bash
case "$*" in
  "-m pip config list") echo "{configuration}";;
  "-m venv "*) mkdir -p "$3/bin"; cp "$0" "$3/bin/python3";;
  *"pip install"*) echo "pip $*" >>"{tmp_path}/log";;
esac
"""
    (tools / "python3").write_text(python)
    if has_uv:
        (tools / "uv").write_text(f'#!/bin/bash\necho "uv $*" >>"{tmp_path}/log"\n')
    for path in tools.iterdir():
        path.chmod(0o755)
    command = f'set -euo pipefail; requirements=({" ".join(LISTS)}); source "{repository}/venv.sh"'
    for _ in range(2):
        subprocess.run(["bash", "-c", command], env={"PATH": f"{tools}:/usr/bin:/bin"}, check=True)
    (line,) = (tmp_path / "log").read_text().splitlines()
    assert line.startswith(installer) and all(f"{repository}/{name}" in line for name in LISTS)


@pytest.fixture(scope="module")
def lowest(tmp_path_factory):
    """The folder of the programs of an environment with the lowest versions that are declared."""
    if not shutil.which("uv"):
        pytest.skip("there is no uv, which can install the lowest versions")
    folder = tmp_path_factory.mktemp("lowest") / "venv"
    make = ["uv", "venv", "--no-python-downloads", "--python", ">=3.10,<3.13", str(folder)]
    python, requirements = str(folder / "bin/python3"), str(ROOT / LISTS[0])
    flags = ["--resolution", "lowest-direct", "--requirement", requirements]
    for command in (make, ["uv", "pip", "install", "--python", python, *flags]):
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            # Not reached: the package index. Reached, but no set of versions fits: a wrong bound.
            if "conflict" in done.stderr or "unsatisfiable" in done.stderr:
                pytest.fail(done.stderr)
            pytest.skip(f"{' '.join(command[:3])} failed: {done.stderr.strip()[-300:]}")
    return folder / "bin"


@pytest.mark.exhaustive  # some 3 GB are downloaded, unless uv has them in its cache
def test_the_graders_path_works_with_the_lowest_versions(lowest, tiny, tmp_path):
    office, scenes = tiny / "p2_data/office", tiny / "p3_data/validation"
    labels, more, masks = tmp_path / "1.csv", tmp_path / "2.csv", tmp_path / "masks"
    for command in (
        ["bash", ROOT / "hw1_1.sh", tiny / "p1_data/val_50", labels],
        ["bash", ROOT / "hw1_2.sh", office / "val.csv", office / "val", more],
        ["bash", ROOT / "hw1_3.sh", scenes, masks],
        ["python3", ROOT / "mean_iou_evaluate.py", "-g", scenes, "-p", masks],
    ):
        done = subprocess.run(
            command,
            env=os.environ | {"PATH": f"{lowest}{os.pathsep}{os.environ['PATH']}"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
    assert "mean_iou: " in done.stdout
    for table, folder in ((labels, tiny / "p1_data/val_50"), (more, office / "val")):
        images = [path for path in folder.iterdir() if path.suffix in (".png", ".jpg")]
        assert len(table.read_text().splitlines()) == 1 + len(images)
    assert len(list(masks.glob("*_mask.png"))) == len(list(scenes.glob("*_sat.jpg")))
