"""The metric of problem 3: its digits, its command line, its faults and its memory."""

from __future__ import annotations

import io
import os
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import mean_iou_evaluate as metric

SCRIPT = Path(metric.__file__)
COLOURS = np.array(
    [
        (0, 255, 255),
        (255, 255, 0),
        (255, 0, 255),
        (0, 255, 0),
        (0, 0, 255),
        (255, 255, 255),
        (0, 0, 0),
    ],
    dtype=np.uint8,
)
RED = (255, 0, 0)
UNKNOWN = 6


def run(*args: object, cwd: Path | None = None) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, SCRIPT, *map(str, args)],
        capture_output=True,
        text=True,
        cwd=cwd,
        timeout=60,
    )


def evaluate(folders: tuple[Path, Path], *more: str) -> subprocess.CompletedProcess:
    """The program in this process."""
    arguments = ["-g", str(folders[0]), "-p", str(folders[1]), *more]
    limit, status = Image.MAX_IMAGE_PIXELS, 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [str(SCRIPT), *arguments])
        patch.setattr(sys, "stdout", io.StringIO())
        patch.setattr(sys, "stderr", io.StringIO())
        try:
            runpy.run_path(str(SCRIPT), run_name="__main__")
        except SystemExit as stop:
            status = stop.code or 0
        finally:
            Image.MAX_IMAGE_PIXELS = limit
        out, err = sys.stdout.getvalue(), sys.stderr.getvalue()
    return subprocess.CompletedProcess(arguments, status, out, err)


def expect_fault(result: subprocess.CompletedProcess, *words: str) -> None:
    """Nothing on stdout, exit status 2, and one line on stderr that holds ``words``."""
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith("mean_iou_evaluate.py: ")
    assert result.stderr.count("\n") == 1 and result.stderr.endswith("\n")
    for word in words:
        assert word in result.stderr


def write(folder: Path, name: str, classes: np.ndarray) -> None:
    Image.fromarray(COLOURS[classes]).save(folder / name)


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Two empty folders: of the true masks, of the predicted ones."""
    truths, predictions = tmp_path / "the truth", tmp_path / "predicted"
    truths.mkdir()
    predictions.mkdir()
    return truths, predictions


def random_pairs(seed: int, sizes: list[tuple[int, int]]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Class maps of a truth and of a prediction that is right on about half of the pixels."""
    rng = np.random.default_rng(seed)
    pairs = []
    for size in sizes:
        truth = rng.choice(7, size, p=[0.1, 0.4, 0.2, 0.1, 0.05, 0.1, 0.05])
        guess = rng.choice(7, size, p=[0.3, 0.1, 0.1, 0.2, 0.1, 0.1, 0.1])
        pairs.append((truth, np.where(rng.random(size) < 0.5, truth, guess)))
    return pairs


SIZES = [(512, 512), (64, 64), (1, 97), (33, 20), (600, 700)]  # the last one is larger than a block


def write_pairs(folders: tuple[Path, Path], pairs: list[tuple[np.ndarray, np.ndarray]]) -> None:
    for i, (truth, predicted) in enumerate(pairs):
        write(folders[0], f"{i:04}_mask.png", truth)
        write(folders[1], f"{i:04}_mask.png", predicted)


def published(pairs: list[tuple[np.ndarray, np.ndarray]]) -> tuple[float, list[float]]:
    """The course's published formula, class by class, over the pixels of the whole set."""
    truth = np.concatenate([t.ravel() for t, _ in pairs])
    predicted = np.concatenate([p.ravel() for _, p in pairs])
    ious = []
    for c in range(UNKNOWN):
        all_predicted = np.float64(np.sum(predicted == c))
        all_true = np.float64(np.sum(truth == c))
        tp = np.float64(np.sum((predicted == c) & (truth == c)))
        ious.append(tp / (all_predicted + all_true - tp))
    return sum(iou / 6 for iou in ious), ious


def printed(mean: float, ious: list[float]) -> str:
    return (
        "".join("class #%d : %1.5f\n" % pair for pair in enumerate(ious))  # noqa: UP031
        + "\nmean_iou: %f\n\n" % mean  # noqa: UP031
    )


# The numbers


@pytest.mark.parametrize("seed", range(2))
def test_digits_are_those_of_the_published_formula(folders, seed):
    pairs = random_pairs(seed, SIZES)
    write_pairs(folders, pairs)
    result = evaluate(folders)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == printed(*published(pairs))


def test_agrees_with_training_and_scikit_learn(folders):
    from sklearn.metrics import confusion_matrix, jaccard_score
    from torch import from_numpy

    from p3 import data

    pairs = random_pairs(3, SIZES)
    write_pairs(folders, pairs)
    matrix = np.array(metric.confusion(*folders))
    mean, ious = metric.mean_iou(matrix)
    assert matrix.dtype == np.int64

    counts = sum(data.confusion(from_numpy(t), from_numpy(p)) for t, p in pairs)
    assert (matrix == counts.numpy()).all()
    assert data.mean_iou(counts) == (pytest.approx(mean, abs=1e-12), pytest.approx(ious, abs=1e-12))

    truth, predicted = (np.concatenate([pair[i].ravel() for pair in pairs]) for i in (0, 1))
    assert (matrix == confusion_matrix(truth, predicted, labels=range(7))).all()
    assert ious == pytest.approx(
        jaccard_score(truth, predicted, labels=range(6), average=None), abs=1e-12
    )


def test_unknown_pixels_count_as_false_positives_and_unknown_predictions_as_misses(folders):
    truth = np.array([[0, 0, 0, 6, 6, 1]])
    predicted = np.array([[0, 0, 6, 0, 6, 1]])
    write(folders[0], "a.png", truth)
    write(folders[1], "a.png", predicted)
    mean, ious = metric.mean_iou(metric.confusion(*folders))
    assert ious[0] == 2 / 4  # two right, one missed, one on an unknown pixel
    assert mean == (2 / 4 + 1) / 2  # classes 2..5 are nowhere, unknown is no class


def test_the_mean_is_over_all_pixels_not_over_images(folders):
    write(folders[0], "a.png", np.zeros((1, 9), int))
    write(folders[1], "a.png", np.zeros((1, 9), int))
    write(folders[0], "b.png", np.zeros((1, 1), int))
    write(folders[1], "b.png", np.ones((1, 1), int))
    _, ious = metric.mean_iou(metric.confusion(*folders))
    assert list(ious[:2]) == [0.9, 0.0]


def test_counts_beyond_32_bits():
    matrix = np.diag(np.full(7, 3 * 2**32, dtype=np.int64))
    matrix[0, 1] = 2**32
    _, ious = metric.mean_iou(matrix)
    assert ious == pytest.approx([3 / 4, 3 / 4, 1, 1, 1, 1])


# Colours


def test_a_channel_is_on_from_128(folders):
    """Channels that are off (0, 127) or on (128, 255) give the pure colour's class."""
    levels = np.array([0, 127, 128, 255])
    colours = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(
        1, 64, 3
    )
    pure = np.where(colours >= 128, 255, 0)
    code_to_class = {
        4: UNKNOWN,
        **{int(colour @ [4, 2, 1]) // 255: c for c, colour in enumerate(COLOURS.astype(int))},
    }
    expected = np.array([[code_to_class[int(colour @ [4, 2, 1]) // 255] for colour in pure[0]]])
    Image.fromarray(colours.astype(np.uint8)).save(folders[0] / "a.png")
    write(folders[1], "a.png", expected)
    matrix = np.array(metric.confusion(*folders))
    assert (matrix == np.diag(np.bincount(expected[0], minlength=7))).all()
    assert matrix[UNKNOWN, UNKNOWN] == 16  # black and red


def test_red_is_unknown(folders):
    truth, predicted = (COLOURS[pixels] for pixels in random_pairs(4, [(40, 50)])[0])
    truth[:5] = predicted[10:15] = RED
    for folder, mask in zip(folders, (truth, predicted), strict=True):
        Image.fromarray(mask).save(folder / "a.png")
    red = evaluate(folders)
    truth[:5] = predicted[10:15] = 0
    for folder, mask in zip(folders, (truth, predicted), strict=True):
        Image.fromarray(mask).save(folder / "a.png")
    assert red.returncode == 0
    assert red.stdout == evaluate(folders).stdout


def as_palette(mask: np.ndarray) -> Image.Image:
    return Image.fromarray(mask).quantize(7)


def as_palette_with_alpha(mask: np.ndarray) -> Image.Image:
    image = as_palette(mask)
    image.info["transparency"] = bytes([0, 128, 255])
    return image


def as_rgba(mask: np.ndarray) -> Image.Image:
    return Image.fromarray(
        np.dstack([mask, np.indices(mask.shape[:2]).sum(0) % 256]).astype(np.uint8)
    )


@pytest.mark.parametrize("change", [as_palette, as_palette_with_alpha, as_rgba])
def test_colour_modes(folders, change):
    pairs = random_pairs(5, [(60, 80)])
    write_pairs(folders, pairs)
    change(COLOURS[pairs[0][1]]).save(folders[1] / "0000_mask.png")
    assert Image.open(folders[1] / "0000_mask.png").mode != "RGB"
    result = evaluate(folders)
    assert (result.stdout, result.stderr) == (printed(*published(pairs)), "")


@pytest.mark.parametrize("mode", ["1", "L", "LA", "I;16"])
def test_grey_is_barren_or_unknown(folders, mode):
    grey = np.array([[0, 127, 128, 255]], dtype=np.uint8)
    if mode == "I;16":
        image = Image.fromarray(grey.astype(np.uint16) * 256)
    elif mode == "1":
        image = Image.fromarray(grey > 127)
    else:
        image = Image.fromarray(grey).convert(mode)
    assert image.mode == mode
    image.save(folders[1] / "a.png")
    write(folders[0], "a.png", np.array([[6, 6, 5, 5]]))
    mean, ious = metric.mean_iou(metric.confusion(*folders))
    assert mean == ious[5] == 1


# Classes that are nowhere


def test_a_class_in_neither_folder_is_left_out(folders):
    write(folders[0], "a.png", np.array([[0, 1, 2, 3, 6]]))
    write(folders[1], "a.png", np.array([[0, 1, 2, 4, 6]]))
    result = evaluate(folders)
    assert result.returncode == 0
    assert result.stdout == printed(3 / 5, [1, 1, 1, 0, 0, float("nan")])
    assert "left out of the mean" in result.stderr and "#5 (barren)" in result.stderr
    assert result.stderr.count("\n") == 1 and "#4" not in result.stderr


def test_no_class_at_all(folders):
    write(folders[0], "a.png", np.full((3, 4), UNKNOWN))
    write(folders[1], "a.png", np.full((3, 4), UNKNOWN))
    result = evaluate(folders)
    assert result.returncode == 0
    assert result.stdout == printed(float("nan"), [float("nan")] * 6)
    assert result.stderr.count("\n") == 1 and "no class" in result.stderr


# The command line


def test_runs_from_a_foreign_folder_with_relative_paths_and_long_names(folders, tmp_path):
    pairs = random_pairs(6, [(30, 30)])
    write_pairs(folders, pairs)
    result = run("--labels", "the truth", "--pred=predicted", cwd=tmp_path)
    assert (result.returncode, result.stdout) == (0, printed(*published(pairs)))


def test_verbose_adds_a_table_on_stderr(folders):
    pairs = random_pairs(7, [(90, 110)])
    write_pairs(folders, pairs)
    result = evaluate(folders, "--verbose")
    assert result.stdout == printed(*published(pairs))
    rows = [line.split() for line in result.stderr.splitlines()]
    matrix = np.array(metric.confusion(*folders))
    for c, name in enumerate(metric.CLASSES):
        summary, counts = (row[2:] for row in rows if row[:2] == [str(c), name])
        assert summary[0] == (f"{published(pairs)[1][c]:.5f}" if c < UNKNOWN else "-")
        assert summary[1:] == [f"{matrix[c].sum():,}", f"{matrix[:, c].sum():,}"]
        assert counts == [f"{n:,}" for n in matrix[c]]


def test_images_hidden_files_and_folders_beside_the_masks_do_not_count(folders):
    pairs = random_pairs(8, [(30, 30)] * 3)
    write_pairs(folders, pairs)
    for i in range(3):
        Image.new("RGB", (512, 512)).save(folders[0] / f"{i:04}_sat.jpg")
    (folders[0] / ".hidden_mask.png").write_bytes(b"no mask")
    (folders[1] / "._0000_mask.png").write_bytes(b"no mask")
    (folders[1] / "folder_mask.png").mkdir()
    (folders[1] / "log.txt").write_text("no mask")
    assert evaluate(folders).stdout == printed(*published(pairs))


def test_plain_names_and_capital_suffixes(folders):
    pairs = random_pairs(9, [(20, 20)] * 2)
    for folder, masks in zip(folders, zip(*pairs, strict=True), strict=True):
        write(folder, "0001.png", masks[0])
        write(folder, "0002.PNG", masks[1])
    assert evaluate(folders).stdout == printed(*published(pairs))


def test_beside_mask_files_plain_ones_do_not_count(folders):
    pairs = random_pairs(10, [(20, 20)] * 2)
    write_pairs(folders, pairs)
    write(folders[0], "0000_sat.png", pairs[0][0])
    write(folders[1], "overview.png", pairs[0][0])
    assert evaluate(folders).stdout == printed(*published(pairs))


def test_pairs_by_name_whatever_the_order_of_listing(folders, monkeypatch):
    pairs = random_pairs(11, [(12, 12)] * 12)
    write_pairs(folders, pairs)
    expected = np.array(metric.confusion(*folders))
    listed = os.scandir
    monkeypatch.setattr(
        os,
        "scandir",
        lambda path: sorted(listed(path), key=lambda e: e.name, reverse=path == folders[1]),
    )
    assert (metric.confusion(*folders) == expected).all()
    assert metric.mean_iou(expected)[1] == pytest.approx(published(pairs)[1])


# Faults


@pytest.fixture
def good(folders) -> tuple[Path, Path]:
    """Folders of seven good pairs, to be spoilt."""
    write_pairs(folders, random_pairs(12, [(20, 30)] * 7))
    return folders


def test_a_missing_mask(good):
    (good[1] / "0003_mask.png").unlink()
    expect_fault(evaluate(good), "1 mask of ", f"missing from {good[1]}: 0003_mask.png;")


def test_an_extra_mask(good):
    (good[0] / "0003_mask.png").unlink()
    expect_fault(evaluate(good), f"1 mask in {good[1]} but not in {good[0]}: 0003_mask.png;")


def test_many_masks_missing_and_extra(good):
    for path in good[1].iterdir():
        path.rename(path.with_name(f"x{path.name}"))
    first_five = ", ".join(f"{i:04}_mask.png" for i in range(5))
    expect_fault(
        evaluate(good), "7 masks", f": {first_five} and 2 more;", "x0004_mask.png and 2 more;"
    )


def test_another_size(good):
    write(good[1], "0002_mask.png", np.zeros((30, 20), int))  # as many pixels
    expect_fault(
        evaluate(good),
        "1 pair ",
        f"{good[1] / '0002_mask.png'} is 20x30",
        f"{good[0] / '0002_mask.png'} is 30x20",
    )


def half_a_png() -> bytes:
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(256, size=(100, 100, 3), dtype=np.uint8)
    Image.fromarray(noise).save(buffer, "PNG")
    return buffer.getvalue()[:15000]


@pytest.mark.parametrize(
    ("side", "content"),
    [(0, b""), (1, b"no image"), (0, half_a_png()), (1, half_a_png())],
    ids=["empty", "text", "half", "half too"],
)
def test_an_unreadable_mask(good, side, content):
    (good[side] / "0006_mask.png").write_bytes(content)
    expect_fault(
        evaluate(good),
        f"1 pair cannot be compared: {good[side] / '0006_mask.png'} cannot be read (",
    )


def test_many_bad_pairs(good):
    for path in good[1].iterdir():
        path.write_bytes(b"no image")
    expect_fault(evaluate(good), "7 pairs", "0000_mask.png", "0004_mask.png", "and 2 more; ")


def test_folders_that_are_none(good, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    expect_fault(evaluate((good[0], tmp_path / "nowhere")), f"no folder {tmp_path / 'nowhere'};")
    expect_fault(evaluate((good[0] / "0000_mask.png", good[1])), "0000_mask.png is not a folder;")
    expect_fault(evaluate((good[0], empty)), f"no *.png mask in {empty};")
    expect_fault(evaluate((empty, empty)), f"no *.png mask in {empty};")


def test_a_folder_that_cannot_be_looked_at(good, tmp_path):
    expect_fault(
        evaluate((good[0], tmp_path / ("x" * 256))),
        "cannot list the folder",
        "(File name too long)",
    )


def test_a_python_without_the_libraries_is_told_what_to_install(good):
    command = [
        sys.executable,
        "-S",
        "-I",
        SCRIPT,
        "-g",
        good[0],
        "-p",
        good[1],
    ]  # -S: no site-packages
    expect_fault(
        subprocess.run(command, capture_output=True, text=True),
        "has no PIL;",
        "pip install -r requirements.txt",
    )


def test_a_folder_without_masks_but_with_images(good):
    for path in good[1].iterdir():
        path.rename(path.with_suffix(".jpg"))
    expect_fault(evaluate(good), f"no *.png mask in {good[1]};")


def test_flags_are_required(good):
    result = run("-g", good[0])
    assert (result.returncode, result.stdout) == (2, "")
    assert "-p" in result.stderr


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
    write_pairs(folders, random_pairs(13, [(256, 256)]))

    def peak_mib(pairs: int) -> float:
        for folder in folders:
            for i in range(1, pairs):
                if not (folder / f"{i:04}_mask.png").exists():
                    os.link(folder / "0000_mask.png", folder / f"{i:04}_mask.png")
        args = [sys.executable, "-c", PEAK, SCRIPT, "-g", *folders[:1], "-p", *folders[1:]]
        result = subprocess.run(args, capture_output=True, text=True, timeout=60, check=True)
        return int(result.stderr.split()[-1]) / 1024

    few, many = peak_mib(40), peak_mib(160)  # one byte a pixel of 240 masks kept would be 15 MiB
    assert many - few < 10
