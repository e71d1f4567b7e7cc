"""Members that a training runs over and over, by torch.compile."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from types import FunctionType
from typing import Any

import torch
from torch import Tensor

from monai_prox.core.skeleton import call_with
from monai_prox.core.space import Subnet
from monai_prox.core.supernet import SuperNet
from monai_prox.report import count


class CompiledMembers:
    """Runs the members of a supernet in training. Those that are selected are compiled when they run first.

    What is compiled gets the member's weights as arguments. So the network and its state_dict stay stock, one graph serves
    all steps, and gradients reach the largest network as they do without compilation. Each member is compiled once, because
    shapes are fixed. If torch cannot compile one, ``log`` gets a line with the reason, and all members run eagerly from then
    on.

    Compiled members differ from eager ones by the rounding of their sums, and draw other random numbers in dropout layers.

    ``failed`` is whether torch could not compile one.

    Args:
        supernet: the supernet.
        log: called with a line of text.
        backend: of torch.compile.
    """

    def __init__(
        self, supernet: SuperNet, *, log: Callable[[str], object], backend: str | Callable[..., Any] = "inductor"
    ) -> None:
        self.supernet, self.log, self.backend = supernet, log, backend
        self._selected: frozenset[Subnet] = frozenset()
        self.failed = False
        self._functions: dict[Subnet, Callable[..., Any]] = {}  # what torch keeps compiled code of
        self._compiled: dict[Subnet, Callable[..., Any]] = {}

    def select(self, members: Collection[Subnet]) -> None:
        """Frees the compiled code of all members but these, which are compiled when they run next.

        Args:
            members: the members.
        """
        self._selected = frozenset() if self.failed else frozenset(members)
        for subnet in self._functions.keys() - self._selected:
            self._compiled.pop(subnet, None)
            _free(self._functions.pop(subnet))

    def __call__(self, x: Tensor, subnet: Subnet) -> Any:
        """Runs a member. See ``SuperNet.forward``."""
        if subnet in self._selected:
            try:
                if subnet not in self._compiled:
                    self._compile(x, subnet)
                return self.supernet(x, subnet, self._compiled[subnet])
            except Exception as error:  # of a compiler anything can be raised, and a training has to outlive it
                reason = f"{type(error).__name__}: {' '.join(str(error).split()):.300}"
            self.failed = True
            self.select(())
            self.log(f"ProX runs all members without torch.compile from now on, because it failed: {reason}")
        return self.supernet(x, subnet)

    def _compile(self, x: Tensor, subnet: Subnet) -> None:
        """Compiles a member by a forward and a backward pass, whose results are not used, so that no later step can fail."""
        # torch keeps compiled code by code objects. With one of its own a member is freed alone, and none counts towards the
        # limit of recompilations of another.
        function = self._functions[subnet] = FunctionType(call_with.__code__.replace(), call_with.__globals__)
        compiled = torch.compile(function, fullgraph=True, dynamic=False, backend=self.backend)
        weights = [weight for weight in self.supernet.parameters() if weight.requires_grad]
        start = time.perf_counter()
        with torch.random.fork_rng([x.device] if x.is_cuda else []):  # a continued training compiles at other steps
            outputs = self.supernet(x, subnet, compiled)
            outputs = [outputs] if isinstance(outputs, Tensor) else outputs
            torch.autograd.grad(outputs, weights, [*map(torch.ones_like, outputs)], allow_unused=True)
        if x.is_cuda:
            torch.cuda.synchronize(x.device)
        seconds = time.perf_counter() - start
        parameters = sum(weight.numel() for weight in self.supernet.shapes(subnet).parameters())
        self.log(f"ProX compiled a member of {count(parameters)} parameters: its first step took {seconds:.1f} s")
        self._compiled[subnet] = compiled


def _free(function: Callable[..., Any]) -> None:
    """Frees what torch has compiled of a function now, and not when it collects the function's code.

    torch does not document how. A version that does it in another way must not keep anybody from training.
    """
    try:
        from torch._dynamo.eval_frame import remove_from_cache
    except ImportError:
        return
    remove_from_cache(function)
