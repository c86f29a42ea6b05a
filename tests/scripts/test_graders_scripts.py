"""The graders' scripts as the shell starts them: from anywhere, by any Python, in any locale."""

import os
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT, draw, refused, script, snapshot


def test_scripts_run_from_anywhere_with_spaces_and_relative_paths(
    predict, p1_checkpoint, p2_checkpoint, p3_checkpoint, p1_images, p2_images, p3_images, tmp_path
):
    elsewhere, out = tmp_path / "some where", tmp_path / "out put"
    (elsewhere / "p1").mkdir(parents=True)  # a stranger's p1 must not get in the way
    (elsewhere / "p1" / "__init__.py").write_text("raise SystemExit('the wrong p1')")
    (elsewhere / "label").symlink_to(ROOT / "hw1_1.sh")  # a script may be called through a link
    bad = p1_images / os.fsdecode(b"caf\xe9 broken.png")
    shutil.copy(p1_images / "0003.png", p1_images / os.fsdecode(b"caf\xe9.png"))
    bad.touch()
    for command, checkpoint, status, images, name in (
        (elsewhere / "label", p1_checkpoint, 3, (p1_images,), "1.csv"),
        ("hw1_2.sh", p2_checkpoint, 0, p2_images, "2.csv"),
        ("hw1_3.sh", p3_checkpoint, 0, (p3_images,), "masks"),
    ):
        paths = [os.path.relpath(path, elsewhere) for path in (*images, out / name)]
        options = ("--checkpoint", checkpoint, "--device", "cpu")
        done = script(command, *paths, *options, cwd=elsewhere)
        assert done.returncode == status, done.stderr
        # The summary; no bar where there is no terminal.
        assert done.stdout == "" and done.stderr.count("\n") == (3 if status else 1)
        if status:
            assert r"caf\udce9 broken.png: cannot be read" in done.stderr
    lines = (out / "1.csv").read_bytes().split(b"\n")
    assert b"caf\xe9 broken.png,0" in lines and any(line[:9] == b"caf\xe9.png," for line in lines)
    here = tmp_path / "here"  # what the programs write in this process
    for problem, name in (("p1", "1.csv"), ("p2", "2.csv"), ("p3", "masks")):
        predict(problem, here / name, "--device", "cpu")
    assert len(snapshot(out)) == 7 and snapshot(out) == snapshot(here)


def test_an_error_of_a_script_is_one_line_with_its_name_and_status_2(tmp_path):
    for name, *paths in (("hw1_1.sh", "no"), ("hw1_2.sh", "no.csv", "no"), ("hw1_3.sh", "no")):
        done = script(name, *paths, tmp_path / "out", cwd=tmp_path)
        refused((done.returncode, done.stdout, done.stderr), f"{name}: no ")


@pytest.mark.parametrize("name", ["hw1_1.sh", "hw1_2.sh", "hw1_3.sh"])
def test_a_python_without_torch_is_told_what_to_install(tmp_path, name):
    bare = tmp_path / "python3"
    bare.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "$@"\n')  # -S: no site-packages
    bare.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", ROOT / name, "a", "b", "c"], env=environment, capture_output=True, text=True
    )
    result = done.returncode, done.stdout, done.stderr
    refused(result, "pip install -r requirements.txt")


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
