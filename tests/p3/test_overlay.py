"""A mask over its image: tinted, outlined, with a legend."""

import numpy as np
import pytest
from conftest import draw, refused, snapshot, words
from PIL import Image

from p3 import data, overlay


@pytest.fixture
def pair(tmp_path):
    """(image, mask) files of 60 x 40: left half forest, right half water, one pixel of urban."""
    classes = np.full((40, 60), 3, dtype=np.uint8)
    classes[:, 30:] = 4
    classes[20, 10] = 0
    Image.fromarray(data.colours_of(classes)).save(tmp_path / "7_mask.png")
    return draw(tmp_path / "7_sat.png", 60, 40, 1), tmp_path / "7_mask.png"


@pytest.mark.parametrize("flags", [*zip(overlay.IMAGE_FLAGS, overlay.MASK_FLAGS, strict=True)])
def test_the_courses_flags_do_the_same_as_ours(pair, flags, call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, out, _ = call(overlay.main, flags[0], pair[0], flags[1], pair[1])
    assert (status, out) == (0, "wrote 7_mask_over_image.png\n")
    made, image = (
        np.array(Image.open(path)).astype(int) for path in ("7_mask_over_image.png", pair[0])
    )
    forest, water, urban = data.COLOURS[[3, 4, 0]].astype(int)
    tinted = 0.65 * image[5, 5] + 0.35 * forest  # within a region
    assert abs(made[5, 5] - tinted).max() <= 1
    assert (made[5, 29] == forest).all() and (made[5, 30] == water).all()  # outlined on both sides
    assert (made[20, 10] == urban).all() and (made[20, 11] == forest).all()
    legend = {tuple(colour) for colour in made[40:].reshape(-1, 3).tolist()}
    named = {k for k, colour in enumerate(data.COLOURS.tolist()) if tuple(colour) in legend}
    assert named == {3, 4, 0}


def test_a_legend_that_is_wider_than_the_image_is_not_cut():
    classes = np.arange(7, dtype=np.uint8).repeat(10).reshape(7, 10)
    made = overlay.overlay(np.zeros((7, 10, 3), dtype=np.uint8), classes)
    assert made.shape[1] > 100
    edge = np.array(tuple(bytes.fromhex(overlay.SURFACE[1:])))
    assert (made[7:, -1] == edge).all() and (made[-1] == edge).all()  # nothing touches the border


GOOD = "--image 7_sat.png --mask 7_mask.png"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("", "required: --image/--img_path/--sat_path, --mask/--seg_path/--mask_path"),
        ("--img_path 7_sat.png", "required: --mask/--seg_path/--mask_path"),
        ("--image 7_sat.png --mask none.png", "none.png: no such file"),
        ("--image text.jpg --mask 7_mask.png", "text.jpg: cannot be read as an image"),
        ("--image small.png --mask 7_mask.png", "7_mask.png is 60x40, but small.png is 8x8"),
        (f"{GOOD} --out folder.png", "folder.png is a folder"),
        (f"{GOOD} --out text.jpg/x.png", "a file is in the way"),
        (f"{GOOD} --out x.jpg", "x.jpg should end in .png"),
        (f"{GOOD} --out 7_mask.png", "would overwrite an input"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(
    arguments, said, pair, call, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.jpg").write_text("no image")
    (tmp_path / "folder.png").mkdir()
    draw(tmp_path / "small.png", 8, 8, 2)
    before = snapshot(tmp_path)
    refused(call(overlay.main, *words(arguments)), said)
    assert snapshot(tmp_path) == before


def test_an_output_that_fails_half_way_leaves_the_older_one(pair, call, tmp_path, monkeypatch):
    out = tmp_path / "x.png"
    out.write_bytes(b"older")

    def full(self, file, **_):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    status, _, err = call(overlay.main, "--image", pair[0], "--mask", pair[1], "--out", out)
    assert status == 2 and "No space left" in err and out.read_bytes() == b"older"
    assert not list(tmp_path.glob(".*"))
