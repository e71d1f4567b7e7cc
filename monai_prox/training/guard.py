"""Optimizers under a guard: what is frozen stays as it is, and a warm-up lowers the learning rate."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook

from monai_prox.core.slicing import Permutations, permute
from monai_prox.errors import ProXError
from monai_prox.training.growth import Freezer


class Guard:
    """Stands around every update of a network's weights.

    network: whose weights are guarded. rate_factor: of the learning rate in the next update.
    """

    def __init__(self, network: nn.Module, rate_factor: Callable[[], float]) -> None:
        self.network, self.rate_factor = network, rate_factor
        self.updates = 0  # by the first optimizer
        self.pending = False  # gradients that no guarded optimizer has taken yet
        self._freezer = Freezer({})
        self._optimizers: list[Optimizer] = []
        _refuse_others(self)

    def add(self, optimizer: Optimizer) -> None:
        """Guards ``optimizer``, too; the updates of the first one count. Raises ProXError if it holds none of the weights."""
        if self.guards(optimizer):
            return
        if not self.holds_any(optimizer):
            raise ProXError("the optimizer holds none of the supernet's weights: make it of supernet.parameters()")
        counts, rates = not self._optimizers, list[Any]()

        def restore_rates() -> None:
            for group, rate in zip(optimizer.param_groups, rates, strict=False):
                group["lr"] = rate
            rates.clear()

        def before(*_: Any) -> None:
            self.pending = False
            self._freezer.before_step()
            self.updates += counts
            restore_rates()  # if the step before has raised
            for group in optimizer.param_groups:
                rates.append(group["lr"])
                group["lr"] = group["lr"] * self.rate_factor()

        def after(*_: Any) -> None:
            restore_rates()
            self._freezer.after_step()

        self._optimizers.append(optimizer)
        optimizer.register_step_pre_hook(before)
        optimizer.register_step_post_hook(after)

    def guards(self, optimizer: Optimizer) -> bool:
        return any(optimizer is guarded for guarded in self._optimizers)

    def holds_any(self, optimizer: Optimizer) -> bool:
        """Whether weights of the network are in ``optimizer``."""
        return not _held_by([optimizer]).isdisjoint(map(id, self.network.parameters()))

    def check(self) -> None:
        """Raises ProXError unless guarded optimizers hold all weights that train."""
        if not self._optimizers:
            raise ProXError("the engine guards no optimizer: call guard(optimizer) before the first step")
        held = _held_by(self._optimizers)
        if missing := [name for name, p in self.network.named_parameters() if p.requires_grad and id(p) not in held]:
            raise ProXError(
                f"no guarded optimizer holds {len(missing)} of the supernet's weights, the first is {missing[0]}: guard the "
                "one that does, or set their requires_grad to False"
            )

    def freeze(self, frozen: dict[nn.Parameter, Tensor], *, resumes: bool = False) -> None:
        """Keeps other weights than before: those that are True in ``frozen``.

        resumes: the optimizers' states are of a training in which these weights were frozen already.
        """
        former, self._freezer = self._freezer, Freezer(frozen)
        for optimizer in self._optimizers if not resumes else ():
            self._freezer.renew(optimizer, former)

    def mask_gradients(self) -> None:
        """To be called before gradients are clipped, so that frozen parts do not count in their norm."""
        self._freezer.mask_gradients()

    def permute(self, permuted: Mapping[nn.Parameter, Permutations]) -> None:
        """Lets the optimizers' states follow weights that have gone to other places."""
        for optimizer in self._optimizers:
            for parameter, permutations in permuted.items():
                state = optimizer.state.get(parameter, {})
                for key, value in state.items():
                    if isinstance(value, Tensor) and value.shape == parameter.shape:
                        state[key] = permute(value, permutations)


def _held_by(optimizers: Iterable[Optimizer]) -> set[int]:
    """The ids of the weights in ``optimizers``."""
    return {id(weight) for optimizer in optimizers for group in optimizer.param_groups for weight in group["params"]}


def _refuse_others(guard: Guard) -> None:
    """As long as ``guard`` lives, raises ProXError when an optimizer that it does not guard has taken pending gradients.

    After the step and not before: an optimizer may wrap one that is guarded.
    """
    living = weakref.ref(guard)

    def after(optimizer: Optimizer, *_: Any) -> None:
        guard = living()
        if guard is not None and guard.pending and not guard.guards(optimizer) and guard.holds_any(optimizer):
            raise ProXError("an optimizer that the engine does not guard has changed the supernet's weights: guard it first")

    weakref.finalize(guard, register_optimizer_step_post_hook(after).remove)
