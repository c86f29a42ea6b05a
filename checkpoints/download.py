"""Download the files that a manifest lists, unless they are already there and correct.

``hw1_download.sh`` runs this. A file gets its final name only after its size and hash are checked.
If all files are there and correct, neither the network nor a download library is used.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from checkpoints.archive import PARTS, BadArchive, unpack
from checkpoints.manifest import FOLDERS, Failed, Wanted, read_manifest
from checkpoints.transfer import fetch
from core.cli import BAD_INPUT, InputError, Parser, entry, note, positive, program, say, some, warn
from core.files import writable_folder

ROOT = Path(__file__).resolve().parents[1]


def main() -> int:
    parser = Parser(
        prog=program(),
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
            note(f"{program()}: {' '.join(str(error).split())}")
    return BAD_INPUT if failures else 0


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


if __name__ == "__main__":
    entry(main)
