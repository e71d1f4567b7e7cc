"""Files without transposed convolutions: the same results, by operators and numbers of axes that every runtime has."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from helpers.nnunet_task import SHALLOW, TWO_LEVELS, TWO_MEMBERS, bare_model, bare_plans, write_held_out
from helpers.refusals import refused
from monai.networks import nets
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import nn

from monai_prox.export.device_file import ENDINGS, export_file
from monai_prox.export.portable import without_transposed_convolutions
from monai_prox.runtime.model import Model
from monai_prox.trained.nnunet_source import TrainedNNUNet

pytest_plugins = ["helpers.nnunet_fixtures"]

LAYERS = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
MOST_AXES = 5  # of a tensor: an image of three axes, its channels and the batch


@pytest.fixture
def folds(bare: Path) -> TrainedNNUNet:
    """A stock model of two folds with a stride that differs by the axis."""
    plans = bare_plans(patch=(8, 16, 16), **TWO_LEVELS)
    (configuration,) = plans["configurations"].values()
    configuration["architecture"]["arch_kwargs"]["strides"] = [[1, 1, 1], [1, 2, 2]]
    return TrainedNNUNet.open(bare_model(plans, folds=(0, 1), cls=nnUNetTrainer).path, fold="fold_every")


def operators(file: Path) -> list[str]:
    return [node.op_type for node in onnx.load(file).graph.node]


@pytest.mark.parametrize("stride", [(2,), (2, 3), (1, 2), (2, 2, 2), (1, 2, 2), (2, 2, 1), (3, 2, 4), (1, 1, 1)], ids=str)
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
def test_a_layer_computes_the_same(stride: tuple[int, ...], bias: bool) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(LAYERS[len(stride)](6, 5, stride, stride, bias=bias)).eval()
    replaced = without_transposed_convolutions(network)
    assert not any(isinstance(layer, tuple(LAYERS.values())) for layer in replaced.modules())
    assert isinstance(network[0], LAYERS[len(stride)])
    assert sum(map(torch.numel, replaced.parameters())) >= sum(map(torch.numel, network.parameters()))
    for batch, size in ((1, 3), (2, 4)):
        x = torch.randn(batch, 6, *range(size, size + len(stride)))
        with torch.inference_mode():
            torch.testing.assert_close(replaced(x), network(x), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "wrong",
    [
        {"kernel_size": 3, "stride": 2},
        {"kernel_size": 2, "stride": 2, "padding": 1},
        {"kernel_size": 2, "stride": 2, "output_padding": 1},
        {"kernel_size": 2, "stride": 2, "dilation": 3},
        {"kernel_size": 2, "stride": 2, "groups": 2},
    ],
    ids=lambda wrong: list(wrong)[-1],
)
def test_layers_that_cannot_be_replaced_are_named(wrong: dict[str, Any]) -> None:
    network = nn.ModuleDict({"up": nn.Sequential(nn.Identity(), nn.ConvTranspose3d(2, 2, **wrong))})
    refused("--portable cannot replace the layer up.1, ConvTranspose3d(2, 2, kernel", without_transposed_convolutions, network)


def test_layers_of_other_classes_are_named() -> None:
    """As those whose weights are computed are, whatever their kernels."""
    network = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.ConvTranspose3d(1, 2, 2, 2)))
    refused("--portable cannot replace the layer 0, ParametrizedConvTranspose3d(", without_transposed_convolutions, network)


def test_monais_networks_compute_the_same_or_are_refused() -> None:
    torch.manual_seed(0)
    networks = [
        nets.BasicUNet(spatial_dims=2, in_channels=2, out_channels=3, features=(4, 4, 4, 4, 4, 4)),
        nets.DynUNet(2, 2, 3, [3, 3, 3], [1, 2, [1, 2]], [2, [1, 2]], filters=[4, 8, 8], trans_bias=True),
        nets.SegResNet(2, 8, 2, 3, norm="instance", blocks_down=(1, 1), blocks_up=(1,), upsample_mode="deconv"),
    ]
    x = torch.randn(2, 2, 32, 32)
    for network in networks:
        replaced = without_transposed_convolutions(network.eval())
        assert [name for name, _ in replaced.named_modules()] != [name for name, _ in network.named_modules()]
        with torch.inference_mode():
            torch.testing.assert_close(replaced(x), network(x), rtol=1e-4, atol=1e-5)
    unet = nets.UNet(spatial_dims=2, in_channels=2, out_channels=3, channels=(4, 8), strides=(2,))
    refused("--portable cannot replace the layer model.2.conv, ConvTranspose2d(", without_transposed_convolutions, unet)


@pytest.mark.parametrize(
    "format", ["onnx", pytest.param("openvino", marks=[pytest.mark.alone, pytest.mark.slow]), "torchscript"]
)
def test_a_file_of_folds_computes_the_same(format: str, folds: TrainedNNUNet, tmp_path: Path) -> None:
    file, network = tmp_path / f"portable{ENDINGS[format]}", folds.network("largest")
    export_file(folds, "largest", file, format, portable=True)
    model = Model(file, threads=1)
    assert model.description == folds.describe("largest")
    for batch in (1, 3):
        x = torch.randn(batch, *model.description.input_shape, generator=torch.Generator().manual_seed(batch))
        with torch.inference_mode():
            wanted = network(x).numpy()
        np.testing.assert_allclose(model(x.numpy()), wanted, rtol=1e-4, atol=1e-5 * np.abs(wanted).max())
    if format == "onnx":
        written = onnx.load(file)
        inferred = onnx.shape_inference.infer_shapes(written, strict_mode=True).graph.value_info
        axes = {value.name: len(value.type.tensor_type.shape.dim) for value in inferred}
        assert len(axes) >= len(written.graph.node) - 1 and max(axes.values()) == MOST_AXES
        assert "ConvTranspose" not in operators(file)
        turned = [axes[node.output[0]] for node in written.graph.node if node.op_type == "Transpose"]
        assert len(turned) == 2 * 2 and max(turned) == 4  # both folds have a stride of two axes


@pytest.fixture
def family(bare: Path, monkeypatch: pytest.MonkeyPatch) -> TrainedNNUNet:
    model = bare_model(bare_plans(prox={"space": TWO_MEMBERS}, **SHALLOW))
    monkeypatch.setenv("nnUNet_raw", str(write_held_out(model, ["a", "b"]).parent))
    return TrainedNNUNet.open(model.path)


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "most"), [("half", 0.02), ("int8", 0.5)])
def test_other_precisions_are_portable_too(precision: str, most: float, family: TrainedNNUNet, tmp_path: Path) -> None:
    output = tmp_path / "a.onnx"
    options: dict[str, Any] = {precision: True}
    export_file(family, "largest", output, "onnx", portable=True, most_loss=1, **options)
    assert "ConvTranspose" not in operators(output) and "Transpose" in operators(output)
    x = torch.randn(1, 1, 16, 24, 16, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        wanted = family.network("largest")(x).numpy()
    assert 0 < np.abs(Model(output, threads=1)(x.numpy()) - wanted).max() < most * np.abs(wanted).max()


def test_patches_of_any_size_are_refused(folds: TrainedNNUNet, tmp_path: Path) -> None:
    output = tmp_path / "a.onnx"
    said = "--portable is for the plan's patch alone; leave out --any-patch"
    refused(said, export_file, folds, "largest", output, "onnx", any_patch=True, portable=True)
    assert not output.exists()
