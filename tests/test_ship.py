"""Checkpoints that ship: what cannot is refused in one line. What does, with its manifest, is in test_training."""

import dataclasses

import pytest

from checkpoints.ship import describe, main
from core import checkpoint
from core.cli import InputError


def test_a_backbone_is_refused_as_it_has_no_score(p1_checkpoint, tmp_path):
    backbone = dataclasses.replace(
        checkpoint.load(p1_checkpoint, "p1"), architecture="backbone", scores={"loss": 0.9}
    )
    checkpoint.save(tmp_path / "last.pt", backbone)
    with pytest.raises(InputError, match="last.pt is backbone without a score"):
        describe(tmp_path / "last.pt", "p1_a.pt")


@pytest.mark.parametrize(
    ("content", "says"), [(None, "cannot read the manifest"), ("{", "is broken in 'checkpoints'")]
)
def test_a_manifest_that_is_missing_or_broken_is_one_line_and_nothing_is_copied(
    call, p1_checkpoint, tmp_path, content, says
):
    saved = checkpoint.load(p1_checkpoint, "p1")
    made = {"command": "python3 -m p1.train", "commit": "abc", "seed": 0, "epoch": 1}
    checkpoint.save(
        tmp_path / "last.pt", dataclasses.replace(saved, scores={"accuracy": 0.5}, made=made)
    )
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    if content:
        (folder / "manifest.json").write_text(content)
    status, out, err = call(main, tmp_path / "last.pt", "p1_a.pt", "--folder", folder)
    assert (
        (status, out) == (2, "")
        and says in err
        and str(folder / "manifest.json") in err
        and err.count("\n") == 1
    )
    assert not (folder / "p1_a.pt").exists()
