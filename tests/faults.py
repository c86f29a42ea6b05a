"""Make the disk fail at every step, or kill the program there: ``python3 -m tests.faults``.

Each task below is started again and again. In its n-th start the n-th thing that it asks the disk
for (open, write, sync, rename, remove, ...) fails as a full or broken disk makes it fail, or the
process is killed there; n goes up until the task ends before it gets so far. After each:

- what was there before is there still, or what is new is there in whole;
- an error was one line and exit status 2, or was got over;
- no hidden file is left, but after a kill;
- the next start, on a sound disk, ends as an undisturbed one ends.

The networks of the three inference programs are replaced by a rule on the image's mean: what is
tried here is what happens to files.
"""

from __future__ import annotations

import argparse
import builtins
import contextlib
import dataclasses
import errno
import hashlib
import http.server
import io
import itertools
import json
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import requests  # noqa: F401  # a download imports it: here once, not in each process
import torch
from torch import nn

from checkpoints import download, ship, transfer
from core import checkpoint, images
from core.checkpoint import Checkpoint
from core.cli import Parser, entry
from core.files import list_files
from core.views import Views
from p1 import data as p1_data
from p1 import inference as p1
from p2 import inference as p2
from p3 import inference as p3
from report import __main__ as report
from report import problem1, problem3
from training import cache, provenance
from training.run import Run

KINDS = {
    "full": errno.ENOSPC,
    "forbidden": errno.EACCES,
    "broken": errno.EIO,
    "interrupted": errno.EINTR,
    "killed": None,
}
NAMES = ("program: ", "download.py: ")  # how the line begins that says why a program failed
# What is counted; open and io.open are handled apart, for the writes to what they open.
CALLS = (
    "open", "fsync", "replace", "rename", "unlink", "rmdir", "mkdir", "fchmod", "truncate",
    "posix_fallocate"
)  # fmt: skip


# --- a disk that fails ---------------------------------------------------------------------------


class Disk:
    """Counts what this process asks of the disk under ``folder``; fails at the ``at``-th time."""

    def __init__(self, folder: Path, kind: str, at: int, report: int) -> None:
        self.folder, self.kind, self.at, self.report = str(folder), kind, at, report
        self.count, self.lock = 0, threading.Lock()
        for name in CALLS:
            setattr(os, name, self.counted(getattr(os, name), name))
        self.open = builtins.open
        builtins.open = io.open = self.open_file

    def counted(self, call: Callable, name: str) -> Callable:
        def run(*arguments, **named):
            if isinstance(arguments[0], int) or self.is_ours(arguments[0]):
                self.ask(name, arguments[0])
            return call(*arguments, **named)

        return run

    def is_ours(self, path: object) -> bool:
        return isinstance(path, str | os.PathLike) and os.path.abspath(path).startswith(self.folder)

    def ask(self, name: str, subject: object) -> None:
        with self.lock:
            self.count += 1
            due = self.count == self.at
        if due:
            os.write(self.report, f"{name} {subject}".encode())
            if self.kind == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            number = KINDS[self.kind]
            named = () if isinstance(subject, int) or name == "write" else (str(subject),)
            raise OSError(number, os.strerror(number), *named)

    def open_file(self, file, mode="r", *arguments, **named):
        if not self.is_ours(file):
            return self.open(file, mode, *arguments, **named)
        self.ask("open", file)
        if mode not in ("wb", "xb"):
            return self.open(file, mode, *arguments, **named)
        return io.BufferedWriter(_File(self, str(file), mode[0]))


class _File(io.FileIO):
    def __init__(self, disk: Disk, *arguments) -> None:
        self.disk = disk
        super().__init__(*arguments)

    def write(self, data) -> int | None:
        self.disk.ask("write", self.name)
        return super().write(data)


# --- what is tried -------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Task:
    """``prepare`` fills an empty folder; ``work`` does the task there; ``outcome`` says what came
    of it.

    ``outcome`` raises if an output is torn; None stands for an output that is not there. ``failed``
    is the status with which the task ends, in one line, when it could not be done.
    """

    prepare: Callable[[Path], None]
    work: Callable[[Path], int | None]
    outcome: Callable[[Path], object]
    failed: int = 2


def files(*names: str) -> Callable[[Path], object]:
    def read(folder: Path) -> object:
        paths = [folder / name for name in names]
        return [path.read_bytes() if path.exists() else None for path in paths]

    return read


def weights(value: float) -> Checkpoint:
    made = {"command": "python3 -m p1.train", "commit": "0123", "seed": 0, "epoch": 1}
    return Checkpoint(
        "p1", "tiny", p1_data.CLASSES, None, (0.5,) * 3, (1.0,) * 3, False, {"name": "tiny"},
        {"accuracy": 0.5}, made, {"weight": torch.full((99, 99), value)},
    )  # fmt: skip


def save_checkpoint(folder: Path) -> None:
    checkpoint.save(folder / "model.pt", weights(2.0))


def write_images(folder: Path, suffix: str = ".png", count: int = 3, side: int = 8) -> None:
    folder.mkdir(parents=True)
    for number in range(count):
        pixels = np.random.default_rng(number).integers(0, 256, (side, side, 3), dtype=np.uint8)
        images.Image.fromarray(pixels).save(folder / f"{number}{suffix}")


def load_cached(folder: Path) -> None:
    paths = list_files(folder / "data" / "train", (".png",))
    data = cache.load(paths, images.read_rgb, "test", memory=1e9)
    (folder / "digest").write_text(provenance.digest(data))


@dataclasses.dataclass(frozen=True)
class Recipe:
    name: str = "tiny"


def train(folder: Path, epochs: int = 3) -> None:
    """Three epochs of two steps on the images of a cache; the first was done before."""
    paths = list_files(folder / "data" / "train", (".png",))
    data = cache.load(paths, images.read_rgb, "test", memory=1e9)
    torch.manual_seed(0)
    network = nn.Linear(3, 3)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    model = {name: getattr(weights(0.0), name) for name in ("problem", "architecture", "classes")}
    model |= {"input_size": None, "mean": (0.5,) * 3, "std": (1.0,) * 3, "flip_test": False}
    run = Run(
        folder / "run", recipe=Recipe(), data={"train": provenance.digest(data)}, seed=0,
        model=model, state={"network": network, "optimizer": optimizer}, device=torch.device("cpu"),
        watch="accuracy", save_minutes=0,
    )  # fmt: skip
    for epoch in run.epochs(epochs):
        for index in run.batches(len(data), 2):
            loss = network(data[index].float().mean((2, 3)) / 255).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            run.step(loss=loss)
        run.end_epoch(network.state_dict(), accuracy=[0.4, 0.6, 0.5][epoch])


def start_training(folder: Path) -> None:
    write_images(folder / "data" / "train", count=4)
    train(folder, epochs=1)


def trained(folder: Path) -> object:
    """What a run has left, but for times; raises if a file is torn."""
    found = {}
    for path in sorted((folder / "run").rglob("[!.]*")):
        if path.suffix == ".pt":
            content = checkpoint.read(path)
            found[path.name] = repr([content.get(key) for key in ("epoch", "weights", "state")])
        elif path.suffix == ".jsonl":
            lines = [json.loads(line) for line in path.read_text().splitlines()]
            found[path.name] = [{**line, "seconds": 0} for line in lines]
        elif path.suffix == ".json":
            json.loads(path.read_text())
    return found


def ready_to_ship(folder: Path) -> None:
    (folder / "checkpoints").mkdir()
    text = json.dumps({name: [] for name in ("checkpoints", "pretrained", "data")})
    (folder / "checkpoints" / "manifest.json").write_text(text)
    checkpoint.save(folder / "last.pt", weights(1.0))


def shipped(folder: Path) -> object:
    manifest = json.loads((folder / "checkpoints" / "manifest.json").read_text())
    return manifest, *files("checkpoints/p1_a.pt", "checkpoints/README.md")(folder)


class _Server(http.server.BaseHTTPRequestHandler):
    """Sends FILE, whatever is asked for."""

    def do_GET(self) -> None:  # the library's name for it
        self.send_response(200)
        self.send_header("Content-Length", str(len(FILE)))
        self.end_headers()
        with contextlib.suppress(OSError):  # the program was killed
            self.wfile.write(FILE)

    def log_message(self, *_) -> None:
        pass


FILE = bytes(range(256)) * 1000
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Server)


def ready_to_download(folder: Path) -> None:
    """A manifest, and in the file's place a broken one."""
    listed = {"name": "model.bin", "bytes": len(FILE), "sha256": hashlib.sha256(FILE).hexdigest()}
    listed["url"] = f"http://127.0.0.1:{server.server_port}/model.bin"
    (folder / "manifest.json").write_text(json.dumps({"pretrained": [listed]}))
    (folder / "new").mkdir()
    (folder / "new" / "model.bin").write_bytes(b"an old file")


def ready_to_report(folder: Path) -> None:
    """A run of the committed results, in short, and an old page."""
    run = Path(__file__).resolve().parents[1] / "results" / "p1_A_hour"
    (folder / "runs" / run.name).mkdir(parents=True)
    for name in ("run.json", "log.jsonl"):
        shutil.copy(run / name, folder / "runs" / run.name)
    (folder / "out").mkdir()
    for name in ("report.html", "report.md"):
        (folder / "out" / name).write_text("an old page")


def pages(folder: Path) -> object:
    """The report's pages; raises if its measures, of which there are more and more, are torn."""
    if (folder / "out" / "measures.json").exists():
        json.loads((folder / "out" / "measures.json").read_text())
    return files("out/report.html", "out/report.md")(folder)


def called(main: Callable[[], int | None], *arguments: str) -> Callable[[Path], int | None]:
    """A program's ``main`` with its arguments, of which those with a slash lie in the folder."""

    def run(folder: Path) -> int | None:
        words = [str(folder / word[2:]) if word.startswith("./") else word for word in arguments]
        sys.argv = ["program", *words]
        return main()

    return run


def by_mean(classes: int, shape: Callable) -> Callable:
    """In the place of a program's ``predictor``: (network, ...), a rule on the mean as network."""

    def predict(batch):
        label = batch.float().mean((1, 2, 3)).long() % classes
        return shape(label, batch).numpy()

    return predict


def use_no_networks() -> None:
    def logits(label, batch):
        return nn.functional.one_hot(label, 50).float()

    def mask(label, batch):
        return (label % 7)[:, None, None, None].expand(-1, 1, *batch.shape[2:]).to(torch.uint8)

    for section in (problem1, problem3):  # their drawings, which touch no file
        section.networks = lambda *_: []
    ship.models.load = lambda path: types.SimpleNamespace(network=nn.Linear(1, 1))
    ship.multiply_adds = lambda *_: 1
    views = Views(False)
    p1.predictor = lambda path, *_: (
        by_mean(50, logits),
        checkpoint.load(path, "p1").classes,
        views,
    )
    p2.predictor = lambda *_: (by_mean(50, logits), p1_data.CLASSES, views)
    p3.predictor = lambda *_: (by_mean(7, mask), views)


def a_table(folder: Path) -> None:
    write_images(folder / "images", ".jpg")
    (folder / "test.csv").write_text("id,filename,label\n0,2.jpg,None\n1,0.jpg,None\n")
    (folder / "out.csv").write_text("an old output\n")


TASKS = {
    "checkpoint": Task(
        lambda folder: checkpoint.save(folder / "model.pt", weights(1.0)),
        save_checkpoint,
        lambda folder: checkpoint.load(folder / "model.pt", "p1").weights["weight"].max().item(),
    ),
    "cache": Task(
        lambda folder: write_images(folder / "data" / "train"), load_cached, files("digest")
    ),
    "training": Task(start_training, train, trained),
    "ship": Task(
        ready_to_ship,
        called(ship.main, "./last.pt", "p1_a.pt", "--folder", "./checkpoints", "--data", "./none"),
        shipped
    ),
    "download": Task(
        ready_to_download,
        called(
            download.main, "pretrained", "--manifest", "./manifest.json", "--to", "./new"
        ),
        files("new/model.bin"),
        failed=1,
    ),
    "report": Task(
        ready_to_report,
        called(
            report.main, "./runs", "--out", "./out", "--data", "./no_data", "--device", "cpu"
        ),
        pages,
    ),
    "p1": Task(
        lambda folder: (
            write_images(folder / "images", side=32),
            checkpoint.save(folder / "model.pt", weights(1.0)),
            (folder / "out.csv").write_text("an old output\n"),
        )[0],
        called(p1.main, "./images", "./out.csv", "--checkpoint", "./model.pt", "--device", "cpu"),
        files("out.csv"),
    ),
    "p2": Task(
        a_table,
        called(p2.main, "./test.csv", "./images", "./out.csv", "--device", "cpu"),
        files("out.csv"),
    ),
    "p3": Task(
        lambda folder: write_images(folder / "images", "_sat.jpg", side=40),
        called(p3.main, "./images", "./new/masks", "--device", "cpu"),
        files(*(f"new/masks/{number}_mask.png" for number in range(3))),
    ),
}  # fmt: skip


# --- trying it -----------------------------------------------------------------------------------


class Failed(Exception):
    """A promise was broken; the message says how."""


def start(task: Task, folder: Path, kind: str = "", at: int = 0) -> tuple[int, str, str]:
    """Do ``task`` in a process of its own: exit status, what it printed, and what failed in it ("":
    nothing).
    """
    reader, writer = os.pipe()
    log = folder.with_name("log")
    process = os.fork()
    if not process:
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1), os.dup2(output, 2)
        sys.argv, status = ["program"], 1
        try:
            if at:
                Disk(folder, kind, at, writer)
            entry(lambda: task.work(folder))
        except SystemExit as stop:
            status = stop.code or 0
        except BaseException:
            sys.excepthook(*sys.exc_info())
        threading._shutdown()  # waits for the threads, as Python does at its end
        os._exit(status)
    os.close(writer)
    failed = os.read(reader, 1000).decode()
    os.close(reader)
    deadline = time.monotonic() + 60
    while not (ended := os.waitpid(process, os.WNOHANG))[0]:
        if time.monotonic() > deadline:
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
            raise Failed("it hangs")
        time.sleep(0.002)
    return os.waitstatus_to_exitcode(ended[1]), log.read_text(errors="replace"), failed


def hold(task: Task, kind: str, at: int, prepared: Path, old: object, new: object) -> bool:
    """Try one fault. Whether there was one; raises Failed if a promise was broken."""
    with scratch() as folder:
        shutil.copytree(prepared, folder, dirs_exist_ok=True)
        status, printed, failed = start(task, folder, kind, at)
        if not failed:
            return False
        if "Traceback" in printed:
            raise Failed(f"{failed}: {printed}")
        if status not in ((-signal.SIGKILL,) if kind == "killed" else (0, 2, 3, task.failed)):
            raise Failed(f"{failed}: status {status}: {printed}")
        said = [line for line in printed.splitlines() if line.startswith(NAMES)]
        if status in (2, task.failed) and len(said) != 1:
            raise Failed(f"{failed}: not one line: {printed}")
        try:
            result = task.outcome(folder)
        except Exception as error:
            raise Failed(f"{failed}: an output is torn: {error}") from error
        if isinstance(result, list) and status != 3:  # files: each the old one or the new one
            for name, (before, one, after) in enumerate(zip(old, result, new, strict=True)):
                if one not in (before, after):
                    raise Failed(f"{failed}: output {name} is neither the old one nor the new one")
        hidden = [str(path) for path in folder.rglob(".*.part")]
        if hidden and kind != "killed" and not failed.startswith("unlink"):
            raise Failed(f"{failed}: left {hidden}")
        status, printed, _ = start(task, folder)
        if status != 0 or task.outcome(folder) != new:
            raise Failed(f"{failed}: the next start ends otherwise, with {status}: {printed}")
    return True


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="faults.") as name:
        (Path(name) / "folder").mkdir()
        yield Path(name) / "folder"


def try_task(name: str, kinds: list[str], every: int) -> tuple[int, int]:
    """(faults tried, promises broken), at every ``every``-th step of the task."""
    task, tried, broken = TASKS[name], 0, 0
    with scratch() as prepared, scratch() as undisturbed:
        process = os.fork()
        if not process:
            with contextlib.redirect_stdout(io.StringIO()):
                task.prepare(prepared)
            os._exit(0)
        os.waitpid(process, 0)
        old = task.outcome(prepared)
        shutil.copytree(prepared, undisturbed, dirs_exist_ok=True)
        status, printed, _ = start(task, undisturbed)
        new = task.outcome(undisturbed)
        if status or new == old:
            raise SystemExit(f"{name} does not even work undisturbed ({status}): {printed}")
        for kind in kinds:
            for at in itertools.count(1, every):
                try:
                    if not hold(task, kind, at, prepared, old, new):
                        break
                except Failed as error:
                    print(f"{name}, {kind} at step {at}: {error}", flush=True)
                    broken += 1
                tried += 1
    return tried, broken


def main() -> int:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--every", type=int, default=1, help="of so many steps one fails (all)")
    args = parser.parse_args()
    torch.set_num_threads(1)  # threads that run already would not come along into the processes
    torch.optim.SGD([torch.zeros(1, requires_grad=True)]).step()  # imports a lot, but once
    provenance.commit = lambda: "0123"
    transfer.BACKOFF = 0
    threading.Thread(target=server.serve_forever, daemon=True).start()
    use_no_networks()
    tried = broken = 0
    for name in args.tasks:
        begin = time.monotonic()
        counts = try_task(name, args.kinds, args.every)
        tried, broken = tried + counts[0], broken + counts[1]
        seconds = time.monotonic() - begin
        print(
            f"{name}: {counts[0]} faults, {counts[1]} promises broken ({seconds:.0f} s)", flush=True
        )
    print(f"{tried} faults in {len(args.tasks)} tasks, {broken} promises broken")
    return 1 if broken else 0


if __name__ == "__main__":
    entry(main)
