"""Training by several processes, one a GPU or one a part of the CPU: ``torchrun ... -m p1.train``.

Each process holds the whole data set and the whole network and works on its share of every batch;
PyTorch's DistributedDataParallel averages their gradients. Rank 0 alone prints and writes. Without
torchrun, what is here changes nothing. The flag ``--run`` needs ``torchrun --nproc-per-node 2 -m --
p1.train``, as torchrun would take it for a short form of its own ``--run-path``.

torchrun starts all processes again (``--max-restarts``) when one of them ends with another status
than 0. So they end with
    0     done; or stopped and saved, which is 75 without torchrun, as it is not to be started again
    2     bad input, in one line of one of them
    75    another process was lost; the next start goes on from the last save
torchrun's own status is 0 if theirs are, else 1. A signal to torchrun goes on to all of them, which
have 30 seconds to save; torchrun then ends with 1.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, distributed, nn

from core import cli, devices
from core.cli import BAD_INPUT, STOPPED, InputError


def rank() -> int:
    """This process's number, from 0."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def world_size() -> int:
    """The number of processes."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def restarts() -> int:
    """How often torchrun has started the processes again, after one of them had failed."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0))


def launch() -> str:
    """A name for this launch of torchrun, the same after its restarts; "" without torchrun."""
    of = os.environ.get("TORCHELASTIC_RUN_ID")
    return f"{of} of process {os.getppid()}" if of else ""


# --- start and end --------------------------------------------------------------------------------


def entry(main: Callable[[], int | None]) -> None:
    """``core.cli.entry`` for a training program; under torchrun, in the group of its processes."""
    main = functools.partial(_in_memory, main)
    several = {"RANK", "WORLD_SIZE", "LOCAL_RANK"} <= os.environ.keys()
    if not several:
        return cli.entry(main)
    status = 0
    try:
        cli.entry(functools.partial(_in_the_group, main))
    except SystemExit as end:
        status = int(end.code or 0)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    # Without C++'s own end: some ended there by SIGABRT, "terminate called without an active
    # exception", as a thread of torch's was still alive. torchrun would start all of them again.
    os._exit(status)


def _in_memory(main: Callable[[], int | None]) -> int | None:
    try:
        return main()
    except torch.OutOfMemoryError as error:
        raise InputError(
            "the GPU's memory is too small for this training; lower --batch-size, or "
            "--data-memory, which keeps the data off it"
        ) from error


def _in_the_group(main: Callable[[], int | None]) -> int | None:
    store, number, count = next(distributed.rendezvous("env://"))
    # torchrun's store still holds the addresses of processes that have failed.
    store = distributed.PrefixStore(f"start {restarts()}", store)
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    distributed.init_process_group(backend, store=store, rank=number, world_size=count)
    try:
        with _silence() if number else contextlib.nullcontext():
            status = main()
    except SystemExit as stop:
        status = 0 if stop.code == STOPPED else int(stop.code or 0)
    except (InputError, KeyboardInterrupt) as error:
        if _is_first(store):
            raise
        return BAD_INPUT if isinstance(error, InputError) else 130
    except RuntimeError as error:
        if not _is_loss(error):
            raise
        if _is_first(store):
            cli.warn(
                "another process of the training was lost; "
                "the same command, without --fresh, goes on from the last save"
            )
        return STOPPED
    distributed.destroy_process_group()
    return status


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    # Nothing printed, warned or drawn as a progress bar; an exception's traceback comes after it.
    with (
        open(os.devnull, "w") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        yield


def _is_first(store: distributed.Store) -> bool:
    # Of the processes that fail, the first one speaks: it knows why, the others have only lost it.
    try:
        if store.add("failed", 1) == 1:
            return True
    except RuntimeError:  # the store was kept by a process that is lost
        pass
    time.sleep(1)  # as soon as one ends, torchrun ends the others: the first must have spoken
    return False


def _is_loss(error: RuntimeError) -> bool:
    # gloo and nccl raise what they raise; of gloo's, only the message tells.
    return isinstance(error, distributed.DistError) or any(
        words in str(error) for words in ("closed by peer", "reset by peer", "Broken pipe")
    )


# --- device and network ---------------------------------------------------------------------------


def choose(name: str) -> torch.device:
    """``core.devices.choose`` for this process.

    With several, ``auto`` and ``cuda`` are the GPU of its number (LOCAL_RANK). Raises InputError if
    there is no such device, if there are fewer GPUs than processes, or if they would share one.
    """
    if world_size() > 1 and torch.cuda.is_available() and name != "cpu":
        local, gpus = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if name not in ("auto", "cuda"):
            raise InputError(
                f"--device {name} is one GPU for {world_size()} processes; "
                "leave it out, or --device cpu"
            )
        if local >= gpus:
            raise InputError(
                f"more processes than the {gpus} GPUs of this machine; "
                f"start {gpus}, or --device cpu"
            )
        torch.cuda.set_device(local)  # the one that "cuda" means from here on
        # Not "auto": one process on the CPU would leave the others waiting for it.
        return devices.choose("cuda")
    return devices.choose(name)


def wrap(network: nn.Module, device: torch.device) -> nn.Module:
    """The module that training calls in place of ``network``: it averages the gradients over the
    processes.

    Its parameters are those of ``network``, which is what to evaluate and save. On GPUs BatchNorm
    becomes SyncBatchNorm, with the statistics of the whole batch.
    NOTE: torch has none for the CPU, where each process normalises by its share of the batch.
    """
    if world_size() == 1:
        return network
    if device.type == "cuda":
        network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
    trained = nn.parallel.DistributedDataParallel(network)
    if device.type == "cpu":
        trained.register_comm_hook(None, _mean_in_order)
    return trained


def _mean_in_order(_, bucket):
    # GradBucket -> Future[Tensor]; torch refuses annotations that are strings, as here.
    # gloo's own sum of three or more adds a number's parts in an order that depends on where in the
    # bucket it stands, and after its first step DistributedDataParallel fills the buckets anew: a
    # run that goes on would end at other bits.
    own = bucket.buffer()
    parts = [torch.empty_like(own) for _ in range(world_size())]

    def mean(gathered: torch.futures.Future) -> Tensor:
        gathered.value()  # raises what the gathering has failed at
        return own.copy_(sum(parts[1:], parts[0]) / world_size())

    return distributed.all_gather(parts, own, async_op=True).get_future().then(mean)


@torch.no_grad()
def copy_buffers(network: nn.Module) -> None:
    """Give every process rank 0's buffers, in one message, after a step on different images.

    So what is averaged, evaluated and saved is the same everywhere: DistributedDataParallel itself
    does this only before its next forward pass. SyncBatchNorm's are the same already.
    """
    buffers = [buffer for buffer in network.buffers() if buffer.is_floating_point()]
    if world_size() == 1 or not buffers or buffers[0].is_cuda:
        return
    flat = torch.cat([buffer.flatten() for buffer in buffers])
    distributed.broadcast(flat, 0)
    for buffer, values in zip(
        buffers, flat.split([buffer.numel() for buffer in buffers]), strict=True
    ):
        buffer.copy_(values.view_as(buffer))


# --- shares ---------------------------------------------------------------------------------------


def local_share(items: Any) -> Any:
    """This process's share of a tensor or sequence; the shares of all processes make it up."""
    return items[rank() :: world_size()]


def local_batch(index: Tensor) -> Tensor:
    """This process's share of a batch, (batch,) to (batch / processes,) int64.

    Raises InputError if the shares would not be of one size: they would not weigh the same.
    """
    if len(index) % world_size():
        raise InputError(
            f"{world_size()} processes cannot share a batch of {len(index)} evenly; "
            "name another --batch-size"
        )
    return local_share(index)


def keys() -> tuple[int | str, ...]:
    """Further keys for ``core.randomness``, so that draws differ between processes; () for one."""
    return ("rank", rank()) if world_size() > 1 else ()


# --- what they must agree on ----------------------------------------------------------------------


def total(counts: Tensor) -> Tensor:
    """The sum over the processes of ``counts``, a tensor of any shape."""
    if world_size() > 1:
        counts = counts.clone()
        distributed.all_reduce(counts)
    return counts


def means(numbers: list[float]) -> list[float]:
    """The mean of each number over the processes."""
    if world_size() == 1:
        return numbers
    return (total(torch.tensor(numbers, dtype=torch.float64)) / world_size()).tolist()


def highest(*values: int) -> list[int]:
    """Each value's maximum over the processes: if one of them must stop, all know."""
    agreed = torch.tensor(values, dtype=torch.int64)
    if world_size() > 1:
        distributed.all_reduce(agreed, distributed.ReduceOp.MAX)
    return agreed.tolist()


def from_rank_zero(make: Callable[[], str]) -> str:
    """The text that ``make`` gives in rank 0, for all processes; only rank 0 calls it."""
    texts = [make() if rank() == 0 else ""]
    if world_size() > 1:
        distributed.broadcast_object_list(texts, 0)
    return texts[0]


def barrier() -> None:
    """Return when all processes have come here."""
    highest(0)
