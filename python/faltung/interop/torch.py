"""faltung's convolutions as functions of PyTorch tensors on the CPU, with gradients.

>>> import torch
>>> from faltung.interop.torch import conv
>>> x = torch.arange(5.0, dtype=torch.float64).reshape(1, 1, 5).requires_grad_()
>>> weight = torch.tensor([[[1.0, 0.0, -1.0]]], dtype=torch.float64, requires_grad=True)
>>> conv(x, weight, padding=1, padding_mode="circular").square().sum().backward()
>>> x.grad
tensor([[[-10., -10.,   0.,  10.,  10.]]], dtype=torch.float64)

What PyTorch's own lack, these have: every padding mode, per-side and negative padding with a
stride, transposed convolution with padding modes, and the same bits for any number of threads.
Memory is shared with NumPy, not copied. Gradients of gradients are not there.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd.function import once_differentiable

from .. import functional, grad, transpose

__all__ = ["conv", "conv_transpose"]


def conv(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None, **options: Any
) -> torch.Tensor:
    """`faltung.conv` of tensors.

    Parameters
    ----------
    x, weight, bias
        As in `faltung.conv`.
    **options
        `stride`, `padding`, `dilation`, `groups`, `padding_mode`, `padding_value`, `flip`,
        `channels_last` and `threads`, as there.

    Returns
    -------
    torch.Tensor
        With a gradient for `x`, `weight` and `bias`, as they ask for one.
    """
    result: torch.Tensor = _Conv.apply(x, weight, bias, options)
    return result


def conv_transpose(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None, **options: Any
) -> torch.Tensor:
    """`faltung.conv_transpose` of tensors.

    Parameters
    ----------
    x, weight, bias
        As in `faltung.conv_transpose`.
    **options
        `stride`, `padding`, `output_padding` (less than the stride), `groups`, `dilation`,
        `output_size`, `padding_mode`, `flip`, `channels_last` and `threads`, as there.

    Returns
    -------
    torch.Tensor
        With a gradient for `x`, `weight` and `bias`, as they ask for one.
    """
    result: torch.Tensor = _ConvTranspose.apply(x, weight, bias, options)
    return result


def _array(tensor: torch.Tensor | None) -> Any:
    return None if tensor is None else tensor.detach().numpy()


def _bias(gradient: Any, weight: torch.Tensor, options: dict[str, Any]) -> torch.Tensor:
    kept = {name: options[name] for name in ("channels_last", "threads") if name in options}
    return torch.from_numpy(grad.conv_bias(gradient, rank=weight.ndim - 2, **kept))


class _Conv(torch.autograd.Function):  # type: ignore[misc]
    @staticmethod
    def forward(ctx: Any, x: Any, weight: Any, bias: Any, options: dict[str, Any]) -> Any:
        ctx.save_for_backward(x, weight)
        ctx.options = options
        return torch.from_numpy(functional.conv(_array(x), _array(weight), _array(bias), **options))

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: Any) -> Any:
        x, weight = ctx.saved_tensors
        gradient, options = _array(gradient), ctx.options
        grads: list[torch.Tensor | None] = [None] * 4
        if ctx.needs_input_grad[0]:
            kept = {name: v for name, v in options.items() if name != "padding_value"}
            result = grad.conv_input(x.shape, _array(weight), gradient, **kept)
            grads[0] = torch.from_numpy(result).to(x.dtype)
        if ctx.needs_input_grad[1]:
            result = grad.conv_weight(_array(x), weight.shape, gradient, **options)
            grads[1] = torch.from_numpy(result).to(weight.dtype)
        if ctx.needs_input_grad[2]:
            grads[2] = _bias(gradient, weight, options)
        return tuple(grads)


class _ConvTranspose(torch.autograd.Function):  # type: ignore[misc]
    @staticmethod
    def forward(ctx: Any, x: Any, weight: Any, bias: Any, options: dict[str, Any]) -> Any:
        ctx.save_for_backward(x, weight)
        ctx.options = options
        return torch.from_numpy(
            transpose.conv_transpose(_array(x), _array(weight), _array(bias), **options)
        )

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: Any) -> Any:
        # The adjoint of the adjoint is the convolution, and its weight's gradient is that of the
        # convolution which has `gradient` for its input.
        x, weight = ctx.saved_tensors
        gradient, options = _array(gradient), ctx.options
        sizes = ("output_padding", "output_size")
        kept = {name: value for name, value in options.items() if name not in sizes}
        grads: list[torch.Tensor | None] = [None] * 4
        if ctx.needs_input_grad[0]:
            grads[0] = torch.from_numpy(functional.conv(gradient, _array(weight), **kept))
        if ctx.needs_input_grad[1]:
            result = grad.conv_weight(gradient, weight.shape, _array(x), **kept)
            grads[1] = torch.from_numpy(result)
        if ctx.needs_input_grad[2]:
            grads[2] = _bias(gradient, weight, options)
        return tuple(grads)
