"""Checkpoints that cannot ship are refused in one line. (test_training ships one.)"""

import dataclasses
import json

import pytest
from conftest import ROOT, draw, refused, rows

from checkpoints.__main__ import main as show
from checkpoints.__main__ import page
from checkpoints.ship import describe, main
from core import checkpoint
from core.cli import InputError
from p1.inference import main as predict


@pytest.fixture
def trained(p1_checkpoint, tmp_path):
    """Writes a run's ``last.pt``: the random checkpoint with a score, and ``data`` in ``made``."""

    def write(scores=None, data=None, **fields):
        made = {"command": "python3 -m p1.train", "commit": "abc", "seed": 0, "epoch": 1}
        fields |= {"scores": scores or {"accuracy": 0.75}, "made": made | {"data": data or {}}}
        saved = checkpoint.load(p1_checkpoint, "p1")
        checkpoint.save(tmp_path / "last.pt", dataclasses.replace(saved, **fields))
        return tmp_path / "last.pt"

    return write


def test_a_backbone_is_refused_as_it_has_no_score(trained):
    with pytest.raises(InputError, match="last.pt is backbone without a score"):
        describe(trained(scores={"loss": 0.9}, architecture="backbone"), "p1_a.pt")


@pytest.mark.parametrize(
    ("content", "says"), [(None, "cannot read the manifest"), ("{", "is broken in 'checkpoints'")]
)
def test_a_manifest_that_is_missing_or_broken_is_one_line_and_nothing_is_copied(
    call, trained, tmp_path, content, says
):
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    if content:
        (folder / "manifest.json").write_text(content)
    result = call(main, trained(), "p1_a.pt", "--folder", folder)
    refused(result, says, str(folder / "manifest.json"))
    assert not (folder / "p1_a.pt").exists()


def test_the_page_of_models_is_the_manifests(call):
    status, out, err = call(show)
    assert (status, err) == (0, "")
    assert out == (ROOT / "checkpoints" / "README.md").read_text()
    manifest = json.loads((ROOT / "checkpoints" / "manifest.json").read_text())
    for listed in manifest["checkpoints"]:
        (line,) = [line for line in out.splitlines() if line.startswith(f"| `{listed['name']}`")]
        assert f"{listed['parameters']:,}" in line and f"{listed['value']:.4f}" in line
        assert f" {listed['graded']:.4f} (" in line
        assert listed["command"] in line and listed["licence"] in line
    assert "p9.pt` | - | -" in page({"checkpoints": [{"name": "p9.pt"}]})


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({"pretrained": "None"}, "random"),
        ({"pretrained": "mine.pt", "pretrained_sha256": "0" * 64}, "mine.pt"),
        (
            {"pretrained": "mine.pt", "pretrained_sha256": "0", "pretrained_before": ["8a269f5e1"]},
            "mine.pt, contaminated",
        ),
    ],
)
def test_an_entry_says_what_the_weights_go_back_to(trained, tmp_path, data, says):
    assert describe(trained(data=data), "p1_a.pt", tmp_path)["initial_weights"] == says


def test_an_entry_is_counted_in_the_network_and_scored_by_the_graders_script(
    call, trained, tmp_path
):
    file, out, images = trained(), tmp_path / "out.csv", tmp_path / "data" / "p1_data" / "val_50"
    for number in range(4):
        draw(images / f"{number}_0.png", 32, 32, number)
    listed = describe(file, "p1_a.pt", tmp_path / "data")
    assert (listed["parameters"], listed["multiply_adds"]) == (4_405_426, 170_145_024)
    assert call(predict, images, out, "--checkpoint", file)[0] == 0
    right = sum(name.split("_")[0] == label for name, label in rows(out))
    assert (listed["graded"], listed["validation_images"]) == (right / 4, 4)
    assert f"| accuracy {right / 4:.4f} (" in page({"checkpoints": [listed]})
    (images / "0_0.png").write_bytes(b"")
    with pytest.raises(InputError, match="1 of 4 images"):
        describe(file, "p1_a.pt", tmp_path / "data")
    nowhere = describe(file, "p1_a.pt", tmp_path / "nowhere")
    assert nowhere["graded"] is None and nowhere["value"] == 0.75


@pytest.mark.parametrize("name", ["checkpoints/p1_a.pt", "p1_new/x.pt", "a.pt", "p1_a"])
def test_a_name_that_the_manifest_cannot_have_is_refused(call, trained, name):
    refused(call(main, trained(), name), "is not the name of a shipped file, such as p1_a.pt")


def test_weights_that_change_while_they_are_scored_are_not_shipped(
    call, trained, tmp_path, monkeypatch
):
    folder, source = tmp_path / "checkpoints", trained()
    folder.mkdir()
    (folder / "manifest.json").write_text('{"checkpoints": []}')

    def graded(*_):
        trained(scores={"accuracy": 0.5})  # the training saves its next epoch

    monkeypatch.setattr("checkpoints.ship.graded", graded)
    result = call(main, source, "p1_a.pt", "--folder", folder)
    refused(result, "last.pt changed while it was scored")
    assert [path.name for path in folder.iterdir()] == ["manifest.json"]
