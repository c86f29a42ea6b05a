"""Give every reader files that are broken or crafted: ``python3 -m tests.mutations``.

Sound files are changed at random: bits, bytes, lengths and whole pieces; where a format has
checksums they are made right again, so that what lies behind them is reached; in JSON and in
checkpoints whole values are replaced. Each reader has to read such a file or to refuse it by its
own exception, within seconds, in little memory, and must write nothing outside its folder. The n-th
input is a function of the seed and n, so each that is found can be made again.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import io
import json
import pickle
import resource
import signal
import struct
import sys
import tarfile
import tempfile
import time
import traceback
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from checkpoints import archive
from checkpoints.manifest import read_manifest
from core import checkpoint, images
from core.checkpoint import Checkpoint
from core.cli import InputError, Parser, entry, positive
from prediction import tables
from report import runs
from training import cache, provenance

SECONDS = 10  # for one input
MEMORY = 2**30  # bytes above what the program holds before the first
VALUES: list[Any] = [
    None, True, -1, 0, 1e308, float("nan"), 2**70, "", "\0\n\r\ud800", "../../x", "9" * 5000, [],
    {},
    [[]], {"": {}}, ["a", 1], {"a": None}, "x" * 10_000,
]  # fmt: skip


# --- changes -------------------------------------------------------------------------------------


def change_bytes(data: bytes, rng: np.random.Generator) -> bytes:
    """``data`` with one to four changes of the kinds that fuzzers make."""
    changed = bytearray(data)
    for _ in range(rng.integers(1, 5)):
        at = int(rng.integers(0, len(changed) + 1))
        length = int(2 ** rng.uniform(0, 8))
        piece = bytes(changed[at : at + length])
        kind = rng.integers(0, 8)
        if kind == 0 and piece:
            changed[at] ^= 1 << int(rng.integers(0, 8))
        elif kind == 1:
            changed[at : at + length] = rng.bytes(length)
        elif kind == 2:
            del changed[at : at + length]
        elif kind == 3:
            changed[at:at] = piece * int(rng.integers(1, 20))
        elif kind == 4:
            del changed[at:]
        elif kind == 5:  # a length, a count or an offset
            size = int(rng.choice([1, 2, 4, 8]))
            number = int(rng.choice([0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**16, 2**63, 2**64 - 1]))
            order = "big" if rng.random() < 0.5 else "little"
            changed[at : at + size] = (number % 256**size).to_bytes(size, order)
        elif kind == 6:
            other = int(rng.integers(0, len(changed) + 1))
            changed[other : other + length] = piece
        else:
            marks = [b"[" * 50_000, b'"', b"\r", b"\n", b",", b"\0", b"\xff\xfe", b"{"]
            marks.append("\ud800".encode(errors="surrogatepass"))
            changed[at:at] = marks[rng.integers(0, len(marks))]
    return bytes(changed)


def change_png(data: bytes, rng: np.random.Generator) -> bytes:
    """The content of one chunk changed, its checksum made right."""
    chunks, at = [], 8
    while at < len(data):
        (length,) = struct.unpack_from(">I", data, at)
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    number = int(rng.integers(0, len(chunks)))
    kind, content = chunks[number]
    chunks[number] = kind, change_bytes(content, rng)
    if rng.random() < 0.2:
        chunks.insert(number, chunks[rng.integers(0, len(chunks))])
    packed = [
        struct.pack(">I", len(content))
        + kind
        + content
        + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks
    ]
    return data[:8] + b"".join(packed)


def change_zip(data: bytes, rng: np.random.Generator) -> bytes:
    """The content of one member changed, its checksum made right."""
    with zipfile.ZipFile(io.BytesIO(data)) as old:
        members = {name: old.read(name) for name in old.namelist()}
    names = [name for name in members if name.endswith(".pkl")] or list(members)
    name = names[rng.integers(0, len(names))] if rng.random() < 0.8 else rng.choice(list(members))
    members[str(name)] = change_bytes(members[str(name)], rng)
    new = io.BytesIO()
    with zipfile.ZipFile(new, "w", zipfile.ZIP_STORED) as out:
        for name, content in members.items():
            out.writestr(name, content)
    return new.getvalue()


def change_value(value: Any, rng: np.random.Generator, values: list[Any] = VALUES) -> Any:
    """A copy of plain data in which one value, at any depth, is another one, or gone."""
    if isinstance(value, dict) and value and rng.random() < 0.85:
        value, key = dict(value), list(value)[rng.integers(0, len(value))]
        if rng.random() < 0.15:
            del value[key]
        elif rng.random() < 0.1:
            value[[1, None, (), "new"][rng.integers(0, 4)]] = value.pop(key)
        else:
            value[key] = change_value(value[key], rng, values)
        return value
    if isinstance(value, list | tuple) and value and rng.random() < 0.85:
        value, index = list(value), int(rng.integers(0, len(value)))
        value[index] = change_value(value[index], rng, values)
        return value
    return copy.copy(values[rng.integers(0, len(values))])


def change_json(data: bytes, rng: np.random.Generator) -> bytes:
    changed = change_value(json.loads(data), rng)
    return json.dumps(changed, skipkeys=True).encode(errors="replace")


def change_fields(data: bytes, rng: np.random.Generator) -> bytes:
    """A checkpoint with another value in it, saved as torch saves."""
    content = torch.load(io.BytesIO(data), weights_only=True)
    spoilt = torch.full((3, 3), float("nan"))
    stretched = torch.zeros(1).expand(2**40)
    values = [*VALUES, spoilt, stretched, torch.zeros(0), torch.ones(2, dtype=torch.complex64), 1j]
    file = io.BytesIO()
    older = rng.random() < 0.2
    torch.save(change_value(content, rng, values), file, _use_new_zipfile_serialization=not older)
    return file.getvalue()


def change_archive(data: bytes, rng: np.random.Generator) -> bytes:
    """A tar or zip of random members, some of which lead out."""
    file = io.BytesIO()
    names = ["p1_data/a", "p2_data/b", "p3_data/c", "../out", "/out", "p1_data/../../out", ""]
    names.append("a\\..\\..\\out")
    chosen = [names[k] for k in rng.integers(0, len(names), 6)] + names[:3]
    if rng.random() < 0.5:
        with zipfile.ZipFile(file, "w") as packed:
            for name in dict.fromkeys(chosen):
                info = zipfile.ZipInfo(name)
                info.external_attr = int(rng.choice([0, 0o100644, 0o120777, 0o040755])) << 16
                packed.writestr(info, b"../out")
    else:
        with tarfile.open(fileobj=file, mode="w") as packed:
            for name in chosen:
                info = tarfile.TarInfo(name)
                info.type = rng.choice(
                    [tarfile.REGTYPE] * 5
                    + [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE]
                )
                info.linkname, info.size = "../out", 3 if info.type == tarfile.REGTYPE else 0
                packed.addfile(info, io.BytesIO(b"abc"))
    return change_bytes(file.getvalue(), rng) if rng.random() < 0.3 else file.getvalue()


# --- readers -------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Reader:
    """``read`` takes a path; ``refusals`` are the exceptions by which it may refuse what lies
    there.
    """

    sound: bytes
    changes: tuple[Callable[[bytes, np.random.Generator], bytes], ...]
    read: Callable[[Path], object]
    refusals: tuple[type[Exception], ...] = (InputError,)
    name: str = "input"


def encoded(kind: str, mode: str = "RGB", **options: Any) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (24, 31, 3), dtype=np.uint8)
    file = io.BytesIO()
    image = Image.fromarray(pixels)
    if mode == "I;16":
        image = Image.fromarray(pixels[:, :, 0].astype(np.uint16) * 257)
    elif mode != "RGB":
        image = image.convert(mode)
    image.save(file, kind, **options)
    return file.getvalue()


def a_checkpoint() -> bytes:
    fields = Checkpoint(
        "p1", "tiny", ("a", "b"), 32, (0.5,) * 3, (1.0,) * 3, True,
        {"lr": 0.1, "jitter": [0.1, 0.2]},
        {"accuracy": 0.5}, {"epoch": 1, "data": {"train": "0"}},
        {"conv": torch.rand(2, 3), "bias": torch.rand(2), "count": torch.tensor(3)},
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        checkpoint.save(Path(folder) / "model.pt", fields)
        return (Path(folder) / "model.pt").read_bytes()


def a_cache() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        pixels = np.random.default_rng(1).integers(0, 256, (4, 5, 3), dtype=np.uint8)
        path = Path(folder) / "cache.npy"
        cache.write(path, [Path(f"{k}.png") for k in range(6)], lambda _: pixels)
        return path.read_bytes()


def read_cache(path: Path) -> None:
    data = cache.read(path, 6, memory=1e9)
    if data is not None and not torch.equal(data, SOUND_CACHE):
        raise AssertionError("damaged data were taken for sound")


def unpacked(path: Path) -> None:
    """Unpack, and look whether anything came to lie outside or in part."""
    folder = path.parent / "folder"
    folder.mkdir()
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            archive.unpack(path, folder)
    finally:
        outside = {one.name for one in path.parent.iterdir()} - {path.name, "folder"}
        inside = {one.name for one in folder.iterdir()}
        if outside or inside not in (set(), set(archive.PARTS)):
            raise AssertionError(f"the archive left {outside | inside}")


def read_run(path: Path) -> None:
    """A folder's run.json, read by a run that goes on and by the report."""
    provenance.read(path)
    (path.parent / "log.jsonl").write_text('{"epoch": 1, "accuracy": 0.5, "seconds": 1}\n')
    runs.read(path.parent)


def read_log(path: Path) -> None:
    (path.parent / "run.json").write_bytes(A_RUN)
    runs.read(path.parent)


A_RUN = json.dumps(
    {
        "recipe": {"name": "tiny", "epochs": 3, "patience": 0, "lr": 0.1},
        "data": {"train": "0"}, "seed": 0, "command": "python3 -m p1.train", "commit": "0123",
        "device": "cpu", "torch": "2.9", "started": "2026-01-01 00:00:00",
        "continued": [{"epoch": 2, "step": 1, "command": "python3 -m p1.train", "commit": "4567"}],
    }
).encode()  # fmt: skip
A_LOG = (
    b'{"epoch": 1, "accuracy": 0.5, "seconds": 1}\n{"epoch": 2, "accuracy": 0.6, "seconds": 1}\n'
)
A_TABLE = b'id,filename,label\n0,a.jpg,1\n1,"b, c.jpg",\n2,d.jpg,Couch\n'
A_MANIFEST = json.dumps(
    {
        "checkpoints": [
            {
                "name": "p1_a.pt", "bytes": 3, "sha256": "0" * 64, "url": "https://a.b/c",
                "drive_id": "x",
            },
            {"name": "p2_c.pt", "bytes": None, "sha256_prefix": "0" * 8},
        ]
    }
).encode()  # fmt: skip
CACHE = a_cache()
SOUND_CACHE = torch.empty(0)


def readers() -> dict[str, Reader]:
    """All of them by name."""
    image = (images.BadImage,)
    return {
        "png": Reader(encoded("PNG"), (change_bytes, change_png), images.read_rgb, image),
        "png, palette": Reader(
            encoded("PNG", "P"), (change_bytes, change_png), images.read_rgb, image
        ),
        "png, 16 bits": Reader(
            encoded("PNG", "I;16"), (change_bytes, change_png), images.read_rgb, image
        ),
        "jpeg": Reader(encoded("JPEG"), (change_bytes,), images.read_rgb, image),
        "jpeg, progressive": Reader(
            encoded("JPEG", progressive=True), (change_bytes,), images.read_rgb, image
        ),
        "image header": Reader(
            encoded("PNG"), (change_bytes, change_png), images.size_in_header, ()
        ),
        "csv": Reader(
            A_TABLE, (change_bytes,), lambda path: tables.read_rows(path, ("id", "filename"))
        ),
        "checkpoint": Reader(
            a_checkpoint(), (change_bytes, change_zip, change_fields),
            lambda path: checkpoint.load(path, "p1"),
        ),
        "weights": Reader(
            a_checkpoint(), (change_bytes, change_zip, change_fields), checkpoint.read_weights
        ),
        "manifest": Reader(
            A_MANIFEST, (change_bytes, change_json), lambda path: read_manifest(path, "checkpoints")
        ),
        "cache": Reader(CACHE, (change_bytes,), read_cache, ()),
        "archive": Reader(b"", (change_archive,), unpacked, (archive.BadArchive,)),
        "run.json": Reader(A_RUN, (change_bytes, change_json), read_run, name="run.json"),
        "log.jsonl": Reader(A_LOG, (change_bytes,), read_log, name="log.jsonl"),
    }  # fmt: skip


# --- trying them ---------------------------------------------------------------------------------


def try_input(reader: Reader, data: bytes, before: int) -> str:
    """What is wrong with how ``data`` is read; "" if nothing is.

    ``before``: bytes held at the start.
    """

    def late(*_: object) -> None:
        raise TimeoutError

    with tempfile.TemporaryDirectory(prefix="mutations.") as folder:
        path = Path(folder) / reader.name
        path.write_bytes(data)
        signal.signal(signal.SIGALRM, late)
        signal.setitimer(signal.ITIMER_REAL, SECONDS)
        try:
            reader.read(path)
        except reader.refusals as error:
            if not str(error):
                return "it is refused without a reason"
        except TimeoutError:
            return f"it takes more than {SECONDS} s"
        except BaseException as error:
            return "".join(traceback.format_exception(error)[-3:])
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    if peak() - before > MEMORY:
        return f"it takes {(peak() - before) / 2**30:.1f} GiB"
    return ""


def peak() -> int:
    """The most bytes that this process has held so far."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main() -> int:
    global SOUND_CACHE
    parser = Parser(description=__doc__)
    parser.add_argument(
        "--count", type=positive, default=1500, help="inputs a reader (%(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="%(default)s")
    parser.add_argument("--readers", nargs="+", choices=list(readers()), default=list(readers()))
    parser.add_argument(
        "--first", type=int, default=0, help="number of the first input (%(default)s)"
    )
    args = parser.parse_args()
    torch.set_num_threads(1)
    sys.stderr = io.StringIO()  # warnings of what is damaged
    with tempfile.NamedTemporaryFile() as file:
        Path(file.name).write_bytes(CACHE)
        SOUND_CACHE = cache.read(Path(file.name), 6, 1e9)
    found = inputs = 0
    before = peak()
    for name in args.readers:
        reader, begin = readers()[name], time.monotonic()
        for number in range(args.first, args.first + args.count):
            rng = np.random.default_rng([args.seed, number])
            change = reader.changes[number % len(reader.changes)]
            with contextlib.suppress(RecursionError, pickle.PicklingError):
                data = change(reader.sound, rng)
                if fault := try_input(reader, data, before):
                    found += 1
                    print(f"{name}, input {number} of seed {args.seed}: {fault}", flush=True)
                inputs += 1
        seconds = time.monotonic() - begin
        print(f"{name}: {args.count} inputs ({seconds:.0f} s)", flush=True)
    more = (peak() - before) / 2**20
    print(f"{inputs} inputs, {found} faults, {more:.0f} MiB at most beyond the start")
    return 1 if found else 0


if __name__ == "__main__":
    entry(main)
