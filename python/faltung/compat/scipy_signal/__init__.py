"""The convolutions of `scipy.signal` over faltung: same names, arguments and conventions.

>>> from faltung.compat import scipy_signal as signal
>>> signal.convolve([1, 2, 3], [0, 1, 0.5], mode="same")
array([1. , 2.5, 4. ])

Where they differ from SciPy's on purpose is in ``docs/compat.md``. In short: sums are made by
transforms only where those are faster, so that NaN and infinities touch no more than the outputs
whose window holds them, and integers are exact.
"""

from ._along import fftconvolve, oaconvolve
from ._planes import convolve2d, correlate2d
from ._whole import choose_conv_method, convolve, correlate, correlation_lags

__all__ = [
    "choose_conv_method",
    "convolve",
    "convolve2d",
    "correlate",
    "correlate2d",
    "correlation_lags",
    "fftconvolve",
    "oaconvolve",
]
