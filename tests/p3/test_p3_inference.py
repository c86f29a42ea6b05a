"""Problem 3's masks: their names, sizes and colours, and what they are never written over."""

import errno
import itertools
import os
import struct
import threading
import zlib

import numpy as np
import pytest
from conftest import draw, refused, rows, snapshot, words
from PIL import Image

from p3 import data as p3_data


def test_p3_writes_a_mask_an_image_of_its_size_in_pure_colours(predict, p3_images, tmp_path):
    draw(p3_images / "0005_sat.png", 20, 10, 5)
    # A truth beside the image is no image.
    Image.new("RGB", (64, 64)).save(p3_images / "0001_mask.png")
    assert predict("p3", tmp_path / "out")[0] == 0
    masks = {path.name: Image.open(path) for path in (tmp_path / "out").iterdir()}
    assert sorted(masks) == [f"{i:04d}_mask.png" for i in range(6)]
    for i, size in enumerate([(64, 64), (64, 64), (64, 64), (90, 40), (33, 100), (20, 10)]):
        mask = masks[f"{i:04d}_mask.png"]
        assert (mask.mode, mask.size) == ("RGB", size)
        pixels = np.array(mask)
        assert (p3_data.colours_of(p3_data.classes_of(pixels)) == pixels).all()
    out = tmp_path / "some"
    assert predict("p3", out, images=p3_images / "000[13]*")[0] == 0
    assert sorted(path.name for path in out.iterdir()) == ["0001_mask.png", "0003_mask.png"]


def test_p3_takes_an_earlier_years_masks_beside_the_images_for_masks(predict, tmp_path):
    # The last one is an image, as there is no JPEG of its name.
    for name in ("0001.jpg", "0001.png", "0002.JPEG", "0002.PNG", "0003.png"):
        draw(tmp_path / "in" / name, 40, 40, 0)
    assert predict("p3", tmp_path / "out", images=tmp_path / "in")[0] == 0
    masks = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert masks == ["0001.png", "0002.png", "0003.png"]
    pairs = tmp_path / "pairs"
    draw(pairs / "0001.jpg", 40, 40, 0)
    Image.new("RGB", (40, 40), (0, 0, 255)).save(pairs / "0001.png")
    data, paths = p3_data.load(pairs)
    assert paths == [pairs / "0001.jpg"] and (data[0, 3] == p3_data.CLASSES.index("water")).all()


def test_p3_refuses_two_images_that_would_have_one_mask(predict, tmp_path):
    for name in ("0001_sat.jpg", "0001_sat.png"):
        draw(tmp_path / "in" / name, 40, 40, 0)
    result = predict("p3", tmp_path / "out", images=tmp_path / "in")
    refused(result, "0001_sat.jpg and ", "0001_sat.png would have the same mask 0001_mask.png")


@pytest.mark.parametrize(
    ("image", "mask", "there"),
    [
        ("1_sat.jpg", "1_mask.png", True),
        ("1.png", "1.png", True),
        ("1_sat.jpg", "1_mask.png", False),
    ],
)
def test_p3_writes_beside_the_images_but_over_no_file_of_theirs(
    predict, tmp_path, image, mask, there
):
    draw(tmp_path / image, 40, 40, 0)
    if there:
        draw(tmp_path / mask, 40, 40, 0)
    before = snapshot(tmp_path)
    result = predict("p3", tmp_path / ".", images=tmp_path)
    if there:
        refused(result, f"{mask} in {tmp_path} would be overwritten; choose another output folder")
    else:
        assert result[0] == 0 and (tmp_path / mask).is_file()
    assert before.items() <= snapshot(tmp_path).items()


def test_p3_unreadable_files_get_a_mask_of_their_size_and_status_3(predict, p3_images, tmp_path):
    whole = (p3_images / "0003_sat.jpg").read_bytes()
    (p3_images / "0003_sat.jpg").write_bytes(whole[: len(whole) // 2])
    (p3_images / "0001_sat.jpg").write_text("no image")
    # A few bytes whose header promises a large image.
    header = b"IHDR" + struct.pack(">IIBBBBB", 11_000, 11_000, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    for i in (10, 11, 12):
        (p3_images / f"{i}_sat.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk)
    status, _, err = predict("p3", tmp_path / "out")
    assert status == 3 and "0003_sat.jpg" in err and "0001_sat.jpg" in err and "agriculture" in err
    sizes = {"0003": (90, 40)} | dict.fromkeys(("0001", "10", "11", "12"), (512, 512))
    for name, size in sizes.items():
        mask = Image.open(tmp_path / "out" / f"{name}_mask.png")
        assert mask.size == size and mask.getcolors() == [(size[0] * size[1], (255, 255, 0))]
    assert len(list((tmp_path / "out").iterdir())) == 8


def test_a_disk_that_fills_up_leaves_every_mask_whole(predict, monkeypatch, tmp_path):
    out = tmp_path / "out"
    assert predict("p3", out)[0] == 0
    new = snapshot(out)
    for path in new:
        (out / path).write_bytes(b"old")
    left = [2]  # masks that the disk still has room for

    def fsync(handle):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fsync)
    refused(predict("p3", out), "cannot write", "No space left on device")
    for thread in threading.enumerate():
        if thread.name.startswith("ThreadPool"):
            thread.join(60)  # masks that had been begun; a program waits for them at its end
    after = snapshot(out)
    assert after.keys() == new.keys() and sum(after[path] == new[path] for path in new) == 2
    assert all(content in (b"old", new[path]) for path, content in after.items())


def test_the_views_are_those_that_the_user_wants(predict, tmp_path):
    made = []
    for number, given in enumerate(("", "--no-rotate", "--flip", "--rotate", "--flip --rotate")):
        options = (*words(given), "--confidence", tmp_path / f"maps{number}")
        assert predict("p3", tmp_path / str(number), *options)[0] == 0
        made.append(snapshot(tmp_path / f"maps{number}"))
    assert made[0] == made[1]  # the random checkpoint has neither
    assert all(one != other for one, other in itertools.combinations(made[1:], 2))


def test_confidences_are_of_the_class_that_the_mask_has(predict, p3_images, tmp_path):
    out, maps, sure = tmp_path / "out", tmp_path / "maps", tmp_path / "sure.csv"
    (p3_images / "0001_sat.jpg").write_bytes(b"")
    assert predict("p3", out, "--confidence", maps, "--probabilities", sure)[0] == 3
    assert rows(sure)[0] == ["filename", "confidence"]
    for name, confidence in rows(sure)[1:]:
        grey = Image.open(maps / name.replace("sat.jpg", "confidence.png"))
        assert grey.mode == "L" and grey.size == Image.open(out / p3_data.mask_name(name)).size
        assert np.asarray(grey).mean() / 255 == pytest.approx(float(confidence), abs=1e-6)
        # The likeliest of seven classes has at least a seventh.
        assert float(confidence) == 0 if name == "0001_sat.jpg" else np.asarray(grey).min() >= 36
    predict("p3", tmp_path / "plain")
    assert snapshot(tmp_path / "plain") == snapshot(out)
