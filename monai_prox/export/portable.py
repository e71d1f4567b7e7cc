"""A network without transposed convolutions, which WebGPU and some other runtimes lack in 3D.

A transposed convolution whose kernel is its stride puts, for each voxel that it takes, one block of voxels, and blocks do not
overlap. That is a convolution of kernel 1 with a channel for each voxel of a block, and a rearrangement of channels to voxels.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from math import prod

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd

from monai_prox.errors import ProXError

CONVOLUTIONS: dict[type[nn.Module], type[nn.Module]] = {
    nn.ConvTranspose1d: nn.Conv1d,
    nn.ConvTranspose2d: nn.Conv2d,
    nn.ConvTranspose3d: nn.Conv3d,
}


def without_transposed_convolutions(network: nn.Module) -> nn.Module:
    """A copy of ``network`` that computes the same without transposed convolutions.

    Results differ by the rounding of float at most, for a library may add up channels in another order.

    Args:
        network: stays as it is.

    Returns:
        The copy; a network without transposed convolutions is the same.

    Raises:
        ProXError: a transposed convolution has a kernel other than its stride, or padding, dilation or groups.
    """
    copied = copy.deepcopy(network)
    layers = [pair for pair in copied.named_modules(remove_duplicate=False) if isinstance(pair[1], _ConvTransposeNd)]
    for name, layer in layers:
        assert isinstance(layer, _ConvTransposeNd)
        _check(name, layer)
        copied.set_submodule(name, PortableUpsampling(layer))
    return copied


def _check(name: str, layer: _ConvTransposeNd) -> None:
    fits = type(layer) in CONVOLUTIONS and layer.kernel_size == layer.stride and {*layer.padding, *layer.output_padding} == {0}
    if not fits or set(layer.dilation) != {1} or layer.groups != 1:
        raise ProXError(
            f"--portable cannot replace the layer {name}, {layer}; it has to be torch's own, its kernel its stride, unpadded"
        )


class PortableUpsampling(nn.Module):
    """What ``layer`` computes, of a kernel that is its stride: (B, in, *sizes) -> (B, out, *(sizes x stride))."""

    def __init__(self, layer: _ConvTransposeNd) -> None:
        super().__init__()
        self.channels, self.stride = layer.out_channels, tuple(layer.stride)
        block, ones = prod(self.stride), (1,) * len(self.stride)
        self.convolution = CONVOLUTIONS[type(layer)](
            layer.in_channels, block * self.channels, 1, bias=layer.bias is not None, device="meta"
        )
        weight = layer.weight.detach().movedim(0, -1)  # (out, *kernel, in)
        parameters = {"weight": weight.reshape(block * self.channels, layer.in_channels, *ones).contiguous()}
        if layer.bias is not None:
            parameters["bias"] = layer.bias.detach().repeat_interleave(block)
        self.convolution.load_state_dict(parameters, assign=True)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, in, *sizes)."""
        return _to_voxels(self.convolution(x).contiguous(), self.channels, self.stride)


def _to_voxels(x: Tensor, channels: int, stride: Sequence[int]) -> Tensor:
    """x: (B, channels * prod(stride), *sizes), stride the fastest -> (B, channels, *(sizes x stride)).

    One axis after the other, so that no tensor has more axes than ``x``, or four: runtimes have limits of four to six.
    Views of what is contiguous, because exporters compute the sizes of other reshapes when the network runs.
    """
    sizes = list(x.shape[2:])
    for axis in reversed(range(len(stride))):
        if stride[axis] > 1:
            x = x.view(-1, stride[axis], prod(sizes[: axis + 1]), prod(sizes[axis + 1 :])).transpose(1, 2).contiguous()
            sizes[axis] *= stride[axis]
    return x.view(-1, channels, *sizes)
