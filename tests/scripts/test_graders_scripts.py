"""The graders' scripts as the shell starts them: from anywhere, by any Python, in any locale."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, draw, rows, script, snapshot


def test_p1_answers_a_file_whose_name_is_not_utf_8_and_one_it_cannot_read(
    p1_images, p1_checkpoint, tmp_path
):
    for bad, name in enumerate((b"caf\xe9.png", b"caf\xe9 broken.png")):
        shutil.copy(p1_images / "0003.png", p1_images / os.fsdecode(name))
        if bad:
            (p1_images / os.fsdecode(name)).write_bytes(b"")
    done = script(
        "hw1_1.sh", p1_images, tmp_path / "out.csv", "--checkpoint", p1_checkpoint, cwd=tmp_path
    )
    assert done.returncode == 3, done.stderr
    lines = (tmp_path / "out.csv").read_bytes().split(b"\n")
    assert r"caf\udce9 broken.png: cannot be read" in done.stderr
    assert b"caf\xe9 broken.png,0" in lines and any(
        line.startswith(b"caf\xe9.png,") for line in lines
    )


def test_scripts_run_from_anywhere_with_spaces_and_relative_paths(
    p1_images, p1_checkpoint, p2_images, p2_checkpoint, p3_images, p3_checkpoint, tmp_path
):
    elsewhere = tmp_path / "some where"
    (elsewhere / "p1").mkdir(
        parents=True
    )  # a stranger's folder with our packages' names must not get in the way
    (elsewhere / "p1" / "__init__.py").write_text("raise SystemExit('the wrong p1')")
    table, folder = p2_images
    out = tmp_path / "out put"

    def answer(name, cwd, checkpoint, *paths):
        arguments = [os.path.relpath(path, cwd) for path in paths]
        done = script(name, *arguments, "--checkpoint", checkpoint, "--device", "cpu", cwd=cwd)
        assert done.returncode == 0, done.stderr
        # The summary; no bar where there is no terminal.
        assert done.stdout == "" and done.stderr.count("\n") == 1

    answer("hw1_1.sh", elsewhere, p1_checkpoint, p1_images, out / "1.csv")
    answer("hw1_2.sh", elsewhere, p2_checkpoint, table, folder, out / "2.csv")
    answer("hw1_3.sh", elsewhere, p3_checkpoint, p3_images, out / "masks")
    made = snapshot(out)
    answer("hw1_1.sh", ROOT, p1_checkpoint, p1_images, out / "1.csv")
    assert len(made) == 7 and snapshot(out) == made


def test_an_error_of_a_script_is_one_line_with_its_name_and_status_2(tmp_path):
    for name, arguments in (
        ("hw1_1.sh", ["no"]),
        ("hw1_2.sh", ["no.csv", "no"]),
        ("hw1_3.sh", ["no"]),
    ):
        done = script(name, *arguments, tmp_path / "out", cwd=tmp_path)
        assert (
            done.returncode == 2
            and done.stderr.startswith(f"{name}: no ")
            and done.stderr.count("\n") == 1
        )


@pytest.mark.parametrize("name", ["hw1_1.sh", "hw1_2.sh", "hw1_3.sh"])
def test_a_python_without_torch_is_told_what_to_install(tmp_path, name):
    bare = tmp_path / "python3"
    bare.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "$@"\n')  # -S: no site-packages
    bare.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", ROOT / name, "a", "b", "c"], env=environment, capture_output=True, text=True
    )
    assert (
        done.returncode == 2
        and "pip install -r requirements.txt" in done.stderr
        and done.stderr.count("\n") == 1
    )


def test_a_script_called_through_a_link_finds_its_folder(p1_images, p1_checkpoint, tmp_path):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "label").symlink_to(ROOT / "hw1_1.sh")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    command = ["bash", "bin/label", p1_images, "out.csv", "--checkpoint", p1_checkpoint]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, env={**os.environ, "PATH": path}
    )
    assert done.returncode == 0, done.stderr
    assert len(rows(tmp_path / "out.csv")) == 10


def test_names_keep_their_letters_where_the_locale_is_not_utf_8(
    p1_checkpoint, p2_checkpoint, tmp_path
):
    made = subprocess.run(
        ["localedef", "-i", "en_US", "-f", "ISO-8859-1", tmp_path / "en_US.ISO-8859-1"],
        capture_output=True,
    )
    if made.returncode:
        pytest.skip("localedef cannot make a locale here")
    latin = os.environ | {"LOCPATH": str(tmp_path), "LC_ALL": "en_US.ISO-8859-1"}
    draw(tmp_path / "images" / "Müller.png", 32, 32, 0)
    (tmp_path / "in.csv").write_text("id,filename\n0,Müller.png\n", encoding="utf-8")
    for name, arguments, file in (
        ("hw1_1.sh", ("images",), p1_checkpoint),
        ("hw1_2.sh", ("in.csv", "images"), p2_checkpoint),
    ):
        command = ["bash", ROOT / name, *arguments, "out.csv", "--checkpoint", file]
        done = subprocess.run(command, cwd=tmp_path, env=latin, capture_output=True)
        assert done.returncode == 0, done.stderr
        assert "Müller.png,".encode() in (tmp_path / "out.csv").read_bytes()
