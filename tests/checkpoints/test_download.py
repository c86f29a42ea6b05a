"""Downloads from a server on this machine that breaks off, lies, hangs and forgets."""

import hashlib
import json
import os
import random
import re
import subprocess
import sys
import threading
import time
import types
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from conftest import ROOT, refused, script
from test_archive import FILES, make_zip

from checkpoints import download, transfer
from checkpoints import manifest as manifests

BODY = random.Random(0).randbytes(300_000)
SHA256 = hashlib.sha256(BODY).hexdigest()
HALF = len(BODY) // 2
ONLY_HASH = {"bytes": None}
ONLY_SIZE = {"sha256": None}
PREFIX = {"bytes": None, "sha256": None, "sha256_prefix": SHA256[:8]}
NOTHING = {"bytes": None, "sha256": None}


class Server(ThreadingHTTPServer):
    """Answers one request after the other as ``modes`` says, and then properly."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}/weights.pt"
        self.body, self.etag, self.modes = BODY, '"one"', []
        self.ranges = []  # the Range header of each request
        self.sent = []  # the body's bytes of each answer
        self.release = threading.Event()  # ends what hangs


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
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
        lies = {"lie": bytes(len(server.body)), "short": server.body[:-10]}
        body = (lies | {"long": server.body + b"more"}).get(mode, server.body)[start:]
        self.send_response(206 if start else 200)
        if start:
            shift = 1 if mode == "other range" else 0
            body = body[shift:] + bytes(shift)  # as long as the right one
            end = start + len(body)
            self.send_header("Content-Range", f"bytes {start + shift}-{end - 1}/{end}")
        if mode != "half, no length":
            self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", server.etag)
        self.end_headers()
        piece = body[: len(body) // 2] if str(mode).startswith("half") else body
        server.sent.append(len(piece))
        self.wfile.write(piece)
        if mode == "half, then silent":
            self.wfile.flush()
            server.release.wait(20)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(transfer, "BACKOFF", 0)
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.release.set()
        server.shutdown()
        thread.join()


@pytest.fixture
def flags(tmp_path, server):
    """Write a manifest of one file, right but for ``fields``; return the flags that use it."""

    def flags(what="checkpoints", **fields):
        usual = {"name": "weights.pt", "bytes": len(BODY), "sha256": SHA256, "url": server.url}
        path = tmp_path / "manifest.json"
        path.write_text(json.dumps({what: [usual | fields]}))
        timeout = 1 if any("silent" in str(mode) for mode in server.modes) else 30
        return [what, "--manifest", path, "--to", tmp_path / "to", "--timeout", timeout]

    return flags


@pytest.fixture
def fetch(call, flags):
    """Download that file: (exit status, stdout, stderr)."""
    return lambda *what, **fields: call(download.main, *flags(*what, **fields))


@pytest.fixture
def file(tmp_path):
    """Where the wanted file belongs."""
    (tmp_path / "to").mkdir()
    return tmp_path / "to" / "weights.pt"


def alone(file):
    """Is the right file there, and nothing beside it?"""
    return file.read_bytes() == BODY and os.listdir(file.parent) == [file.name]


def failed(result, *said):
    """One file was not obtained, and one line says why."""
    status, _, err = result
    assert status == 2 and err.count("\n") == 1, err
    for words in said:
        assert words in err


# Downloads


def test_a_missing_file_is_fetched_and_then_left_alone(fetch, server, tmp_path):
    result = fetch()  # the folder is made
    assert result == (0, f"fetched weights.pt (300,000 bytes, sha256 {SHA256})\n", "")
    assert alone(tmp_path / "to" / "weights.pt")
    assert fetch() == (0, f"ok weights.pt (300,000 bytes, sha256 {SHA256})\n", "")
    assert server.ranges == [None]  # the second run asked nobody


def test_what_breaks_off_is_resumed(fetch, server, file):
    server.modes = ["half"]
    assert fetch()[0] == 0 and alone(file)
    start = int(re.fullmatch(r"bytes=(\d+)-", server.ranges[1])[1])
    assert server.ranges[0] is None and 0 < start <= HALF
    assert server.sent == [HALF, len(BODY) - start]


@pytest.mark.parametrize("known", [{}, ONLY_SIZE, PREFIX])
@pytest.mark.parametrize(
    "modes",
    [["half", "deaf"], ["half", "half", "half"], ["half", "other range"], [500], ["half", 503]],
)
def test_it_arrives_or_fails_in_three_attempts(fetch, server, file, modes, known):
    server.modes = list(modes)
    result = fetch(**known)
    if modes.count("half") == 3:
        failed(result, "connection was lost")
        assert not file.exists()
        result = fetch(**known)  # the same command goes on; without a hash, from the start
        assert (server.ranges[3] is None) == (known == ONLY_SIZE)
    assert result[0] == 0 and alone(file)


@pytest.mark.parametrize(
    ("left", "modes", "known", "asked"),
    [
        (BODY[:1000], [], {}, ["bytes=1000-"]),
        (bytes(1000), [], {}, ["bytes=1000-", None]),
        (bytes(HALF * 2), [], {}, [f"bytes={HALF * 2}-", None]),  # the server answers 416
        (bytes(HALF * 2 + 5), [], {}, [f"bytes={HALF * 2 + 5}-", None]),
        (bytes(1000), [], NOTHING, [None]),
        (None, ["half, no length"], {}, [None, f"bytes={HALF}-"]),
    ],
    ids=["its own", "of something else", "as long", "longer", "nothing could tell", "no length"],
)
def test_a_part_is_resumed_and_dropped_if_it_is_wrong(
    fetch, server, file, left, modes, known, asked
):
    if left:
        file.with_name("weights.pt.part").write_bytes(left)
    server.modes = modes
    assert fetch(**known)[0] == 0 and alone(file) and server.ranges == asked


@pytest.mark.parametrize("known", [ONLY_HASH, PREFIX])
def test_cut_short_where_only_the_hash_tells(fetch, server, file, known):
    server.modes = ["half, no length"]
    failed(fetch(**known), "sha256")
    assert os.listdir(file.parent) == []
    assert fetch(**known)[0] == 0 and alone(file)


def test_a_file_that_changes_between_two_attempts(fetch, server, file):
    """By If-Range the server sends the new version from its start; no hash is needed."""
    server.body, server.etag, server.modes = bytes(300_000), '"old"', ["half"]

    class Changing(Handler):
        def do_GET(self):
            super().do_GET()
            self.server.body, self.server.etag = BODY, '"new"'

    server.RequestHandlerClass = Changing
    assert fetch(**ONLY_SIZE)[0] == 0 and alone(file)
    assert server.ranges[1] is not None and server.sent == [HALF, len(BODY)]


def test_a_foreign_part_and_a_lying_server_end(fetch, server, file):
    file.with_name("weights.pt.part").write_bytes(bytes(1000))
    server.modes = ["lie"] * 9
    failed(fetch())
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
        (["silent", *["half, then silent"] * 2], 3, "the server was silent for 1 s"),
    ],
)
def test_a_failure_keeps_the_old_file_and_says_what_to_do(
    fetch, server, file, modes, requests, why
):
    file.write_bytes(b"old")
    server.modes = list(modes)
    result = fetch()
    by_hand = f"open that address in a browser and save the file as {file} (its sha256 begins with "
    failed(result, f"cannot fetch weights.pt from {server.url}: {why}", f"{by_hand}{SHA256})")
    assert "weights.pt is wrong: it has 3 bytes" in result[1]
    assert file.read_bytes() == b"old" and len(server.ranges) == requests
    server.modes = []
    assert fetch()[0] == 0 and alone(file)  # with the server in order, it is replaced


def test_two_downloads_at_once_do_not_share_a_part(call, flags, server, file):
    server.modes = ["half, then silent"]  # until a second has passed
    arguments = flags()
    command = [sys.executable, "-m", "checkpoints.download", *map(str, arguments)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as first:
        while not file.with_name("weights.pt.part").exists():
            assert first.poll() is None
            time.sleep(0.01)
        status, out, err = call(download.main, *arguments)
        assert first.wait() == 0 and "fetched weights.pt" in first.stdout.read()
    assert (status, err) == (0, "") and alone(file)
    assert "waiting for another process that is downloading" in out and "\nok weights.pt" in out
    assert len(server.ranges) == 2  # both of the first one: it went on after the silence


def test_a_part_that_is_already_complete_is_not_fetched_again(fetch, server, file):
    file.with_name("weights.pt.part").write_bytes(BODY)  # killed before the file got its name
    status, out, _ = fetch()
    assert status == 0 and out.startswith("fetched") and alone(file)
    assert len(server.ranges) == 1 and server.sent == []


@pytest.mark.parametrize("mode", ["whole", "half, no length"])
def test_a_download_of_unknown_size_has_a_limit(fetch, server, file, monkeypatch, mode):
    monkeypatch.setitem(manifests.LIMITS, "checkpoints", 100_000)
    server.modes = [mode]
    failed(fetch(**ONLY_HASH), "the server sends more than 100,000 bytes")
    assert os.listdir(file.parent) == []


def test_one_file_may_be_named(call, server, file, tmp_path):
    listed = [{"name": name, "url": server.url, "sha256": SHA256} for name in ("a", file.name)]
    (tmp_path / "manifest.json").write_text(json.dumps({"pretrained": listed}))
    more = ("--manifest", tmp_path / "manifest.json", "--to", file.parent)
    status, out, _ = call(download.main, "pretrained", file.name, *more)
    assert status == 0 and out.startswith("fetched weights.pt") and alone(file)
    result = call(download.main, "pretrained", "b", *more)
    refused(result, "no b in pretrained; the manifest lists a, weights.pt")


@pytest.mark.parametrize(("content", "fault"), [(None, "missing"), (b"x", "wrong: it has 1 bytes")])
def test_a_shipped_file_that_is_not_there_or_broken_says_how_to_restore_it(
    fetch, server, file, content, fault
):
    if content:
        file.write_bytes(content)
    failed(fetch(url=None), f"{file} is {fault}", "git checkout -- checkpoints\n")
    assert server.ranges == []


def test_nobody_listens(fetch):
    failed(fetch(url="http://127.0.0.1:9/weights.pt"), "Connection refused")


def test_a_prefix_of_the_hash_decides_and_what_is_not_verified_is_said(fetch, server, file):
    file.write_bytes(bytes(len(BODY)))  # a wrong one of the right size
    status, out, err = fetch(**PREFIX)
    assert status == 0 and SHA256 in out and alone(file)
    assert "only the first 8 digits of its sha256 are known and verified" in err
    assert "the manifest has no hash, so only its size was verified\n" in fetch(**ONLY_SIZE)[2]
    assert "the manifest has no hash, so nothing could be verified\n" in fetch(**NOTHING)[2]
    assert len(server.ranges) == 1
    failed(fetch(**PREFIX | {"sha256_prefix": "0" * 8}), "instead of 00000000")
    assert alone(file)


def test_the_other_files_are_fetched_all_the_same(call, server, file, tmp_path):
    entry = {"name": "weights.pt", "bytes": len(BODY), "sha256": SHA256, "url": server.url}
    entries = [entry | {"name": "gone.pt"}, entry, entry | {"name": "shipped.pt", "url": None}]
    (tmp_path / "manifest.json").write_text(json.dumps({"checkpoints": entries}))
    server.modes = [404]
    more = ("--manifest", tmp_path / "manifest.json", "--to", file.parent)
    status, out, err = call(download.main, *more)
    assert status == 2 and alone(file) and out.startswith("fetched weights.pt")
    gone, shipped = err.splitlines()
    says = f"{file.parent / 'shipped.pt'} is missing; it ships with the repository"
    assert "404" in gone and says in shipped


def test_a_full_disk_is_one_line(fetch, file, monkeypatch):
    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    failed(fetch(), "No space left on device")
    assert not file.exists()


def test_a_folder_that_cannot_be_made_is_bad_input(fetch, server, tmp_path):
    (tmp_path / "to").write_text("in the way")
    refused(fetch(), "a file is in the way")
    assert server.ranges == []


def test_what_is_there_needs_no_library(fetch, server, file, monkeypatch):
    for name in ("requests", "gdown", "tqdm"):
        monkeypatch.setitem(sys.modules, name, None)  # as if not installed
    file.write_bytes(BODY)
    assert fetch()[0] == 0
    file.unlink()
    failed(fetch(), "requests")
    assert server.ranges == []


# Google Drive


@pytest.fixture
def drive(monkeypatch):
    """Put a stand-in in gdown's place; returns the list that its calls go to."""

    def drive(brings):
        calls = []

        def fetch(**given):
            calls.append(given)
            if isinstance(brings, Exception):
                raise brings
            if brings is not None:
                with open(given["output"], "xb") as output:  # gdown would keep an old file
                    output.write(brings)
                return given["output"]

        monkeypatch.setitem(sys.modules, "gdown", types.SimpleNamespace(download=fetch))
        return calls

    return drive


def test_a_drive_id_goes_through_gdown(fetch, file, drive):
    calls = drive(BODY)
    file.with_name("weights.pt.part").write_bytes(bytes(1000))
    assert fetch(url=None, drive_id="1a-B_c")[0] == 0 and alone(file)
    assert calls[0]["id"] == "1a-B_c" and calls[0]["resume"] is True and calls[0]["timeout"] == 30


@pytest.mark.parametrize("brings", [ValueError("quota\nexceeded"), None, b"<html>"])
def test_what_gdown_cannot_bring_is_one_line(fetch, file, drive, brings):
    drive(brings)
    says = "from https://drive.google.com/file/d/1a-B_c/view: "
    failed(fetch(url=None, drive_id="1a-B_c"), says, str(file))
    assert os.listdir(file.parent) == []


# The course's archive


def archive(server, body):
    """Let the server send an archive; the manifest's fields of it."""
    server.body = body
    digest = hashlib.sha256(body).hexdigest()
    return {"name": "hw1_data.zip", "bytes": len(body), "sha256": digest}


def test_the_data_are_fetched_and_unpacked_once(fetch, server, tmp_path):
    wanted = archive(server, make_zip(FILES))
    status, out, err = fetch("data", **wanted)
    assert (status, err) == (0, "") and out.count("\nunpacked ") == 3
    assert all((tmp_path / "to" / name).read_bytes() == content for name, content in FILES.items())
    (tmp_path / "to" / "hw1_data.zip").unlink()
    status, out, err = fetch("data", **wanted)
    assert (status, err) == (0, "") and out.startswith("nothing to do")
    assert server.ranges == [None]


@pytest.mark.parametrize(
    "body", [b"<html>quota exceeded</html>", make_zip(FILES)[:-99]], ids=["html", "cut"]
)
def test_what_is_no_archive_is_one_line(fetch, server, tmp_path, body):
    failed(fetch("data", **archive(server, body)), "cannot unpack", "hw1_data.zip")
    assert os.listdir(tmp_path / "to") == ["hw1_data.zip"]  # it was what the manifest says


# The script


def test_the_script_on_the_repository_as_it_is(tmp_path):
    done = script("hw1_download.sh", "checkpoints", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "") and done.stdout
    # Without an argument, and by the name that the course's graders run.
    for name, folder in (("hw1_download.sh", ROOT), ("hw1_download_ckpt.sh", tmp_path)):
        assert script(name, cwd=folder).stdout == done.stdout


def test_the_script_from_elsewhere(server, flags, tmp_path):
    elsewhere = tmp_path / "else where"
    elsewhere.mkdir()
    flags()  # writes the manifest

    def download(*arguments):
        done = script("hw1_download.sh", *arguments, cwd=elsewhere)
        return done.returncode, done.stdout, done.stderr

    listed = ("--manifest", "../manifest.json", "--to")
    assert download("checkpoints", *listed, "to here")[::2] == (0, "")
    assert alone(elsewhere / "to here" / "weights.pt")
    server.modes = [404]
    failed(download(*listed, "again"), "hw1_download.sh: cannot fetch weights.pt")
    says = "hw1_download.sh: cannot read the manifest none.json"
    refused(download("--manifest", "none.json"), says)
    refused(download("everything"), "hw1_download.sh: argument what")
