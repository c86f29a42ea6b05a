"""Problem 2's csv files: any text is a label."""

import pytest
from conftest import draw

from core.cli import InputError
from p2 import data


def test_a_label_of_5000_digits_is_a_class_like_others_and_sorts_as_a_number(tmp_path):
    long = "9" * 5000  # Python refuses to make a number of more than 4,300 digits
    labels = ["10", long, "9", "10"]
    for k in range(4):
        draw(tmp_path / "images" / f"{k}.jpg", 20, 20, k)
    rows = [f"{k},{k}.jpg,{label}" for k, label in enumerate(labels)]
    (tmp_path / "some.csv").write_text("\n".join(["id,filename,label", *rows]))
    images, indices, _, classes = data.load_labelled(tmp_path / "some.csv", tmp_path / "images")
    assert classes == ("9", "10", long) and indices.tolist() == [1, 2, 0, 1] and len(images) == 4
    with pytest.raises(InputError, match="labels that are not in the training csv: 9999"):
        data.load_labelled(tmp_path / "some.csv", tmp_path / "images", ("9", "10"))
