"""The drawn data set: in the course's layout, a function of its seed, over nobody's files."""

import dataclasses
import hashlib
import json

import numpy as np
import pytest
import torch
from conftest import TINY, refused, rows
from PIL import Image

import p1.data
import p3.data
from core.cli import InputError
from core.files import list_files
from demo import draw, scenes
from demo.draw import Parameters, draw_all
from prediction.tables import read_labelled

SMALL = Parameters(
    p1_train=2, p1_val=1, p2_unlabelled=12, p2_train=1, p2_val=1, p3_train=12, p3_val=2, size=64
)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "small data"
    assert draw_all(folder, SMALL)
    return folder


@pytest.fixture
def quick(monkeypatch):
    """Only problem 3 is drawn."""
    monkeypatch.setattr(draw, "draw_p1", lambda folder, *_: folder.mkdir(parents=True))
    monkeypatch.setattr(draw, "draw_p2", lambda folder, *_: folder.mkdir(parents=True))


def contents(folder):
    files = (path for path in folder.rglob("*") if path.is_file() and path.parent.name != ".cache")
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


def opened(folder):
    """The names of a folder's images in natural order; the set of (format, mode, size)."""
    names, kinds = [], set()
    for path in list_files(folder, (".png", ".jpg")):
        with Image.open(path) as image:
            image.load()
            names.append(path.name)
            kinds.add((image.format, image.mode, image.size))
    return names, kinds


# --- layout ---


def test_the_courses_folders_and_tables_and_nothing_else(drawn):
    kept = [path for path in drawn.rglob("*") if path.suffix not in (".png", ".jpg")]
    assert sorted(str(path.relative_to(drawn)) for path in kept) == [
        "drawn.json",
        *("p1_data", "p1_data/train_50", "p1_data/val_50", "p1_data/val_gt.csv"),
        *("p2_data", "p2_data/mini", "p2_data/mini/train", "p2_data/office"),
        *("p2_data/office/train", "p2_data/office/train.csv"),
        *("p2_data/office/val", "p2_data/office/val.csv"),
        *("p3_data", "p3_data/train", "p3_data/validation"),
    ]
    assert list(drawn.parent.iterdir()) == [drawn]  # no hidden folder is left


def test_problem_1_has_its_names_sizes_and_csv_and_loads(drawn):
    train, train_kinds = opened(drawn / "p1_data/train_50")
    val, val_kinds = opened(drawn / "p1_data/val_50")
    assert train_kinds == val_kinds == {("PNG", "RGB", (32, 32))}
    assert train == [f"{label}_{i}.png" for label in range(50) for i in range(2)]
    assert val == [f"{label}_2.png" for label in range(50)]  # the ids go on after the training's
    truth = [["filename", "label"], *([f"{label}_2.png", str(label)] for label in range(50))]
    assert rows(drawn / "p1_data/val_gt.csv") == truth
    images, labels, paths = p1.data.load(drawn / "p1_data/train_50")
    assert images.shape == (100, 3, 32, 32) and images.dtype == torch.uint8 and len(paths) == 100
    assert labels.bincount().tolist() == [2] * 50


def test_problem_2s_unlabelled_images(drawn):
    names, kinds = opened(drawn / "p2_data/mini/train")
    assert names == [f"{i}.jpg" for i in range(12)] and kinds == {("JPEG", "RGB", (84, 84))}


@pytest.mark.parametrize("split", ["train", "val"])
def test_problem_2s_office_has_65_classes_in_many_sizes(drawn, split):
    office = drawn / "p2_data/office"
    names, kinds = opened(office / split)
    assert names == [f"{i:04}.jpg" for i in range(65)]
    assert {kind[:2] for kind in kinds} == {("JPEG", "RGB")}
    sides = np.array([size for *_, size in kinds])
    assert len(kinds) > 50 and sides.min() >= 90 and sides.max() <= 400
    ratios = sides[:, 0] / sides[:, 1]
    assert ratios.min() < 0.8 and ratios.max() > 1.25

    header, *listed = rows(office / f"{split}.csv")
    assert header == ["id", "filename", "label"]
    assert [row[:2] for row in listed] == [[str(i), f"{i:04}.jpg"] for i in range(65)]
    labels, _ = read_labelled(office / f"{split}.csv", office / split)
    assert sorted(map(int, labels)) == list(range(65))
    assert list(map(int, labels)) != list(range(65))  # the order does not tell the label


@pytest.mark.parametrize(("split", "count"), [("train", 12), ("validation", 2)])
def test_problem_3_has_pairs_in_pure_colours(drawn, split, count):
    folder = drawn / "p3_data" / split
    names, kinds = opened(folder)
    assert names == [f"{i:04}_{end}" for i in range(count) for end in ("mask.png", "sat.jpg")]
    assert kinds == {("PNG", "RGB", (64, 64)), ("JPEG", "RGB", (64, 64))}
    for path in folder.glob("*_mask.png"):
        mask = np.array(Image.open(path))
        assert (p3.data.colours_of(p3.data.classes_of(mask)) == mask).all()


def test_problem_3_loads_and_has_all_classes_in_a_dozen_scenes(drawn):
    pairs, paths = p3.data.load(drawn / "p3_data/train")
    assert pairs.shape == (12, 4, 64, 64) and len(paths) == 12
    shares = p3.data.split(pairs)[1].flatten().bincount(minlength=7) / (12 * 64 * 64)
    assert (shares > 0).all() and shares.argmax() == p3.data.CLASSES.index("agriculture")


def test_the_scenes_classes_are_problem_3s():
    assert [getattr(scenes, name.upper()) for name in p3.data.CLASSES] == list(range(7))


@pytest.mark.parametrize("size", [32, 51, 130])
def test_a_scene_of_any_size(size):
    for index in range(len(scenes.KINDS)):
        picture, classes = scenes.scene(np.random.default_rng(index), index, size)
        assert picture.shape == (size, size, 3) and classes.shape == (size, size)
        assert picture.dtype == classes.dtype == np.uint8


# --- randomness ---


def test_the_same_seed_draws_the_same_bytes_and_another_one_others(drawn, tmp_path):
    for seed in (0, 1):
        draw_all(tmp_path / str(seed), dataclasses.replace(SMALL, seed=seed))
    first, again, other = map(contents, (drawn, tmp_path / "0", tmp_path / "1"))
    assert again == first and other.keys() == first.keys()
    same = {name for name in first if first[name] == other[name]}
    assert same == {"p1_data/val_gt.csv"}  # names and labels alone


def test_no_two_images_are_the_same(drawn):
    pictures = [item for item in contents(drawn).items() if item[0].endswith((".png", ".jpg"))]
    digests = [digest for name, digest in pictures if "_mask" not in name]
    assert len(digests) > 150 and len(set(digests)) == len(digests)


def test_more_images_are_the_same_ones_and_others_after_them(drawn, tmp_path):
    draw.draw_p3(tmp_path / "p3_data", draw.Parameters(p3_train=3, p3_val=1, size=64))
    here, there = contents(drawn / "p3_data/train"), contents(tmp_path / "p3_data/train")
    assert there.items() <= here.items() and len(there) == 6


# --- the folder ---


def test_a_second_drawing_does_nothing_and_one_of_other_parameters_is_refused(drawn, call):
    before = {path: path.stat().st_mtime_ns for path in drawn.rglob("*")}
    values = dataclasses.asdict(SMALL).items()
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in values]
    assert call(draw.main, "--out", drawn, *flags) == (0, f"already drawn: {drawn}\n", "")
    refused(call(draw.main, "--out", drawn, "--seed", 5), "seed 0, not 5", "p1_train 2, not 40")
    assert {path: path.stat().st_mtime_ns for path in drawn.rglob("*")} == before


@pytest.mark.parametrize("note", [None, "", "[1]", "{broken"])
def test_a_folder_with_something_else_is_refused(tmp_path, note):
    (tmp_path / "mine.txt").write_text("mine")
    if note is not None:
        (tmp_path / "drawn.json").write_text(note)
    with pytest.raises(InputError, match="choose another folder"):
        draw_all(tmp_path, TINY)
    for out in (tmp_path / "mine.txt", tmp_path / "mine.txt" / "below"):
        with pytest.raises(InputError, match=r"mine\.txt"):
            draw_all(out, TINY)
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_an_empty_folder_and_a_missing_parent_are_fine(tmp_path, quick):
    (tmp_path / "empty").mkdir()
    written = {"version": draw.VERSION} | dataclasses.asdict(TINY)
    for out in (tmp_path / "empty", tmp_path / "not" / "yet"):
        assert draw_all(out, TINY) and (out / "p3_data/validation/0000_mask.png").is_file()
        assert json.loads((out / "drawn.json").read_text()) == written


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_an_interrupted_drawing_leaves_nothing(tmp_path, quick, monkeypatch, error):
    def interrupted(*_):
        raise error

    monkeypatch.setattr(draw, "scene", interrupted)
    with pytest.raises(KeyboardInterrupt if error is KeyboardInterrupt else InputError):
        draw_all(tmp_path / "out", TINY)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "flags", [["--seed", -1], ["--size", 31], ["--p1-train", 0], ["--p3-val", "few"], []]
)
def test_senseless_parameters_are_refused(tmp_path, call, flags):
    out = ["--out", tmp_path / "out"] if flags else []
    refused(call(draw.main, *out, *flags))
    assert not (tmp_path / "out").exists()
