"""Adapters for other libraries, each of which needs that library and imports it.

`faltung.interop.torch` and `faltung.interop.jax` make faltung's convolutions differentiable there.
"""
