"""Checkpoints in other programs: the model and its ONNX file against our programs."""

import importlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, refused

from checkpoints import export
from checkpoints.models import load
from core.cli import InputError

SHIPPED = ROOT / "checkpoints"
MANIFEST = json.loads((SHIPPED / "manifest.json").read_text())
NAMES = [one["name"].removesuffix(".pt") for one in MANIFEST["checkpoints"]]
SIDES = {"p1": 32, "p2": 128, "p3": 64}


def noise(count, side):
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (count, 3, 8, 8), dtype=np.uint8)
    return torch.from_numpy(coarse.repeat(side // 8, 2).repeat(side // 8, 3))


@pytest.mark.parametrize("name", NAMES)
def test_onnx_gives_our_own_logits(call, tmp_path, name):
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    source, side = SHIPPED / f"{name}.pt", SIDES[name[:2]]
    size = ("--size", side) if source.name.startswith("p3") else ()
    file = tmp_path / "m.onnx"
    status, out, err = call(export.main, "--checkpoint", source, "--onnx", file, *size)
    assert (status, err) == (0, "") and f"(N, 3, {side}, {side}) uint8 -> logits" in out
    session, model = runtime.InferenceSession(file), load(source)
    for count in (1, 3):  # the number of images is free
        images = noise(count, side)
        with torch.no_grad():
            ours = model(images)
        (theirs,) = session.run(None, {"images": images.numpy()})
        assert theirs.shape == tuple(ours.shape) and ours.std() > 0.01
        np.testing.assert_allclose(theirs, ours.numpy(), rtol=1e-3, atol=2e-3)


@pytest.mark.parametrize("name", NAMES)
@torch.inference_mode()
def test_a_loaded_model_answers_as_the_graders_program(name):
    source, images = SHIPPED / f"{name}.pt", noise(2, SIDES[name[:2]])
    program = importlib.import_module(f"{name[:2]}.inference")
    theirs = program.predictor(source, torch.device("cpu"))[0](images)
    ours = load(source)(images).numpy()
    if name.startswith("p3"):
        assert (ours.argmax(1) == theirs[:, 0]).mean() > 0.999
    else:
        assert np.abs(ours - theirs).max() < 1e-3 * np.abs(ours).max()


def test_export_says_what_it_needs(call, tmp_path):
    options = ("--checkpoint", SHIPPED / "p1_a.pt", "--onnx", tmp_path / "m", "--size", 64)
    refused(call(export.main, *options), "--size is for problem 3")
    assert not (tmp_path / "m").exists()


def test_an_export_does_not_overwrite_the_checkpoint(call, tmp_path):
    own = Path(shutil.copy(SHIPPED / "p1_a.pt", tmp_path))
    refused(call(export.main, "--checkpoint", own, "--onnx", own), "is also an input")
    assert own.read_bytes() == (SHIPPED / "p1_a.pt").read_bytes()


def test_a_loaded_model_takes_only_what_it_was_trained_on():
    model = load(SHIPPED / "p1_a.pt")
    assert not model(noise(1, 32)).requires_grad
    with pytest.raises(ValueError, match="float32; give uint8"):
        model(noise(1, 32) / 255)
    with pytest.raises(ValueError, match=r"give \(N, 3, 32, 32\)"):
        model(noise(1, 64))


def test_foreign_files_are_no_models(tmp_path):
    torch.save({"weights": {}}, tmp_path / "bare.pt")
    with pytest.raises(InputError, match="not a checkpoint of this project"):
        load(tmp_path / "bare.pt")
