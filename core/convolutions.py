"""Convolutions of small maps as matrix products, for training on the CPU in bfloat16.

If a map has few pixels, oneDNN 3.12's convolutions spend most of their time on the weights: for 128
maps of 2x2 pixels and 512 channels, a 3x3 convolution took 115 ms forward and backward. The matrix
products below take a fifth of that. A 1x1 convolution is such a product at every size.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, pad

FEW_PIXELS = 16  # at most, in an output map


def takes_over(conv: nn.Conv2d) -> bool:
    """Return whether ``forward`` below can replace the forward method of ``conv``."""
    kernel, stride, padding = conv.kernel_size[0], conv.stride[0], conv.padding
    is_square = conv.kernel_size == (kernel, kernel) and conv.stride == (stride, stride)
    is_same = padding == (kernel // 2, kernel // 2) and kernel in (1, 3)
    is_plain = conv.groups == 1 and conv.dilation == (1, 1) and conv.padding_mode == "zeros"
    return type(conv) is nn.Conv2d and is_square and is_same and is_plain and conv.bias is None


def forward(conv: nn.Conv2d, images: Tensor) -> Tensor:
    """Compute the convolution's output, (N, C, h, w), by matrix products where they are faster.

    That is in training in bfloat16 with channels-last images, for 1x1 kernels and small maps;
    otherwise ``nn.Conv2d`` runs. Results differ only in the rounding of sums.
    """
    kernel, stride = conv.kernel_size[0], conv.stride[0]
    pixels = -(-images.shape[2] // stride) * -(-images.shape[3] // stride)
    is_cheap = kernel == 1 and stride == 1 or pixels <= FEW_PIXELS
    in_bfloat16 = torch.is_autocast_enabled("cpu") and (
        torch.get_autocast_dtype("cpu") is torch.bfloat16
    )
    is_training = conv.training and images.is_contiguous(memory_format=torch.channels_last)
    if not (is_cheap and in_bfloat16 and is_training):
        return nn.Conv2d.forward(conv, images)
    if kernel == 1:
        rows = images[:, :, ::stride, ::stride].permute(0, 2, 3, 1).contiguous()
        return linear(rows, conv.weight.flatten(1)).permute(0, 3, 1, 2)
    weight = conv.weight.to(torch.bfloat16)
    return _Small.apply(images.to(torch.bfloat16), weight, stride)


class _Small(torch.autograd.Function):
    # A 3x3 convolution with padding 1 and no bias.

    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: Tensor, stride: int) -> Tensor:
        ctx.save_for_backward(images, weight)
        ctx.stride = stride
        around = pad(images.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1))
        return (_windows(around, stride) @ _matrix(weight).t()).permute(0, 3, 1, 2)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        images, weight = ctx.saved_tensors
        outputs = gradient.permute(0, 2, 3, 1)
        around = pad(images.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1))
        of_weight = outputs.reshape(-1, len(weight)).t() @ _windows(around, ctx.stride).flatten(
            0, 2
        )
        of_weight = of_weight.view(len(weight), 3, 3, -1).permute(0, 3, 1, 2)
        if ctx.stride == 1:  # the same convolution, of the gradient with flipped weights
            around = pad(outputs, (0, 0, 1, 1, 1, 1))
            turned = _matrix(weight.flip(2, 3).transpose(0, 1))
            return (_windows(around, 1) @ turned.t()).permute(0, 3, 1, 2), of_weight, None
        of_images, _, _ = torch.ops.aten.convolution_backward(
            gradient, images, weight, None, [ctx.stride] * 2, [1, 1], [1, 1], False, [0, 0], 1,
            [True, False, False],
        )  # fmt: skip
        return of_images, of_weight, None


def _windows(around: Tensor, stride: int) -> Tensor:
    # (N, H + 2, W + 2, C) to the 3x3 pixels around each output pixel, (N, h, w, 9 C).
    n, height, width, channels = around.shape
    size = (n, (height - 3) // stride + 1, (width - 3) // stride + 1, 3, 3, channels)
    image, row, column, channel = around.stride()
    strides = (image, row * stride, column * stride, row, column, channel)
    return around.as_strided(size, strides).flatten(3)


def _matrix(weight: Tensor) -> Tensor:
    # (outputs, C, 3, 3) to (outputs, 9 C), in the order of _windows.
    return weight.permute(0, 2, 3, 1).flatten(1)
