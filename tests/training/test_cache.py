"""A data set is decoded once, and what is kept of it is never trusted further than it deserves."""

import errno
import gc
import io
import math
import multiprocessing
import os
import tempfile
import time
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from core import images
from core.cli import InputError
from core.files import list_files
from p2 import data as p2_data
from p3 import data as p3
from training import cache, processes

ALL = float("inf")  # bytes that may be taken
FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """The user's cache folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "hw1"


@pytest.fixture
def paths(tmp_path):
    """12 images of 9x6 in a folder."""
    folder = tmp_path / "data" / "train"
    folder.mkdir(parents=True)
    for i in range(12):
        draw(folder / f"{i}.png", i)
    return list_files(folder, (".png",))


def draw(path, seed, height=6):
    Image.fromarray(
        np.random.default_rng(seed).integers(0, 256, (height, 9, 3), dtype=np.uint8)
    ).save(path)


@pytest.fixture
def no_sets(monkeypatch):
    """No data set of another test is counted, nor goes from memory later."""
    gc.collect()
    monkeypatch.setattr(cache, "_in_memory", 0)


@pytest.fixture
def load():
    """``cache.load`` that counts in ``load.decoded`` the images it has decoded."""

    def decode(path):
        run.decoded += 1
        return images.read_rgb(path)

    def run(paths, kind="test", memory=ALL, **more):
        return cache.load(paths, decode, kind, memory, **more)

    run.decoded = 0
    return run


def kept(paths):
    """The cache's files but the locks."""
    folder = paths[0].parent.parent / ".cache"
    return sorted(path for path in folder.glob("*") if path.suffix != ".lock")


def same(loaded, paths):
    fresh = images.load(paths, images.read_rgb)
    assert loaded.stride() == fresh.stride() and loaded.dtype == fresh.dtype
    return torch.equal(loaded, fresh)


def is_mapped(paths):
    return str(kept(paths)[0]) in Path("/proc/self/maps").read_text()


# --- decoded once ---


def test_the_second_load_decodes_nothing_and_the_cache_is_a_hidden_folder_beside_the_images(
    tmp_path, paths, load
):
    for _ in range(2):
        assert same(load(paths), paths) and load.decoded == len(paths)
    assert sorted(os.listdir(tmp_path / "data")) == [".cache", "train"]
    assert len(os.listdir(paths[0].parent)) == len(paths)


def test_the_cache_is_found_through_links_and_relative_paths(tmp_path, paths, load, monkeypatch):
    load(paths)
    (tmp_path / "link").symlink_to(tmp_path / "data")
    monkeypatch.chdir(tmp_path / "data")
    for folder in (tmp_path / "link" / "train", Path("train")):
        assert same(load([folder / path.name for path in paths]), paths)
    assert load.decoded == len(paths)


@pytest.mark.parametrize(
    "change",
    [
        lambda paths: draw(paths[3], 99),
        lambda paths: os.utime(paths[3], (1, 1)),
        lambda paths: paths.append(paths.pop(3).rename(paths[0].with_name("new.png"))),
        lambda paths: paths.pop(3),
        lambda paths: paths.reverse(),
    ],
    ids=["content", "time", "name", "count", "order"],
)
def test_other_files_are_decoded_anew_and_the_superseded_cache_is_removed(paths, load, change):
    load(paths)
    change(paths)
    load.decoded = 0
    assert same(load(paths), paths) and load.decoded == len(paths)
    assert len(kept(paths)) == 1


def test_other_kinds_and_folders_have_their_own_caches(tmp_path, paths, load):
    (tmp_path / "data" / "val").mkdir()
    draw(tmp_path / "data" / "val" / "0.png", 0)
    sets = [(paths, "test"), (paths, "test-held"), ([tmp_path / "data" / "val" / "0.png"], "test")]
    for _ in range(2):
        for set_paths, kind in sets:
            assert same(load(set_paths, kind), set_paths)
    assert len(kept(paths)) == 3 and load.decoded == 2 * len(paths) + 1


def test_another_pillow_may_decode_otherwise(paths, load, monkeypatch):
    load(paths)
    monkeypatch.setattr("PIL.__version__", "0.0")
    load(paths)
    assert load.decoded == 2 * len(paths)


def test_of_problem_3_the_masks_belong_to_the_set(paths):
    for path in paths:
        draw(path.with_name(f"{path.stem}_mask.png"), 50)
        path.rename(path.with_name(f"{path.stem}_sat.png"))
    folder = paths[0].parent
    first, _ = p3.load(folder)
    draw(folder / "5_mask.png", 51)
    second, names = p3.load(folder)
    assert torch.equal(first[:, :3], second[:, :3])
    changed = (first != second).flatten(1).any(1).tolist()
    assert changed == [path.name == "5_sat.png" for path in names]
    (folder / "5_mask.png").unlink()
    with pytest.raises(InputError, match="5_mask.png: no such file; every image of a training set"):
        p3.load(folder)


# --- not trusted ---


def flipped(at):
    """Another value of the byte ``at``, anywhere in the images or the checksums."""
    return lambda content: content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


def array(*shape, dtype=np.uint8, order="C"):
    """The file of another array, with the checksum of its zeros."""
    file = io.BytesIO()
    np.save(file, np.zeros(shape, dtype, order))
    file.write(np.uint32(zlib.crc32(bytes(math.prod(shape)))).tobytes())
    return lambda content: file.getvalue()


DAMAGE = {
    "cut": lambda content: content[:-1],
    "longer": lambda content: content + b"\0",
    "empty": lambda content: b"",
    "text": lambda content: b"what is this?" * 100,
    "header": lambda content: content[:64] + b"?" * 64 + content[128:],
    "first byte": flipped(128),
    "last byte": flipped(2071),
    "checksum": flipped(-1),
    "another count": array(11, 6, 9, 3),
    "another number format": array(12, 6, 9, 3, dtype=np.float32),
    "other dimensions": array(12, 6, 27),
    "another order": array(12, 6, 9, 3, order="F"),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_broken_cache_or_one_of_something_else_is_made_anew(paths, load, damage):
    load(paths)
    (path,) = kept(paths)
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    assert same(load(paths), paths) and load.decoded == 2 * len(paths)
    assert path.read_bytes() == whole


@pytest.mark.parametrize("memory", [ALL, 0], ids=["read", "mapped"])
def test_a_byte_that_changed_on_the_disk_is_noticed_in_any_piece(
    paths, load, monkeypatch, capsys, memory
):
    monkeypatch.setattr(cache, "PIECE", 500)  # 3 images each
    load(paths, memory=memory)
    (path,) = kept(paths)
    whole = path.read_bytes()
    assert len(whole) == 128 + 12 * 162 + 4 * 4
    for count, at in enumerate(range(128, len(whole), 97), start=2):
        path.write_bytes(flipped(at)(whole))
        assert same(load(paths, memory=memory), paths), at
        assert load.decoded == count * len(paths) and "damaged" in capsys.readouterr().err
        assert path.read_bytes() == whole


def test_an_image_that_cannot_be_used_is_named_and_leaves_no_cache(paths, load):
    for spoil, says in (
        (lambda: draw(paths[4], 4, height=5), r"4\.png is 9x5, but .*0\.png is 9x6"),
        (lambda: paths[2].write_bytes(b""), r"2\.png: .*the file is empty.*; every image of a"),
        (paths[2].unlink, r"2\.png: no such file"),
    ):
        spoil()
        with pytest.raises(InputError, match=says):
            load(paths)
    assert kept(paths) == []


# --- memory ---


@pytest.mark.parametrize(
    ("memory", "world", "on_disk"),
    [(12 * 162, 1, False), (12 * 162 - 1, 1, True), (0, 1, True), (ALL, 2, True)],
)
def test_a_set_is_mapped_if_it_is_larger_than_the_memory_or_several_share_it(
    no_sets, paths, load, monkeypatch, capfd, memory, world, on_disk
):
    monkeypatch.setattr(processes, "world_size", lambda: world)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first = load(paths, memory=memory)
        second = load(paths, memory=2 * memory)  # as the first is held still
    assert is_mapped(paths) == on_disk
    assert same(first, paths) and same(second, paths) and load.decoded == len(paths)
    assert capfd.readouterr() == ("", "")


def test_sets_share_the_memory_and_give_it_back(no_sets, paths, load):
    both = 2 * 12 * 162
    load(paths)
    first, second = load(paths, memory=both), load(paths, memory=both)
    assert not is_mapped(paths)
    third = load(paths, memory=both)
    assert is_mapped(paths) and same(third, paths)
    view = first[3:5, :2]  # keeps the whole set
    del first, second, third
    again = load(paths, memory=both)
    assert not is_mapped(paths) and torch.equal(again[3:5, :2], view)


def test_a_set_goes_to_the_device_whole_or_by_the_batch():
    data = torch.arange(120, dtype=torch.uint8).view(10, 3, 2, 2)
    index, device = torch.tensor([7, 0, 7]), torch.device("meta")
    whole, not_whole = cache.resident(data, device, 120), cache.resident(data, device, 119)
    assert whole.device == device and not_whole is data
    for one in (whole, not_whole):
        batch = cache.gather(one, index, device)
        assert batch.device == device and batch.shape == (3, 3, 2, 2)
    assert torch.equal(cache.gather(data, index, torch.device("cpu")), data[[7, 0, 7]])


def test_a_gpu_holds_no_more_of_a_set_than_half_of_its_free_memory(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (239, 1000))
    gpu, data = torch.device("cuda"), torch.zeros(10, 3, 2, 2, dtype=torch.uint8)
    assert cache.resident(data, gpu, 10_000) is data
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (240, 1000))
    monkeypatch.setattr(torch.Tensor, "to", lambda self, device: ("moved to", device))
    assert cache.resident(data, gpu, 10_000) == ("moved to", gpu)


def test_a_csv_of_some_images_and_the_whole_folder_do_not_take_each_others_place(
    tmp_path, monkeypatch
):
    (tmp_path / "train").mkdir()
    for k in range(4):
        Image.new("RGB", (8, 8), (k, 0, 0)).save(tmp_path / "train" / f"{k}.png")
    (tmp_path / "some.csv").write_text("filename,label\n3.png,a\n1.png,b\n")
    (tmp_path / "all.csv").write_text("filename,label\n0.png,a\n1.png,a\n2.png,a\n3.png,a\n")
    p2_data.load_unlabelled(tmp_path / "train")
    images, *_ = p2_data.load_labelled(tmp_path / "some.csv", tmp_path / "train")
    assert images[:, 0, 0, 0].tolist() == [3, 1]
    monkeypatch.setattr("core.images.decoded", lambda *_: pytest.fail("decoded anew"))
    whole, _ = p2_data.load_unlabelled(tmp_path / "train")
    labelled, *_ = p2_data.load_labelled(tmp_path / "all.csv", tmp_path / "train")
    assert torch.equal(whole, labelled)
    p2_data.load_labelled(tmp_path / "some.csv", tmp_path / "train")


# --- disks ---


def read_only(monkeypatch, *folders):
    """Refuse new files below the folders, also to root."""
    make = tempfile.TemporaryFile

    def refuse(*args, dir, **more):
        if any(Path(dir).is_relative_to(folder) for folder in folders):
            raise OSError(errno.EROFS, "Read-only file system")
        return make(*args, dir=dir, **more)

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)


def test_beside_read_only_data_the_users_cache_folder_is_used_if_there_is_one(
    tmp_path, paths, load, home, monkeypatch, capfd
):
    read_only(monkeypatch, tmp_path / "data")
    for _ in range(2):
        assert same(load(paths), paths) and load.decoded == len(paths)
    assert kept(paths) == [] and len(list(home.glob("*/train.test.*.npy"))) == 1
    assert capfd.readouterr() == ("", "")
    monkeypatch.delenv("XDG_CACHE_HOME")
    # What it does for a user without a home.
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    monkeypatch.chdir(tmp_path)
    assert same(load(paths), paths) and not (tmp_path / "~").exists()


@pytest.mark.parametrize("what", ["read-only", "posix_fallocate", "fsync"])
def test_where_nothing_can_be_written_the_set_is_in_memory_and_one_line_says_so(
    tmp_path, paths, load, monkeypatch, capfd, what
):
    def full(*_):
        raise FULL

    if what == "read-only":
        read_only(monkeypatch, tmp_path)
    else:
        monkeypatch.setattr(os, what, full)
    assert same(load(paths, memory=0), paths)
    out, err = capfd.readouterr()
    assert out == "" and err.startswith("warning: cannot write ") and err.count("\n") == 1
    assert ("Read-only file system" if what == "read-only" else "No space left on device") in err
    assert kept(paths) == []


def test_a_disk_that_is_too_full_is_known_before_the_work(paths, load, monkeypatch):
    asked = []

    def full(_, start, size):
        asked.append(size)
        raise FULL

    monkeypatch.setattr(os, "posix_fallocate", full)
    monkeypatch.setattr(images, "load", lambda *_: load.decoded)
    paths *= 100
    assert load(paths) < len(paths) / 2
    assert asked == [128 + len(paths) * 162 + 4]


# --- several processes ---


def start(tmp_path, paths, seconds, number=0):
    """Fork a process that loads the set, slowly, as soon as there is a file ``go``."""

    def decode(path):
        with (tmp_path / "log").open("a") as file:
            file.write(f"{path.name}\n")
        time.sleep(seconds if path != paths[0] else 0)
        return images.read_rgb(path)

    def work():
        until((tmp_path / "go").exists)
        loaded = cache.load(paths, decode, "test", 0)
        (tmp_path / f"loaded_{number}").write_bytes(loaded.numpy().tobytes())

    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    return process


def until(condition):
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_of_two_processes_one_decodes_and_the_other_waits(tmp_path, paths, capfd):
    both = [start(tmp_path, paths, 0.1, number) for number in range(2)]
    (tmp_path / "go").touch()
    for process in both:
        process.join(60)
    expected = images.load(paths, images.read_rgb).numpy().tobytes()
    for number in range(2):
        assert (tmp_path / f"loaded_{number}").read_bytes() == expected
    assert sorted((tmp_path / "log").read_text().split()) == sorted(path.name for path in paths)
    assert len(kept(paths)) == 1
    waiting = f"waiting for another process that is decoding {paths[0].parent}\n"
    assert capfd.readouterr() == (waiting, "")


def test_a_killed_process_leaves_no_lock_and_no_rubbish(tmp_path, paths, load):
    (tmp_path / "go").touch()
    process = start(tmp_path, paths, 60)
    until(lambda: kept(paths))
    process.kill()
    process.join(60)
    assert [path.suffix for path in kept(paths)] == [".part"]
    assert same(load(paths), paths)
    assert [path.suffix for path in kept(paths)] == [".npy"]
