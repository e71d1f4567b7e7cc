"""NumPy's numbers as pickles hold them, made into Python's without calling NumPy.

Checkpoints that nnU-Net's trainers write have them among what was logged.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from monai_prox.errors import ProXError

FORMATS = {  # of struct, by the name of NumPy's type
    **{"b1": "?", "f2": "e", "f4": "f", "f8": "d"},
    **{"i1": "b", "i2": "h", "i4": "i", "i8": "q", "u1": "B", "u2": "H", "u4": "I", "u8": "Q"},
}
ORDERS = {"<": "<", ">": ">", "|": "<"}  # of bytes, the last of types of one byte
LONGEST = 8  # bytes of a number


class NumberType:
    """Stands for ``numpy.dtype``.

    Args:
        name: NumPy's name of the type, one of FORMATS.
        further: two switches of NumPy's, which say nothing here.

    Raises:
        ProXError: the type is not one of a number.
    """

    def __init__(self, name: Any, *further: Any) -> None:
        if not isinstance(name, str) or name not in FORMATS:
            raise ProXError(f"it holds a NumPy type {name!r:.40}; allowed are {', '.join(FORMATS)}")
        self.name, self.order = name, ""

    def __setstate__(self, state: Any) -> None:
        order = state[1] if isinstance(state, tuple) and len(state) > 1 else None
        if not isinstance(order, str) or order not in ORDERS:
            raise ProXError(f"a NumPy type {self.name} has the byte order {order!r:.40}; allowed are {', '.join(ORDERS)}")
        self.order = ORDERS[order]


def number(kind: Any, data: Any) -> float | int | bool:
    """Stands for ``numpy.core.multiarray.scalar``.

    Args:
        kind: a NumberType.
        data: the bytes of the number.

    Raises:
        ProXError: the arguments are not the bytes of a number of this type.
    """
    whole = isinstance(kind, NumberType) and kind.order and isinstance(data, bytes)
    if not whole or len(data) != struct.calcsize(kind.order + FORMATS[kind.name]):
        raise ProXError(f"a number of NumPy's is stored as {data!r:.80}")
    value: float | int | bool = struct.unpack(kind.order + FORMATS[kind.name], data)[0]
    return value


# What stands for NumPy's names in a pickle. NumPy 2 has another name for the module.
STAND_INS: dict[str, Callable[..., Any]] = {
    "numpy dtype": NumberType,
    "numpy.core.multiarray scalar": number,
    "numpy._core.multiarray scalar": number,
}
