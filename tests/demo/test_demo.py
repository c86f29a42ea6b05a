"""demo.sh: where it starts, in what order, and what it says meanwhile.

What it runs has its own tests.
"""

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from core.cli import InputError
from demo import __main__ as demo


def test_out_is_relative_to_the_callers_folder(tmp_path):
    repository, here = tmp_path / "the repository", tmp_path / "some where"
    (repository / ".venv" / "bin").mkdir(parents=True)
    for folder in (repository / "demo", repository / "core", here / "demo"):
        folder.mkdir(parents=True)  # a stranger's demo must not get in the way
        (folder / "__init__.py").touch()
    for name in ("demo.sh", "venv.sh", "requirements.txt"):
        shutil.copy(ROOT / name, repository)
    shutil.copy(ROOT / "requirements.txt", repository / ".venv")  # as if installed
    (repository / ".venv" / "bin" / "python3").symlink_to(sys.executable)
    (repository / "demo" / "__main__.py").write_text(
        "import sys, core, demo\nfrom pathlib import Path\n"
        "print(demo.__file__, Path(sys.argv[2]).resolve())\n"
    )
    command = ["bash", os.path.relpath(repository / "demo.sh", here), "--out", "out put"]
    done = subprocess.run(command, cwd=here, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{repository / 'demo' / '__init__.py'} {here / 'out put'}\n"


@pytest.mark.slow  # some twenty programs, one after the other: each one imports torch
def test_the_demo_goes_from_the_drawing_to_the_page(tmp_path, monkeypatch, capfd):
    few = {"p1_train": 2, "p1_val": 1, "p2_unlabelled": 8, "p2_train": 1, "p2_val": 1}
    small = dataclasses.replace(demo.DRAWING, **few, p3_train=5, p3_val=2, size=256)
    train = demo.Demo.train

    def short(self, name, module, *flags):
        more = ("--epochs", "1", "--batch-size", "4", "--device", "cpu")
        return train(self, name, module, *flags, *more)

    monkeypatch.setattr(demo, "DRAWING", small)
    monkeypatch.setattr(demo, "FIRST", small)
    monkeypatch.setattr(demo.Demo, "train", short)
    monkeypatch.setattr(sys, "argv", ["demo.sh", "--out", str(tmp_path / "out")])
    python = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    monkeypatch.setenv("PATH", python)
    demo.main()
    table = capfd.readouterr().out.split("\nwhat  ")[-1]
    shipped = json.loads((ROOT / "checkpoints" / "manifest.json").read_text())["checkpoints"]
    named = ["p1 A", "p2 C", "p3 C", *(entry["name"] for entry in shipped)]
    for name in named:
        (line, *_) = (line for line in table.splitlines() if line.startswith(name))
        assert 0 <= float(re.findall(r"\d\.\d{3}\b", line)[-1]) <= 1, line
    assert "make the report" in table
    assert (tmp_path / "out" / "report" / "report.html").stat().st_size > 10_000


def test_a_silent_command_is_named_every_few_seconds_and_lines_come_at_once(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(demo, "SILENCE", 0.2)
    slow = "import time; print('first', flush=True); time.sleep(1); print('last')"
    printed = demo.Demo(tmp_path).run("counting", sys.executable, "-c", slow)
    assert printed == "first\nlast\n"
    lines = capsys.readouterr().out.splitlines()
    between = lines[lines.index("first") + 1 : lines.index("last")]
    assert between and all(line.startswith("... counting: ") for line in between)


def test_a_command_that_fails_ends_the_demo(tmp_path):
    with pytest.raises(InputError, match="ended with status 3"):
        demo.Demo(tmp_path).run("failing", sys.executable, "-c", "raise SystemExit(3)")


def test_shipped_weights_come_first_then_trainings_then_the_report(tmp_path, monkeypatch, capsys):
    commands = []

    def run(self, what, *command):
        commands.append([str(word) for word in command])
        return "accuracy: 0.125\n"

    tables = []
    monkeypatch.setattr(demo, "draw_all", lambda folder, parameters: None)
    monkeypatch.setattr(demo, "without_labels", lambda table, asked: tables.append((table, asked)))
    monkeypatch.setattr(demo.Demo, "run", run)
    monkeypatch.setattr(sys, "argv", ["demo.sh", "--out", str(tmp_path)])
    demo.main()
    shipped = [command[-1] for command in commands if str(ROOT / "checkpoints") in command[-1]]
    ships = json.loads((ROOT / "checkpoints" / "manifest.json").read_text())["checkpoints"]
    assert [Path(path).name for path in shipped] == [entry["name"] for entry in ships]
    first = 2 * len(ships)  # each is run and scored
    assert commands[first - 2][-1] == shipped[-1]
    trained = [command[2] for command in commands if "--recipe" in command]
    assert trained == ["p1.train", "p2.pretrain", "p2.train", "p3.train"]
    assert commands[-1][2] == "report"
    for command in commands[:first]:  # on the few images drawn for it, never on the trainings'
        assert not any(str(tmp_path / "data") in word for word in command)
    assert [table.is_relative_to(tmp_path / "first") for table, _ in tables] == [True, False]
    rows = capsys.readouterr().out
    assert rows.count("0.125") == len(ships) + 3 and "chance 0.020" in rows
