"""Where and how the work is done: device, number format, memory layout, allocator."""

from __future__ import annotations

import ctypes
import platform
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from core import convolutions
from core.cli import InputError, warn

M = TypeVar("M", bound=nn.Module)


def choose(name: str = "auto") -> torch.device:
    """Return the device called ``name``.

    ``auto`` is the first GPU if there is one that works, and otherwise the CPU. Raises InputError
    if there is no such device.
    """
    if name == "auto" and not torch.cuda.is_available():
        return torch.device("cpu")
    try:
        device = torch.device("cuda" if name == "auto" else name)
        # A broken driver, or a GPU too old for this torch, fails only when it has to compute.
        torch.ones(1, device=device).sum().item()
    except (RuntimeError, AssertionError, ImportError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        if name != "auto":
            raise InputError(
                f"device {name!r} is not available ({reason}); try --device cpu"
            ) from error
        warn(f"the GPU does not work ({reason}); using the CPU instead")
        return torch.device("cpu")
    return device


def describe(device: torch.device) -> str:
    """Describe the device for a log: the GPU's name, or the CPU's with the number of threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    model = next(
        (line.split(":", 1)[1].strip() for line in _cpuinfo() if line.startswith("model name")),
        platform.machine(),
    )
    return f"{model}, {torch.get_num_threads()} threads"


def has_bf16(device: torch.device) -> bool:
    """Return whether the hardware computes in bfloat16 rather than emulating it."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    flags = next((line for line in _cpuinfo() if line.startswith("flags")), "")
    return "avx512_bf16" in flags or "amx_bf16" in flags


def short_format(device: torch.device) -> torch.dtype | None:
    """Return the 16-bit format in which ``device`` computes faster than in float32, if any.

    That is bfloat16 where the hardware has it, otherwise float16 on GPUs of compute capability 7.0
    or higher (2080 Ti, T4), otherwise None.
    """
    if has_bf16(device):
        return torch.bfloat16
    has_float16 = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (7, 0)
    return torch.float16 if has_float16 else None


def autocast(device: torch.device, bf16: bool) -> torch.autocast:
    """Return a context in which, if ``bf16``, convolutions and products use ``short_format``.

    If that is float16, training needs ``training.loop.loss_scaler``.
    """
    dtype = short_format(device) if bf16 else None
    return torch.autocast(device.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None)


def prepare(model: M, device: torch.device) -> M:
    """Move ``model`` to ``device`` in channels-last layout and avoid the CPU's slow paths."""
    model = model.to(device).to(memory_format=torch.channels_last)
    if device.type == "cpu":
        keep_freed_memory()
        for module in model.modules():
            if model.training and isinstance(module, nn.ReLU6 | nn.Hardswish):
                # In place, autograd first copies the input for the gradient. Without these copies,
                # a step took 0.90 to 0.96 of its time; the numbers are the same.
                module.inplace = False
            elif isinstance(module, nn.Conv2d) and _is_slow_in_bf16(module):
                vars(module)["forward"] = _float32_forward.__get__(module)
            elif isinstance(module, nn.Conv2d) and convolutions.takes_over(module):
                vars(module)["forward"] = convolutions.forward.__get__(module)
            elif isinstance(module, nn.Conv2d) and convolutions.is_dilated(module):
                vars(module)["forward"] = convolutions.forward_dilated.__get__(module)
    return model


def _is_slow_in_bf16(conv: nn.Conv2d) -> bool:
    # oneDNN 3.12 has no fast bfloat16 kernels for some gradients of depthwise convolutions.
    # Compared with float32, the input gradient of a strided one takes 4 to 25 times as long, and
    # the weight gradient of a 5x5 or dilated one 3 to 6 times as long.
    depthwise = conv.groups == conv.in_channels > 1
    return depthwise and (conv.stride[0] > 1 or conv.kernel_size[0] > 3 or conv.dilation[0] > 1)


def _float32_forward(conv: nn.Conv2d, images: torch.Tensor) -> torch.Tensor:
    with torch.autocast(images.device.type, enabled=False):
        return type(conv).forward(conv, images.to(conv.weight.dtype))  # keep a subclass's forward


def keep_freed_memory() -> None:
    """Make glibc keep freed blocks, since new pages cost more than the convolutions on them.

    Without glibc this does nothing.
    """
    m_trim_threshold, m_mmap_max = -1, -4  # malloc.h
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return
    mallopt(m_mmap_max, 0)
    mallopt(m_trim_threshold, 2**31 - 1)


def return_freed_memory() -> None:
    """Return kept blocks to the system. Call this before allocating blocks larger than them."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError, TypeError):
        return


def _cpuinfo() -> list[str]:
    try:
        return Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return []


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error of torch or numpy says that no memory is left."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
