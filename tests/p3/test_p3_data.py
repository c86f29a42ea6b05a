"""Problem 3's colours and file names."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from core.cli import InputError
from p3 import data

SHAPE = st.tuples(st.integers(1, 9), st.integers(1, 9))


@given(arrays.arrays(np.uint8, SHAPE, elements=st.integers(0, 6)))
def test_a_mask_of_colours_is_read_as_the_classes_that_it_was_written_from(classes):
    assert np.array_equal(data.classes_of(data.colours_of(classes)), classes)


@given(arrays.arrays(np.uint8, SHAPE.map(lambda shape: (*shape, 3))))
def test_a_colour_between_two_is_the_class_of_the_nearer_one(mask):
    """Each channel is on from 128 up. Pure red is the colour of no class, so it is unknown."""
    colours = {tuple(colour): k for k, colour in enumerate(data.COLOURS.tolist())}
    pure = np.where(mask >= 128, 255, 0).reshape(-1, 3).tolist()
    expected = [colours.get(tuple(colour), data.UNKNOWN) for colour in pure]
    assert data.classes_of(mask).ravel().tolist() == expected


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("0001_sat.jpg", "0001_mask.png"),
        ("a.b_sat.PNG", "a.b_mask.png"),
        ("0001.jpg", "0001.png"),
        ("_sat.jpg", "_mask.png"),
    ],
)
def test_a_mask_is_called_like_its_image(image, mask):
    assert data.mask_name(image) == mask


def test_an_image_is_not_read_as_its_own_mask(tmp_path):
    for name in ("a.png", "a_mask.png"):
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    with pytest.raises(InputError, match="a.png has no mask; name a PNG image xxxx_sat.png"):
        data.read_pair(tmp_path / "a.png")


def test_a_folder_of_masks_alone_is_bad_input(tmp_path):
    (tmp_path / "0001_mask.png").touch()
    with pytest.raises(InputError, match="no images, only masks"):
        data.list_images(tmp_path)
