"""The linear filters of `scipy.ndimage` over faltung: same names, arguments and conventions.

>>> import numpy as np
>>> from faltung.compat import scipy_ndimage as ndimage
>>> ndimage.convolve1d(np.array([1.0, 2, 4]), [0.5, 0.5], mode="nearest")
array([1.5, 3. , 4. ])

All sums are made in float64 (complex128 for complex numbers) and rounded once to the dtype of the
output, integers toward zero, as SciPy does. ``docs/compat.md`` tells where they differ on purpose.

Every function takes these arguments of `scipy.ndimage`:

``output``
    An array that receives the result and is returned, or the dtype of a new one; by default that of
    ``input``. It may be ``input`` itself.
``mode``
    What stands before ``a b c d``: "reflect" or "grid-mirror" (``d c b a``), "constant" or
    "grid-constant" (``cval``), "nearest" (``a a a a``), "mirror" (``d c b``), "wrap" or "grid-wrap"
    (``a b c d``); and likewise behind it. Filters that go axis by axis take a sequence of one an
    axis.
``cval``
    The constant of "constant".
``origin``
    How far the window is moved from its middle; positive moves it to the left. One for all or one
    an axis.
``axes``
    The axes that are filtered; all by default.
"""

from ._axis import (
    gaussian_filter,
    gaussian_filter1d,
    uniform_filter,
    uniform_filter1d,
)
from ._derivatives import laplace, prewitt, sobel
from ._windows import convolve, convolve1d, correlate, correlate1d

__all__ = [
    "convolve",
    "convolve1d",
    "correlate",
    "correlate1d",
    "gaussian_filter",
    "gaussian_filter1d",
    "laplace",
    "prewitt",
    "sobel",
    "uniform_filter",
    "uniform_filter1d",
]
