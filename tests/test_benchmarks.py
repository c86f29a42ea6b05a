"""The benchmarks: the naive programs answer as ours do, what is measured is measured, and a line has all its figures."""

import csv
import dataclasses
import re
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT, draw
from PIL import Image

from benchmarks import __main__ as benchmarks
from benchmarks import naive
from core import checkpoint
from core.cli import InputError
from p1 import inference as p1
from p2 import inference as p2
from p3 import inference as p3
from p3.data import COLOURS

LINE = re.compile(
    r"(\w+) +(\d+\.\d\d) +(\d+\.\d\d) +(\d+) +(\d+\.\d{3}) +(\d+\.\d{3}) +(\d+\.\d{3} %|-)"
)


def run(*arguments):
    command = [sys.executable, "-m", "benchmarks", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def lines_of(done):
    """What is printed, by program: (wall s, CPU s, peak MiB, our wall by its, our CPU by its, identical)."""
    assert done.returncode == 0, done.stderr
    heading, header, *lines = done.stdout.splitlines()
    assert "medians" in heading and "ours / it" in header
    matches = [LINE.fullmatch(line) for line in lines]
    assert all(matches), done.stdout
    return {match[1]: (*map(float, match.groups()[1:6]), match[7]) for match in matches}


# --- whole runs -------------------------------------------------------------------------------------------------------


def test_inference_prints_a_line_a_program_with_the_ratio_and_the_share_of_identical_labels(
    p1_images, p1_checkpoint
):
    done = run(
        "inference",
        "--problem",
        "p1",
        "--checkpoint",
        p1_checkpoint,
        "--images",
        p1_images,
        "--repeats",
        1,
    )
    lines = lines_of(done)
    assert list(lines) == ["ours", "naive"] and lines["ours"][3:] == (1, 1, "-")
    for wall, cpu, peak, *_ in lines.values():
        assert wall > 0.5 and cpu > 0.5 and peak > 100  # torch alone takes that
    assert lines["naive"][3] == pytest.approx(lines["ours"][0] / lines["naive"][0], abs=0.01)
    assert lines["naive"][4] == pytest.approx(lines["ours"][1] / lines["naive"][1], abs=0.01)
    assert lines["naive"][5] == "100.000 %"


@pytest.mark.slow
def test_inference_measures_problems_2_and_3_too(p2_images, p2_checkpoint, p3_checkpoint, tmp_path):
    table, folder = p2_images
    options = (
        "--problem",
        "p2",
        "--checkpoint",
        p2_checkpoint,
        "--images",
        folder,
        "--table",
        table,
        "--repeats",
        1,
    )
    assert lines_of(run("inference", *options))["naive"][5] == "100.000 %"
    for i in range(3):
        draw(tmp_path / "scenes" / f"{i:04d}_sat.jpg", 64, 48, i)
    options = (
        "--problem",
        "p3",
        "--checkpoint",
        p3_checkpoint,
        "--images",
        tmp_path / "scenes",
        "--repeats",
        1,
    )
    assert float(lines_of(run("inference", *options))["naive"][5].rstrip(" %")) >= 99.9


def test_metric_prints_a_line_for_ours_for_decoding_and_for_the_naive_way(tmp_path):
    rng = np.random.default_rng(0)
    for folder in ("truth", "predicted masks"):
        (tmp_path / folder).mkdir()
        for i in range(3):
            Image.fromarray(COLOURS[rng.integers(0, 7, (40, 50))]).save(
                tmp_path / folder / f"{i:04d}_mask.png"
            )
    done = run(
        "metric", "-g", tmp_path / "truth", "-p", tmp_path / "predicted masks", "--repeats", 2
    )
    lines = lines_of(done)
    assert list(lines) == ["ours", "decode", "naive"]
    assert lines["decode"][5] == "-" and lines["naive"][5] == "100.000 %"
    assert re.findall(r"run (\d) of 2: (\w+)", done.stderr) == [
        (k, name) for k in "12" for name in lines
    ]  # A B A B


def test_bad_input_is_one_line(p1_images, p1_checkpoint, tmp_path):
    base = ("inference", "--images", p1_images, "--checkpoint")
    for arguments, said in (
        ((*base, p1_checkpoint, "--problem", "p2"), "--table"),
        ((*base, tmp_path / "no.pt"), "'ours' ended with status 2: hw1_1.sh: no checkpoint"),
        (
            ("metric", "-g", tmp_path, "-p", tmp_path),
            "'ours' ended with status 2: mean_iou_evaluate.py: no *.png",
        ),
    ):
        done = run(*arguments)
        assert (
            done.returncode == 2
            and done.stderr.startswith("benchmarks: ")
            and done.stderr.count("\n") == 1
        )
        assert said in done.stderr


# --- the naive programs -----------------------------------------------------------------------------------------------


@pytest.fixture(params=[False, True], ids=["as it is", "with its mirror image"])
def saved(request, tmp_path):
    """Makes of a checkpoint one with or without the average with the mirror image."""

    def change(path, problem):
        checkpoint.save(
            tmp_path / "changed.pt",
            dataclasses.replace(checkpoint.load(path, problem), flip_test=request.param),
        )
        return tmp_path / "changed.pt"

    return change


def rows(path):
    return list(csv.reader(path.open(newline="")))


def test_the_naive_p1_labels_as_ours(call, saved, p1_images, p1_checkpoint, tmp_path):
    draw(p1_images / "0009.jpg", 50, 40, 9)
    one, other, file = tmp_path / "ours.csv", tmp_path / "naive.csv", saved(p1_checkpoint, "p1")
    assert call(p1.main, p1_images, one, "--checkpoint", file)[0] == 0
    options = ("--images", p1_images, "--output", other, "--checkpoint", file, "--batch-size", 4)
    assert call(naive.main, "p1", *options) == (0, "", "")
    assert rows(one) == rows(other) and len(rows(one)) == 11
    assert len({row[-1] for row in rows(one)[1:]}) > 1


def test_the_naive_p2_labels_as_ours(call, saved, p2_images, p2_checkpoint, tmp_path):
    table, folder = p2_images
    one, other, file = tmp_path / "ours.csv", tmp_path / "naive.csv", saved(p2_checkpoint, "p2")
    assert call(p2.main, table, folder, one, "--checkpoint", file)[0] == 0
    options = ("--images", folder, "--table", table, "--output", other, "--checkpoint", file)
    assert call(naive.main, "p2", *options) == (0, "", "")
    assert rows(one) == rows(other) and len(rows(one)) == 5
    assert len({row[-1] for row in rows(one)[1:]}) > 1
    assert (
        call(naive.main, "p2", "--images", folder, "--output", other, "--checkpoint", file)[0] == 2
    )


def test_the_naive_p3_segments_as_ours(call, saved, p3_images, p3_checkpoint, tmp_path):
    Image.new("RGB", (64, 64)).save(
        p3_images / "0001_mask.png"
    )  # a truth beside the image is no image
    one, other, file = tmp_path / "ours", tmp_path / "naive", saved(p3_checkpoint, "p3")
    assert call(p3.main, p3_images, one, "--checkpoint", file)[0] == 0
    options = ("--images", p3_images, "--output", other, "--checkpoint", file, "--batch-size", 1)
    assert call(naive.main, "p3", *options) == (0, "", "")
    assert benchmarks.same_pixels(one, other) >= 0.999
    assert len(Image.open(one / "0000_mask.png").getcolors()) > 1


# --- measuring and comparing ------------------------------------------------------------------------------------------


def test_measure_counts_wall_time_cpu_time_and_memory_of_the_process():
    work = "import time; held = bytearray(300 << 20); end = time.process_time() + 0.3\nwhile time.process_time() < end: pass"
    busy, printed = benchmarks.measure("busy", ["python3", "-c", work + "\nprint('done')"])
    asleep, _ = benchmarks.measure("asleep", ["python3", "-c", "import time; time.sleep(0.5)"])
    assert printed == "done\n"
    assert busy.cpu > 0.3 and busy.peak > 300 and busy.wall > 0.3
    assert asleep.wall > 0.5 and asleep.cpu < 0.4
    with pytest.raises(InputError, match=r"'failing' ended with status 7: the last line"):
        program = (
            "import sys; print('one', 'the last line', sep='\\n', file=sys.stderr); sys.exit(7)"
        )
        benchmarks.measure("failing", ["python3", "-c", program])


def test_the_ratio_is_the_median_over_the_turns():
    runs = {
        "ours": [benchmarks.Use(1, 2, 10), benchmarks.Use(3, 3, 30), benchmarks.Use(2, 4, 20)],
        "other": [benchmarks.Use(10, 4, 1), benchmarks.Use(6, 4, 3), benchmarks.Use(8, 4, 2)],
    }
    mine, other = benchmarks.table(runs, {"other": 0.5}).splitlines()[1:]
    assert LINE.fullmatch(mine).groups() == ("ours", "2.00", "3.00", "20", "1.000", "1.000", "-")
    assert LINE.fullmatch(other).groups() == (
        "other",
        "8.00",
        "4.00",
        "2",
        "0.250",
        "0.750",
        "50.000 %",
    )


def test_shares_of_equal_answers(tmp_path):
    (tmp_path / "a.csv").write_text("filename,label\n1.png,3\n2.png,4\n3.png,5\n4.png,6\n")
    (tmp_path / "b.csv").write_text("filename,label\n4.png,6\n2.png,4\n1.png,3\n3.png,0\n")
    assert benchmarks.same_rows(tmp_path / "a.csv", tmp_path / "b.csv") == 0.75
    (tmp_path / "c.csv").write_text("filename,label\n1.png,3\n")
    with pytest.raises(
        InputError, match=r"only one of the two programs answered for 2\.png \(3 such files\)"
    ):
        benchmarks.same_rows(tmp_path / "a.csv", tmp_path / "c.csv")

    mask = np.zeros((10, 10, 3), dtype=np.uint8)
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        Image.fromarray(mask).save(tmp_path / folder / "0_mask.png")
        mask[0, :5] = 255  # 5 pixels of 100 in the second folder
    assert benchmarks.same_pixels(tmp_path / "a", tmp_path / "b") == 0.95
    Image.fromarray(mask[:5]).save(tmp_path / "b" / "0_mask.png")
    with pytest.raises(InputError, match="not of one size"):
        benchmarks.same_pixels(tmp_path / "a", tmp_path / "b")
    assert benchmarks.same_lines("1\n2\n\n3\n4\n", "1\n2\n0\n4\n") == 0.75
