"""The initialisation of new weights, and weights that are frozen."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from monai_prox.core.slicing import Region, fill
from monai_prox.core.space import Subnet
from monai_prox.core.supernet import SuperNet


def _mask(tensor: Tensor, region: Region | None) -> Tensor:
    """A mask that is True inside ``region``, or False everywhere for None."""
    mask = torch.zeros(tensor.shape, dtype=torch.bool, device=tensor.device)
    if region is not None:
        fill(mask, region, True)
    return mask


@torch.no_grad()
def initialise_preserving(supernet: SuperNet, old: Subnet, new: Subnet) -> None:
    """Sets the weights that only the new member has, so that the new member computes the same as the old one.

    Output channels of the old member do not read new inputs: their weights for new input channels, and for the new border of
    larger kernels, are 0. A new convolution passes its input on, apart from its norm. A new lowest level of MONAI's networks
    does not. New output channels keep their random weights, because weights that are 0 on both sides would have no gradient.

    Args:
        supernet: the supernet.
        old: the largest member of the previous stage.
        new: the largest member of the stage that opens.
    """
    before, after = supernet.regions(old), supernet.regions(new)
    for name, weight in supernet.network.named_parameters():
        if weight.ndim < 2 or name not in after or before.get(name) == after[name]:
            continue
        if name in before:
            output = supernet.family.output_axis(name)
            rows = tuple(
                parts if axis == output else (slice(0, size),)
                for axis, (parts, size) in enumerate(zip(before[name], weight.shape, strict=True))
            )
            weight.masked_fill_(_mask(weight, rows) & ~_mask(weight, before[name]), 0.0)
        elif (first := supernet.family.passes_through(name)) is not None:
            weight.zero_()
            middle = tuple(size // 2 for size in weight.shape[2:])
            for channel in range(min(weight.shape[0], weight.shape[1] - first)):
                weight[channel, first + channel][middle] = 1.0


class Freezer:
    """Keeps parts of the weights unchanged during the steps of an optimizer.

    Gradients of 0 do not freeze a weight, because momentum and weight decay still change it. So frozen parts are restored after
    each step.

    Args:
        frozen: masks that are True for frozen weights, by parameter. Parameters without a mask are trained.
    """

    def __init__(self, frozen: dict[nn.Parameter, Tensor]) -> None:
        self._partly = {p: mask for p, mask in frozen.items() if mask.any() and not mask.all()}
        self._wholly = {p for p, mask in frozen.items() if mask.all()}
        self._copies: dict[nn.Parameter, Tensor] = {}
        for parameter in frozen:
            parameter.requires_grad_(parameter not in self._wholly)
        for parameter in self._wholly:
            parameter.grad = None  # even a gradient of 0 would let momentum and weight decay change the weight

    @torch.no_grad()
    def renew(self, optimizer: Optimizer, former: Freezer) -> None:
        """Resets the optimizer's state of weights that were frozen and are trained from now on.

        Some optimizers count the updates of a tensor, not of a weight. Adam would treat the first gradients of a weight in an
        old tensor as an average over a thousand updates, and its first hundred updates of the weight would be three to six
        times too large. So the state of such a tensor is reset as a whole.

        Args:
            optimizer: the optimizer.
            former: the freezer until now.
        """
        for parameter in former._wholly | self._wholly:
            optimizer.state.pop(parameter, None)
        for parameter, frozen_before in former._partly.items():
            frozen, state = self._partly.get(parameter), optimizer.state.get(parameter, {})
            released = frozen_before if frozen is None else frozen_before & ~frozen
            if "step" in state and released.any():
                del optimizer.state[parameter]
                continue
            for value in state.values():
                if isinstance(value, Tensor) and value.shape == parameter.shape:
                    value.masked_fill_(released, 0.0)

    @torch.no_grad()
    def mask_gradients(self) -> None:
        """Sets the gradients of frozen parts to 0. Called before clipping, so that the norm excludes these parts."""
        for parameter, mask in self._partly.items():
            if parameter.grad is not None:
                parameter.grad.masked_fill_(mask, 0.0)

    @torch.no_grad()
    def before_step(self) -> None:
        """Copies the parameters that are partly frozen and have a gradient."""
        self._copies = {p: torch.empty_like(p) for p in self._partly if p.grad is not None}
        if self._copies:
            torch._foreach_copy_([*self._copies.values()], [*self._copies])

    @torch.no_grad()
    def after_step(self) -> None:
        """Restores the frozen parts from the copies."""
        for parameter, copy in self._copies.items():
            torch.where(self._partly[parameter], copy, parameter, out=parameter)
        self._copies = {}


def frozen_parts(
    supernet: SuperNet, old: Subnet | None, new: Subnet, freeze: Literal["none", "grown"]
) -> dict[nn.Parameter, Tensor]:
    """The weights that are frozen during a stage.

    Weights that no open member has are always frozen. With "grown" the old parts of tensors that grew are frozen, too, and the
    old tensors of network stages that have new tensors.

    Args:
        supernet: the supernet.
        old: the largest member of the previous stage, or None for the first stage.
        new: the largest member of the stage.
        freeze: see ``Stage``.

    Returns:
        Masks that are True for frozen weights, by parameter.
    """
    before, after = supernet.regions(old) if old is not None else {}, supernet.regions(new)
    group = supernet.family.group
    deeper = {group(name) for name in after if name not in before}
    masks = {}
    for name, parameter in supernet.network.named_parameters():
        mask = ~_mask(parameter, after.get(name))
        if freeze == "grown" and name in before and (before[name] != after[name] or group(name) in deeper):
            mask |= _mask(parameter, before[name])
        masks[parameter] = mask
    return masks
