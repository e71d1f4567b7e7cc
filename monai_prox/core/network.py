"""The networks that bundles' configurations name."""

from __future__ import annotations

from torch import fx, nn

from monai_prox.core.family import Family


def largest(family: Family, *, deep_supervision: bool = False) -> nn.Module:
    """The family's largest stock network: what is trained, and what all members share."""
    network = family.build(family.space.largest())
    if deep_supervision:
        network.decoder.deep_supervision = True  # type: ignore[union-attr]
    return network


def prediction_graph(network: nn.Module) -> fx.GraphModule:
    """The part of a stock network that predicts, with one output, as MONAI's exports want it.

    It holds the network's own weights under their own names, so loading into it loads into ``network``. The stock code of
    U-Nets does not compile under torch.jit.script, its graph does. What prediction does not need, the second names of shared
    layers and the heads of deep supervision, is not part of it.
    """
    if not hasattr(network, "decoder"):
        return fx.symbolic_trace(network)
    deep_supervision = network.decoder.deep_supervision  # type: ignore[union-attr]
    network.decoder.deep_supervision = False  # type: ignore[union-attr]
    try:
        return fx.symbolic_trace(network)
    finally:
        network.decoder.deep_supervision = deep_supervision  # type: ignore[union-attr]
