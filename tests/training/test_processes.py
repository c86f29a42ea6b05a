"""Two processes train as one does, and they stop, fail and go on together."""

import copy
import dataclasses
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import ROOT, log, same, words
from torch import nn
from toy_run import MODEL, new_run

from core import checkpoint
from core.cli import InputError, warn
from core.randomness import batches, generator
from p1 import train as p1
from p2.byol import BYOL
from p2.model import make_backbone
from p3 import data as p3_data
from p3 import train as p3
from training import loop, processes
from training.optim import update_average
from training.run import Run

PYTHONPATH = f"{ROOT}{os.pathsep}{ROOT / 'tests'}"  # for this file as a program
CPU = torch.device("cpu")
COUNT, BATCH = 13, 4  # 3 steps an epoch
INPUTS = torch.randn(COUNT, 5, generator=generator(0, "inputs"))
LABELS = INPUTS[:, :3].argmax(1)


@dataclasses.dataclass(frozen=True)
class Recipe:
    epochs: int = 3
    lr: float = 0.2


# --- what the processes do: this file is their program ---


def program():
    what, *arguments = sys.argv[1:]
    print(what)
    warn(what)
    {"measure": measure, "train": train, "start twice": start_twice}[what](*arguments)


def train(folder, does="nothing", *flags, in_a_step=lambda run: None):
    """The loop of p1/train.py on random numbers; in step 5 rank 1 ``does`` something."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3))
    trained, average = processes.wrap(network, CPU), copy.deepcopy(network)
    optimizer = torch.optim.SGD(network.parameters(), lr=Recipe.lr, momentum=0.9)
    run = Run(
        Path(folder), recipe=Recipe(), data={}, model=MODEL, seed=0, device=CPU, watch="accuracy",
        fresh="--fresh" in flags, save_minutes=0,
        state={"network": network, "average": average, "optimizer": optimizer},
    )  # fmt: skip
    for _ in run.epochs(Recipe.epochs):
        for index in run.batches(COUNT, BATCH):
            loss = nn.functional.cross_entropy(trained(INPUTS[index]), LABELS[index])
            if processes.rank() == 1 and run.total_steps == 4 and not processes.restarts():
                if does == "is killed":
                    os.kill(os.getpid(), signal.SIGKILL)
                if does == "gets a signal":
                    os.kill(os.getpid(), signal.SIGTERM)
                if does == "has bad input":
                    raise InputError("this one is bad")
                if does == "diverges":
                    loss = loss * torch.nan
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            update_average(average, network, 0.9)
            in_a_step(run)
            run.step(loss=loss)
        run.begin_evaluation()
        rows, truth = processes.local_share(INPUTS), processes.local_share(LABELS)
        right = processes.total((average(rows).argmax(1) == truth).sum())
        run.end_epoch(network.state_dict(), accuracy=right.item() / COUNT)


def start_twice(folder):
    """Save the weights after six steps, and after three and, started anew, three more."""
    ends = []
    for starts in (1, 2):
        torch.manual_seed(0)
        network = nn.Sequential(
            nn.Linear(5, 60), nn.Tanh(), nn.Linear(60, 60), nn.Tanh(), nn.Linear(60, 3)
        )
        optimizer = torch.optim.SGD(network.parameters(), lr=Recipe.lr, momentum=0.9)
        for _ in range(starts):
            trained = processes.wrap(network, CPU)
            for _ in range(6 // starts):
                index = processes.local_batch(torch.arange(12))
                optimizer.zero_grad()
                nn.functional.cross_entropy(trained(INPUTS[index]), LABELS[index]).backward()
                optimizer.step()
        ends.append(network.state_dict())
    torch.save(ends, Path(folder) / f"{processes.rank()}.pt")


def measure(folder):
    """Save, a file each, all that the tests below look at."""
    run, steps = new_run(Path(folder) / "run"), []
    for index in run.batches(COUNT, BATCH):
        draw = torch.rand(2, generator=generator(*run.keys()))
        steps.append({"index": index, "torch": torch.rand(2), "draw": draw})
        run.step(loss=torch.tensor(float(processes.rank())))
    norm = nn.BatchNorm1d(5)
    norm(INPUTS[steps[0]["index"]])
    processes.copy_buffers(norm)
    measured = {
        "steps": steps,
        "mean": run.mean("loss"),
        "highest": processes.highest(processes.rank(), -processes.rank()),
        "buffers": norm.state_dict(),
        "gradients": {name: gradients(name) for name in LOSSES},
        "accuracy": accuracy_of_p1(),
        "iou": iou_of_p3(),
    }
    torch.save(measured, Path(folder) / f"{processes.rank()}.pt")


# --- measured by two processes, and by this one ---

PIXELS = torch.randint(6, (8, 4, 4), generator=generator(0, "pixels"))
SOME_IGNORED, SHARE_IGNORED = PIXELS.clone(), PIXELS.clone()
SOME_IGNORED[1::2, 1:] = p3_data.UNKNOWN  # most of rank 1's
SHARE_IGNORED[1::2] = p3_data.UNKNOWN  # all of rank 1's
WEIGHTS = torch.tensor([1, 0.5, 2, 1, 3, 1, 0])  # what a pixel of each class counts; unknown: 0


def segment(truth):
    def loss(network, images, index):
        return p3.cross_entropy(network(images[index]), truth[index], WEIGHTS)

    return lambda: nn.Conv2d(3, 7, 1), loss


def classify(network, images, index):
    return nn.functional.cross_entropy(
        network(images[index].flatten(1)), PIXELS[index, 0, 0], label_smoothing=0.1
    )


def make_byol():
    # In evaluation mode its BatchNorms are without batch statistics too.
    return BYOL(nn.Sequential(nn.Flatten(), nn.Linear(48, 6)), 6, hidden=5, projection=4).eval()


def byol_loss(network, images, index):
    return network(images[index], images[index].flip(3))[0]


LOSSES = {
    "classification": (lambda: nn.Linear(48, 7), classify),
    "segmentation": segment(PIXELS),
    "segmentation, some ignored": segment(SOME_IGNORED),
    "segmentation, a share ignored": segment(SHARE_IGNORED),
    "BYOL": (make_byol, byol_loss),
}


def gradients(name):
    """Of a batch of 8, by the parameters' names; None for what is not trained."""
    make, loss = LOSSES[name]
    torch.manual_seed(0)
    network = make()
    images = torch.randn(8, 3, 4, 4, generator=generator(0, "images"))
    trained = processes.wrap(network, CPU)
    loss(trained, images, processes.local_batch(torch.arange(8))).backward()
    return {key: parameter.grad for key, parameter in network.named_parameters()}


def accuracy_of_p1():
    images = torch.randint(256, (250, 3, 32, 32), generator=generator(0, "p1"))  # 3 batches
    labels = images[:, 0, 0, 0] // 100
    recipe = p1.RECIPES["original"]["A"]
    return loop.accuracy(FirstPixel(), images.to(torch.uint8), labels, recipe, CPU, batch_size=100)


def iou_of_p3():
    pairs = torch.randint(6, (9, 4, 8, 8), generator=generator(0, "p3")).to(torch.uint8)
    torch.manual_seed(0)  # 3 batches
    return p3.evaluate(nn.Conv2d(3, 7, 1), pairs, p3.RECIPES["original"]["B"], CPU)


class FirstPixel(nn.Module):
    """Logits that tell whether an image's first pixel is bright."""

    def forward(self, images):
        bright = (images[:, 0, 0, 0] > 0.5).long()
        return nn.functional.one_hot(bright, 3).float()


def torchrun(*command, count=2, **options):
    """Run a program in ``count`` processes, by torchrun."""
    start = words("-m torch.distributed.run --standalone --nproc-per-node") + [str(count)]
    options |= {"capture_output": True, "text": True, "timeout": 300}
    return subprocess.run([sys.executable, *start, *map(str, command)], **options)


def launch(*arguments, restarts=None, count=2):
    """(statuses, stdout, stderr) of processes of this file; of torchrun with ``restarts``."""
    environment = os.environ | {"PYTHONPATH": PYTHONPATH, "OMP_NUM_THREADS": "1"}
    command = [__file__, *map(str, arguments)]
    if restarts is not None:
        done = torchrun(f"--max-restarts={restarts}", *command, env=environment)
        return done.returncode, done.stdout, done.stderr
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(count)}
    several = [
        subprocess.Popen(
            [sys.executable, *command],
            env=environment | {"RANK": str(number), "LOCAL_RANK": str(number)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(count)
    ]
    try:
        said = [process.communicate(timeout=120) for process in several]
    finally:
        for process in several:
            process.kill()
    out, err = map("".join, zip(*said, strict=True))
    return [process.returncode for process in several], out, err


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    folder = tmp_path_factory.mktemp("measured")
    answer = launch("measure", folder)
    assert answer == ([0, 0], "measure\n", "warning: measure\n"), "and one process alone has spoken"
    return [torch.load(folder / f"{number}.pt") for number in range(2)]


@pytest.mark.parametrize("name", list(LOSSES))
def test_the_gradients_of_two_processes_are_those_of_the_whole_batch(measured, name):
    whole = gradients(name)
    assert sum(gradient is not None for gradient in whole.values()) >= 2
    for one in measured:
        assert one["gradients"][name].keys() == whole.keys(), "the parameters keep their names"
        torch.testing.assert_close(one["gradients"][name], whole, rtol=1e-5, atol=1e-7)


def test_three_processes_that_start_again_end_at_the_same_bits(tmp_path):
    assert launch("start twice", tmp_path, count=3)[0] == [0, 0, 0]
    first, *others = [torch.load(tmp_path / f"{number}.pt") for number in range(3)]
    for end in (first[1], *(end for ends in others for end in ends)):
        assert all(torch.equal(first[0][name], end[name]) for name in end)


@pytest.mark.parametrize("world", [1, 2])
def test_a_batch_with_nothing_but_ignored_pixels_has_the_loss_0_and_no_gradient(monkeypatch, world):
    monkeypatch.setattr(processes, "world_size", lambda: world)
    monkeypatch.setattr(processes, "total", lambda counts: counts)
    out, truth = torch.randn(2, 7, 4, 4, requires_grad=True), torch.full((2, 4, 4), p3_data.UNKNOWN)
    loss = p3.cross_entropy(out, truth, WEIGHTS)
    loss.backward()
    assert loss.item() == 0 and not out.grad.any()


def test_the_loss_of_one_process_is_torchs_mean_over_what_counts():
    out, truth = torch.randn(2, 7, 4, 4), torch.arange(32).view(2, 4, 4) % 7
    weighted = nn.functional.cross_entropy(out, truth, WEIGHTS)
    torch.testing.assert_close(p3.cross_entropy(out, truth, WEIGHTS), weighted)
    ones = torch.ones(7)
    theirs = nn.functional.cross_entropy(out, truth)
    torch.testing.assert_close(p3.cross_entropy(out, truth, ones), theirs)
    ones[p3_data.UNKNOWN] = 0
    theirs = nn.functional.cross_entropy(out, truth, ignore_index=p3_data.UNKNOWN)
    torch.testing.assert_close(p3.cross_entropy(out, truth, ones), theirs)


def test_the_shares_are_the_batches_of_one_process_and_the_draws_differ(measured):
    expected = [index for _, index in batches(COUNT, BATCH, seed=0, epoch=0)]
    assert len(expected) == len(measured[0]["steps"]) == 3
    for whole, first, second in zip(expected, *(one["steps"] for one in measured), strict=True):
        assert torch.equal(whole[0::2], first["index"])
        assert torch.equal(whole[1::2], second["index"])
        for draw in ("torch", "draw"):
            assert not torch.equal(first[draw], second[draw])


def test_values_are_averaged_flags_agreed_on_buffers_rank_0s_and_scores_those_of_one(measured):
    norm = nn.BatchNorm1d(5)
    norm(INPUTS[measured[0]["steps"][0]["index"]])
    assert 0 < accuracy_of_p1() < 1
    for one in measured:
        assert one["mean"] == 0.5 and one["highest"] == [1, 0]
        same(one["buffers"], norm.state_dict())
        assert one["accuracy"] == accuracy_of_p1() and one["iou"] == iou_of_p3()


# --- alone ---


def test_one_process_draws_and_is_recorded_as_before_there_were_several(tmp_path):
    seen = []

    def look(run):
        seen.append(run.keys())
        assert torch.equal(torch.rand(3), torch.rand(3, generator=generator(*run.keys(), "torch")))

    train(tmp_path, in_a_step=look)
    assert seen == [(0, epoch, step) for epoch in range(3) for step in range(3)]
    saved = torch.load(tmp_path / "state.pt")
    assert saved["identity"] == {"recipe": {"epochs": 3, "lr": 0.2}, "data": {}, "seed": 0}
    assert "processes" not in json.loads((tmp_path / "run.json").read_text())


def test_a_batch_that_cannot_be_shared_evenly_is_refused(monkeypatch):
    monkeypatch.setattr(processes, "world_size", lambda: 2)
    assert processes.local_batch(torch.arange(4)).tolist() == [0, 2]
    with pytest.raises(InputError, match="2 processes cannot share a batch of 5 evenly"):
        processes.local_batch(torch.arange(5))


def test_a_process_that_gets_too_few_images_for_batchnorm_is_refused(monkeypatch):
    processes.check_batch(count=4, batch_size=2)
    with pytest.raises(InputError, match="a batch has 1 of 4 images, .* needs 2 or more; choose"):
        processes.check_batch(count=4, batch_size=1)
    with pytest.raises(InputError, match="a batch has 1 of 1 images"):
        processes.check_batch(count=1, batch_size=16)
    monkeypatch.setattr(processes, "world_size", lambda: 2)
    processes.check_batch(count=4, batch_size=4)
    with pytest.raises(InputError, match="a batch has 2 of 4 images, .* 2 or more per process"):
        processes.check_batch(count=4, batch_size=2)


def test_a_gpu_that_is_too_small_for_a_training_is_one_line(capsys):
    def too_large():
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")

    with pytest.raises(SystemExit) as stop:
        processes.entry(too_large)
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.count("\n") == 1
    assert "lower --batch-size, or --data-memory" in error


def test_a_launch_has_one_name_over_its_restarts_and_none_without_torchrun(monkeypatch):
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    assert processes.launch() == ""
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    names = []
    for parent, count in ((7, "0"), (7, "1"), (8, "0")):
        monkeypatch.setattr(os, "getppid", lambda parent=parent: parent)
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", count)
        names.append(processes.launch())
    assert names[0] == names[1] != names[2]


def test_each_process_has_a_gpu_of_its_own_and_none_falls_back_to_the_cpu(monkeypatch):
    chosen = []
    monkeypatch.setattr(processes, "world_size", lambda: 3)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda index: None)
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(InputError, match="device 'cuda' is not available"):
        processes.choose("auto")  # there is none here: the same as a broken one
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr("core.devices.choose", torch.device)
    assert processes.choose("cuda") == torch.device("cuda") and chosen == [1]
    assert processes.choose("cpu") == CPU
    with pytest.raises(InputError, match="cuda:0 is one GPU for 3 processes"):
        processes.choose("cuda:0")
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(InputError, match="more processes than this machine's 2 GPUs"):
        processes.choose("cuda")
    assert chosen == [1]


def test_on_gpus_batch_statistics_are_the_whole_batchs(monkeypatch):
    monkeypatch.setattr(processes, "world_size", lambda: 2)
    monkeypatch.setattr(nn.parallel, "DistributedDataParallel", lambda network: network)
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    before = {name: id(parameter) for name, parameter in network.named_parameters()}
    wrapped = processes.wrap(network, torch.device("cuda"))
    assert isinstance(network[1], nn.SyncBatchNorm)
    assert wrapped is network, "what is evaluated and saved, too"
    after = {name: id(parameter) for name, parameter in network.named_parameters()}
    assert after == before, "an optimiser knows them"


# --- stopping, failing, going on ---


def state(folder):
    return torch.load(folder / "state.pt")


def assert_close(ours, theirs):
    """Two runs have come to the same, but for the rounding of sums in another order."""
    for name in ("network", "average"):
        torch.testing.assert_close(ours["state"][name], theirs["state"][name], rtol=1e-4, atol=1e-6)
    for one, other in zip(ours["history"], theirs["history"], strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-5)
        assert one["accuracy"] == other["accuracy"]
    assert ours["total_steps"] == theirs["total_steps"] == 9


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    train(folder)
    return state(folder)


def test_a_run_goes_on_from_one_process_to_two_and_back_after_a_signal_and_a_kill(tmp_path, alone):
    folder = tmp_path / "run"

    def stop(run):
        if run.total_steps == stop_at:
            run.stop_signal = signal.SIGINT

    stop_at = 1
    with pytest.raises(SystemExit) as stopped:
        train(folder, in_a_step=stop)
    assert stopped.value.code == 75 and state(folder)["total_steps"] == 2

    start = time.monotonic()
    statuses, out, err = launch("train", folder, "is killed")
    assert statuses == [75, -signal.SIGKILL] and time.monotonic() - start < 60, err
    began, resumed, epoch_1 = out.splitlines()
    assert resumed == f"resumed {folder} at epoch 1, step 3"
    assert epoch_1.startswith("epoch 1  steps 3  loss ")
    lost = (
        "warning: another process of the training was lost; "
        "run the same command without --fresh to continue from the last save"
    )
    assert err.splitlines() == ["warning: train", lost]
    assert state(folder)["total_steps"] == 4

    statuses, out, err = launch("train", folder, "gets a signal")
    assert statuses == [0, 0], f"torchrun would start anew what ends otherwise: {err}"
    began, resumed, stopped = out.splitlines()
    assert resumed == f"resumed {folder} at epoch 2, step 2" and err == "warning: train\n"
    assert stopped == "stopped by SIGTERM after step 2 of epoch 2; run the same command to continue"
    assert state(folder)["total_steps"] == 5

    train(folder)
    about = json.loads((folder / "run.json").read_text())
    assert "processes" not in about, "it began alone"
    starts = [(one.get("processes"), one["epoch"], one["step"]) for one in about["continued"]]
    assert {one[0] for one in starts[:-1]} == {2}
    assert starts[0] == (2, 1, 3) and starts[-1] == (None, 2, 3)
    assert_close(state(folder), alone)
    assert log(folder) == state(folder)["history"]
    weights = checkpoint.load(folder / "last.pt", "p1").weights
    assert weights.keys() == state(folder)["state"]["network"].keys()


@pytest.mark.parametrize(
    ("does", "says"),
    [
        ("diverges", "loss is nan at step 2 of epoch 2; lower the learning rate"),
        ("has bad input", "this one is bad"),
    ],
)
@pytest.mark.slow  # starts processes that each import torch
def test_what_one_process_fails_at_ends_both_with_one_line(tmp_path, does, says):
    statuses, out, err = launch("train", tmp_path, does)
    assert statuses[1] == 2 and statuses[0] in (2, 75)  # 75: it only saw that the other is lost
    ours = [line for line in err.splitlines() if line.startswith(("warning: ", "test_"))]
    assert ours == ["warning: train", f"test_processes.py: {says}"] and "Traceback" not in err
    assert state(tmp_path)["total_steps"] == 4


@pytest.mark.slow  # starts processes that each import torch
def test_torchrun_goes_on_from_the_last_save_even_with_fresh(tmp_path, alone):
    folder = tmp_path / "run"
    train(folder)  # the older run, which is to be kept aside once
    status, out, err = launch("train", folder, "is killed", "--fresh", restarts=1)
    assert status == 0, err
    assert out.count("moved the older run to") == out.count("resumed") == 1
    assert "epoch 2, step 2" in out
    assert_close(state(folder), alone)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "run.old-1"]


@pytest.mark.slow  # starts processes that each import torch
@pytest.mark.parametrize("does", ["diverges", "has bad input"])
def test_under_torchrun_too_one_line_is_said(tmp_path, does):
    status, out, err = launch("train", tmp_path, does, restarts=0)
    assert status == 1 and err.count("test_processes.py: ") == 1 and "was lost" not in err


@pytest.fixture(scope="module")
def drawn(labelled, tmp_path_factory):
    folder = shutil.copytree(labelled, tmp_path_factory.mktemp("drawn") / "data")
    backbone = make_backbone().state_dict()  # what setting D starts from
    torch.save(backbone, folder / "p2_data" / "pretrain_model_SL.pt")
    return folder


PROGRAMS = {
    "p1.train": ("p1_data", "hour", 10),
    "p1.pretrain": ("p2_data/mini", "hour", 4),
    "p3.train": ("p3_data", "original", 4),
    "p2.pretrain": ("p2_data", "hour", 4),
    "p2.supervise": ("p2_data", "hour", 4),
    "p2.train": ("p2_data", "hour", 32),
    "p2.train --setting D": ("p2_data", "original", 32),
}


@pytest.mark.slow  # starts processes that each import torch
@pytest.mark.parametrize("name", list(PROGRAMS))
def test_a_training_program_by_torchrun(drawn, tmp_path, name):
    folder, recipe, batch = PROGRAMS[name]
    flags = f"--recipe {recipe} --batch-size {batch} --epochs 1 --device cpu"
    flags += " --setting A" if name == "p2.train" else ""
    program = ("-m", "--", *words(name), *words(flags), "--data", drawn / folder)
    program += ("--run", tmp_path / "run")
    options = {"cwd": ROOT, "env": os.environ | {"OMP_NUM_THREADS": "1"}}

    stopped = torchrun(*program, "--max-minutes", "0", **options)
    assert stopped.returncode == 0, stopped.stderr
    assert stopped.stdout.count("stopped by --max-minutes after step 1") == 1
    finished = torchrun(*program, **options)
    assert finished.returncode == 0 and "\nepoch 1  " in f"\n{finished.stdout}", finished.stderr
    assert finished.stdout.count("epoch 1  ") == 1 and "Traceback" not in finished.stderr
    assert len(log(tmp_path / "run")) == 1
    names = checkpoint.load(tmp_path / "run" / "last.pt", name[:2]).weights
    assert not any("module." in key for key in names)


if __name__ == "__main__":
    processes.entry(program)
