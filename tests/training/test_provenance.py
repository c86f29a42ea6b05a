"""Where a run comes from: its commit, its data and its files."""

import os
import subprocess

import pytest
import torch

from training import provenance
from training.provenance import commit, digest, fingerprint

pytestmark = pytest.mark.usefixtures("quick")


def test_the_commit_is_that_of_the_project_and_not_of_a_folder_round_it(monkeypatch, tmp_path):
    def git(*words):
        command = ["git", "-c", "user.name=a", "-c", "user.email=b", *words]
        return subprocess.run(command, cwd=outer, check=True, capture_output=True, text=True).stdout

    outer, project = tmp_path / "outer", tmp_path / "outer" / "project"
    (project / "core").mkdir(parents=True)
    monkeypatch.setattr(provenance, "__file__", str(project / "core" / "provenance.py"))
    git("init", "-q"), git("commit", "-q", "--allow-empty", "-m", "another project's")
    assert commit() == "unknown"
    monkeypatch.setenv("GIT_DIR", str(outer / ".git"))  # as in a hook of the other project
    assert commit() == "unknown"
    monkeypatch.delenv("GIT_DIR")
    (outer / ".git").rename(project / ".git")
    outer = project
    assert commit() == git("rev-parse", "HEAD")[:12]
    (project / "core" / "new.py").touch()
    git("add", "-A")
    assert commit() == git("rev-parse", "HEAD")[:12] + "-dirty"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert commit() == "unknown"


def test_a_fingerprint_tells_a_data_set_from_a_changed_one(tmp_path):
    def made(content="one", time=1):
        paths[0].write_text(content)
        os.utime(paths[0], (time, time))
        return fingerprint(paths)

    paths = [tmp_path / "a.png", tmp_path / "b.png"]
    paths[1].touch()
    prints = [made(), made("more"), made(time=2), fingerprint(paths[:1]), fingerprint(paths[::-1])]
    assert len(set(prints)) == 5 and made() == prints[0]


def test_content_is_known_again_wherever_and_whenever_it_was_made(tmp_path):
    images = torch.randint(0, 256, (5, 3, 7, 9), dtype=torch.uint8)
    labels, table, moved = torch.arange(5), tmp_path / "a.csv", tmp_path / "b.csv"
    table.write_bytes(b"0,a.png,3")
    before = digest(images, labels, table)
    moved.write_bytes(b"0,a.png,3")
    os.utime(moved, (1, 1))
    assert digest(images.clone(memory_format=torch.channels_last), labels, moved) == before
    other = images.clone()
    other[4, 2, 6, 8] ^= 1
    moved.write_bytes(b"0,a.png,4")
    changed = [
        (other, labels, table),
        (images, labels.flip(0), table),
        (images, labels, moved),
        (images[:4], labels, table),
        (images.flip(0), labels, table),
        (images.view(5, 3, 9, 7), labels, table),
        (images, table),
    ]
    assert len({before, *(digest(*parts) for parts in changed)}) == 8


def test_content_of_many_pieces_is_that_of_their_bytes(monkeypatch):
    images = torch.randint(0, 256, (40, 3, 7, 9), dtype=torch.uint8)
    monkeypatch.setattr("training.provenance.PIECE", 400)
    before = digest(images)
    for image in range(40):
        changed = images.clone()
        changed[image, 0, 0, 0] ^= 1
        assert digest(changed) != before
