"""A member as the search runs it, by torch."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from monai_prox.runtime.resampling import Array


def runnable(network: nn.Module, device_name: str | None = None) -> Callable[[Array], Array]:
    """A function that runs a network on arrays.

    Args:
        network: (B, C, *patch) -> (B, outputs, *patch). It is changed.
        device_name: device of torch. None means the GPU if there is one.
    """
    device = torch.device(device_name or ("cuda" if torch.cuda.is_available() else "cpu"))
    network = network.to(device).eval()
    if device.type == "cpu" and torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        _convolve_by_onednn(network)

    def run(x: Array) -> Array:
        with torch.inference_mode():
            result: Array = network(torch.from_numpy(x).to(device)).float().cpu().numpy()
        return result

    return run


def _convolve_by_onednn(network: nn.Module) -> None:
    """Makes 3D convolutions use oneDNN. torch's choice for a batch of one is up to seven times slower."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv3d) and not isinstance(layer.padding, str) and layer.padding_mode == "zeros":
            layer.forward = partial(_onednn, layer)  # type: ignore[method-assign]


def _onednn(layer: nn.Conv3d, x: Tensor) -> Tensor:
    settings = layer.padding, layer.stride, layer.dilation, layer.groups
    result: Tensor = torch.ops.aten.mkldnn_convolution(x, layer.weight, layer.bias, *settings)
    return result
