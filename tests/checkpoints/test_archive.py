"""The course's archive: unpacked whole or not at all, and never outside its folder."""

import fcntl
import io
import os
import random
import tarfile
import zipfile
from pathlib import Path

import pytest

from checkpoints import archive

FILES = {f"{part}/a/b.txt": part.encode() for part in archive.PARTS}
LONG = {"p1_data/long": random.Random(0).randbytes(300_000)}


def make_zip(files, links=()):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as packed:
        for name, content in files.items():
            packed.writestr(name, content)
        for name, target in links:
            info = zipfile.ZipInfo(name)
            info.create_system, info.external_attr = 3, 0o120777 << 16
            packed.writestr(info, target)
    return buffer.getvalue()


def make_tar(files, links=(), kind=tarfile.SYMTYPE):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as packed:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            packed.addfile(info, io.BytesIO(content))
        for name, target in links:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            packed.addfile(info)
    return buffer.getvalue()


@pytest.fixture
def unpack(tmp_path):
    """Unpack an archive with this content into ``tmp_path / "to"``."""
    (tmp_path / "to").mkdir()

    def unpack(content):
        (tmp_path / "to" / "hw1_data.zip").write_bytes(content)
        archive.unpack(tmp_path / "to" / "hw1_data.zip", tmp_path / "to")

    return unpack


@pytest.mark.parametrize("make", [make_zip, make_tar])
@pytest.mark.parametrize("top", ["", "hw1_data/"])
def test_each_part_is_unpacked_but_none_that_is_there_already(unpack, make, top, tmp_path, capsys):
    mine = tmp_path / "to" / "p2_data" / "mine.txt"
    mine.parent.mkdir()
    mine.write_text("mine")
    unpack(make({top + name: content for name, content in FILES.items()} | {"__MACOSX/a": b""}))
    assert sorted(os.listdir(tmp_path / "to")) == ["hw1_data.zip", *archive.PARTS]
    for part in ("p1_data", "p3_data"):
        assert (tmp_path / "to" / part / "a" / "b.txt").read_bytes() == part.encode()
    assert (
        os.listdir(mine.parent) == ["mine.txt"] and f"kept {mine.parent}" in capsys.readouterr()[0]
    )


def test_what_a_killed_process_left_is_removed_but_not_what_another_is_unpacking(unpack, tmp_path):
    left = tmp_path / "to" / ".unpacking-abc" / "p1_data" / "a.png"
    left.parent.mkdir(parents=True)
    left.touch()
    handle = os.open(tmp_path / "to", os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_SH)  # as the other process does
    unpack(make_zip(FILES))
    assert left.exists()
    os.close(handle)
    unpack(make_zip(FILES))
    assert not left.parent.parent.exists()


OUT = "../../evil.txt"
UNSAFE = {
    "zip slip": make_zip(FILES | {OUT: b"evil"}),
    "zip, deep": make_zip(FILES | {f"p1_data/../../{OUT}": b"evil"}),
    "zip, absolute": make_zip(FILES | {"/tmp/hw1_evil.txt": b"evil"}),
    "zip, backslashes": make_zip(FILES | {"..\\..\\evil.txt": b"evil"}),
    "zip, link": make_zip(FILES, [("p1_data/link", "/etc/passwd")]),
    "tar, dots": make_tar(FILES | {OUT: b"evil"}),
    "tar, absolute": make_tar(FILES | {"/tmp/hw1_evil.txt": b"evil"}),
    "tar, link out": make_tar(FILES, [("p1_data/link", "../../..")]),
    "tar, absolute link": make_tar(FILES, [("p1_data/link", "/etc")]),
    "tar, hard link": make_tar(FILES, [("p1_data/link", "/etc/passwd")], tarfile.LNKTYPE),
    "tar, device": make_tar(FILES, [("p1_data/null", "")], tarfile.CHRTYPE),
    "tar, pipe": make_tar(FILES, [("p1_data/pipe", "")], tarfile.FIFOTYPE),
}
DAMAGED = make_zip(FILES | LONG).replace(LONG["p1_data/long"][1000:1010], b"0123456789")
BROKEN = {
    "html": b"<html>quota exceeded</html>",
    "a part is missing": make_zip({"hw1_data/p1_data/a": b""}),
    "cut short": make_tar(FILES | LONG)[:-5000],
    "a damaged zip": DAMAGED,
}


@pytest.mark.parametrize("name", [*UNSAFE, *BROKEN])
def test_an_archive_that_is_not_in_order_leaves_nothing(unpack, tmp_path, name):
    before = sorted(os.listdir(tmp_path)), sorted(os.listdir(tmp_path.parent))
    with pytest.raises(archive.BadArchive, match="cannot unpack") as error:
        unpack((UNSAFE | BROKEN)[name])
    assert ("not safe" in str(error.value)) == (name in UNSAFE)
    assert os.listdir(tmp_path / "to") == ["hw1_data.zip"]
    assert before == (sorted(os.listdir(tmp_path)), sorted(os.listdir(tmp_path.parent)))
    assert not Path("/tmp/hw1_evil.txt").exists()


@pytest.mark.parametrize(("name", "most"), [("MAX_BYTES", 1000), ("MAX_FILES", 2)])
@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_an_archive_that_would_fill_the_disk_leaves_nothing(
    unpack, tmp_path, monkeypatch, make, name, most
):
    monkeypatch.setattr(archive, name, most)
    with pytest.raises(archive.BadArchive, match="for which there is room"):
        unpack(make(FILES | {"p1_data/zeros": bytes(10**6)}))  # a thousandth of that, packed
    assert os.listdir(tmp_path / "to") == ["hw1_data.zip"]
