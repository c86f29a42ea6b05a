"""The list of files that ship or can be downloaded: ``manifest.json``."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

from core.cli import InputError
from core.files import sha256

FOLDERS = {"checkpoints": "checkpoints", "pretrained": "pretrained", "data": "hw1_data"}
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
        size, digest = path.stat().st_size, sha256(path)
        if self.bytes is not None and size != self.bytes:
            raise Failed(f"it has {size:,} bytes instead of {self.bytes:,}")
        if not digest.startswith(self.sha256):
            raise Failed(f"its sha256 is {digest} instead of {self.sha256}")
        return f"{size:,} bytes, sha256 {digest}"


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
