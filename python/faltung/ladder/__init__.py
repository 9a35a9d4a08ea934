"""From the fully connected layer to the convolution, one rung at a time.

A fully connected layer on images has a number of its own for every pair of an output position and
an input position. Four steps make it the convolutional layer, and every rung is a function:

====  =================  ===================================================================
rung  function           hidden image H of the image X
====  =================  ===================================================================
1     `dense`            H[i,j] = U[i,j] + sum over k,l of W[i,j,k,l] X[k,l]
2     `shifted`          H[i,j] = U[i,j] + sum over a,b of V[i,j,a,b] X[i+a,j+b]: the same
                         weights, told by how far they look
3     `local`            the same, but nobody looks further than delta: abs(a), abs(b) <= delta
4     `invariant`        H[i,j] = u + sum over a,b of V[a,b] X[i+a,j+b]: all look alike
5     `faltung.conv2d`   both: the convolutional layer, `padding` = delta, with channels
====  =================  ===================================================================

Between the rungs lead `to_offsets` and `from_offsets` (1 to 2 and back), `truncate` and `extend`
(2 to 3, 4 to 5 and back), `tie` and `untie` (2 to 4 and back), `to_local` (5 to 3) and `as_matrix`
(5 to 1). On integers, rungs that should agree do so exactly. `parameters` counts their weights.

All functions take any number of spatial axes and of leading batch axes, and the dtypes that
`faltung.conv` takes, which combine as in NumPy. Whether there are channels is said, never guessed:
a weight has spatial axes alone, ``(*out, *in)``, and images are ``(..., *in)``; with
``channels=True`` an axis of channels leads each half of the weight, ``(O, *out, C, *in)``, and the
spatial axes of images, ``(..., C, *in)``. The number of axes of the weight then tells the number of
spatial axes.

The steps are those of A. Zhang, Z. C. Lipton, M. Li and A. J. Smola, "Dive into Deep Learning",
2023, section 7.1, https://d2l.ai/chapter_convolutional-neural-networks/why-conv.html.
"""

from ._between import extend, tie, to_local, truncate, untie
from ._dense import dense
from ._invariant import invariant
from ._local import local, local_input, local_transpose, local_weight
from ._matrix import as_matrix
from ._parameters import Parameters, parameters
from ._shifted import from_offsets, shifted, to_offsets

__all__ = [
    "Parameters",
    "as_matrix",
    "dense",
    "extend",
    "from_offsets",
    "invariant",
    "local",
    "local_input",
    "local_transpose",
    "local_weight",
    "parameters",
    "shifted",
    "tie",
    "to_local",
    "to_offsets",
    "truncate",
    "untie",
]
