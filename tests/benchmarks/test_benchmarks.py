"""The benchmarks: the naive programs answer as ours do, and the tables hold what is measured."""

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT, draw, refused, rows
from PIL import Image

from benchmarks import __main__ as benchmarks
from benchmarks import marks, naive, processes, steps
from core import checkpoint
from core.cli import InputError


def run(*arguments):
    command = [sys.executable, "-m", "benchmarks", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def cells(line):
    return [cell.strip() for cell in line.strip("|").split("|")]


# --- whole runs ---


def test_the_metric_is_measured_beside_decoding_and_the_naive_way_in_turn():
    done = run("metric", "--share", 0.01, "--repeats", 2, "--no-write")
    assert done.returncode == 0, done.stderr
    *_, ours, decode, formula = done.stdout.splitlines()
    assert [cells(line)[0] for line in (ours, decode, formula)] == ["ours", "decode", "naive"]
    assert cells(formula)[-1] == "100.000 %" and cells(decode)[-1] == "-"
    named = [line.split(": ")[1].split()[0] for line in done.stderr.splitlines()]
    assert named == ["ours", "decode", "naive"] * 2  # A B A B


@pytest.mark.slow  # four programs in turn, each of which imports torch
@pytest.mark.parametrize("part", ["p1", "p2", "p3"])
def test_an_inference_is_measured_beside_the_naive_way_and_its_floor(part):
    done = run(part, "--share", 0.01, "--repeats", 1, "--no-write")
    assert done.returncode == 0, done.stderr
    lines = {cells(line)[0]: cells(line) for line in done.stdout.splitlines() if line[:1] == "|"}
    assert {"ours", "ours bf16", "naive", "import torch"} <= lines.keys()
    assert float(lines["naive"][-1].rstrip(" %")) >= 99.9
    assert "Floor: " in done.stdout and "GFLOP/s" in done.stdout


@pytest.mark.slow  # two programs that import torch
def test_the_load_is_told_at_a_tenth_and_at_all_of_the_images():
    command = [sys.executable, "-m", "benchmarks.load", "p1", "--share", "0.0004"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = [cells(line) for line in done.stdout.splitlines()[2:]]
    assert [line[:2] for line in lines] == [["p1", "4"], ["p1", "40"]]
    for _, _, seconds, peak, files in lines:
        assert int(seconds) > 0 and int(peak) > 100 and int(files) > 0


def test_bad_input_is_one_line(call, tmp_path):
    says = "unknown part inference; choose from metric, p1"
    refused(call(benchmarks.main, "inference"), says)
    missing = ("p1", "--p1", tmp_path / "no.pt", "--share", 0.001)
    status, _, err = call(benchmarks.main, *missing)
    assert status == 2 and err.count("\n") == 1 and "hw1_1.sh: no checkpoint" in err


def test_results_are_written_whole_and_the_readmes_text_is_kept(tmp_path, monkeypatch):
    uses = [{"wall": 2.0, "cpu": 1.0, "peak": 10.0}, {"wall": 4.0, "cpu": 3.0, "peak": 20.0}]
    found = {
        "images": 7, "runs": {"ours": uses, "decode": uses, "naive": uses[::-1]},
        "identical": {"naive": 0.5},
    }  # fmt: skip
    results = {
        "machine": {"cores": 2}, "repeats": 2, "share": 1, "minutes": {"metric": 0.4},
        "parts": {"metric": found},
    }  # fmt: skip
    monkeypatch.setattr(benchmarks, "RESULTS", tmp_path / "results.json")
    monkeypatch.setattr(benchmarks, "README", tmp_path / "README.md")
    (tmp_path / "README.md").write_text(f"text\n{benchmarks.MARK}\nold\n")
    benchmarks.write(results)
    assert json.loads((tmp_path / "results.json").read_text()) == results
    text = (tmp_path / "README.md").read_text()
    assert text.startswith(f"text\n{benchmarks.MARK}\n") and "old" not in text
    assert "Metric, 7 images" in text and "cores 2" in text and "no measurement" not in text
    assert "Metric 0.4" in text and text.index("### Marks") < text.index("### Metric")
    benchmarks.write({**results, "share": 0.01})
    assert "no measurement" in (tmp_path / "README.md").read_text()


def test_growth_shows_what_each_image_more_costs():
    uses = [
        {"images": 2, "wall": 2.0, "cpu": 3.0, "peak": 50.0},
        {"images": 22, "wall": 2.5, "cpu": 3.5, "peak": 51.0},
        {"images": 22, "wall": 2.5, "cpu": 3.5, "peak": 51.0},
    ]
    *_, first, more, same = benchmarks.growing({"p1": uses})
    assert cells(first) == ["p1", "2", "2.0", "3.0", "-", "50"]
    assert cells(more) == ["p1", "22", "2.5", "3.5", "25.0", "51"]
    assert cells(same)[4] == "-"


def test_marks_stand_beside_what_was_measured_of_the_same_turn(monkeypatch):
    def runs(*walls):
        return [{"wall": wall, "peak": 40} for wall in walls]

    mark = marks.Mark
    targets = [
        mark("slow", "metric", marks.ratio("naive", "wall"), "≤", 0.18),  # naive ran once
        mark("quick", "metric", marks.ratio("decode", "wall"), "≤", 1.5),
        mark("small", "metric", marks.peak, "≤", 40),
        mark("steps", "steps", marks.faster("p1", "ours", "naive"), "≥", 5),
        mark("lacking", "steps", marks.faster("p1", "ours", "lightly"), "≥", 3),
        mark("unmeasured", "p1", marks.peak, "≤", 1),
    ]
    monkeypatch.setattr(marks, "MARKS", targets)
    parts = {
        "metric": {"runs": {"ours": runs(2, 4), "decode": runs(2, 2), "naive": runs(10)}},
        "steps": {"p1": {"steps": {"ours": runs(1.0), "naive": runs(4.0)}}},
    }
    assert [cells(line)[1:] for line in marks.table(parts)[2:]] == [
        ["≤ 0.18", "0.2", "no"],
        ["≤ 1.5", "1.5", "yes"],
        ["≤ 40", "40", "yes"],
        ["≥ 5", "4", "no"],
        ["≥ 3", "not installed", "-"],
    ]


def test_every_mark_is_of_something_that_is_measured():
    assert {mark.part for mark in marks.MARKS} <= set(benchmarks.PARTS)
    uses = [{"wall": 2.0, "cpu": 1.0, "peak": 10.0}]
    names = ("ours", "ours bf16", "naive", "decode", "import torch")
    part = {"runs": dict.fromkeys(names, uses), "identical": {"naive": 1.0}, "floor s": 1.0}
    parts = dict.fromkeys(("metric", "p1", "p2", "p3"), part)
    parts["growth"] = dict.fromkeys(("p1", "p2", "p3"), uses * 3)
    parts["steps"] = {
        group: {"steps": dict.fromkeys(programs, uses)} for group, programs in steps.GROUPS.items()
    }
    lines = marks.table(parts)
    assert len(lines) == 2 + len(marks.MARKS) and "not installed" not in "\n".join(lines)


# --- the naive programs ---


@pytest.mark.parametrize("flip_test", [False, True])
@pytest.mark.parametrize("problem", ["p1", "p2", "p3"])
def test_the_naive_program_answers_as_ours(call, predict, request, tmp_path, problem, flip_test):
    own = checkpoint.load(request.getfixturevalue(f"{problem}_checkpoint"), problem)
    file, one, other = (tmp_path / name for name in ("changed.pt", "ours", "naive"))
    checkpoint.save(file, dataclasses.replace(own, flip_test=flip_test))
    images = request.getfixturevalue(f"{problem}_images")
    *table, folder = images if problem == "p2" else [images]
    if problem == "p1":
        draw(folder / "0009.jpg", 50, 40, 9)
    if problem == "p3":  # a truth beside the image is no image
        Image.new("RGB", (64, 64)).save(folder / "0001_mask.png")
    assert predict(problem, one, "--checkpoint", file)[0] == 0
    options = ["--images", folder, "--output", other, "--checkpoint", file]
    sizes = {"p1": ["--batch-size", 4], "p2": ["--table", *table], "p3": ["--batch-size", 1]}
    assert call(naive.main, problem, *options, *sizes[problem]) == (0, "", "")
    if problem == "p3":
        assert processes.same_pixels(one, other) >= 0.999
        assert len(Image.open(one / "0000_mask.png").getcolors()) > 1
    else:
        assert rows(one) == rows(other) and len(rows(one)) == {"p1": 11, "p2": 5}[problem]
        assert len({row[-1] for row in rows(one)}) > 2  # the header's among them
    if problem == "p2":
        assert call(naive.main, problem, *options)[0] == 2  # without its table


# --- measuring and comparing ---


def test_measure_counts_wall_time_cpu_time_and_memory_of_the_process():
    work = "import time; held = bytearray(300 << 20); end = time.process_time() + 0.3\n"
    work += "while time.process_time() < end: pass"
    busy, printed = processes.measure("busy", ["python3", "-c", work + "\nprint('done')"])
    asleep, _ = processes.measure("asleep", ["python3", "-c", "import time; time.sleep(0.5)"])
    assert printed == "done\n"
    assert busy.cpu > 0.3 and busy.peak > 300 and busy.wall > 0.3
    assert asleep.wall > 0.5 and asleep.cpu < 0.4
    failing = "import sys; print('one', 'the last line', sep='\\n', file=sys.stderr); sys.exit(7)"
    with pytest.raises(InputError, match=r"'failing' ended with status 7: the last line"):
        processes.measure("failing", ["python3", "-c", failing])


def test_a_program_that_takes_minutes_runs_in_the_first_turn_only():
    programs = {name: ["python3", "-c", f"print({name!r})"] for name in ("a", "b")}
    runs, printed = processes.in_turn(programs, 2, once=["b"])
    assert {name: len(uses) for name, uses in runs.items()} == {"a": 2, "b": 1}
    assert printed == {"a": ["a\n", "a\n"], "b": ["b\n"]}


def test_a_step_is_compared_by_wall_and_by_cpu_time():
    times = {"ours": [{"wall": 2.0, "cpu": 4.0}], "naive": [{"wall": 4.0, "cpu": 12.0}]}
    *_, ours, other, missing = steps.table("p1", times, ["lightly"]).splitlines()
    assert cells(ours) == ["ours", "128.0", "1.00", "1.00"]
    assert cells(other) == ["naive", "64.0", "2.00", "3.00"]
    assert cells(missing)[:2] == ["lightly", "not installed"]


def test_the_ratio_is_the_median_over_the_turns():
    fields = [
        dict(zip(("wall", "cpu", "peak"), use, strict=True))
        for use in ((1, 2, 10), (3, 3, 30), (2, 4, 20), (10, 4, 1), (6, 4, 3), (8, 4, 2))
    ]
    found = {"runs": {"ours": fields[:3], "other": fields[3:]}, "identical": {"other": 0.5}}
    mine, other = benchmarks.side_by_side(found)[2:]
    assert cells(mine) == ["ours", "2.00 (1.00–3.00)", "3.00 (2.00–4.00)", "20", "-", "-", "-"]
    assert cells(other)[3:] == ["2", "0.250", "0.750", "50.000 %"]


def test_shares_of_equal_answers(tmp_path):
    (tmp_path / "a.csv").write_text("filename,label\n1.png,3\n2.png,4\n3.png,5\n4.png,6\n")
    (tmp_path / "b.csv").write_text("filename,label\n4.png,6\n2.png,4\n1.png,3\n3.png,0\n")
    assert processes.same_rows(tmp_path / "a.csv", tmp_path / "b.csv") == 0.75
    (tmp_path / "c.csv").write_text("filename,label\n1.png,3\n")
    says = r"only one of the two programs answered for 2\.png \(3 such files\)"
    with pytest.raises(InputError, match=says):
        processes.same_rows(tmp_path / "a.csv", tmp_path / "c.csv")

    mask = np.zeros((10, 10, 3), dtype=np.uint8)
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        Image.fromarray(mask).save(tmp_path / folder / "0_mask.png")
        mask[0, :5] = 255  # 5 pixels of 100 in the second folder
    assert processes.same_pixels(tmp_path / "a", tmp_path / "b") == 0.95
    Image.fromarray(mask[:5]).save(tmp_path / "b" / "0_mask.png")
    with pytest.raises(InputError, match="differ in size"):
        processes.same_pixels(tmp_path / "a", tmp_path / "b")
    assert processes.same_lines("1\n2\n\n3\n4\n", "1\n2\n0\n4\n") == 0.75
