"""Files are the old one or the whole new one; folders are listed in natural order."""

import errno
import os
import random
import stat
from pathlib import Path

import pytest

from core.cli import InputError
from core.files import atomic_write, list_files, natural, writable_file, writable_folder


def write(path, content=b"new"):
    with atomic_write(path) as file:
        file.write(content)


def listing(folder):
    return sorted(path.name for path in folder.iterdir())


# --- whole ------------------------------------------------------------------------------------------------------------


def test_a_file_appears_only_when_the_block_ends(tmp_path):
    with atomic_write(tmp_path / "out") as file:
        file.write(b"new")
        file.flush()
        assert not (tmp_path / "out").exists()
        (hidden,) = listing(tmp_path)
        assert hidden.startswith(".")
    assert (tmp_path / "out").read_bytes() == b"new" and listing(tmp_path) == ["out"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, MemoryError])
def test_an_exception_in_the_block_leaves_the_old_file_and_nothing_else(tmp_path, error):
    write(tmp_path / "out", b"old")
    with pytest.raises(error), atomic_write(tmp_path / "out") as file:
        file.write(b"half of the new")
        raise error
    assert (tmp_path / "out").read_bytes() == b"old" and listing(tmp_path) == ["out"]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failure_of_the_disk_is_an_input_error_and_leaves_the_old_file(
    tmp_path, monkeypatch, step
):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    write(tmp_path / "out", b"old")
    monkeypatch.setattr(os, step, full)
    with pytest.raises(InputError, match=r"cannot write .*out: No space left on device"):
        write(tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == b"old" and listing(tmp_path) == ["out"]


@pytest.mark.parametrize(
    ("umask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600), (0o002, 0o664)]
)
def test_permissions_follow_the_umask_which_stays_as_it_is(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        write(tmp_path / "out")
        assert os.umask(umask) == umask
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == mode


def test_writing_leaves_the_umask_alone_which_is_that_of_all_threads(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(os, "umask", lambda mask: asked.append(mask) or 0o022)
    write(tmp_path / "out")
    assert asked == []


def test_a_folder_in_the_way_is_an_input_error_and_stays(tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(InputError, match="cannot write .*out"):
        write(tmp_path / "out")
    assert (tmp_path / "out").is_dir() and listing(tmp_path) == ["out"]


def test_a_missing_parent_and_a_file_as_parent_are_input_errors(tmp_path):
    write(tmp_path / "file", b"old")
    for parent in ("missing", "file"):
        with pytest.raises(InputError, match=f"cannot write .*{parent}.out"):
            write(tmp_path / parent / "out")
    assert listing(tmp_path) == ["file"]


def test_names_that_are_relative_long_or_not_latin_are_fine(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = ["a b.csv", "out", "x" * 255, "図" * 85]  # the last two are as long as a name can be
    for name in names:
        write(Path(name))
    assert listing(tmp_path) == sorted(names)


# --- writable ---------------------------------------------------------------------------------------------------------


def test_writable_file_makes_the_folder_but_not_the_file(tmp_path):
    path = tmp_path / "a" / "b" / "out.csv"
    assert writable_file(path) == path
    assert listing(tmp_path / "a") == ["b"] and listing(tmp_path / "a" / "b") == []


def test_writable_file_leaves_an_old_file_as_it_is(tmp_path):
    write(tmp_path / "out.csv", b"old")
    writable_file(tmp_path / "out.csv")
    assert (tmp_path / "out.csv").read_bytes() == b"old"


def test_writable_file_refuses_a_folder_and_a_device(tmp_path):
    with pytest.raises(InputError, match="is a folder; name a file"):
        writable_file(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="pipe is a device"):
        writable_file(tmp_path / "pipe")


def test_writable_file_refuses_a_name_that_is_too_long(tmp_path):
    with pytest.raises(InputError, match="cannot write .*: File name too long"):
        writable_file(tmp_path / ("x" * 256))


def test_writable_folder_refuses_a_file_in_the_way(tmp_path):
    write(tmp_path / "file", b"old")
    for path in (tmp_path / "file", tmp_path / "file" / "below" / "it"):
        with pytest.raises(InputError, match="a file is in the way"):
            writable_folder(path)
    assert (tmp_path / "file").read_bytes() == b"old"


def test_writable_folder_asks_the_file_system_itself(tmp_path, monkeypatch):
    def read_only(**_):
        raise OSError(errno.EROFS, "Read-only file system")

    assert writable_folder(tmp_path) == tmp_path and listing(tmp_path) == []
    monkeypatch.setattr("tempfile.TemporaryFile", read_only)
    with pytest.raises(InputError, match="cannot write in .*Read-only"):
        writable_folder(tmp_path)


# --- listing ----------------------------------------------------------------------------------------------------------


def test_natural_order_compares_numbers_as_numbers():
    ordered = [
        "0_1.png",
        "2_9.png",
        "2_10.png",
        "10_02.png",
        "10_2.png",
        "10_11.png",
        "a1.png",
        "a2b10.png",
        "a10.png",
        "b.png",
    ]
    shuffled = ordered.copy()
    random.Random(0).shuffle(shuffled)
    assert sorted(shuffled, key=natural) == ordered
    assert natural("01.png") != natural("1.png"), (
        "names that differ have one order, whatever the folder's"
    )


def test_list_files_gives_those_with_a_suffix_in_any_case_and_no_hidden_ones_and_no_folders(
    tmp_path,
):
    for name in ("10.png", "9.PNG", "1.JpEg", ".2.png", "3.txt", "4.png.bak", "png"):
        (tmp_path / name).touch()
    (tmp_path / "5.png").mkdir()
    assert list_files(tmp_path, (".png", ".jpeg")) == [
        tmp_path / "1.JpEg",
        tmp_path / "9.PNG",
        tmp_path / "10.png",
    ]


def test_list_files_does_not_go_into_folders_but_through_links(tmp_path):
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "1.png").touch()
    (tmp_path / "2.png").symlink_to(tmp_path / "below" / "1.png")
    (tmp_path / "3.png").symlink_to(tmp_path / "nothing")
    assert list_files(tmp_path, (".png",)) == [tmp_path / "2.png"]


def test_list_files_names_what_is_wrong_with_the_folder(tmp_path):
    (tmp_path / "file.png").touch()
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no folder .*missing"):
        list_files(tmp_path / "missing", (".png",))
    with pytest.raises(InputError, match="file.png is not a folder"):
        list_files(tmp_path / "file.png", (".png",))
    with pytest.raises(InputError, match=r"no \*.jpg or \*.png file in .*empty"):
        list_files(tmp_path / "empty", (".jpg", ".png"))


def test_list_files_says_why_a_folder_cannot_be_read(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="cannot read the folder .*: File name too long"):
        list_files(tmp_path / ("x" * 256), (".png",))
    (tmp_path / "1.png").touch()
    look = os.stat

    def closed(path, *_, **__):  # the system itself would let root in
        if str(path).startswith(f"{tmp_path}/"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return look(path)

    monkeypatch.setattr(
        os, "stat", closed
    )  # the folder can be listed, but what is in it not opened
    with pytest.raises(InputError, match=f"cannot read the folder {tmp_path}: Permission denied"):
        list_files(tmp_path, (".png",))
