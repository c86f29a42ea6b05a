"""Checkpoints in other programs: the model and its ONNX file against our programs."""

import numpy as np
import pytest
import torch
from conftest import ROOT, refused

from checkpoints import export
from checkpoints.models import load
from core.cli import InputError

SHIPPED = ROOT / "checkpoints"


def noise(count, side):
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (count, 3, 8, 8), dtype=np.uint8)
    return torch.from_numpy(coarse.repeat(side // 8, 2).repeat(side // 8, 3))


@pytest.mark.parametrize("name, side", [("p1_a", 32), ("p1_c", 32), ("p2_c", 128), ("p3_c", 64)])
def test_onnx_gives_our_own_logits(call, tmp_path, name, side):
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    source = SHIPPED / f"{name}.pt"
    size = ("--size", side) if source.name.startswith("p3") else ()
    file = tmp_path / "m.onnx"
    status, out, err = call(export.main, "--checkpoint", source, "--onnx", file, *size)
    assert (status, err) == (0, "") and f"(N, 3, {side}, {side}) uint8 -> logits" in out
    session = runtime.InferenceSession(file)
    for count in (1, 3):  # the number of images is free
        images = noise(count, side)
        with torch.no_grad():
            ours = load(source)(images)
        (theirs,) = session.run(None, {"images": images.numpy()})
        assert theirs.shape == tuple(ours.shape) and ours.std() > 0.01
        np.testing.assert_allclose(theirs, ours.numpy(), rtol=1e-3, atol=2e-3)


def test_export_says_what_it_needs(call, tmp_path):
    options = ("--checkpoint", SHIPPED / "p1_a.pt", "--onnx", tmp_path / "m", "--size", 64)
    refused(call(export.main, *options), "--size is for problem 3")
    assert not (tmp_path / "m").exists()


def test_foreign_files_are_no_models(tmp_path):
    torch.save({"weights": {}}, tmp_path / "bare.pt")
    with pytest.raises(InputError, match="not a checkpoint of this project"):
        load(tmp_path / "bare.pt")
