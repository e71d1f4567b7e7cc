"""Networks for the configuration files of bundles."""

from __future__ import annotations

from torch import fx, nn

from monai_prox.core.family import Family
from monai_prox.errors import ProXError


def largest(family: Family, *, deep_supervision: bool = False) -> nn.Module:
    """The largest stock network of a family: the network that is trained, and that all members share.

    Args:
        family: the family.
        deep_supervision: whether the network also returns outputs at lower resolutions in training. Only nnU-Net's can; those
            of MONAI have an argument for it.

    Raises:
        ProXError: the network has no deep supervision that could be switched on.

    >>> from monai_prox import MobileNetFamily
    >>> network = largest(MobileNetFamily(input_channels=1, num_classes=2))
    >>> sum(weight.numel() for weight in network.parameters())
    4973898
    """
    network = family.build(family.space.largest())
    if deep_supervision:
        if not hasattr(network, "decoder"):
            raise ProXError(f"{type(network).__name__} has no deep supervision to switch on; its own arguments may ask for it")
        network.decoder.deep_supervision = True  # type: ignore[union-attr]
    return network


def predicting(network: nn.Module) -> nn.Module:
    """The part of a stock network whose weights a bundle keeps, with those weights.

    Args:
        network: a stock network.

    Returns:
        The ``prediction_graph`` of nnU-Net's networks, whose heads of deep supervision do not predict. Others themselves.
    """
    return prediction_graph(network) if hasattr(network, "decoder") else network


def prediction_graph(network: nn.Module) -> fx.GraphModule:
    """The part of a stock network that predicts, with one output, as MONAI's exports need it.

    The graph holds the network's own weights under their own names, so loading weights into the graph loads them into the
    network. torch.jit.script compiles the graph, but not the code of the stock U-Nets. The graph leaves out what prediction
    does not use: second names of shared layers, and the heads of deep supervision.

    Args:
        network: a stock network.

    >>> import torch
    >>> graph = prediction_graph(nn.Sequential(nn.Linear(3, 2)))
    >>> graph(torch.zeros(1, 3)).shape
    torch.Size([1, 2])
    """
    if not hasattr(network, "decoder"):
        return fx.symbolic_trace(network)
    deep_supervision = network.decoder.deep_supervision  # type: ignore[union-attr]
    network.decoder.deep_supervision = False  # type: ignore[union-attr]
    try:
        return fx.symbolic_trace(network)
    finally:
        network.decoder.deep_supervision = deep_supervision  # type: ignore[union-attr]
