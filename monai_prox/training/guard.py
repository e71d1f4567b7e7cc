"""Hooks of optimizers that keep frozen weights unchanged, and lower the learning rate during a warm-up."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook

from monai_prox.core.slicing import Permutations, permute
from monai_prox.errors import ProXError
from monai_prox.training.growth import Freezer


class Guard:
    """Makes optimizers keep frozen weights, and use the learning rate of the warm-up.

    ``updates`` is the number of updates by the first guarded optimizer. ``opened`` is that number when the stage opened, and
    ``warmup`` the number of updates of its warm-up; the expansion sets both. ``pending`` is whether there are gradients that no
    guarded optimizer has used yet; the engine sets it. An optimizer that outlives its guard is not guarded any more.

    Args:
        network: the network whose weights are guarded.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self.updates = self.opened = 0
        self.warmup = 0.0
        self.pending = False
        self._freezer = Freezer({})
        self._optimizers: list[Optimizer] = []
        _refuse_others(self)

    def add(self, optimizer: Optimizer) -> None:
        """Guards an optimizer. The updates of the first guarded optimizer are counted.

        Args:
            optimizer: the optimizer.

        Raises:
            ProXError: the optimizer has none of the network's weights.
        """
        if self.guards(optimizer):
            return
        if not self.holds_any(optimizer):
            raise ProXError("the optimizer holds none of the supernet's weights: make it of supernet.parameters()")
        counts, rates = not self._optimizers, list[Any]()

        def restore_rates() -> None:
            for group, rate in zip(optimizer.param_groups, rates, strict=False):
                group["lr"] = rate
            rates.clear()

        living = weakref.ref(self)

        def before(*_: Any) -> None:
            restore_rates()  # if the step before has raised
            if (guard := living()) is None:
                return
            guard.pending = False
            guard._freezer.before_step()
            guard.updates += counts
            for group in optimizer.param_groups:
                rates.append(group["lr"])
                group["lr"] = group["lr"] * guard.rate_factor

        def after(*_: Any) -> None:
            restore_rates()
            if (guard := living()) is not None:
                guard._freezer.after_step()

        self._optimizers.append(optimizer)
        optimizer.register_step_pre_hook(before)
        optimizer.register_step_post_hook(after)

    @property
    def rate_factor(self) -> float:
        """The factor of the learning rate in the current update."""
        return min(1.0, (self.updates - self.opened) / self.warmup) if self.warmup else 1.0

    def guards(self, optimizer: Optimizer) -> bool:
        """Whether an optimizer is guarded.

        Args:
            optimizer: the optimizer.
        """
        return any(optimizer is guarded for guarded in self._optimizers)

    def holds_any(self, optimizer: Optimizer) -> bool:
        """Whether an optimizer has weights of the network.

        Args:
            optimizer: the optimizer.
        """
        return not _held_by([optimizer]).isdisjoint(map(id, self.network.parameters()))

    def check(self) -> None:
        """Checks that the guarded optimizers have all weights that are trained.

        Raises:
            ProXError: no optimizer is guarded, or weights are in none of the guarded optimizers.
        """
        if not self._optimizers:
            raise ProXError("the engine guards no optimizer: call guard(optimizer) before the first step")
        held = _held_by(self._optimizers)
        if missing := [name for name, p in self.network.named_parameters() if p.requires_grad and id(p) not in held]:
            raise ProXError(
                f"no guarded optimizer holds {len(missing)} of the supernet's weights, the first is {missing[0]}: guard the "
                "one that does, or set their requires_grad to False"
            )

    def freeze(self, frozen: dict[nn.Parameter, Tensor], *, resumes: bool = False) -> None:
        """Replaces the set of frozen weights.

        Args:
            frozen: masks that are True for frozen weights, by parameter.
            resumes: whether the states of the optimizers are of a training in which the same weights were frozen. If not, the
                states of weights that are trained from now on are reset.
        """
        former, self._freezer = self._freezer, Freezer(frozen)
        for optimizer in self._optimizers if not resumes else ():
            self._freezer.renew(optimizer, former)

    def mask_gradients(self) -> None:
        """Sets the gradients of frozen parts to 0. Called before clipping, so that the norm excludes these parts."""
        self._freezer.mask_gradients()

    def permute(self, permuted: Mapping[nn.Parameter, Permutations]) -> None:
        """Permutes the states of the optimizers as weights were permuted.

        Args:
            permuted: the permutations of the axes, by parameter.
        """
        for optimizer in self._optimizers:
            for parameter, permutations in permuted.items():
                state = optimizer.state.get(parameter, {})
                for key, value in state.items():
                    if isinstance(value, Tensor) and value.shape == parameter.shape:
                        state[key] = permute(value, permutations)


def _held_by(optimizers: Iterable[Optimizer]) -> set[int]:
    """The ids of the weights in some optimizers."""
    return {id(weight) for optimizer in optimizers for group in optimizer.param_groups for weight in group["params"]}


def _refuse_others(guard: Guard) -> None:
    """Raises ProXError if another optimizer has used pending gradients, as long as the guard exists.

    The check follows the step, because an optimizer may wrap a guarded optimizer.
    """
    living = weakref.ref(guard)

    def after(optimizer: Optimizer, *_: Any) -> None:
        guard = living()
        if guard is not None and guard.pending and not guard.guards(optimizer) and guard.holds_any(optimizer):
            raise ProXError("an optimizer that the engine does not guard has changed the supernet's weights: guard it first")

    weakref.finalize(guard, register_optimizer_step_post_hook(after).remove)
