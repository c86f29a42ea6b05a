"""Where the work is done: device, number format, memory layout, allocator."""

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
    """The device called ``name``; ``auto`` is the first GPU if there is one that works, else the
    CPU.

    Raises InputError if there is no such device.
    """
    if name == "auto" and not torch.cuda.is_available():
        return torch.device("cpu")
    try:
        device = torch.device("cuda" if name == "auto" else name)
        torch.ones(
            1, device=device
        ).sum().item()  # a driver, or a chip too old for this torch, fails only at work
    except (RuntimeError, AssertionError, ImportError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        if name != "auto":
            raise InputError(f"no device {name!r} here ({reason}); try --device cpu") from error
        warn(f"the GPU does not work ({reason}); going on with the CPU")
        return torch.device("cpu")
    return device


def describe(device: torch.device) -> str:
    """The device in words, for a log: the GPU's name, or the processor's with the number of
    threads.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    model = next(
        (line.split(":", 1)[1].strip() for line in _cpuinfo() if line.startswith("model name")),
        platform.machine(),
    )
    return f"{model}, {torch.get_num_threads()} threads"


def has_bf16(device: torch.device) -> bool:
    """Whether bfloat16 is arithmetic here rather than emulation."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    flags = next((line for line in _cpuinfo() if line.startswith("flags")), "")
    return "avx512_bf16" in flags or "amx_bf16" in flags


def short_format(device: torch.device) -> torch.dtype | None:
    """The 16-bit format in which ``device`` computes faster: bfloat16, else float16 on GPUs of
    compute capability 7.0 and newer (2080 Ti, T4), else None.
    """
    if has_bf16(device):
        return torch.bfloat16
    is_volta = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (7, 0)
    return torch.float16 if is_volta else None


def autocast(device: torch.device, bf16: bool) -> torch.autocast:
    """A context in which convolutions and products run in ``short_format``, if ``bf16`` asks for
    it.

    Where that is float16, training needs ``training.loop.loss_scaler``.
    """
    dtype = short_format(device) if bf16 else None
    return torch.autocast(device.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None)


def prepare(model: M, device: torch.device) -> M:
    """Move ``model`` to ``device`` in channels-last layout, and take the CPU's slow paths out of
    its way.
    """
    model = model.to(device).to(memory_format=torch.channels_last)
    if device.type == "cpu":
        keep_freed_memory()
        for module in model.modules():
            if isinstance(module, nn.Conv2d) and _is_slow_in_bf16(module):
                vars(module)["forward"] = _float32_forward.__get__(module)
            elif isinstance(module, nn.Conv2d) and convolutions.takes_over(module):
                vars(module)["forward"] = convolutions.forward.__get__(module)
    return model


def _is_slow_in_bf16(conv: nn.Conv2d) -> bool:
    # oneDNN 3.12 has no fast bfloat16 kernels for some gradients of depthwise convolutions. Times
    # of float32's: the input gradient of a strided one takes 4 to 25, the weight gradient of a 5x5
    # or a dilated one 3 to 6.
    depthwise = conv.groups == conv.in_channels > 1
    return depthwise and (conv.stride[0] > 1 or conv.kernel_size[0] > 3 or conv.dilation[0] > 1)


def _float32_forward(conv: nn.Conv2d, images: torch.Tensor) -> torch.Tensor:
    with torch.autocast(images.device.type, enabled=False):
        return type(conv).forward(conv, images.to(conv.weight.dtype))  # a subclass keeps its own


def keep_freed_memory() -> None:
    """Tell glibc to keep freed blocks instead of unmapping them, as new pages cost more than the
    convolutions on them.

    Elsewhere than on glibc this does nothing.
    """
    m_trim_threshold, m_mmap_max = -1, -4  # malloc.h
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return
    mallopt(m_mmap_max, 0)
    mallopt(m_trim_threshold, 2**31 - 1)


def return_freed_memory() -> None:
    """Give back to the system what was kept so far, before blocks come that are larger than it."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError, TypeError):
        return


def _cpuinfo() -> list[str]:
    try:
        return Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return []
