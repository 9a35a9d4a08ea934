"""Modules with the functions of other libraries, computed by faltung.

`scipy_signal` and `scipy_ndimage` have the convolutions of `scipy.signal` and `scipy.ndimage` with
their names, arguments, conventions and errors, and need no SciPy::

    from faltung.compat import scipy_ndimage as ndimage
    from faltung.compat import scipy_signal as signal

``docs/compat.md`` tells where they differ from SciPy's on purpose, and how fast they are.
"""

__all__ = ["scipy_ndimage", "scipy_signal"]
