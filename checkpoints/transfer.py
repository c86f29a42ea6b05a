"""Bring a file from a server: in pieces if the connection breaks, checked before it is renamed."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

from checkpoints.manifest import Failed, Wanted
from core.progress import Bar

ATTEMPTS = 3
BACKOFF = 2.0  # seconds before the second attempt; twice that before the third
BLOCK = 1 << 16


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
            if status == 416:  # nothing is left to send: the part is complete, or another file's
                if wanted.sha256:
                    return True  # ``fetch`` finds out which
                part.unlink(missing_ok=True)
            elif status is not None and status < 500 and status not in (408, 429):
                break  # another attempt would fail too
    raise Failed(why)


def _receive(response: Any, part: Path, have: int, total: int | None, limit: int) -> int:
    """Append the response's body to the first ``have`` bytes of ``part``; return the new size.

    Raises Failed and removes ``part`` if the size exceeds ``limit`` bytes.
    """
    bar = Bar(part.stem, total, "B", done=have)
    with contextlib.closing(bar), part.open("ab" if have else "wb") as file:
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
