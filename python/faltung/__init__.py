"""faltung: multi-channel convolution for NumPy arrays.

>>> import numpy as np, faltung
>>> image = np.ones((3, 5, 5), dtype=np.float32)
>>> kernels = np.ones((8, 3, 3, 3), dtype=np.float32)
>>> faltung.conv2d(image, kernels, padding=1).shape
(8, 5, 5)

`conv` documents every parameter. A wrong argument raises an error that names it and the way out;
`config()` tells what runs on this machine. ``python -m faltung demo`` shows it at work.
"""

from . import grad, ladder
from ._core import __version__
from .explain import explain
from .functional import (
    config,
    conv,
    conv1d,
    conv2d,
    conv3d,
    get_num_threads,
    output_shape,
    set_num_threads,
)
from .patches import fold, unfold
from .plan import Plan
from .signal import convolve, correlate, sampled
from .transpose import conv_transpose, conv_transpose1d, conv_transpose2d, conv_transpose3d

__all__ = [
    "Plan",
    "__version__",
    "config",
    "conv",
    "conv1d",
    "conv2d",
    "conv3d",
    "conv_transpose",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
    "convolve",
    "correlate",
    "explain",
    "fold",
    "get_num_threads",
    "grad",
    "ladder",
    "output_shape",
    "sampled",
    "set_num_threads",
    "unfold",
]
