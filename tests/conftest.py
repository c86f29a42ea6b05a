"""Random checkpoints, small folders of images, and programs called in this process."""

import ast
import csv
import functools
import importlib
import inspect
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import torch
from PIL import Image

from core import augment, checkpoint
from core.cli import entry
from core.randomness import generator
from demo.draw import Parameters, draw_all
from training import optim

# The same examples every time, and no limit to the time of one.
hypothesis.settings.register_profile("ours", deadline=None, derandomize=True)
hypothesis.settings.load_profile("ours")

ROOT = Path(__file__).resolve().parents[1]
HALF = (0.5, 0.5, 0.5)
TINY = Parameters(
    p1_train=1, p1_val=1, p2_unlabelled=9, p2_train=1, p2_val=1, p3_train=5, p3_val=2, size=64
)


@pytest.fixture(autouse=True)
def seeded():
    """Tests draw the same numbers every time."""
    torch.manual_seed(0)


@pytest.fixture
def call(monkeypatch, capfd):
    """Run a program's ``main`` as the shell would: (exit status, stdout, stderr)."""

    def run(main, *arguments):
        monkeypatch.setattr(sys, "argv", ["program", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            entry(main)
        out, err = capfd.readouterr()
        return stop.value.code or 0, out, err

    return run


@pytest.fixture
def handlers():
    """The signals' handlers, which a run takes for its own, as they were."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def quick(monkeypatch, handlers):
    """Runs without waiting for the disk nor for git."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    monkeypatch.setattr("training.provenance.commit", lambda: "0123")


@pytest.fixture
def clock(monkeypatch):
    """What ``time.monotonic`` returns, as a list of one number that a test may change."""
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    return now


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """A drawn data set of all three problems, in the course's layout; it is not to be changed."""
    folder = tmp_path_factory.mktemp("drawn") / "data"
    draw_all(folder, TINY)
    return folder


@pytest.fixture(scope="session")
def labelled(tiny, tmp_path_factory):
    """The drawn data set with labels for mini; it is not to be changed."""
    folder = shutil.copytree(tiny, tmp_path_factory.mktemp("labelled") / "data")
    mini = folder / "p2_data" / "mini"
    names = sorted(path.name for path in (mini / "train").iterdir())
    rows = "".join(f"{k},{name},{k % 2}\n" for k, name in enumerate(names))
    (mini / "labels.csv").write_text(f"id,filename,label\n{rows}")
    return folder


def varied(network, size):
    """Give a random network statistics and even logits, else one class wins everywhere."""
    momenta = {
        module: module.momentum
        for module in network.modules()
        if isinstance(module, torch.nn.BatchNorm2d)
    }
    images = torch.rand(8, 3, 5, 5, generator=torch.Generator().manual_seed(0)) * 2 - 1
    images = torch.nn.functional.interpolate(images, size, mode="bicubic")
    *_, last = (
        module
        for module in network.modules()
        if isinstance(module, torch.nn.Linear | torch.nn.Conv2d)
    )
    with torch.no_grad():
        for module in momenta:
            module.momentum = 1.0
        network.train()(images)
        last.bias -= network.eval()(images).transpose(0, 1).flatten(1).mean(1)
    for module, momentum in momenta.items():
        module.momentum = momentum
    return network


def thin_fcn32s(classes=7):
    """FCN32s with a 16th of its channels: it looks at the same pixels in a 200th of the time."""
    from p3.model import FCN32s, Upscale, bilinear

    with torch.device("meta"):
        network = FCN32s(classes)
    for name, wide in list(network.named_modules()):
        if isinstance(wide, torch.nn.Conv2d):
            channels = [
                count if count in (3, classes) else count // 16
                for count in (wide.in_channels, wide.out_channels)
            ]
            narrow = torch.nn.Conv2d(*channels, wide.kernel_size, padding=wide.padding)
            torch.nn.init.kaiming_normal_(narrow.weight, nonlinearity="relu")
            network.set_submodule(name, narrow)
    network.upscore = Upscale(classes, classes, 64, stride=32, bias=False)
    with torch.no_grad():
        network.upscore.weight.copy_(bilinear(classes, 64))
    return network


def one_layer():
    """In ResNet50's place: images (N, 3, H, W) -> (N, 8)."""
    layers = torch.nn.Conv2d(3, 8, 8, stride=8), torch.nn.BatchNorm2d(8), torch.nn.ReLU()
    return torch.nn.Sequential(*layers, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())


def random_checkpoint(path, problem, architecture, network, classes, size):
    checkpoint.save(
        path,
        checkpoint.Checkpoint(
            problem,
            architecture,
            classes,
            size,
            HALF,
            HALF,
            False,
            {"name": "random"},
            {},
            {"epoch": 0},
            network.state_dict(),
        ),
    )
    return path


@pytest.fixture(scope="session")
def p1_checkpoint(tmp_path_factory):
    from p1 import data, model

    torch.manual_seed(0)
    network = varied(model.mobilenet_v2(50), 32)
    path = tmp_path_factory.mktemp("p1") / "random.pt"
    return random_checkpoint(path, "p1", model.ARCHITECTURE, network, data.CLASSES, 32)


@pytest.fixture(scope="session")
def p2_checkpoint(tmp_path_factory):
    from p2 import model

    torch.manual_seed(3)  # whose answers to the images below differ clearly
    path = tmp_path_factory.mktemp("p2") / "random.pt"
    return random_checkpoint(
        path,
        "p2",
        model.ARCHITECTURE,
        varied(model.Classifier(3), 128),
        ("Couch", "Lamp", "Pen"),
        128,
    )


@pytest.fixture(scope="session")
def p3_checkpoint(tmp_path_factory):
    from p3 import data, model

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("p3") / "random.pt"
    return random_checkpoint(
        path, "p3", model.OF_MODEL["B"], varied(model.DeepLabv3(), 64), data.CLASSES, None
    )


def draw(path, width, height, seed):
    """Save a smooth random picture."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).save(path)
    return path


@pytest.fixture
def p1_images(tmp_path):
    folder = tmp_path / "p1 images"
    for i in range(9):
        draw(folder / f"{i:04d}.png", 32, 32, i)
    return folder


@pytest.fixture
def p2_images(tmp_path):
    """(csv, folder): five images of any size; the csv names four, in an order of its own."""
    folder = tmp_path / "p2 images"
    for i in range(5):
        draw(folder / f"{i:04d}.jpg", 90 + 50 * i, 300 - 40 * i, i)
    table = tmp_path / "test.csv"
    table.write_text(
        "id,filename,label\n7,0003.jpg,None\n1,0000.jpg,None\n0,0004.jpg,None\n12,0001.jpg,None\n"
    )
    return table, folder


@pytest.fixture
def p3_images(tmp_path):
    folder = tmp_path / "p3 images"
    for i, (width, height) in enumerate([(64, 64), (64, 64), (64, 64), (90, 40), (33, 100)]):
        draw(folder / f"{i:04d}_sat.jpg", width, height, i)
    return folder


@pytest.fixture
def predict(call, request):
    """Run a problem's inference on its random images with its random checkpoint."""

    def run(problem, out, *options, images=None):
        images = images or request.getfixturevalue(f"{problem}_images")
        images = images if isinstance(images, tuple) else (images,)
        main = importlib.import_module(f"{problem}.inference").main
        own = request.getfixturevalue(f"{problem}_checkpoint")
        return call(main, *images, out, "--checkpoint", own, *options)

    return run


def metadata(recipe=None, **fields):
    """What a run.json holds, with ``fields`` in the place of the usual ones."""
    usual = {"data": {}, "seed": 0, "command": "python3 -m train", "commit": "abc"}
    machine = {"device": "a processor, 1 threads", "torch": "2.9"}
    return {"recipe": {"name": "x", "epochs": 1} | (recipe or {}), **usual, **machine, **fields}


def write_run(folder, lines, recipe=None, **fields):
    """A run's folder: run.json as ``metadata`` gives it, and a log with a line for each epoch."""
    folder.mkdir(parents=True, exist_ok=True)
    about = metadata({"epochs": len(lines)} | (recipe or {}), **fields)
    (folder / "run.json").write_text(json.dumps(about))
    write_log(folder, lines)
    return folder


def write_log(folder, lines):
    numbered = [{"epoch": k, "steps": 10 * k} | line for k, line in enumerate(lines, 1)]
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in numbered))


def same(ours, theirs):
    """Both states hold the same values, tensors bit for bit."""
    assert type(ours) is type(theirs)
    if isinstance(ours, dict):
        assert ours.keys() == theirs.keys()
        for key in ours:
            same(ours[key], theirs[key])
    elif isinstance(ours, (list, tuple)):
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs, strict=True):
            same(one, other)
    elif isinstance(ours, torch.Tensor):
        assert torch.equal(ours, theirs)
    else:
        assert ours == theirs


def words(text):
    """The arguments of a command line that has no spaces in them."""
    return text.split()


def log(run):
    """The lines of a run's log."""
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


@pytest.fixture
def draws(monkeypatch):
    """The random augmentations called, in turn: (name, arguments but images and generator)."""
    calls = []

    def recorded(name, function):
        names = list(inspect.signature(function).parameters)

        @functools.wraps(function)
        def call(*args, **kwargs):
            given = inspect.signature(function).bind(*args, **kwargs)
            given.apply_defaults()
            calls.append((name, {k: given.arguments[k] for k in names[1:] if k != "rng"}))
            return function(*args, **kwargs)

        return call

    for name, function in inspect.getmembers(augment, inspect.isfunction):
        if name.startswith("random_") and name != "random_box":
            monkeypatch.setattr(augment, name, recorded(name, function))
    return calls


def named(calls):
    return [name for name, _ in calls]


def pixels(size, channels=3):
    return torch.randint(
        7, (4, channels, size, size), dtype=torch.uint8, generator=generator(0, "pixels")
    )


def cosine_lrs(recipe, epochs, steps):
    """The learning rate of each epoch's last step."""
    last = [steps * (epoch + 1) - 1 for epoch in range(epochs)]
    return [
        recipe.lr * optim.warmup_cosine(step, recipe.warmup_epochs * steps, epochs * steps)
        for step in last
    ]


def snapshot(folder):
    """The bytes of every file below a folder."""
    return {
        path.relative_to(folder): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def script(name, *arguments, cwd):
    """Run one of the graders' scripts by the Python that runs the tests."""
    command = ["bash", os.path.relpath(ROOT / name, cwd), *map(str, arguments)]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, env={**os.environ, "PATH": path}
    )


def refused(result, *said):
    """The program said one line that holds ``said``, and ended with status 2."""
    status, out, err = result
    assert status == 2 and out == "", err
    assert err.count("\n") == 1 and "Traceback" not in err, err
    for words in said:
        assert words in err


def imported(path):
    """The names of the packages that a program imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module.split(".")[0]


def rows(path):
    """The rows of a csv file."""
    return list(csv.reader(path.open(newline="")))
