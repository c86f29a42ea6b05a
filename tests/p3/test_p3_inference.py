"""Problem 3's masks: their names, sizes and colours, and what they are never written over."""

import errno
import os
import struct
import zlib

import numpy as np
import pytest
from conftest import draw, refused, rows, snapshot
from PIL import Image

from p3 import data as p3_data
from p3 import inference as p3


def test_p3_writes_a_mask_an_image_of_its_size_in_pure_colours(
    call, p3_images, p3_checkpoint, tmp_path
):
    draw(p3_images / "0005_sat.png", 20, 10, 5)
    Image.new("RGB", (64, 64)).save(
        p3_images / "0001_mask.png"
    )  # a truth beside the image is no image
    status, _, _ = call(p3.main, p3_images, tmp_path / "out", "--checkpoint", p3_checkpoint)
    assert status == 0
    masks = {path.name: Image.open(path) for path in (tmp_path / "out").iterdir()}
    assert sorted(masks) == [f"{i:04d}_mask.png" for i in range(6)]
    for i, size in enumerate([(64, 64), (64, 64), (64, 64), (90, 40), (33, 100), (20, 10)]):
        mask = masks[f"{i:04d}_mask.png"]
        assert (mask.mode, mask.size) == ("RGB", size)
        assert {tuple(c) for c in np.array(mask).reshape(-1, 3)} <= {
            tuple(c) for c in p3_data.COLOURS
        }


def test_p3_names_an_earlier_years_masks_like_their_images(call, p3_checkpoint, tmp_path):
    draw(tmp_path / "in" / "0007.jpg", 40, 40, 0)
    assert call(p3.main, tmp_path / "in", tmp_path / "out", "--checkpoint", p3_checkpoint)[0] == 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["0007.png"]


def test_p3_takes_an_earlier_years_masks_beside_the_images_for_masks(call, p3_checkpoint, tmp_path):
    for name in (
        "0001.jpg",
        "0001.png",
        "0002.JPEG",
        "0002.PNG",
        "0003.png",
    ):  # the last one is an image, there being no JPEG
        draw(tmp_path / "in" / name, 40, 40, 0)
    assert call(p3.main, tmp_path / "in", tmp_path / "out", "--checkpoint", p3_checkpoint)[0] == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "0001.png",
        "0002.png",
        "0003.png",
    ]
    pairs = tmp_path / "pairs"
    draw(pairs / "0001.jpg", 40, 40, 0)
    Image.new("RGB", (40, 40), (0, 0, 255)).save(pairs / "0001.png")
    data, paths = p3_data.load(pairs)
    assert paths == [pairs / "0001.jpg"] and (data[0, 3] == p3_data.CLASSES.index("water")).all()


def test_p3_refuses_two_images_that_would_have_one_mask(call, p3_checkpoint, tmp_path):
    for name in ("0001_sat.jpg", "0001_sat.png"):
        draw(tmp_path / "in" / name, 40, 40, 0)
    result = call(p3.main, tmp_path / "in", tmp_path / "out", "--checkpoint", p3_checkpoint)
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
    call, p3_checkpoint, tmp_path, image, mask, there
):
    draw(tmp_path / image, 40, 40, 0)
    if there:
        draw(tmp_path / mask, 40, 40, 0)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    result = call(p3.main, tmp_path, tmp_path / ".", "--checkpoint", p3_checkpoint)
    if there:
        refused(result, f"{mask} in {tmp_path} would be overwritten; choose another output folder")
    else:
        assert result[0] == 0 and (tmp_path / mask).is_file()
    assert {path: path.read_bytes() for path in before} == before


def test_p3_unreadable_file_gets_a_mask_of_its_size_and_status_3(
    call, p3_images, p3_checkpoint, tmp_path
):
    whole = (p3_images / "0003_sat.jpg").read_bytes()
    (p3_images / "0003_sat.jpg").write_bytes(whole[: len(whole) // 2])
    (p3_images / "0001_sat.jpg").write_text("no image")
    status, _, err = call(p3.main, p3_images, tmp_path / "out", "--checkpoint", p3_checkpoint)
    assert status == 3 and "0003_sat.jpg" in err and "0001_sat.jpg" in err and "agriculture" in err
    for name, size in (("0003_mask.png", (90, 40)), ("0001_mask.png", (512, 512))):
        mask = Image.open(tmp_path / "out" / name)
        assert mask.size == size and mask.getcolors() == [(size[0] * size[1], (255, 255, 0))]
    assert len(list((tmp_path / "out").iterdir())) == 5


def test_a_disk_that_fills_up_leaves_every_mask_whole(
    call, monkeypatch, p3_images, p3_checkpoint, tmp_path
):
    out = tmp_path / "out"
    assert call(p3.main, p3_images, out, "--checkpoint", p3_checkpoint)[0] == 0
    new = snapshot(out)
    for path in new:
        (out / path).write_bytes(b"old")
    left = [2]  # masks that the disk still has room for

    def fsync(handle):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fsync)
    refused(
        call(p3.main, p3_images, out, "--checkpoint", p3_checkpoint),
        "cannot write",
        "No space left on device",
    )
    after = snapshot(out)
    assert after.keys() == new.keys() and sum(after[path] == new[path] for path in new) == 2
    assert all(content in (b"old", new[path]) for path, content in after.items())


def test_problem_3_takes_a_pattern_but_no_mask_by_it(call, p3_images, p3_checkpoint, tmp_path):
    Image.new("RGB", (64, 64)).save(p3_images / "0001_mask.png")
    out = tmp_path / "out"
    assert call(p3.main, p3_images / "000[13]*", out, "--checkpoint", p3_checkpoint)[0] == 0
    assert sorted(path.name for path in out.iterdir()) == ["0001_mask.png", "0003_mask.png"]


def test_confidences_are_of_the_class_that_the_mask_has(call, p3_images, p3_checkpoint, tmp_path):
    out, maps, sure = tmp_path / "out", tmp_path / "maps", tmp_path / "sure.csv"
    (p3_images / "0001_sat.jpg").write_bytes(b"")
    options = ("--checkpoint", p3_checkpoint, "--confidence", maps, "--probabilities", sure)
    assert call(p3.main, p3_images, out, *options)[0] == 3
    assert rows(sure)[0] == ["filename", "confidence"]
    for name, confidence in rows(sure)[1:]:
        grey = Image.open(maps / name.replace("sat.jpg", "confidence.png"))
        assert grey.mode == "L" and grey.size == Image.open(out / p3_data.mask_name(name)).size
        assert np.asarray(grey).mean() / 255 == pytest.approx(float(confidence), abs=1e-6)
        # The likeliest of seven classes has at least a seventh.
        assert float(confidence) == 0 if name == "0001_sat.jpg" else np.asarray(grey).min() >= 36
    plain = tmp_path / "plain"
    call(p3.main, p3_images, plain, "--checkpoint", p3_checkpoint)
    assert snapshot(plain) == snapshot(out)


def test_a_short_files_header_is_not_believed(call, p3_images, p3_checkpoint, tmp_path):
    header = struct.pack(">IIBBBBB", 11_000, 11_000, 8, 2, 0, 0, 0)
    chunk = (
        struct.pack(">I", 13) + b"IHDR" + header + struct.pack(">I", zlib.crc32(b"IHDR" + header))
    )
    for i in range(3):
        (p3_images / f"1{i}_sat.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk)
    assert call(p3.main, p3_images, tmp_path / "out", "--checkpoint", p3_checkpoint)[0] == 3
    assert Image.open(tmp_path / "out" / "12_mask.png").size == (512, 512)
