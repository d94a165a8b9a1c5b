"""Where mixed precision ends: convolutions may be rounded to 16 bits, coordinates may not.

A coordinate of 100 pixels has steps of half a pixel in bfloat16.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

_Result = TypeVar("_Result")


def in_float32(function: Callable[[Tensor], _Result], values: Tensor) -> _Result:
    """A function's result without autocast; where there is none, exactly what it gives.

    Args:
        function: What is computed.
        values: Its argument; float32 if autocast is on, else as it comes.
    """
    kind = values.device.type
    if not torch.amp.is_autocast_available(kind) or not torch.is_autocast_enabled(kind):
        return function(values)
    with torch.autocast(kind, enabled=False):
        return function(values.float())
