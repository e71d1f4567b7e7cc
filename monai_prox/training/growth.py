"""How new weights are initialised, and weights that stay exactly as they are."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from monai_prox.core.slicing import Region, fill
from monai_prox.core.space import Subnet
from monai_prox.core.supernet import SuperNet


def _mask(tensor: Tensor, region: Region | None) -> Tensor:
    """True inside ``region``; nowhere for None."""
    mask = torch.zeros(tensor.shape, dtype=torch.bool, device=tensor.device)
    if region is not None:
        fill(mask, region, True)
    return mask


@torch.no_grad()
def initialise_preserving(supernet: SuperNet, old: Subnet, new: Subnet) -> None:
    """Sets the weights that ``new`` has and ``old`` has not, such that ``new`` computes what ``old`` does.

    Output channels that ``old`` has read nothing from what is new to them: new kernel shells and the columns of new input
    channels are zero. New layers of a chain pass their input on; what their norm does to it remains. New output channels keep
    their random weights, for something has to be there to be read.
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
    """Keeps parts of the weights exactly as they are, whatever the optimizer does.

    Zero gradients do not freeze: momentum and weight decay still move the weight. So frozen parts are put back after each step.

    frozen: True where a parameter stays; parameters that are not in it are trained.
    """

    def __init__(self, frozen: dict[nn.Parameter, Tensor]) -> None:
        self._partly = {p: mask for p, mask in frozen.items() if mask.any() and not mask.all()}
        self._wholly = {p for p, mask in frozen.items() if mask.all()}
        self._kept: dict[nn.Parameter, Tensor] = {}
        for parameter in frozen:
            parameter.requires_grad_(parameter not in self._wholly)
        for parameter in self._wholly:
            parameter.grad = None  # one of the stage before, even if zeroed, would let momentum and decay move the weight

    @torch.no_grad()
    def renew(self, optimizer: Optimizer, former: Freezer) -> None:
        """Gives weights that ``former`` kept and that train from now on a fresh state in ``optimizer``.

        Some optimizers count the updates of a tensor, not of a weight. Adam would take the first gradients of weights in an old
        tensor for an average of a thousand, and its first hundred updates of them would be three to six times too large. So
        such a tensor begins anew as a whole.
        """
        for parameter in former._wholly | self._wholly:
            optimizer.state.pop(parameter, None)
        for parameter, kept in former._partly.items():
            keeps, state = self._partly.get(parameter), optimizer.state.get(parameter, {})
            begins = kept if keeps is None else kept & ~keeps
            if "step" in state and begins.any():
                del optimizer.state[parameter]
                continue
            for value in state.values():
                if isinstance(value, Tensor) and value.shape == parameter.shape:
                    value.masked_fill_(begins, 0.0)

    @torch.no_grad()
    def mask_gradients(self) -> None:
        """To be called before gradients are clipped, so that frozen parts do not count in their norm."""
        for parameter, mask in self._partly.items():
            if parameter.grad is not None:
                parameter.grad.masked_fill_(mask, 0.0)

    @torch.no_grad()
    def before_step(self) -> None:
        self._kept = {p: torch.empty_like(p) for p in self._partly if p.grad is not None}
        if self._kept:
            torch._foreach_copy_([*self._kept.values()], [*self._kept])

    @torch.no_grad()
    def after_step(self) -> None:
        for parameter, kept in self._kept.items():
            torch.where(self._partly[parameter], kept, parameter, out=parameter)
        self._kept = {}


def frozen_parts(
    supernet: SuperNet, old: Subnet | None, new: Subnet, freeze: Literal["none", "grown"]
) -> dict[nn.Parameter, Tensor]:
    """True where a weight stays during the stage whose largest member is ``new`` and was ``old`` the stage before.

    Weights that no member has yet stay always. With "grown", so do the old parts of tensors that grew, and the old tensors
    of network stages that got new ones.
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
