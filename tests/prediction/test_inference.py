"""The three inference programs: formats to the byte, every kind of image, every kind of bad input."""

import csv
import errno
import os
import shutil
import struct
import subprocess
import sys
import threading
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, draw, random_checkpoint
from PIL import Image, ImageFile

from core import checkpoint, devices
from core.cli import InputError
from p1 import inference as p1
from p1 import model
from p2 import inference as p2
from p3 import data as p3_data
from p3 import inference as p3
from p3 import model as p3_model
from prediction.predictor import Predictor, TooLarge
from prediction.stream import Stream, Views, on_device


def snapshot(folder):
    return {
        path.relative_to(folder): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def script(name, *arguments, cwd):
    command = ["bash", os.path.relpath(ROOT / name, cwd), *map(str, arguments)]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # python3 is the one that runs the tests
    return subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, env={**os.environ, "PATH": path}
    )


# --- what comes out ---------------------------------------------------------------------------------------------------


def test_p1_writes_a_row_an_image_in_natural_order(call, p1_images, p1_checkpoint, tmp_path):
    out = tmp_path / "new" / "out.csv"
    for name in ("10_2.png", "9_450.png"):
        shutil.copy(p1_images / "0003.png", p1_images / name)
    status, printed, err = call(p1.main, p1_images, out, "--checkpoint", p1_checkpoint)
    assert (status, printed) == (0, "") and "11 images in" in err and "images/s" in err
    lines = out.read_text().split("\n")
    assert lines[0] == "filename,label" and lines[-1] == ""
    names = [line.split(",")[0] for line in lines[1:-1]]
    assert names == [f"{i:04d}.png" for i in range(9)] + ["9_450.png", "10_2.png"]
    assert all(0 <= int(line.split(",")[1]) < 50 for line in lines[1:-1])
    assert len({line.split(",")[1] for line in lines[1:-1]}) > 1


def test_p2_answers_the_csvs_rows_in_their_order_with_their_ids(
    call, p2_images, p2_checkpoint, tmp_path
):
    table, folder = p2_images
    status, _, _ = call(p2.main, table, folder, tmp_path / "out.csv", "--checkpoint", p2_checkpoint)
    rows = list(csv.reader((tmp_path / "out.csv").open()))
    assert status == 0 and rows[0] == ["id", "filename", "label"]
    assert [row[:2] for row in rows[1:]] == [
        ["7", "0003.jpg"],
        ["1", "0000.jpg"],
        ["0", "0004.jpg"],
        ["12", "0001.jpg"],
    ]
    assert {row[2] for row in rows[1:]} <= {"Couch", "Lamp", "Pen"}


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
    refused(result, "0001_sat.jpg and ", "0001_sat.png would both become 0001_mask.png")


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
        refused(result, f"{mask} in {tmp_path} would be overwritten; name another output folder")
    else:
        assert result[0] == 0 and (tmp_path / mask).is_file()
    assert {path: path.read_bytes() for path in before} == before


def test_p1_answers_a_file_whose_name_is_not_utf_8_and_one_it_cannot_read(
    p1_images, p1_checkpoint, tmp_path
):
    for bad, name in enumerate((b"caf\xe9.png", b"caf\xe9 broken.png")):
        shutil.copy(p1_images / "0003.png", p1_images / os.fsdecode(name))
        if bad:
            (p1_images / os.fsdecode(name)).write_bytes(b"")
    done = script(
        "hw1_1.sh", p1_images, tmp_path / "out.csv", "--checkpoint", p1_checkpoint, cwd=tmp_path
    )
    assert done.returncode == 3, done.stderr
    lines = (tmp_path / "out.csv").read_bytes().split(b"\n")
    assert r"caf\udce9 broken.png: cannot be read" in done.stderr
    assert b"caf\xe9 broken.png,0" in lines and any(
        line.startswith(b"caf\xe9.png,") for line in lines
    )


def test_batch_sizes_give_the_same_bytes(
    call, p1_images, p1_checkpoint, p2_images, p2_checkpoint, p3_images, p3_checkpoint, tmp_path
):
    outputs = []
    for size in (1, 7, 64):
        out = tmp_path / str(size)
        assert (
            call(
                p1.main,
                p1_images,
                out / "1.csv",
                "--checkpoint",
                p1_checkpoint,
                "--batch-size",
                size,
            )[0]
            == 0
        )
        assert (
            call(
                p2.main,
                *p2_images,
                out / "2.csv",
                "--checkpoint",
                p2_checkpoint,
                "--batch-size",
                size,
            )[0]
            == 0
        )
        assert (
            call(
                p3.main, p3_images, out / "3", "--checkpoint", p3_checkpoint, "--batch-size", size
            )[0]
            == 0
        )
        outputs.append(snapshot(out))
    assert len(outputs[0]) == 7 and outputs[0] == outputs[1] == outputs[2]
    assert len({line.split(",")[1] for line in (out / "1.csv").read_text().split()[1:]}) > 2
    assert any(len(Image.open(path).getcolors()) > 1 for path in (out / "3").iterdir())


def test_scripts_run_from_anywhere_twice_with_spaces_and_relative_paths(
    p1_images, p1_checkpoint, p2_images, p2_checkpoint, p3_images, p3_checkpoint, tmp_path
):
    elsewhere = tmp_path / "some where"
    (elsewhere / "p1").mkdir(
        parents=True
    )  # a stranger's folder with our packages' names must not get in the way
    (elsewhere / "p1" / "__init__.py").write_text("raise SystemExit('the wrong p1')")
    here = [os.path.relpath(path, elsewhere) for path in (p1_images, *p2_images, p3_images)]
    table, folder = p2_images
    made = []
    for cwd, one, two_csv, two, three in (
        (elsewhere, *here),
        (ROOT, p1_images, table, folder, p3_images),
    ):
        out = tmp_path / "out put"
        relative = os.path.relpath(out, cwd)
        for name, arguments, chosen in (
            ("hw1_1.sh", (one, f"{relative}/1.csv"), p1_checkpoint),
            ("hw1_2.sh", (two_csv, two, f"{relative}/2.csv"), p2_checkpoint),
            ("hw1_3.sh", (three, f"{relative}/masks"), p3_checkpoint),
        ):
            done = script(name, *arguments, "--checkpoint", chosen, "--device", "cpu", cwd=cwd)
            assert done.returncode == 0, done.stderr
            assert (
                done.stdout == "" and done.stderr.count("\n") == 1
            )  # the summary; no bar where there is no terminal
        made.append(snapshot(out))
    assert len(made[0]) == 7 and made[0] == made[1]


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1", "I;16", "CMYK"])
def test_an_image_of_every_mode_is_answered_like_its_rgb(call, mode, p1_checkpoint, tmp_path):
    source = Image.open(draw(tmp_path / "source.png", 32, 32, 3))
    if mode == "I;16":
        image = Image.fromarray(np.asarray(source.convert("L")).astype(np.uint16) * 257)
    else:
        image = source.convert("L").convert(mode) if mode in ("LA", "1") else source.convert(mode)
    folder = tmp_path / "in"
    folder.mkdir()
    file = folder / ("0000.jpg" if mode == "CMYK" else "0000.png")
    image.save(file)
    seen = source.convert("L") if mode == "I;16" else Image.open(file)
    seen.convert("RGB").save(folder / "0001.png")
    options = ("--checkpoint", p1_checkpoint, "--probabilities", tmp_path / "sure.csv")
    assert call(p1.main, folder, tmp_path / "out.csv", *options)[0] == 0
    one, other = np.array([row[1:] for row in rows(tmp_path / "sure.csv")[1:]], dtype=float)
    assert np.abs(one - other).max() < 1e-4


# --- bad input --------------------------------------------------------------------------------------------------------


def refused(result, *said):
    status, out, err = result
    assert status == 2 and out == "", err
    assert err.count("\n") == 1 and "Traceback" not in err, err
    for words in said:
        assert words in err


@pytest.fixture
def broken():
    """Writers of files that are no images, by name."""

    def truncated(path, whole):
        path.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])

    return {
        "truncated": truncated,
        "zero-byte": lambda path, whole: path.write_bytes(b""),
        "text": lambda path, whole: path.write_text("this is no image\n"),
    }


@pytest.mark.parametrize("how", ["truncated", "zero-byte", "text"])
def test_p1_unreadable_file_gets_the_fallback_and_status_3(
    call, how, broken, p1_images, p1_checkpoint, tmp_path
):
    call(p1.main, p1_images, tmp_path / "whole.csv", "--checkpoint", p1_checkpoint)
    broken[how](p1_images / "0004.png", p1_images / "0003.png")
    status, _, err = call(p1.main, p1_images, tmp_path / "out.csv", "--checkpoint", p1_checkpoint)
    assert (
        status == 3
        and "0004.png" in err
        and "1 of 9 images could not be read and got the label 0" in err
    )
    whole, out = ((tmp_path / name).read_text().splitlines() for name in ("whole.csv", "out.csv"))
    assert out[5] == "0004.png,0" and out[:5] + out[6:] == whole[:5] + whole[6:]


def test_p2_unreadable_file_gets_the_fallback_and_status_3(
    call, p2_images, p2_checkpoint, tmp_path
):
    (p2_images[1] / "0000.jpg").write_bytes(b"")
    status, _, err = call(p2.main, *p2_images, tmp_path / "out.csv", "--checkpoint", p2_checkpoint)
    assert status == 3 and "0000.jpg" in err and "the label Couch" in err
    assert (tmp_path / "out.csv").read_text().splitlines()[2] == "1,0000.jpg,Couch"


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


def test_not_one_readable_image_is_refused_and_the_old_output_kept(call, p1_checkpoint, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "0.png").touch()
    (tmp_path / "out.csv").write_text("old")
    status, _, err = call(
        p1.main, tmp_path / "in", tmp_path / "out.csv", "--checkpoint", p1_checkpoint
    )
    assert status == 2 and "none of the 1 images could be read" in err
    assert (tmp_path / "out.csv").read_text() == "old"


def test_bad_folders_are_refused(
    call, p1_images, p1_checkpoint, p2_images, p3_images, p3_checkpoint, tmp_path
):
    out, empty, file = tmp_path / "out.csv", tmp_path / "empty", tmp_path / "file"
    empty.mkdir()
    file.touch()
    out.write_text("old")
    refused(call(p1.main, tmp_path / "nowhere", out), "no folder", "nowhere")
    refused(call(p1.main, empty, out), "no *.png or", str(empty))
    refused(call(p1.main, file, out), "is not a folder")
    refused(call(p2.main, p2_images[0], tmp_path / "nowhere", out), "no folder")
    refused(call(p3.main, empty, tmp_path / "masks"), str(empty))
    refused(call(p1.main, p1_images, empty, "--checkpoint", p1_checkpoint), "is a folder")
    refused(call(p1.main, p1_images, file / "out.csv", "--checkpoint", p1_checkpoint), str(file))
    refused(
        call(p3.main, p3_images, file, "--checkpoint", p3_checkpoint),
        str(file),
        "a file is in the way",
    )
    assert out.read_text() == "old" and not (tmp_path / "masks").exists()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("id,name\n0,0000.jpg\n", "no column 'filename'"),
        ("filename,label\n0000.jpg,None\n", "no column 'id'"),
        ("id,filename\n0,0000.jpg\n1,0000.jpg\n", "0000.jpg more than once"),
        ("id,filename\n0,0000.jpg\n1,9999.jpg\n", "9999.jpg"),
        ("", "is empty"),
        (
            'id,filename,label\n0,"0000.jpg,None\n' + "1,0001.jpg,None\n" * 99,
            "line 2 is no row of a csv",
        ),
    ],
)
def test_p2_bad_csv_is_refused(call, content, says, p2_images, p2_checkpoint, tmp_path):
    table, folder = p2_images
    table.write_text(content)
    (tmp_path / "out.csv").write_text("old")
    refused(
        call(p2.main, table, folder, tmp_path / "out.csv", "--checkpoint", p2_checkpoint),
        "test.csv",
        says,
    )
    assert (tmp_path / "out.csv").read_text() == "old"


@pytest.mark.parametrize("program", [p1, p2, p3])
def test_without_its_checkpoint_a_program_says_how_to_get_it(
    call, monkeypatch, program, p1_images, p2_images, p3_images, tmp_path
):
    images = {p1: [p1_images], p2: p2_images, p3: [p3_images]}[program]
    monkeypatch.setattr(program, "ROOT", tmp_path)
    refused(
        call(program.main, *images, tmp_path / "out"),
        str(tmp_path / "checkpoints"),
        "bash hw1_download.sh",
    )


def test_the_weights_that_ship_answer_every_row(call, p1_images, p2_images, p3_images, tmp_path):
    assert call(p1.main, p1_images, tmp_path / "1.csv")[0] == 0
    assert call(p2.main, *p2_images, tmp_path / "2.csv")[0] == 0
    assert call(p3.main, p3_images, tmp_path / "masks")[0] == 0
    answered = [len((tmp_path / name).read_text().splitlines()) - 1 for name in ("1.csv", "2.csv")]
    assert answered == [
        len(list(p1_images.iterdir())),
        len(p2_images[0].read_text().splitlines()) - 1,
    ]
    assert len(list((tmp_path / "masks").iterdir())) == len(list(p3_images.glob("*.jpg")))


def test_bad_checkpoints_are_refused(
    call, p1_images, p1_checkpoint, p3_images, p3_checkpoint, tmp_path
):
    out = tmp_path / "out.csv"
    cut = tmp_path / "cut.pt"
    cut.write_bytes(p1_checkpoint.read_bytes()[:100_000])
    refused(
        call(p1.main, p1_images, out, "--checkpoint", tmp_path / "no.pt"), "no checkpoint", "no.pt"
    )
    refused(call(p1.main, p1_images, out, "--checkpoint", cut), "cut.pt", "cut short or damaged")
    refused(
        call(p1.main, p1_images, out, "--checkpoint", p3_checkpoint),
        "a checkpoint of p3, not of p1",
    )
    refused(
        call(p3.main, p3_images, tmp_path / "masks", "--checkpoint", p1_checkpoint),
        "a checkpoint of p1, not of p3",
    )
    other = random_checkpoint(
        tmp_path / "ten.pt",
        "p1",
        model.ARCHITECTURE,
        model.mobilenet_v2(10),
        tuple("0123456789"),
        32,
    )
    refused(call(p1.main, p1_images, out, "--checkpoint", other), "10 classes")
    assert not out.exists()


def test_a_device_that_is_not_there_is_refused(call, p1_images, p1_checkpoint, tmp_path):
    result = call(
        p1.main,
        p1_images,
        tmp_path / "out.csv",
        "--checkpoint",
        p1_checkpoint,
        "--device",
        "cuda:77",
    )
    refused(result, "no device 'cuda:77' here")


def test_an_error_of_a_script_is_one_line_with_its_name_and_status_2(tmp_path):
    for name, arguments in (
        ("hw1_1.sh", ["no"]),
        ("hw1_2.sh", ["no.csv", "no"]),
        ("hw1_3.sh", ["no"]),
    ):
        done = script(name, *arguments, tmp_path / "out", cwd=tmp_path)
        assert (
            done.returncode == 2
            and done.stderr.startswith(f"{name}: no ")
            and done.stderr.count("\n") == 1
        )


@pytest.mark.parametrize("name", ["hw1_1.sh", "hw1_2.sh", "hw1_3.sh"])
def test_a_python_without_torch_is_told_what_to_install(tmp_path, name):
    bare = tmp_path / "python3"
    bare.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "$@"\n')  # -S: no site-packages
    bare.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", ROOT / name, "a", "b", "c"], env=environment, capture_output=True, text=True
    )
    assert (
        done.returncode == 2
        and "pip install -r requirements.txt" in done.stderr
        and done.stderr.count("\n") == 1
    )


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


# --- memory -----------------------------------------------------------------------------------------------------------


def test_a_batch_too_large_for_the_gpu_is_halved_until_it_fits(p1_checkpoint, capsys):
    sizes = []

    def classify(images):
        sizes.append(len(images))
        if len(images) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return images[:, 0, 0, 0]

    predict = Predictor(classify, checkpoint.load(p1_checkpoint, "p1"), torch.device("cpu"))
    images = torch.arange(10, dtype=torch.uint8).view(10, 1, 1, 1).expand(10, 3, 32, 32)
    assert np.allclose(predict(images), (np.arange(10) / 255 - 0.5) / 0.5)
    assert sizes == [10, 5, 2, 2, 2, 2, 2] and "batches of 2" in capsys.readouterr().err


def test_an_image_too_large_for_the_gpu_is_an_input_error_that_names_its_size(p1_checkpoint):
    def classify(images):
        raise torch.OutOfMemoryError("CUDA out of memory")

    predict = Predictor(classify, checkpoint.load(p1_checkpoint, "p1"), torch.device("cpu"))
    with pytest.raises(TooLarge, match="an image of 90x40 does not fit the memory of cpu"):
        predict(torch.zeros(3, 3, 40, 90, dtype=torch.uint8))


def test_a_gpu_convolves_in_float32_not_in_tf32(p1_checkpoint, monkeypatch):
    monkeypatch.setattr(
        torch.backends.cudnn, "allow_tf32", True
    )  # torch's default, which is to be back after this test
    rounded = []

    def classify(images):
        rounded.append(torch.backends.cudnn.allow_tf32)
        return images[:, 0, 0, 0]

    Predictor(classify, checkpoint.load(p1_checkpoint, "p1"), torch.device("cpu"))(
        torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    )
    assert rounded == [False]


# --- a GPU that fails, played by the device called cuda where there is none -------------------------------------------

FAULTS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 MiB."),
    RuntimeError("cuDNN error: CUDNN_STATUS_NOT_INITIALIZED"),
    RuntimeError(
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`\nmore lines"
    ),
    TooLarge("an image of 9000x9000 does not fit the memory of cuda"),
]


@pytest.fixture
def gpu(monkeypatch):
    """Let ``auto`` and ``cuda`` be a GPU."""
    monkeypatch.setattr(
        devices, "choose", lambda name: torch.device("cuda" if name == "auto" else name)
    )


@pytest.mark.parametrize("fault", FAULTS)
def test_a_gpu_that_fails_is_warned_about_and_the_cpu_does_the_whole(gpu, capsys, fault):
    tried = []

    def work(device):
        tried.append(device.type)
        if device.type == "cuda":
            raise fault
        return 3

    assert on_device("auto", work) == 3 and tried == ["cuda", "cpu"]
    err = capsys.readouterr().err
    reason = str(fault).splitlines()[0]
    assert err == f"warning: cuda failed ({reason}); starting again on the CPU\n"
    with pytest.raises(InputError) as error:
        on_device("cuda", work)
    assert str(error.value) == f"cuda failed ({reason}); try --device cpu"


@pytest.mark.parametrize("name", ["auto", "cpu"])
def test_an_error_on_the_cpu_is_a_bug_and_stays_what_it_is(name, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    def work(device):
        raise RuntimeError(f"a bug on the {device}")

    with pytest.raises(RuntimeError, match="a bug on the cpu"):
        on_device(name, work)


def test_a_bug_that_the_cpu_has_too_is_no_fault_of_the_gpu(gpu):
    def work(device):
        raise RuntimeError(f"a bug on the {device}")

    with pytest.raises(RuntimeError, match="a bug on the cpu"):
        on_device("auto", work)


@pytest.mark.parametrize("program", [p1, p2, p3])
def test_each_program_goes_on_without_its_gpu(
    call,
    gpu,
    monkeypatch,
    program,
    p1_images,
    p1_checkpoint,
    p2_images,
    p2_checkpoint,
    p3_images,
    p3_checkpoint,
    tmp_path,
):
    images, chosen = {
        p1: ([p1_images], p1_checkpoint), p2: (p2_images, p2_checkpoint), p3: ([p3_images], p3_checkpoint)
    }[program]  # fmt: skip
    prepare = devices.prepare

    def full(network, device):
        if device.type == "cuda":
            raise torch.OutOfMemoryError("CUDA out of memory")
        return prepare(network, device)

    monkeypatch.setattr(devices, "prepare", full)
    result = call(
        program.main, *images, tmp_path / "out", "--checkpoint", chosen, "--device", "cuda"
    )
    refused(result, "cuda failed (CUDA out of memory); try --device cpu")
    outputs = []
    for name in ("auto", "cpu"):
        status, _, err = call(
            program.main, *images, tmp_path / name / "out", "--checkpoint", chosen, "--device", name
        )
        assert status == 0 and ("starting again on the CPU" in err) == (name == "auto")
        outputs.append(snapshot(tmp_path / name))
    assert outputs[0] == outputs[1] and outputs[0]


# --- what users ask for -----------------------------------------------------------------------------------------------


def rows(path):
    return list(csv.reader(path.open(newline="")))


def test_a_file_a_pattern_and_several_files_are_labelled_as_in_their_folder(
    call, p1_images, p1_checkpoint, tmp_path
):
    def labels(*sources):
        out = tmp_path / "out.csv"
        result = call(p1.main, *sources, out, "--checkpoint", p1_checkpoint)
        assert result[0] == 0, result
        return rows(out)

    header, *every = labels(p1_images)
    assert labels(p1_images / "0003.png") == [header, every[3]]
    assert labels(p1_images / "000[1-3].p*") == [header, *every[1:4]]
    assert labels(p1_images / "0005.png", p1_images / "0001.png") == [header, every[5], every[1]]
    out = tmp_path / "no.csv"
    refused(call(p1.main, p1_images / "*.jpg", out, "--checkpoint", p1_checkpoint), "*.jpg")
    draw(tmp_path / "other" / "0003.png", 32, 32, 0)
    result = call(p1.main, p1_images, tmp_path / "other", out, "--checkpoint", p1_checkpoint)
    refused(result, "more than one image is called 0003.png")
    assert not out.exists()


def test_problem_2_numbers_images_that_no_csv_names(call, p2_images, p2_checkpoint, tmp_path):
    table, folder = p2_images
    out, by_table = tmp_path / "out.csv", tmp_path / "by_table.csv"
    assert call(p2.main, table, folder, by_table, "--checkpoint", p2_checkpoint)[0] == 0
    assert call(p2.main, folder / "0003.jpg", out, "--checkpoint", p2_checkpoint)[0] == 0
    assert rows(out)[1:] == [["0", *rows(by_table)[1][1:]]]
    assert call(p2.main, folder, out, "--checkpoint", p2_checkpoint)[0] == 0
    assert [row[:2] for row in rows(out)[1:]] == [[str(i), f"000{i}.jpg"] for i in range(5)]


def test_problem_3_takes_a_pattern_but_no_mask_by_it(call, p3_images, p3_checkpoint, tmp_path):
    Image.new("RGB", (64, 64)).save(p3_images / "0001_mask.png")
    out = tmp_path / "out"
    assert call(p3.main, p3_images / "000[13]*", out, "--checkpoint", p3_checkpoint)[0] == 0
    assert sorted(path.name for path in out.iterdir()) == ["0001_mask.png", "0003_mask.png"]


def test_probabilities_have_a_row_an_image_and_a_column_a_class(
    call, p2_images, p2_checkpoint, tmp_path
):
    table, folder = p2_images
    (folder / "0000.jpg").write_bytes(b"")
    out, sure = tmp_path / "out.csv", tmp_path / "sure.csv"
    options = ("--checkpoint", p2_checkpoint, "--probabilities", sure, "--top", 2)
    status, printed, _ = call(p2.main, table, folder, out, *options)
    assert status == 3 and rows(sure)[0] == ["id", "filename", "Couch", "Lamp", "Pen"]
    assert rows(sure)[2] == ["1", "0000.jpg", "", "", ""]
    for line, answered, words in zip(
        rows(sure)[1:], rows(out)[1:], printed.splitlines(), strict=True
    ):
        assert line[:2] == answered[:2] and words.startswith(line[1])
        if line[2]:
            shares = dict(zip(("Couch", "Lamp", "Pen"), map(float, line[2:]), strict=True))
            best = sorted(shares, key=shares.get, reverse=True)[:2]
            assert sum(shares.values()) == pytest.approx(1, abs=1e-5)
            assert best[0] == answered[2]
            assert words.split("  ")[1:] == [f"{name} {shares[name]:.4f}" for name in best]


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


def test_flip_is_as_the_checkpoint_says_or_as_the_user_does(
    call, p1_images, p1_checkpoint, tmp_path
):
    def probabilities(*options):
        sure = tmp_path / "sure.csv"
        options = (*options, "--probabilities", sure, "--checkpoint")
        assert call(p1.main, p1_images, tmp_path / "out.csv", *options, p1_checkpoint)[0] == 0
        return np.array([row[1:] for row in rows(sure)[1:]], dtype=float)

    plain = probabilities()
    assert np.array_equal(plain, probabilities("--no-flip"))  # the fixture's checkpoint has no flip
    flipped = probabilities("--flip")
    assert np.abs(flipped - plain).max() > 1e-3
    for path in p1_images.iterdir():
        Image.open(path).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(path)
    assert np.abs(probabilities("--flip") - flipped).max() < 1e-5
    assert np.abs(probabilities("--bf16", "--flip") - flipped).max() < 0.2


# --- time -------------------------------------------------------------------------------------------------------------


def test_without_time_every_row_and_mask_is_the_fallback_and_status_3(
    call, p1_images, p1_checkpoint, p3_images, p3_checkpoint, tmp_path
):
    out = tmp_path / "out.csv"
    options = ("--max-minutes", 0, "--checkpoint")
    status, _, err = call(p1.main, p1_images, out, *options, p1_checkpoint)
    assert status == 3 and "9 of 9 images had no time left and got the label 0" in err
    assert [row[1] for row in rows(out)[1:]] == ["0"] * 9
    status, _, err = call(p3.main, p3_images, tmp_path / "masks", *options, p3_checkpoint)
    assert status == 3 and "5 of 5 images had no time left" in err
    for path in p3_images.iterdir():
        mask = Image.open(tmp_path / "masks" / p3_data.mask_name(path.name))
        assert mask.size == Image.open(path).size and len(mask.getcolors()) == 1


def test_an_inference_that_would_take_too_long_is_simplified_and_then_filled_up(
    monkeypatch, p1_images, capsys
):
    paths = [p1_images / f"{i:04d}.png" for i in range(9)] * 10  # 30 batches of 3
    now = 0.0
    monkeypatch.setattr("prediction.stream.time.monotonic", lambda: now)

    def run(stop_at):
        """A batch takes 2 seconds, 1 without mirror images, half of that at one scale of two."""
        nonlocal now
        now, views = 0.0, Views(True, (0.5, 0.75))
        with Stream(paths, p1.data.decode, stop_at=stop_at) as stream:
            for _ in stream.batches(3, views.reduce):
                now += (2 if views.flip else 1) * len(views.scales) / 2
        said = capsys.readouterr().err
        return len(stream.late), "mirror images" in said, "scales but 0.5" in said

    assert run(stop_at=61) == (0, False, False)
    assert run(stop_at=40) == (0, True, False)
    assert run(stop_at=24) == (0, True, True)
    late, *left_out = run(stop_at=10)
    assert 0 < late < 90 and left_out == [True, True] and now < 10 + 2


# --- files that must not be lost, read or believed ----------------------------------------------------------------------


def test_no_input_is_overwritten(
    call, p1_images, p1_checkpoint, p2_images, p2_checkpoint, p3_images, p3_checkpoint, tmp_path
):
    own = shutil.copy(p1_checkpoint, tmp_path / "own.pt")
    (tmp_path / "link.csv").symlink_to(p1_images / "0004.png")
    table, folder = p2_images
    before = snapshot(tmp_path)
    one, two = ("--checkpoint", own), ("--checkpoint", p2_checkpoint)
    for main, arguments in (
        (p1.main, (p1_images, p1_images / "0004.png", *one)),
        (p1.main, (p1_images, tmp_path / "link.csv", *one)),
        (p1.main, (p1_images, own, *one)),
        (p1.main, (p1_images, tmp_path / "a.csv", "--probabilities", own, *one)),
        (p2.main, (table, folder, table, *two)),
        (p2.main, (table, folder, folder / "0003.jpg", *two)),
    ):
        refused(call(main, *arguments), "is an input too")
    result = call(p1.main, p1_images, tmp_path / "a", "--probabilities", tmp_path / "a", *one)
    refused(result, "two outputs have the same name")
    (tmp_path / "out").mkdir()
    shutil.copy(p3_images / "0001_sat.jpg", tmp_path / "out" / "0001.jpg")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "0001.png").symlink_to(tmp_path / "out" / "0001.png")
    Image.new("RGB", (40, 40)).save(tmp_path / "out" / "0001.png")
    result = call(p3.main, tmp_path / "in", tmp_path / "out", "--checkpoint", p3_checkpoint)
    refused(result, "0001.png", "is an input too")
    assert before.items() <= snapshot(tmp_path).items()


@pytest.mark.parametrize("name", ["../secret.jpg", "a/../../secret.jpg", "{folder}/secret.jpg"])
def test_a_csv_names_nothing_outside_its_folder(call, name, p2_images, p2_checkpoint, tmp_path):
    table, folder = p2_images
    shutil.copy(folder / "0001.jpg", tmp_path / "secret.jpg")
    table.write_text(f"id,filename\n0,{name.format(folder=tmp_path)}\n")
    out = tmp_path / "out.csv"
    refused(call(p2.main, table, folder, out, "--checkpoint", p2_checkpoint), "does not lie in")
    assert not out.exists()


def test_a_csv_may_name_files_in_folders_of_its_folder(call, p2_images, p2_checkpoint, tmp_path):
    table, folder = p2_images
    (folder / "deep").mkdir()
    shutil.copy(folder / "0001.jpg", folder / "deep" / "a.jpg")
    table.write_text("id,filename\n0,deep/a.jpg\n")
    out = tmp_path / "out.csv"
    assert call(p2.main, table, folder, out, "--checkpoint", p2_checkpoint)[0] == 0
    assert rows(out)[1][:2] == ["0", "deep/a.jpg"]


def test_a_short_files_header_is_not_believed(call, p3_images, p3_checkpoint, tmp_path):
    header = struct.pack(">IIBBBBB", 11_000, 11_000, 8, 2, 0, 0, 0)
    chunk = (
        struct.pack(">I", 13) + b"IHDR" + header + struct.pack(">I", zlib.crc32(b"IHDR" + header))
    )
    for i in range(3):
        (p3_images / f"1{i}_sat.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk)
    assert call(p3.main, p3_images, tmp_path / "out", "--checkpoint", p3_checkpoint)[0] == 3
    assert Image.open(tmp_path / "out" / "12_mask.png").size == (512, 512)


def test_too_little_memory_is_no_fault_of_an_image(
    call, monkeypatch, p1_images, p1_checkpoint, tmp_path
):
    out, fail = tmp_path / "out.csv", [5]
    load = ImageFile.ImageFile.load

    def short(image):
        fail[0] -= 1
        if fail[0] == 0 or fail[0] < -1000:
            raise MemoryError
        return load(image)

    monkeypatch.setattr(ImageFile.ImageFile, "load", short)
    assert (
        call(p1.main, p1_images, out, "--checkpoint", p1_checkpoint)[0] == 0
    )  # tried again, alone
    fail[0] = -1000
    out.unlink()
    result = call(p1.main, p1_images, out, "--checkpoint", p1_checkpoint)
    refused(result, "does not fit the memory")
    assert not out.exists()


def test_a_cpu_without_memory_is_one_line(call, monkeypatch, p1_images, p1_checkpoint, tmp_path):
    def full(*_):
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried")

    monkeypatch.setattr("core.augment.to_float", full)
    result = call(
        p1.main, p1_images, tmp_path / "out.csv", "--checkpoint", p1_checkpoint, "--device", "cpu"
    )
    status, _, err = result
    assert status == 2 and "an image of 32x32 does not fit the memory of cpu" in err
    monkeypatch.setattr(p1, "predictor", full)
    result = call(
        p1.main, p1_images, tmp_path / "out.csv", "--checkpoint", p1_checkpoint, "--device", "cpu"
    )
    refused(result, "the memory is too small")


def test_many_images_leave_no_file_open_and_no_thread_behind(
    call, p1_images, p1_checkpoint, tmp_path
):
    for i in range(300):
        os.link(p1_images / "0001.png", p1_images / f"more{i}.png")
    out = tmp_path / "out.csv"
    call(p1.main, p1_images, out, "--checkpoint", p1_checkpoint)
    files, threads = len(os.listdir("/proc/self/fd")), threading.active_count()
    assert call(p1.main, p1_images, out, "--checkpoint", p1_checkpoint)[0] == 0
    assert len(os.listdir("/proc/self/fd")) == files and threading.active_count() <= threads


def test_a_script_called_through_a_link_finds_its_folder(p1_images, p1_checkpoint, tmp_path):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "label").symlink_to(ROOT / "hw1_1.sh")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    command = ["bash", "bin/label", p1_images, "out.csv", "--checkpoint", p1_checkpoint]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, env={**os.environ, "PATH": path}
    )
    assert done.returncode == 0, done.stderr
    assert len(rows(tmp_path / "out.csv")) == 10


# --- tiles ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [1, 31, 64, 65, 97, 128, 129, 500, 1000])
def test_tiles_cover_a_side_once_and_use_no_pixel_near_a_border(monkeypatch, length):
    monkeypatch.setattr(p3, "TILE", 96)
    monkeypatch.setattr(p3, "MARGIN", 16)
    spans = p3.spans(length)
    assert [use[2] for use in spans] == [0, *(use[3] for use in spans[:-1])] and spans[-1][
        3
    ] == length
    for start, end, first, last in spans:
        assert start % 64 == 0 and end - start <= 96 and start <= first < last <= end <= length
        assert first == 0 or first - start >= 16
        assert last == length or end - last >= 16


def test_a_large_image_in_tiles_is_what_it_is_at_once(monkeypatch, call, tmp_path):
    """By FCN32s, which looks at 234 pixels around one, with tiles of the real margin."""
    torch.manual_seed(0)
    network = p3_model.FCN32s()
    torch.nn.init.normal_(network.score.weight, std=0.01)
    file = random_checkpoint(
        tmp_path / "a.pt", "p3", p3_model.OF_MODEL["A"], network, p3_data.CLASSES, None
    )
    noise = np.random.default_rng(0).integers(0, 256, (20, 28, 3), dtype=np.uint8)
    (tmp_path / "in").mkdir()
    Image.fromarray(noise).resize((900, 600), Image.Resampling.BICUBIC).save(
        tmp_path / "in" / "1.png"
    )
    masks = []
    for tile in (1024, 576):
        monkeypatch.setattr(p3, "TILE", tile)
        out = tmp_path / str(tile)
        assert call(p3.main, tmp_path / "in", out, "--checkpoint", file)[0] == 0
        masks.append(np.asarray(Image.open(out / "1.png")))
    assert len(np.unique(masks[0].reshape(-1, 3), axis=0)) > 2
    assert (masks[0] == masks[1]).all(-1).mean() > 0.9999


def test_names_keep_their_letters_where_the_locale_is_not_utf_8(
    p1_checkpoint, p2_checkpoint, tmp_path
):
    made = subprocess.run(
        ["localedef", "-i", "en_US", "-f", "ISO-8859-1", tmp_path / "en_US.ISO-8859-1"],
        capture_output=True,
    )
    if made.returncode:
        pytest.skip("localedef cannot make a locale here")
    latin = os.environ | {"LOCPATH": str(tmp_path), "LC_ALL": "en_US.ISO-8859-1"}
    draw(tmp_path / "images" / "Müller.png", 32, 32, 0)
    (tmp_path / "in.csv").write_text("id,filename\n0,Müller.png\n", encoding="utf-8")
    for name, arguments, file in (
        ("hw1_1.sh", ("images",), p1_checkpoint),
        ("hw1_2.sh", ("in.csv", "images"), p2_checkpoint),
    ):
        command = ["bash", ROOT / name, *arguments, "out.csv", "--checkpoint", file]
        done = subprocess.run(command, cwd=tmp_path, env=latin, capture_output=True)
        assert done.returncode == 0, done.stderr
        assert "Müller.png,".encode() in (tmp_path / "out.csv").read_bytes()
