"""The metric of problem 3: its digits, its command line, its faults and its memory."""

import contextlib
import io
import itertools
import math
import os
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import refused
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

import mean_iou_evaluate as metric
from p3 import data

SCRIPT = Path(metric.__file__)
UNKNOWN = 6


def run(*args, cwd=None):
    command = [sys.executable, SCRIPT, *map(str, args)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=60)
    return done.returncode, done.stdout, done.stderr


def evaluate(truths, predictions, *more):
    """The program in this process: (exit status, stdout, stderr)."""
    out, err, status = io.StringIO(), io.StringIO(), 0
    with pytest.MonkeyPatch.context() as patch:
        arguments = ["-g", str(truths), "-p", str(predictions), *more]
        patch.setattr(sys, "argv", [str(SCRIPT), *arguments])
        patch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)  # the program changes it
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                runpy.run_path(str(SCRIPT), run_name="__main__")
            except SystemExit as stop:
                status = stop.code or 0
    return status, out.getvalue(), err.getvalue()


def write(folder, name, classes):
    Image.fromarray(data.colours_of(classes)).save(folder / name)


@pytest.fixture
def folders(tmp_path):
    """Two empty folders: of the true masks, of the predicted ones."""
    truths, predictions = tmp_path / "the truth", tmp_path / "predicted"
    truths.mkdir()
    predictions.mkdir()
    return truths, predictions


def random_pairs(*sizes):
    """Class maps of a truth and of a prediction that is right on about half of the pixels."""
    rng = np.random.default_rng(0)
    for size in sizes:
        truth = rng.choice(7, size, p=[0.1, 0.4, 0.2, 0.1, 0.05, 0.1, 0.05])
        guess = rng.choice(7, size, p=[0.3, 0.1, 0.1, 0.2, 0.1, 0.1, 0.1])
        yield truth, np.where(rng.random(size) < 0.5, truth, guess)


def write_pairs(folders, *sizes):
    pairs = list(random_pairs(*sizes))
    for i, masks in enumerate(pairs):
        for folder, mask in zip(folders, masks, strict=True):
            write(folder, f"{i:04}_mask.png", mask)
    return pairs


def published(pairs):
    """The course's published formula, class by class, over the pixels of the whole set."""
    truth, predicted = (np.concatenate([pair[i].ravel() for pair in pairs]) for i in (0, 1))
    ious = []
    for c in range(UNKNOWN):
        all_predicted = np.float64(np.sum(predicted == c))
        all_true = np.float64(np.sum(truth == c))
        tp = np.float64(np.sum((predicted == c) & (truth == c)))
        ious.append(tp / (all_predicted + all_true - tp))
    return sum(iou / 6 for iou in ious), ious


def printed(mean, ious):
    return (
        "".join("class #%d : %1.5f\n" % pair for pair in enumerate(ious))  # noqa: UP031
        + "\nmean_iou: %f\n\n" % mean  # noqa: UP031
    )


# The numbers


def test_digits_are_those_of_the_published_formula_and_of_training_and_scikit_learn(folders):
    from sklearn.metrics import confusion_matrix, jaccard_score
    from torch import from_numpy

    # The last one has more pixels than are counted at a time.
    pairs = write_pairs(folders, (512, 512), (64, 64), (1, 97), (33, 20), (1040, 1030))
    mean, ious = published(pairs)
    assert metric.AT_ONCE < 1040 * 1030 and evaluate(*folders) == (0, printed(mean, ious), "")

    matrix = np.array(metric.confusion(*folders))
    counts = sum(data.confusion(from_numpy(t), from_numpy(p)) for t, p in pairs)
    assert (matrix == counts.numpy()).all()
    assert data.mean_iou(counts) == (pytest.approx(mean, abs=1e-12), pytest.approx(ious, abs=1e-12))

    truth, predicted = (np.concatenate([pair[i].ravel() for pair in pairs]) for i in (0, 1))
    assert (matrix == confusion_matrix(truth, predicted, labels=range(7))).all()
    theirs = jaccard_score(truth, predicted, labels=range(6), average=None)
    assert ious == pytest.approx(theirs, abs=1e-12)


@given(arrays.arrays(np.int64, (7, 7), elements=st.sampled_from([0, 0, 1, 5, 2**33])))
@example(np.zeros((7, 7), np.int64))
def test_a_class_that_is_nowhere_is_left_out_of_the_mean(matrix):
    true, predicted, right = matrix.sum(1), matrix.sum(0), matrix.diagonal()
    with np.errstate(invalid="ignore"):
        expected = (right / (true + predicted - right))[:UNKNOWN]
    mean, ious = metric.mean_iou(matrix.tolist())
    assert ious == pytest.approx(expected, nan_ok=True)
    present = expected[~np.isnan(expected)]
    assert mean == pytest.approx(present.mean() if len(present) else math.nan, nan_ok=True)


@pytest.mark.parametrize(
    ("truth", "predicted", "mean", "ious", "says"),
    [
        ([0, 1, 2, 3, 6], [0, 1, 2, 4, 6], 3 / 5, [1, 1, 1, 0, 0, math.nan], "class #5 (barren)\n"),
        ([6, 6], [6, 6], math.nan, [math.nan] * 6, "there is no class to take a mean of\n"),
    ],
)
def test_the_classes_that_are_nowhere_are_named(folders, truth, predicted, mean, ious, says):
    write(folders[0], "a.png", np.array([truth]))
    write(folders[1], "a.png", np.array([predicted]))
    status, out, err = evaluate(*folders)
    assert (status, out) == (0, printed(mean, ious))
    assert err.endswith(says) and err.count("\n") == 1


# Colours


@pytest.mark.parametrize("side", [0, 1])
def test_a_channel_is_on_from_128_and_red_is_unknown(folders, side):
    colours = np.array([*itertools.product([0, 127, 128, 255], repeat=3)], dtype=np.uint8)
    class_of = {tuple(colour): c for c, colour in enumerate(data.COLOURS.tolist())}
    pure = np.where(colours >= 128, 255, 0).tolist()
    expected = np.array([class_of.get(tuple(colour), UNKNOWN) for colour in pure])
    Image.fromarray(colours[None]).save(folders[side] / "a.png")
    write(folders[1 - side], "a.png", expected[None])
    matrix = np.array(metric.confusion(*folders))
    assert (matrix == np.diag(np.bincount(expected, minlength=7))).all()
    assert matrix[UNKNOWN, UNKNOWN] == 16  # black and red


@pytest.mark.parametrize("mode", ["1", "L", "LA", "I;16", "P", "P, alpha", "RGBA"])
def test_a_mask_of_any_mode_counts_as_its_colours(folders, mode):
    """A grey mask is barren where it is white, else unknown."""
    if mode in ("P", "P, alpha", "RGBA"):
        [(classes, _)] = random_pairs((60, 80))
        image = Image.fromarray(data.colours_of(classes))
        if mode == "RGBA":
            image.putalpha(Image.fromarray(np.indices(classes.shape).sum(0).astype(np.uint8)))
        else:
            image = image.quantize(7)
        if mode == "P, alpha":
            image.info["transparency"] = bytes([0, 128, 255])
    else:
        grey, classes = np.array([[0, 127, 128, 255]], dtype=np.uint8), np.array([[6, 6, 5, 5]])
        image = Image.fromarray(grey.astype(np.uint16) * 256 if mode == "I;16" else grey)
        image = image.convert(mode, dither=Image.Dither.NONE)
    assert image.mode == mode.split(",")[0]
    image.save(folders[1] / "a.png")
    write(folders[0], "a.png", classes)
    matrix = np.array(metric.confusion(*folders))
    assert (matrix == np.diag(np.bincount(classes.ravel(), minlength=7))).all()


# The command line


def test_runs_from_a_foreign_folder_with_relative_paths_and_long_names(folders, tmp_path):
    expected = printed(*published(write_pairs(folders, (30, 30))))
    result = run("--labels", "the truth", "--pred=predicted", cwd=tmp_path)
    assert result == (0, expected, "")
    status, out, err = run("-g", folders[0])
    assert (status, out) == (2, "") and "-p" in err


def test_verbose_adds_a_table_on_stderr(folders):
    mean, ious = published(write_pairs(folders, (90, 110)))
    _, out, err = evaluate(*folders, "--verbose")
    assert out == printed(mean, ious)
    rows = [line.split() for line in err.splitlines()]
    matrix = np.array(metric.confusion(*folders))
    for c, name in enumerate(metric.CLASSES):
        summary, counts = (row[2:] for row in rows if row[:2] == [str(c), name])
        assert summary[0] == (f"{ious[c]:.5f}" if c < UNKNOWN else "-")
        assert summary[1:] == [f"{matrix[c].sum():,}", f"{matrix[:, c].sum():,}"]
        assert counts == [f"{n:,}" for n in matrix[c]]


def test_what_lies_beside_the_masks_does_not_count(folders):
    pairs = write_pairs(folders, *[(30, 30)] * 3)
    for name in ("0000_sat.jpg", "0000_sat.png"):
        write(folders[0], name, pairs[0][0])
    write(folders[1], "overview.png", pairs[0][0])
    (folders[0] / ".hidden_mask.png").write_bytes(b"no mask")
    (folders[1] / "._0000_mask.png").write_bytes(b"no mask")
    (folders[1] / "folder_mask.png").mkdir()
    (folders[1] / "log.txt").write_text("no mask")
    assert evaluate(*folders) == (0, printed(*published(pairs)), "")


def test_plain_names_and_capital_suffixes(folders):
    pairs = write_pairs(folders, *[(20, 20)] * 2)
    for folder in folders:
        (folder / "0000_mask.png").rename(folder / "0001.png")
        (folder / "0001_mask.png").rename(folder / "0002.PNG")
    assert evaluate(*folders)[1] == printed(*published(pairs))


def test_pairs_by_name_whatever_the_order_of_listing(folders, monkeypatch):
    expected = printed(*published(write_pairs(folders, *[(12, 12)] * 12)))
    listed = os.scandir
    monkeypatch.setattr(
        os, "scandir",
        lambda path: sorted(listed(path), key=lambda e: e.name, reverse=path == folders[1]),
    )  # fmt: skip
    assert evaluate(*folders)[1] == expected


# Faults


def renamed(folder, change):
    for path in sorted(folder.iterdir()):
        path.rename(change(path))


def half_a_png():
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(256, size=(100, 100, 3), dtype=np.uint8)
    Image.fromarray(noise).save(buffer, "PNG")
    return buffer.getvalue()[:15000]


FIVE = ", ".join(f"{i:04}_mask.png" for i in range(5))
# How seven good pairs are spoilt, and what is said; {0} and {1} stand for the folders.
FAULTS = {
    "missing": (
        lambda truths, predictions: (predictions / "0003_mask.png").unlink(),
        ["1 mask of {0} missing from {1}: 0003_mask.png;"],
    ),
    "extra": (
        lambda truths, predictions: (truths / "0003_mask.png").unlink(),
        ["1 mask in {1} but not in {0}: 0003_mask.png;"],
    ),
    "all have other names": (
        lambda truths, predictions: renamed(predictions, lambda p: p.with_name(f"x{p.name}")),
        ["7 masks of {0}", f": {FIVE} and 2 more;", "7 masks in {1}", "x0004_mask.png and 2 more;"],
    ),
    "another size": (  # of as many pixels
        lambda truths, predictions: write(predictions, "0002_mask.png", np.zeros((30, 20), int)),
        ["1 pair ", "{1}/0002_mask.png is 20x30", "{0}/0002_mask.png is 30x20"],
    ),
    "empty": (
        lambda truths, predictions: (truths / "0006_mask.png").write_bytes(b""),
        ["1 pair cannot be compared: {0}/0006_mask.png cannot be read ("],
    ),
    "half": (
        lambda truths, predictions: (predictions / "0006_mask.png").write_bytes(half_a_png()),
        ["1 pair cannot be compared: {1}/0006_mask.png cannot be read ("],
    ),
    "all are text": (
        lambda truths, predictions: [p.write_bytes(b"no image") for p in predictions.iterdir()],
        ["7 pairs", "0000_mask.png", "0004_mask.png", "and 2 more; "],
    ),
    "images": (
        lambda truths, predictions: renamed(predictions, lambda p: p.with_suffix(".jpg")),
        ["no *.png mask in {1};"],
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_masks_that_cannot_be_compared_are_named_in_one_line(folders, fault):
    write_pairs(folders, *[(20, 30)] * 7)
    spoil, said = FAULTS[fault]
    spoil(*folders)
    said = [words.format(*folders) for words in said]
    refused(evaluate(*folders), "mean_iou_evaluate.py: ", *said)


def test_what_is_no_folder_of_masks_is_named_in_one_line(folders, tmp_path):
    write_pairs(folders, (20, 30))
    good, empty, nowhere = folders[0], tmp_path / "empty", tmp_path / "nowhere"
    empty.mkdir()
    refused(evaluate(good, nowhere), f"no folder {nowhere};")
    refused(evaluate(good / "0000_mask.png", good), "0000_mask.png is not a folder;")
    refused(evaluate(good, empty), f"no *.png mask in {empty};")
    refused(evaluate(empty, empty), f"no *.png mask in {empty};")
    refused(evaluate(good, tmp_path / ("x" * 256)), "cannot list the folder", "name too long)")


def test_a_wrong_command_line_is_one_line(folders):
    refused(evaluate(*folders, "--all"), "unrecognized arguments: --all; see --help")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_scores_that_cannot_be_written_are_one_line(folders):
    write_pairs(folders, (20, 30))
    command = [sys.executable, SCRIPT, "-g", folders[0], "-p", folders[1]]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    refused((done.returncode, "", done.stderr), "cannot write to stdout: No space left on device")


def test_a_python_without_the_libraries_is_told_what_to_install(folders):
    command = [sys.executable, "-S", "-I", SCRIPT, "-g", *folders[:1], "-p", *folders[1:]]
    done = subprocess.run(command, capture_output=True, text=True)  # -S: no site-packages
    result = done.returncode, done.stdout, done.stderr
    refused(result, "mean_iou_evaluate.py: ", "has no PIL;", "pip install -r requirements.txt")


# Memory


# VmHWM, not ru_maxrss: Linux hands the latter down from the process that started this one.
PEAK = """
import runpy, sys
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print("peak KiB", peak.split()[1], file=sys.stderr)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="asks Linux for the peak")
def test_memory_does_not_grow_with_the_number_of_pairs(folders):
    write_pairs(folders, (256, 256))

    def peak_mib(pairs):
        for folder in folders:
            for i in range(1, pairs):
                if not (folder / f"{i:04}_mask.png").exists():
                    os.link(folder / "0000_mask.png", folder / f"{i:04}_mask.png")
        args = [sys.executable, "-c", PEAK, SCRIPT, "-g", *folders[:1], "-p", *folders[1:]]
        result = subprocess.run(args, capture_output=True, text=True, timeout=60, check=True)
        return int(result.stderr.split()[-1]) / 1024

    few, many = peak_mib(40), peak_mib(160)  # one byte a pixel of 240 masks kept would be 15 MiB
    assert many - few < 10
