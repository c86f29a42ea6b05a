"""Downloads from a server on this machine that breaks off, lies, hangs and forgets."""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import os
import random
import re
import subprocess
import sys
import tarfile
import threading
import time
import types
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
import torchvision
from conftest import ROOT

from checkpoints import archive, download, transfer
from checkpoints import manifest as manifests
from core.cli import InputError
from p3.model import DeepLabv3, FCN32s, load_pretrained

BODY = random.Random(0).randbytes(300_000)
SHA256 = hashlib.sha256(BODY).hexdigest()
HALF = len(BODY) // 2

Run = Callable[..., tuple[int, str, str]]


class Server(ThreadingHTTPServer):
    """Answers one request after the other as ``modes`` says, and then properly."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.body = BODY
        self.etag = '"one"'
        self.modes: list[str | int] = []
        self.ranges: list[str | None] = []  # the Range header of each request
        self.sent: list[int] = []  # the body's bytes of each answer
        self.release = threading.Event()  # ends what hangs

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/weights.pt"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server = self.server
        mode = server.modes.pop(0) if server.modes else "whole"
        asked = self.headers["Range"]
        server.ranges.append(asked)
        if mode == "silent":
            server.release.wait(20)
            return
        if isinstance(mode, int):
            self.send_error(mode)
            return
        start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) if asked and mode != "deaf" else 0
        if self.headers["If-Range"] not in (None, server.etag):
            start = 0
        if start >= len(server.body):
            self.send_error(416)
            return
        body = {
            "lie": bytes(len(server.body)),
            "short": server.body[:-10],
            "long": server.body + b"more",
        }.get(mode, server.body)
        body = body[start:]
        self.send_response(206 if start else 200)
        if start:
            shift = 1 if mode == "other range" else 0
            body = body[shift:] + bytes(shift)  # as long as the right one
            self.send_header(
                "Content-Range",
                f"bytes {start + shift}-{start + len(body) - 1}/{start + len(body)}",
            )
        if mode != "half, no length":
            self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", server.etag)
        self.end_headers()
        piece = (
            body[: len(body) // 2]
            if mode in ("half", "half, no length", "half, then silent")
            else body
        )
        server.sent.append(len(piece))
        self.wfile.write(piece)
        if mode == "half, then silent":
            self.wfile.flush()
            server.release.wait(20)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.release.set()
        server.shutdown()
        thread.join()


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """The command in this process: status, stdout, stderr. No waiting between attempts."""
    monkeypatch.setattr(transfer, "BACKOFF", 0)

    def run(*args: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["download.py", *map(str, args)])
        status = download.main()
        return status, *capsys.readouterr()

    return run


@pytest.fixture
def manifest(tmp_path: Path, server: Server) -> Callable[..., list[object]]:
    """Write a manifest of one file, right but for ``fields``; return the flags that use it."""

    def manifest(what: str = "checkpoints", **fields: object) -> list[object]:
        entry = {
            "name": "weights.pt",
            "bytes": len(BODY),
            "sha256": SHA256,
            "url": server.url,
        } | fields
        path = tmp_path / "manifest.json"
        path.write_text(json.dumps({what: [entry]}))
        timeout = 1 if any("silent" in str(mode) for mode in server.modes) else 30
        return [what, "--manifest", path, "--to", tmp_path / "to", "--timeout", timeout]

    return manifest


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Where the wanted file belongs."""
    (tmp_path / "to").mkdir()
    return tmp_path / "to" / "weights.pt"


def alone(file: Path) -> bool:
    """Is the right file there, and nothing beside it?"""
    return file.read_bytes() == BODY and os.listdir(file.parent) == [file.name]


# Downloads


def test_a_missing_file_is_fetched_and_then_left_alone(run, manifest, server, file):
    file.parent.rmdir()  # made when missing
    status, out, err = run(*manifest())
    assert (status, err) == (0, "") and alone(file)
    assert out == f"fetched weights.pt (300,000 bytes, sha256 {SHA256})\n"
    status, out, err = run(*manifest())
    assert (status, out, err) == (0, f"ok weights.pt (300,000 bytes, sha256 {SHA256})\n", "")
    assert server.ranges == [None]  # the second run asked nobody


def test_what_breaks_off_is_resumed(run, manifest, server, file):
    server.modes = ["half"]
    assert run(*manifest())[0] == 0 and alone(file)
    start = int(re.fullmatch(r"bytes=(\d+)-", server.ranges[1])[1])
    assert server.ranges[0] is None and 0 < start <= HALF
    assert server.sent == [HALF, len(BODY) - start]


@pytest.mark.parametrize(
    "known", [{}, {"sha256": None}, {"sha256": None, "sha256_prefix": SHA256[:8], "bytes": None}]
)
@pytest.mark.parametrize(
    "modes",
    [["half", "deaf"], ["half", "half", "half"], ["half", "other range"], [500], ["half", 503]],
)
def test_it_arrives_or_fails_in_three_attempts(run, manifest, server, file, modes, known):
    server.modes = list(modes)
    status, _, err = run(*manifest(**known))
    if modes.count("half") < 3:
        assert status == 0 and alone(file)
    else:
        assert status == 1 and not file.exists() and "connection was lost" in err
        assert run(*manifest(**known))[0] == 0 and alone(file)  # the same command goes on
        assert (server.ranges[3] is None) == (
            known == {"sha256": None}
        )  # without a hash, from the start


def test_no_length_and_cut_short(run, manifest, server, file):
    server.modes = ["half, no length"]
    assert run(*manifest())[0] == 0 and alone(file)
    assert server.ranges == [None, f"bytes={HALF}-"]


@pytest.mark.parametrize(
    "known", [{"bytes": None}, {"bytes": None, "sha256": None, "sha256_prefix": SHA256[:8]}]
)
def test_cut_short_where_only_the_hash_tells(run, manifest, server, file, known):
    server.modes = ["half, no length"]
    status, _, err = run(*manifest(**known))
    assert status == 1 and "sha256" in err and os.listdir(file.parent) == []
    assert run(*manifest(**known))[0] == 0 and alone(file)


def test_a_file_that_changes_between_two_attempts(run, manifest, server, file):
    """By If-Range the server sends the new version from its start; no hash is needed."""
    server.body, server.etag, server.modes = bytes(300_000), '"old"', ["half"]
    answer = Handler.do_GET

    class Changing(Handler):
        def do_GET(self) -> None:
            answer(self)
            self.server.body, self.server.etag = BODY, '"new"'

    server.RequestHandlerClass = Changing
    assert run(*manifest(sha256=None))[0] == 0 and alone(file)
    assert server.ranges[1] is not None and server.sent == [HALF, len(BODY)]


# What an earlier run left


def test_a_part_of_an_earlier_run_is_resumed(run, manifest, server, file):
    file.with_name("weights.pt.part").write_bytes(BODY[:1000])
    assert run(*manifest())[0] == 0 and alone(file)
    assert server.ranges == ["bytes=1000-"] and server.sent == [len(BODY) - 1000]


def test_a_foreign_part_is_dropped_and_all_of_it_fetched_once_more(run, manifest, server, file):
    file.with_name("weights.pt.part").write_bytes(bytes(1000))
    assert run(*manifest())[0] == 0 and alone(file)
    assert server.ranges == ["bytes=1000-", None]


@pytest.mark.parametrize("size", [len(BODY), len(BODY) + 5])
def test_a_part_is_never_taken_for_the_whole(run, manifest, server, file, size):
    file.with_name("weights.pt.part").write_bytes(bytes(size))  # the server answers 416
    assert run(*manifest())[0] == 0 and alone(file)
    assert server.ranges == [f"bytes={size}-", None]


def test_a_part_is_not_resumed_where_nothing_could_tell(run, manifest, server, file):
    file.with_name("weights.pt.part").write_bytes(bytes(1000))
    status, out, err = run(*manifest(sha256=None, bytes=None))
    assert status == 0 and alone(file) and server.ranges == [None]
    assert err == "warning: weights.pt: the manifest has no hash, so nothing could be verified\n"


def test_a_foreign_part_and_a_lying_server_end(run, manifest, server, file):
    file.with_name("weights.pt.part").write_bytes(bytes(1000))
    server.modes = ["lie"] * 9
    assert run(*manifest())[0] == 1
    assert len(server.ranges) == 2 and os.listdir(file.parent) == []


# Failures


@pytest.mark.parametrize(
    ("modes", "requests", "why"),
    [
        (["lie"] * 9, 1, "its sha256 is "),
        (["short"] * 9, 1, "it has 299,990 bytes instead of 300,000"),
        (["long"] * 9, 1, "the server sends more than 300,000 bytes"),
        ([404] * 9, 1, "the server answered 404 Not Found"),
        ([500] * 9, 3, "the server answered 500 Internal Server Error"),
        (["half, then silent"] * 9, 3, "the server was silent for 1 s"),
        (["silent"] * 9, 3, "the server was silent for 1 s"),
    ],
)
def test_a_failure_keeps_the_old_file_and_says_what_to_do(
    run, manifest, server, file, modes, requests, why
):
    file.write_bytes(b"old")
    server.modes = list(modes)
    status, out, err = run(*manifest())
    assert status == 1 and file.read_bytes() == b"old" and len(server.ranges) == requests
    assert err.count("\n") == 1 and f"cannot fetch weights.pt from {server.url}: {why}" in err
    assert (
        f"open that address in a browser and save the file as {file} "
        f"(its sha256 begins with {SHA256})" in err
    )
    assert "weights.pt is wrong: it has 3 bytes" in out
    server.modes = []
    assert run(*manifest())[0] == 0 and alone(
        file
    )  # and the next run, with the server in order, replaces it


def test_two_downloads_at_once_do_not_share_a_part(run, manifest, server, file):
    server.modes = ["half, then silent"]  # until a second has passed
    flags = manifest()
    command = [sys.executable, "-m", "checkpoints.download", *map(str, flags)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as first:
        while not file.with_name("weights.pt.part").exists():
            assert first.poll() is None
            time.sleep(0.01)
        status, out, err = run(*flags)
        assert first.wait() == 0 and "fetched weights.pt" in first.stdout.read()
    assert (status, err) == (0, "") and alone(file)
    assert "waiting for another process that is downloading" in out and "\nok weights.pt" in out
    assert len(server.ranges) == 2  # both of the first one: it went on after the silence


@pytest.mark.parametrize("mode", ["whole", "half, no length"])
def test_a_download_of_unknown_size_has_a_limit(run, manifest, server, file, monkeypatch, mode):
    monkeypatch.setitem(manifests.LIMITS, "checkpoints", 100_000)
    server.modes = [mode]
    status, _, err = run(*manifest(bytes=None))
    assert status == 1 and "the server sends more than 100,000 bytes" in err
    assert err.count("\n") == 1 and os.listdir(file.parent) == []


def test_one_file_may_be_named(run, server, file, tmp_path):
    listed = [{"name": name, "url": server.url, "sha256": SHA256} for name in ("a", file.name)]
    (tmp_path / "manifest.json").write_text(json.dumps({"pretrained": listed}))
    flags = ("--manifest", tmp_path / "manifest.json", "--to", file.parent)
    status, out, _ = run("pretrained", file.name, *flags)
    assert status == 0 and out.startswith("fetched weights.pt") and alone(file)
    with pytest.raises(InputError, match=r"no b in pretrained; the manifest lists a, weights\.pt"):
        run("pretrained", "b", *flags)


@pytest.mark.parametrize(("content", "fault"), [(None, "missing"), (b"x", "wrong: it has 1 bytes")])
def test_a_shipped_file_that_is_not_there_or_broken_says_how_to_restore_it(
    run, manifest, server, file, content, fault
):
    if content:
        file.write_bytes(content)
    status, _, err = run(*manifest(url=None))
    assert status == 1 and err.count("\n") == 1 and server.ranges == []
    assert f"{file} is {fault}" in err and err.endswith("git checkout -- checkpoints\n")


def test_nobody_listens(run, manifest, file):
    status, _, err = run(*manifest(url="http://127.0.0.1:9/weights.pt"))
    assert status == 1 and err.count("\n") == 1 and "Connection refused" in err


def test_a_wrong_file_of_the_right_size_is_replaced(run, manifest, server, file):
    file.write_bytes(bytes(len(BODY)))
    assert run(*manifest())[0] == 0 and alone(file)


def test_that_only_the_beginning_of_a_hash_is_known_is_said(run, manifest, server, file):
    status, out, err = run(*manifest(sha256=None, sha256_prefix=SHA256[:8]))
    assert status == 0 and SHA256 in out
    assert "only the first 8 digits of its sha256 are known and verified" in err
    assert run(*manifest())[2] == ""


def test_a_prefix_of_the_hash_decides(run, manifest, server, file):
    known = {"sha256": None, "bytes": None}
    assert run(*manifest(sha256_prefix=SHA256[:8], **known))[0] == 0 and alone(file)
    status, _, err = run(*manifest(sha256_prefix="0" * 8, **known))
    assert status == 1 and alone(file) and "instead of 00000000" in err


def test_the_other_files_are_fetched_all_the_same(run, server, file, tmp_path):
    entry = {"name": "weights.pt", "bytes": len(BODY), "sha256": SHA256, "url": server.url}
    entries = [entry | {"name": "gone.pt"}, entry, entry | {"name": "shipped.pt", "url": None}]
    (tmp_path / "manifest.json").write_text(json.dumps({"checkpoints": entries}))
    server.modes = [404]
    status, out, err = run("--manifest", tmp_path / "manifest.json", "--to", file.parent)
    assert status == 1 and alone(file) and out.startswith("fetched weights.pt")
    gone, shipped = err.splitlines()
    assert (
        "404" in gone
        and f"{file.parent / 'shipped.pt'} is missing; it ships with the repository" in shipped
    )


def test_a_full_disk_is_one_line(run, manifest, server, file, monkeypatch):
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    status, _, err = run(*manifest())
    assert (
        status == 1
        and err.count("\n") == 1
        and "No space left on device" in err
        and not file.exists()
    )


def test_a_folder_that_cannot_be_made_is_bad_input(run, manifest, server, tmp_path):
    (tmp_path / "to").write_text("in the way")
    with pytest.raises(InputError, match="a file is in the way"):
        run(*manifest())
    assert server.ranges == []


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        "{}",
        '{"checkpoints": 3}',
        '{"checkpoints": ["a.pt"]}',
        '{"checkpoints": [{"bytes": 3}]}',
        "[" * 100_000,
        '{"checkpoints": [{"name": "../a.pt"}]}',
        '{"checkpoints": [{"name": "a.pt", "bytes": "many"}]}',
        '{"checkpoints": [{"name": "a.pt", "sha256": "abcd"}]}',
        '{"checkpoints": [{"name": "a.pt", "url": "file:///etc/passwd"}]}',
    ],
)
def test_a_broken_manifest_is_bad_input(run, tmp_path, text):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(InputError, match="manifest.json is broken"):
        run("--manifest", tmp_path / "manifest.json")
    with pytest.raises(InputError, match="cannot read the manifest"):
        run("--manifest", tmp_path / "none.json")


# Google Drive


def drive(
    monkeypatch: pytest.MonkeyPatch, brings: bytes | Exception | None
) -> list[dict[str, object]]:
    """Put a stand-in in gdown's place; returns the list that its calls go to."""
    calls = []

    def fetch(**flags: object) -> object:
        calls.append(flags)
        if isinstance(brings, Exception):
            raise brings
        if brings is None:
            return None
        output = Path(str(flags["output"]))
        assert not output.exists()  # the true one would return it as it is
        output.write_bytes(brings)
        return str(output)

    monkeypatch.setitem(sys.modules, "gdown", types.SimpleNamespace(download=fetch))
    return calls


def test_a_drive_id_goes_through_gdown(run, manifest, file, monkeypatch):
    calls = drive(monkeypatch, BODY)
    file.with_name("weights.pt.part").write_bytes(bytes(1000))
    assert run(*manifest(url=None, drive_id="1a-B_c"))[0] == 0 and alone(file)
    assert calls[0]["id"] == "1a-B_c" and calls[0]["resume"] is True and calls[0]["timeout"] == 30


@pytest.mark.parametrize("brings", [ValueError("quota\nexceeded"), None, b"<html>"])
def test_what_gdown_cannot_bring_is_one_line(run, manifest, file, monkeypatch, brings):
    drive(monkeypatch, brings)
    status, _, err = run(*manifest(url=None, drive_id="1a-B_c"))
    assert status == 1 and err.count("\n") == 1 and os.listdir(file.parent) == []
    assert "from https://drive.google.com/file/d/1a-B_c/view: " in err and str(file) in err


# The course's archive

FILES = {f"{part}/a/b.txt": part.encode() for part in archive.PARTS}


def make_zip(files: dict[str, bytes], links: dict[str, str] | None = None) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
        for name, target in (links or {}).items():
            info = zipfile.ZipInfo(name)
            info.create_system, info.external_attr = 3, 0o120777 << 16
            archive.writestr(info, target)
    return buffer.getvalue()


def make_tar(
    files: dict[str, bytes], links: dict[str, str] | None = None, kind: bytes = tarfile.SYMTYPE
) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        for name, target in (links or {}).items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            archive.addfile(info)
    return buffer.getvalue()


def wants(archive: bytes) -> dict[str, object]:
    return {
        "name": "hw1_data.zip",
        "bytes": len(archive),
        "sha256": hashlib.sha256(archive).hexdigest(),
    }


@pytest.mark.parametrize("make", [make_zip, make_tar])
@pytest.mark.parametrize("top", ["", "hw1_data/"])
def test_the_archive_is_unpacked(run, manifest, server, tmp_path, make, top):
    server.body = make(
        {top + name: content for name, content in FILES.items()} | {"__MACOSX/junk": b""}
    )
    status, out, err = run(*manifest("data", **wants(server.body)))
    assert (status, err) == (0, "") and out.count("\nunpacked ") == 3
    assert sorted(os.listdir(tmp_path / "to")) == ["hw1_data.zip", *archive.PARTS]
    assert all((tmp_path / "to" / name).read_bytes() == content for name, content in FILES.items())
    status, out, err = run(*manifest("data", **wants(server.body)))
    assert (status, err) == (0, "") and out.startswith("nothing to do") and len(server.ranges) == 1


def test_what_a_killed_process_left_is_removed_but_not_what_another_is_unpacking(
    run, manifest, server, file, tmp_path
):
    left = file.with_name(".unpacking-abc") / "p1_data" / "a.png"
    left.parent.mkdir(parents=True)
    left.write_bytes(BODY)
    server.body = make_zip(
        {"p1_data/a": b""}
    )  # lacks two parts, so that every run unpacks it again
    handle = os.open(file.parent, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_SH)  # as the other process does
    assert run(*manifest("data", **wants(server.body)))[0] == 1 and left.exists()
    os.close(handle)
    assert run(*manifest("data", **wants(server.body)))[0] == 1
    assert os.listdir(file.parent) == ["hw1_data.zip"]


def test_what_is_there_already_stays(run, manifest, server, tmp_path):
    mine = tmp_path / "to" / "p2_data" / "mine.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    server.body = make_zip(FILES)
    status, out, _ = run(*manifest("data", **wants(server.body)))
    assert status == 0 and f"kept {mine.parent}" in out and os.listdir(mine.parent) == ["mine.txt"]
    assert (tmp_path / "to" / "p1_data" / "a" / "b.txt").is_file()


def test_whole_data_needs_no_manifest_entry_to_be_right(run, manifest, server, tmp_path):
    for part in archive.PARTS:
        (tmp_path / "to" / part).mkdir(parents=True)
    status, out, err = run(*manifest("data", name="hw1_data.zip"))
    assert (status, err) == (0, "") and out.startswith("nothing to do") and server.ranges == []


OUT = "../../evil.txt"
UNSAFE = {
    "zip slip": lambda: make_zip(FILES | {OUT: b"evil"}),
    "zip, deep": lambda: make_zip(FILES | {f"p1_data/../../{OUT}": b"evil"}),
    "zip, absolute": lambda: make_zip(FILES | {"/tmp/hw1_evil.txt": b"evil"}),
    "zip, backslashes": lambda: make_zip(FILES | {"..\\..\\evil.txt": b"evil"}),
    "zip, link": lambda: make_zip(FILES, {"p1_data/link": "/etc/passwd"}),
    "tar, dots": lambda: make_tar(FILES | {OUT: b"evil"}),
    "tar, absolute": lambda: make_tar(FILES | {"/tmp/hw1_evil.txt": b"evil"}),
    "tar, link out": lambda: make_tar(FILES, {"p1_data/link": "../../.."}),
    "tar, absolute link": lambda: make_tar(FILES, {"p1_data/link": "/etc"}),
    "tar, hard link": lambda: make_tar(FILES, {"p1_data/link": "/etc/passwd"}, tarfile.LNKTYPE),
    "tar, device": lambda: make_tar(FILES, {"p1_data/null": ""}, tarfile.CHRTYPE),
    "tar, pipe": lambda: make_tar(FILES, {"p1_data/pipe": ""}, tarfile.FIFOTYPE),
}
BROKEN = {
    "html": lambda: b"<html>quota exceeded</html>",
    "a part is missing": lambda: make_zip({"hw1_data/p1_data/a": b""}),
    "cut short": lambda: make_tar(FILES | {"p1_data/long": BODY})[:-5000],
    "a damaged zip": lambda: make_zip(FILES | {"p1_data/long": BODY}).replace(
        BODY[1000:1010], b"0123456789"
    ),
}


@pytest.mark.parametrize("name", [*UNSAFE, *BROKEN])
def test_an_archive_that_is_not_in_order_leaves_nothing(run, manifest, server, tmp_path, name):
    server.body = (UNSAFE | BROKEN)[name]()
    before = sorted(os.listdir(tmp_path)), sorted(os.listdir(tmp_path.parent))
    status, _, err = run(*manifest("data", **wants(server.body)))
    assert status == 1 and err.count("\n") == 1 and "cannot unpack" in err
    assert ("not safe" in err) == (name in UNSAFE)
    assert os.listdir(tmp_path / "to") == ["hw1_data.zip"]  # it was what the manifest says
    after = (
        sorted(set(os.listdir(tmp_path)) - {"to", "manifest.json"}),
        sorted(os.listdir(tmp_path.parent)),
    )
    assert after == before and not Path("/tmp/hw1_evil.txt").exists()


@pytest.mark.parametrize(("name", "most"), [("MAX_BYTES", 1000), ("MAX_FILES", 2)])
@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_an_archive_that_would_fill_the_disk_leaves_nothing(
    run, manifest, server, tmp_path, monkeypatch, make, name, most
):
    monkeypatch.setattr(f"checkpoints.archive.{name}", most)
    server.body = make(FILES | {"p1_data/zeros": bytes(10**6)})  # a thousandth of that, packed
    status, _, err = run(*manifest("data", **wants(server.body)))
    assert status == 1 and "for which there is room" in err and err.count("\n") == 1
    assert os.listdir(tmp_path / "to") == ["hw1_data.zip"]


# The repository's own manifest, and the script


def shell(*args: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    command = ["bash", str(ROOT / "hw1_download.sh"), *map(str, args)]
    return subprocess.run(
        command,
        cwd=cwd,
        env=os.environ | {"PATH": path},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_the_repositorys_manifest():
    path = ROOT / "checkpoints" / "manifest.json"
    content = json.loads(path.read_text())
    assert list(content) == list(manifests.FOLDERS)
    for what, entries in content.items():
        assert len(manifests.read_manifest(path, what)) == len(entries)
        assert len({entry["name"] for entry in entries}) == len(entries)
        for entry in entries:
            assert {"name", "bytes", "sha256", "licence", "what", "score"} <= entry.keys(), entry
            assert "url" in entry or "drive_id" in entry, entry
            assert entry["licence"] and "\n" not in entry["what"]
            if what != "data":
                assert entry["sha256"] or entry["sha256_prefix"] in entry["name"], entry
            if what == "checkpoints":
                assert (path.parent / entry["name"]).stat().st_size == entry["bytes"] <= 50_000_000


def test_what_is_listed_for_problem_3_is_what_its_networks_start_from():
    listed = json.loads((ROOT / "checkpoints" / "manifest.json").read_text())["pretrained"]
    names = [entry["name"].rsplit("-", 1)[0] for entry in listed if "problem 3" in entry["what"]]
    assert len(names) == 2
    with torch.device("meta"):  # shapes are all that is asked of
        for name in names:
            network = FCN32s() if name.startswith("vgg") else DeepLabv3()
            options = {"weights_backbone": None, "aux_loss": True} if "deeplab" in name else {}
            weights = torchvision.models.get_model(name, weights=None, **options).state_dict()
            assert "without" in load_pretrained(network, weights, name)


def test_the_script_on_the_repository_as_it_is(tmp_path):
    done = shell("checkpoints", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "") and done.stdout
    assert shell(cwd=ROOT).stdout == done.stdout
    by_graders = ["bash", ROOT / "hw1_download_ckpt.sh"]  # the name that the course's graders run
    assert subprocess.check_output(by_graders, cwd=tmp_path, text=True) == done.stdout


def test_the_script_from_elsewhere(server, manifest, tmp_path):
    manifest()
    elsewhere = tmp_path / "else where"
    elsewhere.mkdir()
    done = shell("checkpoints", "--manifest", "../manifest.json", "--to", "to here", cwd=elsewhere)
    assert (done.returncode, done.stderr) == (0, "") and alone(elsewhere / "to here" / "weights.pt")
    server.modes = [404]
    done = shell("--manifest", "../manifest.json", "--to", "again", cwd=elsewhere)
    assert done.returncode == 1 and done.stderr.startswith(
        "hw1_download.sh: cannot fetch weights.pt"
    )
    done = shell("--manifest", "none.json", cwd=elsewhere)
    assert done.returncode == 2 and done.stderr.startswith(
        "hw1_download.sh: cannot read the manifest none.json"
    )
    done = shell("everything", cwd=elsewhere)
    assert done.returncode == 2 and "hw1_download.sh: argument what" in done.stderr


def test_what_is_there_needs_no_library(run, manifest, server, file, monkeypatch):
    for name in ("requests", "gdown", "tqdm"):
        monkeypatch.setitem(sys.modules, name, None)  # as if not installed
    file.write_bytes(BODY)
    assert run(*manifest())[0] == 0
    file.unlink()
    status, _, err = run(*manifest())
    assert status == 1 and "requests" in err and err.count("\n") == 1 and server.ranges == []
