"""faltung's convolution as a function of JAX arrays, with gradients, inside and outside of `jit`.

>>> import jax, jax.numpy as jnp
>>> from faltung.interop.jax import conv
>>> x, weight = jnp.arange(5.0).reshape(1, 1, 5), jnp.array([[[1.0, 0.0, -1.0]]])
>>> jax.grad(lambda x: (conv(x, weight, padding=1) ** 2).sum())(x).tolist()
[[[-4.0, -2.0, 0.0, 10.0, 4.0]]]

Calls leave XLA by `jax.pure_callback`, so operands are copied once.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .. import functional, grad

__all__ = ["conv"]


def conv(x: Any, weight: Any, bias: Any = None, **options: Any) -> Any:
    """`faltung.conv` of JAX arrays.

    Parameters
    ----------
    x, weight, bias
        As in `faltung.conv`.
    **options
        `stride`, `padding`, `dilation`, `groups`, `padding_mode`, `padding_value`, `flip`,
        `channels_last` and `threads`, as there.

    Returns
    -------
    jax.Array
        Differentiable in `x`, `weight` and `bias`; not twice.
    """
    named = tuple(sorted((name, _frozen(value)) for name, value in options.items()))
    result = _conv(named, x, weight)
    if bias is None:
        return result
    rank = weight.ndim - 2
    return result + (bias if options.get("channels_last") else bias.reshape(-1, *[1] * rank))


def _frozen(value: Any) -> Any:
    """A value that can be hashed."""
    return tuple(map(_frozen, value)) if isinstance(value, (list, tuple)) else value


def _call(function: Any, shape: tuple[int, ...], *operands: Any) -> Any:
    dtype = jnp.result_type(*operands)
    result = jax.ShapeDtypeStruct(shape, dtype)

    def call(*arrays: Any) -> Any:
        return function(*map(np.asarray, arrays))

    return jax.pure_callback(call, result, *operands, vmap_method="sequential")


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _conv(named: tuple[tuple[str, Any], ...], x: Any, weight: Any) -> Any:
    options = dict(named)
    kept = {k: v for k, v in options.items() if k not in ("padding_value", "flip", "threads")}
    shape = functional.output_shape(x.shape, weight.shape, **kept)
    return _call(partial(functional.conv, **options), shape, x, weight)


def _forward(named: tuple[tuple[str, Any], ...], x: Any, weight: Any) -> Any:
    return _conv(named, x, weight), (x, weight)


def _backward(named: tuple[tuple[str, Any], ...], saved: Any, gradient: Any) -> Any:
    x, weight = saved
    options = dict(named)
    kept = {name: value for name, value in options.items() if name != "padding_value"}
    of_input = partial(grad.conv_input, x.shape, **kept)
    of_weight = partial(_weight, weight.shape, options)
    return (
        _call(of_input, x.shape, weight, gradient).astype(x.dtype),
        _call(of_weight, weight.shape, x, gradient).astype(weight.dtype),
    )


def _weight(shape: tuple[int, ...], options: dict[str, Any], x: Any, gradient: Any) -> Any:
    return grad.conv_weight(x, shape, gradient, **options)


_conv.defvjp(_forward, _backward)
