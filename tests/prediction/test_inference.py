"""The inference programs: what they write, every kind of image and of bad input."""

import csv
import os
import shutil
import threading
import weakref

import numpy as np
import pytest
from conftest import draw, random_checkpoint, refused, rows, snapshot, thin_fcn32s
from PIL import Image, ImageFile

from core import images
from p1 import inference as p1
from p1 import model
from p2 import inference as p2
from p3 import data as p3_data
from p3 import inference as p3
from p3 import model as p3_model
from prediction import tiles
from prediction.stream import Stream, Views


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
    refused(call(p1.main, file, out), "is neither a folder nor")
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
            "line 2 is not a csv row",
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
    refused(call(p1.main, p1_images, out, "--checkpoint", cut), "cut.pt", "truncated or damaged")
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
    refused(result, "device 'cuda:77' is not available")


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


def test_without_time_every_row_and_mask_is_the_fallback_and_status_3(
    call, p1_images, p1_checkpoint, p3_images, p3_checkpoint, tmp_path
):
    out = tmp_path / "out.csv"
    options = ("--max-minutes", 0, "--checkpoint")
    status, _, err = call(p1.main, p1_images, out, *options, p1_checkpoint)
    assert status == 3 and "9 of 9 images were not processed in time and got the label 0" in err
    assert [row[1] for row in rows(out)[1:]] == ["0"] * 9
    status, _, err = call(p3.main, p3_images, tmp_path / "masks", *options, p3_checkpoint)
    assert status == 3 and "5 of 5 images were not processed in time" in err
    for path in p3_images.iterdir():
        mask = Image.open(tmp_path / "masks" / p3_data.mask_name(path.name))
        assert mask.size == Image.open(path).size and len(mask.getcolors()) == 1


def test_an_inference_that_would_take_too_long_is_simplified_and_then_filled_up(
    monkeypatch, p1_images, capsys
):
    paths = [p1_images / f"{i:04d}.png" for i in range(9)] * 10  # 30 batches of 3
    now = 0.0
    monkeypatch.setattr("prediction.stream.time.monotonic", lambda: now)

    def run(stop_at, rotate=False):
        """A batch takes 2 seconds, 1 without mirror images, half of that at one scale of two.

        Quarter turns take 8 seconds in place of the 2.
        """
        nonlocal now
        now, views = 0.0, Views(True, (0.5, 0.75), rotate)
        with Stream(paths, p1.data.decode, stop_at=stop_at) as stream:
            for _ in stream.batches(3, views.reduce):
                turns = 4 if views.rotate else 1
                now += turns * (2 if views.flip else 1) * len(views.scales) / 2
        said = capsys.readouterr().err
        assert ("quarter turns" in said) == rotate
        return len(stream.late), "mirror images" in said, "scales but 0.5" in said

    assert run(stop_at=61) == (0, False, False)
    assert run(stop_at=100, rotate=True) == (0, False, False)
    assert run(stop_at=40) == (0, True, False)
    assert run(stop_at=24) == (0, True, True)
    late, *left_out = run(stop_at=10)
    assert 0 < late < 90 and left_out == [True, True] and now < 10 + 2


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
        refused(call(main, *arguments), "is also an input")
    result = call(p1.main, p1_images, tmp_path / "a", "--probabilities", tmp_path / "a", *one)
    refused(result, "two outputs have the same name")
    (tmp_path / "out").mkdir()
    shutil.copy(p3_images / "0001_sat.jpg", tmp_path / "out" / "0001.jpg")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "0001.png").symlink_to(tmp_path / "out" / "0001.png")
    Image.new("RGB", (40, 40)).save(tmp_path / "out" / "0001.png")
    result = call(p3.main, tmp_path / "in", tmp_path / "out", "--checkpoint", p3_checkpoint)
    refused(result, "0001.png", "is also an input")
    assert before.items() <= snapshot(tmp_path).items()


@pytest.mark.parametrize("name", ["../secret.jpg", "a/../../secret.jpg", "{folder}/secret.jpg"])
def test_a_csv_names_nothing_outside_its_folder(call, name, p2_images, p2_checkpoint, tmp_path):
    table, folder = p2_images
    shutil.copy(folder / "0001.jpg", tmp_path / "secret.jpg")
    table.write_text(f"id,filename\n0,{name.format(folder=tmp_path)}\n")
    out = tmp_path / "out.csv"
    refused(call(p2.main, table, folder, out, "--checkpoint", p2_checkpoint), "is outside")
    assert not out.exists()


def test_a_csv_may_name_files_in_folders_of_its_folder(call, p2_images, p2_checkpoint, tmp_path):
    table, folder = p2_images
    (folder / "deep").mkdir()
    shutil.copy(folder / "0001.jpg", folder / "deep" / "a.jpg")
    table.write_text("id,filename\n0,deep/a.jpg\n")
    out = tmp_path / "out.csv"
    assert call(p2.main, table, folder, out, "--checkpoint", p2_checkpoint)[0] == 0
    assert rows(out)[1][:2] == ["0", "deep/a.jpg"]


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
    refused(result, "does not fit in memory; free some")
    assert not out.exists()


def test_a_cpu_without_memory_is_one_line(call, monkeypatch, p1_images, p1_checkpoint, tmp_path):
    def full(*_):
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried")

    monkeypatch.setattr("core.augment.to_float", full)
    result = call(
        p1.main, p1_images, tmp_path / "out.csv", "--checkpoint", p1_checkpoint, "--device", "cpu"
    )
    status, _, err = result
    assert status == 2 and "an image of 32x32 does not fit in the memory of cpu" in err
    monkeypatch.setattr(p1, "predictor", full)
    result = call(
        p1.main, p1_images, tmp_path / "out.csv", "--checkpoint", p1_checkpoint, "--device", "cpu"
    )
    refused(result, "not enough memory")


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


def test_a_large_image_in_tiles_is_what_it_is_at_once(monkeypatch, call, tmp_path):
    """By FCN32s, which looks at 234 pixels around one, with tiles of the real margin."""
    name = p3_model.OF_MODEL["A"]
    monkeypatch.setitem(p3_model.ARCHITECTURES, name, thin_fcn32s)
    file = random_checkpoint(tmp_path / "a.pt", "p3", name, thin_fcn32s(), p3_data.CLASSES, None)
    noise = np.random.default_rng(0).integers(0, 256, (20, 28, 3), dtype=np.uint8)
    (tmp_path / "in").mkdir()
    Image.fromarray(noise).resize((900, 672), Image.Resampling.BICUBIC).save(
        tmp_path / "in" / "1.png"
    )
    masks = []
    for tile in (1024, 640):
        monkeypatch.setattr(tiles, "TILE", tile)
        out = tmp_path / str(tile)
        assert call(p3.main, tmp_path / "in", out, "--checkpoint", file)[0] == 0
        masks.append(np.asarray(Image.open(out / "1.png")))
    assert len(np.unique(masks[0].reshape(-1, 3), axis=0)) > 2
    assert (masks[0] == masks[1]).all(-1).mean() > 0.9999


@pytest.mark.parametrize("tile", [64, 1280])
def test_a_large_image_is_not_held_while_the_next_one_is_decoded(monkeypatch, tmp_path, tile):
    monkeypatch.setattr(tiles, "TILE", tile)
    monkeypatch.setattr(tiles, "MARGIN", 16)
    paths = [draw(tmp_path / f"{k}.png", 80, 70, k) for k in range(3)]
    decoded, held = [], []

    def decode(path):
        held.append(sum(image() is not None for image in decoded))
        pixels = images.read_rgb(path)
        decoded.append(weakref.ref(pixels))
        return pixels

    with Stream(paths, decode, ahead=1) as stream:
        answers = p3.answers(stream, lambda batch: batch[:, :1].numpy(), 1, lambda: "")
        written = images.InOrder(lambda answer: answer[0], answers, ahead=1)
        assert list(written) == paths and held == [0, 0, 0]
