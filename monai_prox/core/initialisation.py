"""Networks without initial weights, which take less time to build."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode

FILLS = frozenset((Tensor.fill_, Tensor.normal_, Tensor.uniform_, Tensor.zero_))


class Uninitialised(TorchFunctionMode):
    """Within this context layers are made with any values in their tensors, and no random number is drawn for them.

    It is for networks whose tensors are all replaced afterwards. ``torch.nn.utils.skip_init`` does the same for one layer, but
    a stock network makes its layers itself. The meta device alone does not do it: torch works out each initialisation there.

    >>> from torch import nn
    >>> with Uninitialised():
    ...     layer = nn.Linear(2, 3)
    """

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if function in FILLS:
            return args[0]
        if getattr(function, "__module__", None) == "torch.nn.init":  # calls of these functions come with keywords only
            return kwargs["tensor"]
        return function(*args, **kwargs)
