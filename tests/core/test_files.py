"""Files are the old one or the whole new one; folders are listed in natural order."""

import errno
import os
import stat
import time
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from core.cli import InputError
from core.files import (
    ABANDONED,
    atomic_write,
    list_files,
    natural,
    output_folder,
    writable_file,
    writable_folder,
)


def write(path, content=b"new"):
    with atomic_write(path) as file:
        file.write(content)


def listing(folder):
    return sorted(path.name for path in folder.iterdir())


# --- atomic_write ---


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


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600)])
def test_permissions_follow_the_umask_which_is_never_changed_as_it_is_all_threads(
    tmp_path, monkeypatch, umask, mode
):
    change = os.umask
    before = change(umask)
    try:
        monkeypatch.setattr(os, "umask", lambda mask: pytest.fail("the umask was changed"))
        write(tmp_path / "out")
    finally:
        change(before)
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == mode


def test_missing_folders_are_made_but_what_is_in_the_way_is_an_input_error_and_stays(tmp_path):
    write(tmp_path / "a" / "b" / "out")
    assert listing(tmp_path / "a" / "b") == ["out"]
    write(tmp_path / "file", b"old")
    for path in (tmp_path / "file" / "out", tmp_path / "a"):
        with pytest.raises(InputError, match=f"cannot write {path}"):
            write(path)
    assert listing(tmp_path) == ["a", "file"] and (tmp_path / "file").read_bytes() == b"old"


def test_a_link_is_written_through_and_an_old_files_permissions_are_kept(tmp_path):
    (tmp_path / "far").mkdir()
    write(tmp_path / "far" / "old")
    (tmp_path / "far" / "old").chmod(0o604)
    (tmp_path / "first").symlink_to("second")  # a link to a link, both relative
    (tmp_path / "second").symlink_to("far/old")
    (tmp_path / "dangling").symlink_to(tmp_path / "far" / "new")
    for name in ("first", "dangling"):
        writable_file(tmp_path / name)
        write(tmp_path / name, b"newer")
        assert (tmp_path / name).is_symlink() and (tmp_path / name).read_bytes() == b"newer"
    assert stat.S_IMODE((tmp_path / "far" / "old").stat().st_mode) == 0o604
    assert listing(tmp_path / "far") == ["new", "old"]


@pytest.mark.parametrize("check", [writable_file, write, output_folder])
def test_what_is_the_systems_is_refused_whichever_link_leads_there(tmp_path, check):
    (tmp_path / "link").symlink_to("/dev/stdout")
    (tmp_path / "folder").symlink_to("/proc/self")
    (tmp_path / "circle").symlink_to("circle")
    for path in ("/dev/stdout", "/dev/new", "/proc/self/fd/1", "/sys/new", "link", "folder/new"):
        with pytest.raises(
            InputError, match="cannot write .*it belongs to the system; choose another"
        ):
            check(tmp_path / path)
    with pytest.raises(InputError, match="cannot write .*form a loop|a file is in the way"):
        check(tmp_path / "circle")
    assert Path("/dev/stdout").is_symlink()


def test_the_memory_disk_is_a_disk(tmp_path):
    path = Path(f"/dev/shm/{tmp_path.name}.{os.getpid()}")
    if os.access(path.parent, os.W_OK):
        try:
            write(writable_file(path))
            assert path.read_bytes() == b"new"
        finally:
            path.unlink(missing_ok=True)


def test_what_killed_programs_left_is_removed_once_it_is_old(tmp_path):
    old = time.time() - ABANDONED - 60
    left = [".out.0123456789abcdef.part", ".out.part", "out.0123456789abcdef.part"]
    for name in (*left, ".out.00112233445566ff.part"):
        (tmp_path / name).touch()
    for name in left:
        os.utime(tmp_path / name, (old, old))
    writable_file(tmp_path / "out")
    assert listing(tmp_path) == sorted([*left[1:], ".out.00112233445566ff.part"])


def test_names_that_are_relative_long_or_not_latin_are_fine(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = ["a b.csv", "out", "x" * 255, "図" * 85]  # the last two are as long as a name can be
    for name in names:
        write(Path(name))
    assert listing(tmp_path) == sorted(names)


# --- writable ---


def test_a_check_makes_nothing_and_leaves_an_old_file_as_it_is(tmp_path):
    path = tmp_path / "a" / "b" / "out.csv"
    assert writable_file(path) == path and output_folder(path) == path
    assert listing(tmp_path) == []
    write(tmp_path / "out.csv", b"old")
    writable_file(tmp_path / "out.csv")
    assert (tmp_path / "out.csv").read_bytes() == b"old"


def test_writable_file_refuses_a_folder_a_device_and_a_name_that_is_too_long(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path, says in (
        (tmp_path, "is a folder; give a file name"),
        (tmp_path / "pipe", "pipe is a device"),
        (tmp_path / ("x" * 256), "cannot write .*: File name too long"),
    ):
        with pytest.raises(InputError, match=says):
            writable_file(path)


@pytest.mark.parametrize("check", [output_folder, writable_folder])
def test_writable_folder_refuses_a_file_in_the_way(tmp_path, check):
    write(tmp_path / "file", b"old")
    for path in (tmp_path / "file", tmp_path / "file" / "below" / "it"):
        with pytest.raises(InputError, match="a file is in the way"):
            check(path)
    assert (tmp_path / "file").read_bytes() == b"old"
    with pytest.raises(InputError, match="File name too long"):
        check(tmp_path / ("x" * 256))


@pytest.mark.parametrize("check", [output_folder, writable_folder])
def test_writable_folder_asks_the_file_system_itself(tmp_path, monkeypatch, check):
    def read_only(**_):
        raise OSError(errno.EROFS, "Read-only file system")

    assert check(tmp_path) == tmp_path and listing(tmp_path) == []
    monkeypatch.setattr("tempfile.TemporaryFile", read_only)
    with pytest.raises(InputError, match="cannot write to .*Read-only"):
        check(tmp_path / "new")
    assert listing(tmp_path) == []


# --- listing ---


NUMBER = st.integers(0, 10**6)


@given(st.lists(st.tuples(st.sampled_from(["", "a", "b"]), NUMBER, NUMBER), unique=True))
def test_natural_order_compares_numbers_as_numbers(parts):
    names = [f"{letter}{first}_{second}.png" for letter, first, second in parts]
    ordered = [f"{letter}{first}_{second}.png" for letter, first, second in sorted(parts)]
    assert sorted(names, key=natural) == ordered


@given(st.text(), st.text())
@example("01.png", "1.png")
@example("1" * 5000, "1" * 5001)  # more digits than Python makes a number of
def test_two_names_have_one_natural_order_and_only_equal_ones_none(one, other):
    first, second = natural(one), natural(other)
    assert (first < second) + (second < first) == (one != other)


def test_list_files_gives_those_with_a_suffix_in_any_case_and_no_hidden_ones_and_no_folders(
    tmp_path,
):
    for name in ("10.png", "9.PNG", "1.JpEg", ".2.png", "3.txt", "4.png.bak", "png"):
        (tmp_path / name).touch()
    (tmp_path / "5.png").mkdir()
    (tmp_path / "5.png" / "1.png").touch()
    (tmp_path / "6.png").symlink_to(tmp_path / "5.png" / "1.png")
    (tmp_path / "7.png").symlink_to(tmp_path / "nothing")
    found = list_files(tmp_path, (".png", ".jpeg"))
    assert found == [tmp_path / name for name in ("1.JpEg", "6.png", "9.PNG", "10.png")]


def test_list_files_names_what_is_wrong_with_the_folder(tmp_path, monkeypatch):
    (tmp_path / "file.png").touch()
    (tmp_path / "empty").mkdir()
    for name, says in (
        ("missing", "no folder .*missing"),
        ("file.png", "file.png is not a folder"),
        ("empty", r"no \*.jpg or \*.png file in .*empty"),
        ("x" * 256, "cannot read the folder .*: File name too long"),
    ):
        with pytest.raises(InputError, match=says):
            list_files(tmp_path / name, (".jpg", ".png"))
    look = os.stat

    def closed(path, *_, **__):  # the system itself would let root in
        if str(path).startswith(f"{tmp_path}/"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return look(path)

    # The folder can be listed, but what is in it not opened.
    monkeypatch.setattr(os, "stat", closed)
    with pytest.raises(InputError, match=f"cannot read the folder {tmp_path}: Permission denied"):
        list_files(tmp_path, (".png",))
