"""Large images in tiles: what covers them, and where the result lies."""

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from prediction import tiles


@given(st.integers(1, 2000))
@example(64)
@example(65)
@example(129)
def test_tiles_cover_a_side_once_and_use_no_pixel_near_a_border(length):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiles, "TILE", 96)
        patch.setattr(tiles, "MARGIN", 16)
        spans = tiles.spans(length)
    assert [first for *_, first, _ in spans] == [0, *(last for *_, last in spans[:-1])]
    assert spans[-1][3] == length
    for start, end, first, last in spans:
        assert start % 64 == 0 and end - start <= 96 and start <= first < last <= end <= length
        assert first == 0 or first - start >= 16
        assert last == length or end - last >= 16


@pytest.mark.parametrize("count", [1, 2])  # classes alone; and confidences
def test_the_tiles_results_fit_in_the_place_of_the_image(monkeypatch, count):
    monkeypatch.setattr(tiles, "TILE", 64)
    monkeypatch.setattr(tiles, "MARGIN", 16)
    pixels = np.random.default_rng(0).integers(0, 256, (257, 130, 3), dtype=np.uint8)
    image = torch.from_numpy(pixels.copy()).permute(2, 0, 1)
    planes = tiles.in_tiles(lambda batch: batch[:, 1 : 1 + count].numpy() ^ 1, image)
    assert (planes == np.moveaxis(pixels, 2, 0)[1 : 1 + count] ^ 1).all()
    assert np.shares_memory(planes, image.numpy())
