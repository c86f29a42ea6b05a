"""Faster convolutions of small maps, for training on the CPU.

1. In bfloat16, convolutions are computed as matrix products. If a map has few pixels, oneDNN 3.12's
convolutions spend most of their time on the weights: for 128 maps of 2x2 pixels and 512 channels, a
3x3 convolution took 115 ms forward and backward. The matrix products below take a sixth of that. A
1x1 convolution is such a product at every size, and so is a 7x7 convolution with many channels:
FCN32s' fc6, from 512 to 4096 channels, took 2.3 s for 8 maps of 5x5 pixels, and takes 0.65 s here.
(oneDNN also leaves those of its weights' gradients uninitialised that see only the padding.)

2. In any number format, a convolution with a large dilation is computed as a 1x1 convolution. If a
3x3 kernel's dilation is at least the map's side, all of the kernel but its middle sees only the
padding, so it is a 1x1 convolution (Chen et al. 2017, "Rethinking Atrous Convolution", section
3.3). oneDNN skips the padding forward, but not backward: 16 images of 192 pixels took DeepLabv3 2.8
s forward and backward, and take 2.0 to 2.4 s here.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, linear, pad

# The most pixels in an output map, by (side of the kernel, stride). Not (7, 2): the first layer of
# ResNet50 has three channels, too few for a product.
FEW_PIXELS = {(1, 1): math.inf, (1, 2): 16, (3, 1): 16, (3, 2): 16, (7, 1): 1024}


def takes_over(conv: nn.Conv2d) -> bool:
    """Return whether ``forward`` below can replace the forward method of ``conv``."""
    kernel, stride, padding = conv.kernel_size[0], conv.stride[0], conv.padding
    is_square = conv.kernel_size == (kernel, kernel) and conv.stride == (stride, stride)
    is_same = padding == (kernel // 2, kernel // 2) and (kernel, stride) in FEW_PIXELS
    is_plain = conv.groups == 1 and conv.dilation == (1, 1) and conv.padding_mode == "zeros"
    return type(conv) is nn.Conv2d and is_square and is_same and is_plain


def is_dilated(conv: nn.Conv2d) -> bool:
    """Return whether ``forward_dilated`` below can replace the forward method of ``conv``."""
    (dilation, _), padding = conv.dilation, conv.padding
    is_square = conv.kernel_size == (3, 3) and conv.stride == (1, 1) and dilation > 1
    is_same = padding == conv.dilation == (dilation, dilation) and conv.padding_mode == "zeros"
    return type(conv) is nn.Conv2d and is_square and is_same


def forward_dilated(conv: nn.Conv2d, images: Tensor) -> Tensor:
    """Compute the convolution's output, (N, C, H, W), from the middle of its kernel if possible."""
    if max(images.shape[2:]) > conv.dilation[0]:
        return nn.Conv2d.forward(conv, images)
    return conv2d(images, conv.weight[:, :, 1:2, 1:2], conv.bias, groups=conv.groups)


def forward(conv: nn.Conv2d, images: Tensor) -> Tensor:
    """Compute the convolution's output, (N, C, h, w), by matrix products where they are faster.

    That is in training in bfloat16 with channels-last images, for 1x1 kernels and small maps;
    otherwise ``nn.Conv2d`` runs. Results differ only in the rounding of sums.
    """
    kernel, stride = conv.kernel_size[0], conv.stride[0]
    pixels = -(-images.shape[2] // stride) * -(-images.shape[3] // stride)
    is_cheap = pixels <= FEW_PIXELS[kernel, stride]
    in_bfloat16 = torch.is_autocast_enabled("cpu") and (
        torch.get_autocast_dtype("cpu") is torch.bfloat16
    )
    is_channels_last = images.is_contiguous(memory_format=torch.channels_last)
    if not (conv.training and is_cheap and in_bfloat16 and is_channels_last):
        return nn.Conv2d.forward(conv, images)
    if kernel == 1:
        rows = images[:, :, ::stride, ::stride].permute(0, 2, 3, 1).contiguous()
        return linear(rows, conv.weight.flatten(1), conv.bias).permute(0, 3, 1, 2)
    weight = conv.weight.to(torch.bfloat16)
    outputs = _Small.apply(images.to(torch.bfloat16), weight, stride)
    if conv.bias is not None:
        outputs = outputs + conv.bias.to(torch.bfloat16)[:, None, None]
    return outputs


class _Small(torch.autograd.Function):
    # A convolution with an odd kernel and no bias, padded to keep the size.

    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: Tensor, stride: int) -> Tensor:
        ctx.save_for_backward(images, weight)
        ctx.stride = stride
        windows = _windows(_padded(images, weight.shape[2]), weight.shape[2], stride)
        return (windows.flatten(3) @ _matrix(weight).t()).permute(0, 3, 1, 2)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        images, weight = ctx.saved_tensors
        kernel = weight.shape[2]
        around = _padded(images, kernel)
        rows = gradient.permute(0, 2, 3, 1).reshape(-1, len(weight))
        windows = _windows(around, kernel, ctx.stride)
        of_weight = rows.t() @ windows.reshape(len(rows), -1)
        of_weight = of_weight.view(len(weight), kernel, kernel, -1).permute(0, 3, 1, 2)
        # Each output pixel returns a gradient to every pixel of its window; these are added up.
        of_windows = (rows @ _matrix(weight)).view(windows.shape)
        total = torch.zeros_like(around, dtype=torch.float32)
        targets = _windows(total, kernel, ctx.stride)
        for row in range(kernel):
            for column in range(kernel):
                targets[:, :, :, row, column] += of_windows[:, :, :, row, column]
        edge = kernel // 2
        of_images = total[:, edge:-edge, edge:-edge].to(images.dtype)
        return of_images.permute(0, 3, 1, 2), of_weight, None


def _padded(images: Tensor, kernel: int) -> Tensor:
    # (N, C, H, W) to (N, H + kernel - 1, W + kernel - 1, C), with zeros around.
    edge = kernel // 2
    return pad(images.permute(0, 2, 3, 1), (0, 0, edge, edge, edge, edge))


def _windows(around: Tensor, kernel: int, stride: int) -> Tensor:
    # A view of ``_padded`` images: the pixels around each output pixel, (N, h, w, k, k, C).
    return around.unfold(1, kernel, stride).unfold(2, kernel, stride).permute(0, 1, 2, 4, 5, 3)


def _matrix(weight: Tensor) -> Tensor:
    # (outputs, C, k, k) to (outputs, k k C), in the order of _windows.
    return weight.permute(0, 2, 3, 1).flatten(1)
