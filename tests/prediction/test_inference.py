"""The inference programs: what they write, every kind of image and of bad input."""

import argparse
import math
import os
import shutil
import threading
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import (
    draw,
    one_layer,
    random_checkpoint,
    refused,
    rows,
    snapshot,
    thin_fcn32s,
    varied,
)
from PIL import Image, ImageFile

from core import devices, images
from core.threads import InOrder
from core.views import Views
from p1 import inference as p1
from p1 import model
from p2 import inference as p2
from p2 import model as p2_model
from p3 import data as p3_data
from p3 import inference as p3
from p3 import model as p3_model
from prediction import tiles
from prediction.flags import flags
from prediction.stream import Stream


@pytest.fixture
def p2_checkpoint(monkeypatch, tmp_path):
    """One layer in ResNet50's place: these tests look at rows, names and files."""
    monkeypatch.setattr(p2_model, "make_backbone", one_layer)
    monkeypatch.setattr(p2_model, "FEATURES", 8)
    torch.manual_seed(3)
    network, classes = varied(p2_model.Classifier(3), 128), ("Couch", "Lamp", "Pen")
    path = tmp_path / "random p2.pt"
    return random_checkpoint(path, "p2", p2_model.ARCHITECTURE, network, classes, 128)


def test_p1_writes_a_row_an_image_in_natural_order(predict, p1_images, tmp_path):
    out = tmp_path / "new" / "out.csv"
    for name in ("10_2.png", "9_450.png"):
        shutil.copy(p1_images / "0003.png", p1_images / name)
    status, printed, err = predict("p1", out)
    assert (status, printed) == (0, "") and "11 images in" in err and "images/s" in err
    lines = out.read_text().split("\n")
    assert lines[0] == "filename,label" and lines[-1] == ""
    names, labels = zip(*(line.split(",") for line in lines[1:-1]), strict=True)
    assert names == (*(f"{i:04d}.png" for i in range(9)), "9_450.png", "10_2.png")
    assert set(labels) <= set(map(str, range(50))) and len(set(labels)) > 1


def test_p2_answers_the_csvs_rows_in_their_order_with_their_ids(predict, p2_images, tmp_path):
    table, folder = p2_images
    (folder / "deep").mkdir()
    shutil.copy(folder / "0001.jpg", folder / "deep" / "a.jpg")
    table.write_text(table.read_text() + "3,deep/a.jpg,None\n")
    assert predict("p2", tmp_path / "out.csv")[0] == 0
    header, *answers = rows(tmp_path / "out.csv")
    assert header == ["id", "filename", "label"]
    assert [row[:2] for row in answers] == [row[:2] for row in rows(table)[1:]]
    assert {row[2] for row in answers} <= {"Couch", "Lamp", "Pen"}
    assert answers[3][2] == answers[4][2]  # of the same image


def test_batch_sizes_give_the_same_bytes(predict, tmp_path):
    outputs = []
    for size in (1, 7):
        out = tmp_path / str(size)
        for problem, name in (("p1", "1.csv"), ("p2", "2.csv"), ("p3", "3")):
            assert predict(problem, out / name, "--batch-size", size)[0] == 0
        outputs.append(snapshot(out))
    assert len(outputs[0]) == 7 and outputs[0] == outputs[1]
    assert len({label for _, label in rows(out / "1.csv")}) > 3  # the header's among them
    assert any(len(Image.open(path).getcolors()) > 1 for path in (out / "3").iterdir())


def test_an_image_of_every_mode_is_answered_like_its_rgb(predict, tmp_path):
    source = Image.open(draw(tmp_path / "source.png", 32, 32, 3))
    folder, modes = tmp_path / "in", ["L", "LA", "RGBA", "P", "1", "I;16", "CMYK"]
    folder.mkdir()
    for number, mode in enumerate(modes):
        grey = source.convert("L")
        if mode == "I;16":
            image = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
        else:
            image = (grey if mode in ("LA", "1") else source).convert(mode)
        file = folder / f"{number}_0.{'jpg' if mode == 'CMYK' else 'png'}"
        image.save(file)
        seen = grey if mode == "I;16" else Image.open(file)
        seen.convert("RGB").save(folder / f"{number}_1.png")
    options = ("--probabilities", tmp_path / "sure")
    assert predict("p1", tmp_path / "out", *options, images=folder)[0] == 0
    sure = np.array([row[1:] for row in rows(tmp_path / "sure")[1:]], dtype=float)
    differ = np.abs(sure[::2] - sure[1::2]).max(1) > 1e-4
    assert [mode for mode, differs in zip(modes, differ, strict=True) if differs] == []


def test_unreadable_files_get_the_fallback_and_status_3(predict, p1_images, p2_images, tmp_path):
    predict("p1", tmp_path / "whole.csv")
    whole = (p1_images / "0003.png").read_bytes()
    for number, content in enumerate((whole[: len(whole) // 2], b"", b"this is no image\n"), 3):
        (p1_images / f"{number:04}.png").write_bytes(content)
    status, _, err = predict("p1", tmp_path / "out.csv")
    assert status == 3 and all(f"000{number}.png" in err for number in (3, 4, 5))
    assert "3 of 9 images could not be read and got the label 0" in err
    whole, out = (rows(tmp_path / name) for name in ("whole.csv", "out.csv"))
    assert out == [*whole[:4], *([f"000{number}.png", "0"] for number in (3, 4, 5)), *whole[7:]]
    (p2_images[1] / "0000.jpg").write_bytes(b"")
    status, _, err = predict("p2", tmp_path / "out.csv")
    assert status == 3 and "0000.jpg" in err and "the label Couch" in err
    assert rows(tmp_path / "out.csv")[2] == ["1", "0000.jpg", "Couch"]


def test_not_one_readable_image_is_refused_and_the_old_output_kept(predict, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "0.png").touch()
    (tmp_path / "out.csv").write_text("old")
    status, _, err = predict("p1", tmp_path / "out.csv", images=tmp_path / "in")
    assert status == 2 and "none of the 1 images could be read" in err
    assert (tmp_path / "out.csv").read_text() == "old"


def test_bad_folders_are_refused(call, predict, p2_images, tmp_path):
    out, empty, file = tmp_path / "out.csv", tmp_path / "empty", tmp_path / "file"
    empty.mkdir()
    file.touch()
    out.write_text("old")
    refused(call(p1.main, tmp_path / "nowhere", out), "no folder", "nowhere")
    refused(call(p1.main, empty, out), "no *.png or", str(empty))
    refused(call(p1.main, file, out), "is neither a folder nor")
    refused(call(p2.main, p2_images[0], tmp_path / "nowhere", out), "no folder")
    refused(call(p3.main, empty, tmp_path / "masks"), str(empty))
    refused(predict("p1", empty), "is a folder")
    refused(predict("p1", file / "out.csv"), str(file))
    refused(predict("p3", file), str(file), "a file is in the way")
    assert out.read_text() == "old" and not (tmp_path / "masks").exists()


def test_a_bad_csv_is_refused_and_names_nothing_outside_its_folder(predict, p2_images, tmp_path):
    table, folder = p2_images
    shutil.copy(folder / "0001.jpg", tmp_path / "secret.jpg")
    out = tmp_path / "out.csv"
    out.write_text("old")
    quote = 'id,filename,label\n0,"0000.jpg,None\n' + "1,0001.jpg,None\n" * 99
    for content, says in (
        ("filename,label\n0000.jpg,None\n", "no column 'id'"),
        ("id,filename\n0,0000.jpg\n1,0000.jpg\n", "0000.jpg more than once"),
        ("id,filename\n0,0000.jpg\n1,9999.jpg\n", "9999.jpg"),
        ("", "is empty"),
        (quote, "line 2 is not a csv row"),
        ("id,filename\n0,../secret.jpg\n", "is outside"),
        ("id,filename\n0,a/../../secret.jpg\n", "is outside"),
        (f"id,filename\n0,{tmp_path}/secret.jpg\n", "is outside"),
    ):
        table.write_text(content)
        refused(predict("p2", out), "test.csv", says)
    assert out.read_text() == "old"


@pytest.mark.parametrize("program", [p1, p2, p3])
def test_without_its_checkpoint_a_program_says_how_to_get_it(
    call, monkeypatch, program, p1_images, p2_images, p3_images, tmp_path
):
    images = {p1: [p1_images], p2: p2_images, p3: [p3_images]}[program]
    monkeypatch.setattr(program, "ROOT", tmp_path)
    result = call(program.main, *images, tmp_path / "out")
    refused(result, str(tmp_path / "checkpoints"), "bash hw1_download.sh")


def test_the_weights_that_ship_answer_every_row(call, p1_images, p2_images, p3_images, tmp_path):
    assert call(p1.main, p1_images, tmp_path / "1.csv")[0] == 0
    assert call(p2.main, *p2_images, tmp_path / "2.csv")[0] == 0
    assert call(p3.main, p3_images, tmp_path / "masks")[0] == 0
    assert len(rows(tmp_path / "1.csv")) - 1 == len(list(p1_images.iterdir()))
    assert len(rows(tmp_path / "2.csv")) == len(rows(p2_images[0]))
    assert len(list((tmp_path / "masks").iterdir())) == len(list(p3_images.iterdir()))


def test_bad_checkpoints_and_devices_are_refused(predict, p1_checkpoint, p3_checkpoint, tmp_path):
    out, cut, other = (tmp_path / name for name in ("out.csv", "cut.pt", "ten.pt"))
    cut.write_bytes(p1_checkpoint.read_bytes()[:100_000])
    ten = tuple("0123456789")
    random_checkpoint(other, "p1", model.ARCHITECTURE, model.mobilenet_v2(10), ten, 32)
    for problem, checkpoint, *says in (
        ("p1", tmp_path / "no.pt", "no checkpoint", "no.pt"),
        ("p1", cut, "cut.pt", "truncated or damaged"),
        ("p1", p3_checkpoint, "a checkpoint of p3, not of p1"),
        ("p3", p1_checkpoint, "a checkpoint of p1, not of p3"),
        ("p1", other, "ten.pt was trained on other classes than problem 1's 0 to 49"),
    ):
        refused(predict(problem, out, "--checkpoint", checkpoint), *says)
    refused(predict("p1", out, "--device", "cuda:77"), "device 'cuda:77' is not available")
    assert not out.exists()


def test_a_file_a_pattern_and_several_files_are_labelled_as_in_their_folder(
    predict, p1_images, tmp_path
):
    def labels(*sources):
        assert predict("p1", tmp_path / "out.csv", images=sources)[0] == 0
        return rows(tmp_path / "out.csv")

    header, *every = labels(p1_images)
    assert labels(p1_images / "0003.png") == [header, every[3]]
    assert labels(p1_images / "000[1-3].p*") == [header, *every[1:4]]
    assert labels(p1_images / "0005.png", p1_images / "0001.png") == [header, every[5], every[1]]
    out = tmp_path / "no.csv"
    refused(predict("p1", out, images=p1_images / "*.jpg"), "*.jpg")
    draw(tmp_path / "other" / "0003.png", 32, 32, 0)
    result = predict("p1", out, images=(p1_images, tmp_path / "other"))
    refused(result, "more than one image is called 0003.png")
    assert not out.exists()


def test_problem_2_numbers_images_that_no_csv_names(predict, p2_images, tmp_path):
    folder, out, by_table = p2_images[1], tmp_path / "out.csv", tmp_path / "by_table.csv"
    assert predict("p2", by_table)[0] == 0
    assert predict("p2", out, images=folder / "0003.jpg")[0] == 0
    assert rows(out)[1:] == [["0", *rows(by_table)[1][1:]]]
    assert predict("p2", out, images=folder)[0] == 0
    assert [row[:2] for row in rows(out)[1:]] == [[str(i), f"000{i}.jpg"] for i in range(5)]


def test_two_images_of_one_name_are_refused_without_a_csv(predict, p2_images, tmp_path):
    for place in "ab":
        draw(tmp_path / place / "1.jpg", 40, 40, 0)
    result = predict("p2", tmp_path / "out.csv", images=tmp_path / "?" / "*.jpg")
    refused(result, "more than one image is called 1.jpg")


def test_probabilities_have_a_row_an_image_and_a_column_a_class(predict, p2_images, tmp_path):
    (p2_images[1] / "0000.jpg").write_bytes(b"")
    out, sure = tmp_path / "out.csv", tmp_path / "sure.csv"
    status, printed, _ = predict("p2", out, "--probabilities", sure, "--top", 2)
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


def test_flags_may_stand_between_the_other_arguments(call, p2_images, p2_checkpoint, tmp_path):
    table, folder = p2_images
    flags = ("--checkpoint", p2_checkpoint)
    assert call(p2.main, table, *flags, folder, tmp_path / "out.csv")[0] == 0
    assert len(rows(tmp_path / "out.csv")) == 5


def test_probabilities_are_a_file(predict, tmp_path):
    result = predict("p1", tmp_path / "out.csv", "--probabilities", f"{tmp_path}/new/")
    refused(result, "new/ is a folder; give a file name")


def test_flip_is_as_the_checkpoint_says_or_as_the_user_does(predict, p1_images, tmp_path):
    def probabilities(*options):
        sure = tmp_path / "sure.csv"
        assert predict("p1", tmp_path / "out.csv", *options, "--probabilities", sure)[0] == 0
        return np.array([row[1:] for row in rows(sure)[1:]], dtype=float)

    plain = probabilities()
    assert np.array_equal(plain, probabilities("--no-flip"))  # the fixture's checkpoint has no flip
    flipped = probabilities("--flip")
    assert np.abs(flipped - plain).max() > 1e-3
    for path in p1_images.iterdir():
        Image.open(path).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(path)
    assert np.abs(probabilities("--flip") - flipped).max() < 1e-5
    mirrored, short = probabilities("--flip"), probabilities("--bf16", "--flip")
    assert np.array_equal(short, mirrored) != devices.has_bf16(torch.device("cpu"))
    assert np.abs(short - mirrored).max() < 0.2


def test_the_time_limit_is_in_minutes_and_nine_by_default(clock):
    parser = argparse.ArgumentParser()
    flags(parser, Path("x.pt"))
    given = [], ["--max-minutes", "2.5"], ["--max-minutes", "inf"]
    limits = [parser.parse_args(words).stop_at for words in given]
    assert limits == [540, 150, math.inf]


def test_a_large_image_that_takes_too_long_gets_the_fallback(monkeypatch, clock, tmp_path):
    monkeypatch.setattr(tiles, "TILE", 64)
    monkeypatch.setattr(tiles, "MARGIN", 16)
    path, done = draw(tmp_path / "1.png", 200, 130, 0), []

    def predict(batch):
        done.append(batch)
        clock[0] += 1
        return batch[:, :1].numpy()

    with Stream([path], images.read_rgb, stop_at=5) as given:
        ((name, planes),) = p3.answers(given, predict, 1, lambda: "")
    assert (name, given.late, len(done)) == (path, [path], 5)  # of 24 tiles
    assert planes[0].shape == (130, 200) and (planes[0] == p3.FALLBACK).all()


def test_without_time_every_row_and_mask_is_the_fallback_and_status_3(predict, p3_images, tmp_path):
    out = tmp_path / "out.csv"
    status, _, err = predict("p1", out, "--max-minutes", 0)
    assert status == 3 and "9 of 9 images were not processed in time and got the label 0" in err
    assert [row[1] for row in rows(out)[1:]] == ["0"] * 9
    status, _, err = predict("p2", tmp_path / "2.csv", "--max-minutes", 0)
    assert status == 3 and "4 of 4 images were not processed in time and got the label Couch" in err
    status, _, err = predict("p3", tmp_path / "masks", "--max-minutes", 0)
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
    call, predict, p1_images, p1_checkpoint, p2_images, p3_images, tmp_path
):
    own = shutil.copy(p1_checkpoint, tmp_path / "own.pt")
    (tmp_path / "link.csv").symlink_to(p1_images / "0004.png")
    table, folder = p2_images
    before, free = snapshot(tmp_path), tmp_path / "a"
    for result in (
        predict("p1", p1_images / "0004.png"),
        predict("p1", tmp_path / "link.csv"),
        predict("p1", own, "--checkpoint", own),
        predict("p1", free, "--checkpoint", own, "--probabilities", own),
        predict("p2", table),
        predict("p2", folder / "0003.jpg"),
    ):
        refused(result, "is also an input")
    refused(predict("p1", free, "--probabilities", free), "two outputs have the same name")
    (tmp_path / "out").mkdir()
    shutil.copy(p3_images / "0001_sat.jpg", tmp_path / "out" / "0001.jpg")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "0001.png").symlink_to(tmp_path / "out" / "0001.png")
    Image.new("RGB", (40, 40)).save(tmp_path / "out" / "0001.png")
    result = predict("p3", tmp_path / "out", images=tmp_path / "in")
    refused(result, "0001.png", "is also an input")
    assert before.items() <= snapshot(tmp_path).items()


def test_too_little_memory_is_no_fault_of_an_image(predict, monkeypatch, tmp_path):
    out, fail = tmp_path / "out.csv", [5]
    load = ImageFile.ImageFile.load

    def short(image):
        fail[0] -= 1
        if fail[0] == 0 or fail[0] < -1000:
            raise MemoryError
        return load(image)

    monkeypatch.setattr(ImageFile.ImageFile, "load", short)
    assert predict("p1", out)[0] == 0  # tried again, alone
    fail[0] = -1000
    out.unlink()
    refused(predict("p1", out), "does not fit in memory; free some")
    assert not out.exists()


def test_a_cpu_without_memory_is_one_line(predict, monkeypatch, tmp_path):
    def full(*_):
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried")

    options = (tmp_path / "out.csv", "--device", "cpu")
    monkeypatch.setattr("core.augment.to_float", full)
    status, _, err = predict("p1", *options)
    assert status == 2 and "an image of 32x32 does not fit in the memory of cpu" in err
    monkeypatch.setattr(p1, "predictor", full)
    refused(predict("p1", *options), "not enough memory")


def test_many_images_leave_no_file_open_and_no_thread_behind(predict, p1_images, tmp_path):
    predict("p1", tmp_path / "out.csv")
    files, threads = len(os.listdir("/proc/self/fd")), threading.active_count()
    for i in range(300):
        os.link(p1_images / "0001.png", p1_images / f"more{i}.png")
    assert predict("p1", tmp_path / "out.csv")[0] == 0
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
        written = InOrder(lambda answer: answer[0], answers, ahead=1)
        assert list(written) == paths and held == [0, 0, 0]
