"""Download the files that a manifest lists, unless they are already there and correct.

``hw1_download.sh`` runs this. A file gets its final name only after its size and hash are checked.
If all files are there and correct, neither the network nor a download library is used.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import hashlib
import json
import os
import re
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from checkpoints.archive import PARTS, BadArchive, unpack
from core.cli import InputError, Parser, entry, positive, say, some, warn
from core.files import writable_folder

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = {"checkpoints": "checkpoints", "pretrained": "pretrained", "data": "hw1_data"}
PROGRAM = os.environ.get("HW1_PROGRAM") or Path(__file__).name
ATTEMPTS = 3
BACKOFF = 2.0  # seconds before the second attempt; twice that before the third
BLOCK = 1 << 16
LIMITS = {"checkpoints": 2**31, "pretrained": 2**31, "data": 2**34}  # bytes, if size is unknown
# Valid values of an entry's fields; "" means unknown. A name has no path, so that no file is
# written outside its folder.
FORMS = {
    "name": r"[^./\\\0][^/\\\0]*",
    "bytes": "[0-9]*",
    "sha256": "([0-9a-f]{64})?",
    "sha256_prefix": "([0-9a-f]{8,64})?",
    "url": r"(https?://\S+)?",
    "drive_id": "[0-9A-Za-z_-]*",
}


class Failed(Exception):
    """One file could not be obtained; the message says why. The others may still work."""


@dataclasses.dataclass(frozen=True)
class Wanted:
    """A file that the manifest lists; an unknown text is "".

    ``sha256`` may be only the start of the hash. ``limit``: the most bytes to download.
    """

    name: str
    bytes: int | None
    limit: int
    sha256: str
    url: str
    drive_id: str
    licence: str = ""

    @property
    def source(self) -> str:
        """The address, in a form that a browser can open."""
        return (
            f"https://drive.google.com/file/d/{self.drive_id}/view" if self.drive_id else self.url
        )

    def check(self, path: Path) -> str:
        """Describe the file at ``path`` by its size and hash.

        Raises Failed if they differ from those in the manifest.
        """
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
            size, sha256 = file.tell(), digest.hexdigest()
        if self.bytes is not None and size != self.bytes:
            raise Failed(f"it has {size:,} bytes instead of {self.bytes:,}")
        if not sha256.startswith(self.sha256):
            raise Failed(f"its sha256 is {sha256} instead of {self.sha256}")
        return f"{size:,} bytes, sha256 {sha256}"


def main() -> int:
    parser = Parser(
        prog=PROGRAM,
        description="Check the files that a manifest lists; download what is missing or wrong.",
    )
    parser.add_argument(
        "what",
        nargs="?",
        choices=list(FOLDERS),
        default="checkpoints",
        help="which files (%(default)s)",
    )
    parser.add_argument("name", nargs="?", help="only the file with this name (all)")
    parser.add_argument(
        "--manifest",
        type=Path,
        default=ROOT / "checkpoints" / "manifest.json",
        help="list of the files (%(default)s)",
    )
    parser.add_argument(
        "--to",
        type=Path,
        metavar="FOLDER",
        help="folder for the files (the repository's own)",
    )
    parser.add_argument(
        "--timeout",
        type=positive,
        default=30,
        metavar="SECONDS",
        help="how long a server may be silent (%(default)s)",
    )
    args = parser.parse_args()

    listed = read_manifest(args.manifest, args.what)
    if args.name:
        names = [wanted.name for wanted in listed]
        listed = [wanted for wanted in listed if wanted.name == args.name]
        if not listed:
            there = some(names, len(names)) or "nothing"
            raise InputError(f"no {args.name} in {args.what}; the manifest lists {there}")
    folder = args.to or ROOT / FOLDERS[args.what]
    if args.what == "data" and all((folder / part).is_dir() for part in PARTS):
        say(f"nothing to do: {folder} already contains {', '.join(PARTS)}")
        return 0
    if not listed:
        say(f"nothing to do: {args.manifest} lists no {args.what}")
    failures = 0
    for wanted in listed:
        try:
            path = obtain(wanted, folder, args.timeout)
            if args.what == "data":
                unpack(path, folder)
        except (Failed, BadArchive) as error:
            failures += 1
            print(f"{PROGRAM}: {' '.join(str(error).split())}", file=sys.stderr)
    return 1 if failures else 0


def read_manifest(path: Path, what: str) -> list[Wanted]:
    """The files listed under ``what``, a key of FOLDERS.

    Raises InputError if the manifest is missing or broken.
    """
    try:
        listed = json.loads(path.read_text(encoding="utf-8"))[what]
        return [_wanted(fields, LIMITS[what]) for fields in listed]
    except OSError as error:
        raise InputError(f"cannot read the manifest {path}: {error.strerror}") from error
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        # It is not JSON, or JSON with another structure.
        raise InputError(f"the manifest {path} is broken in {what!r}: {error}") from error


def _wanted(fields: dict[str, Any], limit: int) -> Wanted:
    known = {key: "" if fields.get(key) is None else str(fields[key]) for key in FORMS}
    for key, value in known.items():
        if not re.fullmatch(FORMS[key], value):
            raise ValueError(f"{key} of the entry {known['name']!r} cannot be {value!r}")
    size = int(known["bytes"]) if known["bytes"] else None
    return Wanted(
        known["name"],
        size,
        limit if size is None else size,
        known["sha256"] or known["sha256_prefix"],
        known["url"],
        known["drive_id"],
        str(fields.get("licence") or ""),
    )


def obtain(wanted: Wanted, folder: Path, timeout: int) -> Path:
    """Make sure that the wanted file is in ``folder``, and return its path.

    A correct file is left alone; a wrong one is replaced only by a correct one. Raises Failed,
    which says what to do by hand, or InputError if nothing can be written in ``folder``.
    """
    path = folder / wanted.name
    description, fault = looked_at(wanted, path)
    done = "ok"
    if not description:
        if fault != "missing":
            say(f"{wanted.name} is {fault}")
        if not wanted.source:
            raise Failed(
                f"{path} is {fault}; it ships with the repository and is on no server; restore it "
                f"with: git checkout -- {FOLDERS['checkpoints']}"
            )
        writable_folder(folder)
        with _alone(path):
            description, _ = looked_at(wanted, path)  # another process may have downloaded it
            if not description:
                try:
                    description, done = fetch(wanted, path, timeout), "fetched"
                except (Failed, OSError, ImportError) as error:
                    digest = f"begins with {wanted.sha256}" if wanted.sha256 else "is not known"
                    raise Failed(
                        f"cannot fetch {wanted.name} from {wanted.source}: {error}; to do it by "
                        f"hand, open that address in a browser and save the file as {path} "
                        f"(its sha256 {digest})"
                    ) from error
    say(f"{done} {wanted.name} ({description})")
    if 0 < (digits := len(wanted.sha256)) < 64:
        warn(f"{wanted.name}: only the first {digits} digits of its sha256 are known and verified")
    if not wanted.sha256:
        verified = "only its size was" if wanted.bytes is not None else "nothing could be"
        warn(f"{wanted.name}: the manifest has no hash, so {verified} verified")
    return path


def looked_at(wanted: Wanted, path: Path) -> tuple[str, str]:
    """(the file's description, "") if it is correct, otherwise ("", what is wrong with it)."""
    if not path.is_file():
        return "", "missing"
    try:
        return wanted.check(path), ""
    except (Failed, OSError) as error:
        return "", f"wrong: {error}"


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold the lock on downloading ``path``, so that no two processes write the same ``.part``.

    The lock is on a hidden file, which its holder removes. The system frees the lock when the
    process ends. On a file system without locks, there is none.
    """
    lock = path.with_name(f".{path.name}.lock")
    handle = -1
    while handle < 0:
        handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
        with contextlib.suppress(OSError):
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                say(f"waiting for another process that is downloading {path}")
                fcntl.flock(handle, fcntl.LOCK_EX)
        if not lock.exists() or not os.path.samestat(os.fstat(handle), lock.stat()):
            os.close(handle)  # its former holder removed it, and another process may hold a new one
            handle = -1
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)
        os.close(handle)


def fetch(wanted: Wanted, path: Path, timeout: int) -> str:
    """Download next to ``path``, check and rename; return the file's description.

    Raises Failed or OSError.
    """
    part = path.with_name(f"{path.name}.part")
    for last in (False, True):
        bring = _from_drive if wanted.drive_id else _from_server
        pieced = bring(wanted, part, timeout)
        try:
            description = wanted.check(part)
            break
        except Failed:
            part.unlink()
            # The file may have been joined from pieces of two versions: then start from scratch.
            if last or not pieced:
                raise
    os.replace(part, path)
    return description


def _from_server(wanted: Wanted, part: Path, timeout: int) -> bool:
    """Complete ``part`` from ``wanted.url``; return whether it was joined from pieces.

    Raises Failed or OSError.
    """
    import requests  # not at the top: verifying existing files does not need it

    version, why = None, ""
    for attempt in range(ATTEMPTS):
        time.sleep(BACKOFF * attempt)
        have = part.stat().st_size if part.exists() else 0
        # No compression, because a range counts the bytes that are sent.
        headers = {"Accept-Encoding": "identity"}
        # Without a version or a hash, a piece of another version would go unnoticed.
        if have and (version or wanted.sha256):
            headers |= {"Range": f"bytes={have}-"} | ({"If-Range": version} if version else {})
        try:
            with requests.get(
                wanted.url, headers=headers, stream=True, timeout=timeout
            ) as response:
                response.raise_for_status()
                pieced = response.status_code == 206
                if not pieced:
                    tag, have = response.headers.get("ETag", "W/"), 0
                    weak = tag.startswith("W/")  # a weak tag does not guarantee equal bytes
                    version = response.headers.get("Last-Modified") if weak else tag
                elif not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
                    part.unlink(missing_ok=True)
                    raise requests.RequestException(
                        "the server sent a different range from the one requested"
                    )
                length = response.headers.get("Content-Length", "")
                total = have + int(length) if length.isdigit() else wanted.bytes
                size = _receive(response, part, have, total, wanted.limit)
                if total is not None and size < total:
                    raise requests.RequestException(
                        f"the connection ended after {size:,} of {total:,} bytes"
                    )
                return pieced
        except requests.RequestException as error:
            status = None if error.response is None else error.response.status_code
            why = _plain(error, timeout)
            if status == 416:  # the part is not the start of the file that is there now
                part.unlink(missing_ok=True)
            elif status is not None and status < 500 and status not in (408, 429):
                break  # another attempt would fail too
    raise Failed(why)


def _receive(response: Any, part: Path, have: int, total: int | None, limit: int) -> int:
    """Append the response's body to the first ``have`` bytes of ``part``; return the new size.

    Raises Failed and removes ``part`` if the size exceeds ``limit`` bytes.
    """
    from tqdm import tqdm

    bar = tqdm(
        desc=part.stem,
        initial=have,
        total=total,
        unit="B",
        unit_scale=True,
        leave=False,
        disable=None,
    )
    with bar, part.open("ab" if have else "wb") as file:
        for block in response.iter_content(BLOCK):
            if file.tell() + len(block) > limit:
                part.unlink(missing_ok=True)
                raise Failed(f"the server sends more than {limit:,} bytes")
            file.write(block)
            bar.update(len(block))
        file.flush()
        os.fsync(file.fileno())  # the bytes must be on the disk before the file is renamed
        return file.tell()


def _plain(error: Any, timeout: int) -> str:
    """The reason in a requests exception, without the names of the layers it passed through."""
    if error.response is not None:
        return f"the server answered {error.response.status_code} {error.response.reason}"
    if "timed out" in str(error):
        return f"the server was silent for {timeout} s"
    reason = str(getattr(error.args[0] if error.args else None, "reason", None) or error)
    if "Failed to resolve" in reason or "unreachable" in reason:
        return "there is no network, or no such server"
    return "the connection was lost" if "IncompleteRead" in reason else reason


def _from_drive(wanted: Wanted, part: Path, timeout: int) -> bool:
    """Download the file to ``part`` with gdown, which resumes from its own partial file.

    gdown has no size limit, so the system enforces one on file sizes. Raises Failed.
    """
    import gdown

    part.unlink(missing_ok=True)  # gdown would take it for the complete file
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    smaller = [bound for bound in (wanted.limit, *before) if bound != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_FSIZE, (min(smaller), before[1]))
    try:
        done = gdown.download(
            id=wanted.drive_id,
            output=str(part),
            resume=True,
            quiet=not sys.stderr.isatty(),
            timeout=timeout,
        )
    except Exception as error:
        # gdown's own exceptions, those of requests, and any that a changed Google page causes.
        if isinstance(error, OSError) and error.errno == errno.EFBIG:
            raise Failed(f"the server sends more than {wanted.limit:,} bytes") from error
        raise Failed(f"gdown: {error or type(error).__name__}") from error
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    if not done or not part.is_file():
        raise Failed("gdown downloaded nothing")
    return False


if __name__ == "__main__":
    entry(main)
