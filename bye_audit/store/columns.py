"""Values as Arrow columns."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike


def nulls_for_nan(values: ArrayLike) -> pa.Array:
    """Give numbers as float32, with null where there is none."""
    array = np.asarray(values, dtype=np.float64)
    return pa.array(array.astype(np.float32), pa.float32(), mask=~np.isfinite(array))
