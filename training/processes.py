"""Training in several processes, one per GPU or part of the CPU: ``torchrun ... -m p1.train``.

Each process holds the whole data set and the whole network and works on its share of every batch;
PyTorch's DistributedDataParallel averages the gradients. Only rank 0 prints and writes. Without
torchrun, this module changes nothing. With the flag ``--run``, type
``torchrun --nproc-per-node 2 -m -- p1.train``: without the ``--``, torchrun takes ``--run`` for a
short form of its own ``--run-path``.

torchrun restarts all processes (``--max-restarts``) when one of them ends with a status other than
0. So they end with
    0     done; or stopped and saved (75 without torchrun), since no restart is wanted
    2     bad input; one of the processes prints one line
    75    another process was lost; the next start continues from the last save
torchrun's own status is 0 if all of these are, otherwise 1. It passes signals on to all processes,
which have 30 seconds to save; torchrun then ends with 1.
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
    """Return the number of this process, from 0."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def world_size() -> int:
    """Return the number of processes."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def restarts() -> int:
    """Return how often torchrun has restarted the processes after a failure."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0))


def launch() -> str:
    """Return a name for this launch of torchrun, the same after restarts; "" without torchrun."""
    of = os.environ.get("TORCHELASTIC_RUN_ID")
    return f"{of} of process {os.getppid()}" if of else ""


# --- start and end --------------------------------------------------------------------------------


def entry(main: Callable[[], int | None]) -> None:
    """Run ``main`` as ``core.cli.entry`` does; under torchrun, within the process group."""
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
    # Skip C++'s own shutdown: some processes aborted there (SIGABRT, "terminate called without an
    # active exception"), as a thread of torch was still alive, and torchrun would restart them all.
    os._exit(status)


def _in_memory(main: Callable[[], int | None]) -> int | None:
    try:
        return main()
    except (RuntimeError, MemoryError) as error:
        if not devices.is_out_of_memory(error):
            raise
        raise InputError(
            "not enough memory for this training; lower --batch-size, or --data-memory to keep the "
            "data on the disk and off the GPU"
        ) from error


def _in_the_group(main: Callable[[], int | None]) -> int | None:
    store, number, count = next(distributed.rendezvous("env://"))
    # After a restart, torchrun's store still holds the addresses of failed processes.
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
                "run the same command without --fresh to continue from the last save"
            )
        return STOPPED
    distributed.destroy_process_group()
    return status


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    # Suppresses prints, warnings and progress bars; the traceback of an exception is printed later.
    with (
        open(os.devnull, "w") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        yield


def _is_first(store: distributed.Store) -> bool:
    # Only the first process to fail prints: it knows the reason; the others have merely lost it.
    try:
        if store.add("failed", 1) == 1:
            return True
    except RuntimeError:  # the process that hosted the store is lost
        pass
    time.sleep(1)  # torchrun ends the others as soon as one ends: let the first one print
    return False


def _is_loss(error: RuntimeError) -> bool:
    # Some errors of gloo have no class of their own; only the message identifies them.
    return isinstance(error, distributed.DistError) or any(
        words in str(error) for words in ("closed by peer", "reset by peer", "Broken pipe")
    )


# --- device and network ---------------------------------------------------------------------------


def choose(name: str) -> torch.device:
    """Return the device of this process, as ``core.devices.choose`` does.

    With several processes, ``auto`` and ``cuda`` mean the GPU with this process's number
    (LOCAL_RANK). Raises InputError if there is no such device, if there are fewer GPUs than
    processes, or if the processes would share one.
    """
    if world_size() > 1 and torch.cuda.is_available() and name != "cpu":
        local, gpus = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if name not in ("auto", "cuda"):
            raise InputError(
                f"--device {name} is one GPU for {world_size()} processes; "
                "omit it, or use --device cpu"
            )
        if local >= gpus:
            raise InputError(
                f"more processes than this machine's {gpus} GPUs; start {gpus}, or use --device cpu"
            )
        torch.cuda.set_device(local)  # "cuda" means this GPU from here on
        # Not "auto": the others would wait for a process that fell back to the CPU.
        return devices.choose("cuda")
    return devices.choose(name)


def wrap(network: nn.Module, device: torch.device) -> nn.Module:
    """Return the module to train in place of ``network``: it averages gradients over processes.

    It has the same parameters as ``network``, which is still the one to evaluate and save. On GPUs,
    BatchNorm becomes SyncBatchNorm, with the statistics of the whole batch.
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
    # GradBucket -> Future[Tensor]; torch refuses annotations that are strings, as in this file.
    # With three or more processes, gloo adds a number's parts in an order that depends on its place
    # in the bucket. DistributedDataParallel refills the buckets after its first step, so a resumed
    # run would end with different bits.
    own = bucket.buffer()
    parts = [torch.empty_like(own) for _ in range(world_size())]

    def mean(gathered: torch.futures.Future) -> Tensor:
        gathered.value()  # raises the error if the gathering has failed
        return own.copy_(sum(parts[1:], parts[0]) / world_size())

    return distributed.all_gather(parts, own, async_op=True).get_future().then(mean)


@torch.no_grad()
def copy_buffers(network: nn.Module) -> None:
    """Copy rank 0's buffers to every process, in one message, after a step on different images.

    So what is averaged, evaluated and saved is the same everywhere; DistributedDataParallel itself
    copies them only before its next forward pass. SyncBatchNorm's buffers are the same already.
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
    """Return this process's share of a tensor or sequence; all shares together are the whole."""
    return items[rank() :: world_size()]


def local_batch(index: Tensor) -> Tensor:
    """Return this process's share of a batch: (batch,) to (batch / processes,) int64.

    Raises InputError if the shares would differ in size, since they would then differ in weight.
    """
    if len(index) % world_size():
        raise InputError(
            f"{world_size()} processes cannot share a batch of {len(index)} evenly; "
            "choose another --batch-size"
        )
    return local_share(index)


def check_batch(count: int, batch_size: int, at_least: int = 2) -> None:
    """Check that each process gets ``at_least`` images of a batch, or raise InputError.

    ``count``: images in the data set. A BatchNorm over one value per channel needs two.
    """
    size = min(count, batch_size)
    if size // world_size() < at_least:
        per_process = " per process" if world_size() > 1 else ""
        raise InputError(
            f"a batch has {size} of {count} images, but this network needs {at_least} or "
            f"more{per_process}; choose a larger --batch-size, or add images"
        )


def keys() -> tuple[int | str, ...]:
    """Return further keys for ``core.randomness``, so that draws differ per process; () for one."""
    return ("rank", rank()) if world_size() > 1 else ()


# --- agreement between the processes --------------------------------------------------------------


def total(counts: Tensor) -> Tensor:
    """Return the sum of ``counts``, a tensor of any shape, over the processes."""
    if world_size() > 1:
        counts = counts.clone()
        distributed.all_reduce(counts)
    return counts


def means(numbers: list[float]) -> list[float]:
    """Return the mean of each number over the processes."""
    if world_size() == 1:
        return numbers
    return (total(torch.tensor(numbers, dtype=torch.float64)) / world_size()).tolist()


def highest(*values: int) -> list[int]:
    """Return each value's maximum over the processes: if one must stop, all know."""
    agreed = torch.tensor(values, dtype=torch.int64)
    if world_size() > 1:
        distributed.all_reduce(agreed, distributed.ReduceOp.MAX)
    return agreed.tolist()


def from_rank_zero(make: Callable[[], str]) -> str:
    """Call ``make`` in rank 0 only, and return its text in all processes."""
    texts = [make() if rank() == 0 else ""]
    if world_size() > 1:
        distributed.broadcast_object_list(texts, 0)
    return texts[0]


def barrier() -> None:
    """Wait until all processes have reached this point."""
    highest(0)
