"""ONNX files: of a version that older runtimes read, with the results of the newest."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from helpers.descriptions import DESCRIBED
from helpers.nnunet_task import TWO_MEMBERS, bare_model, bare_plans, device_file
from helpers.refusals import refused
from torch import nn

from monai_prox.export import onnx_file
from monai_prox.export.onnx_file import describe_again, write_onnx
from monai_prox.runtime.model import Model

pytest_plugins = ["helpers.nnunet_fixtures"]


@pytest.mark.parametrize("made", ["two_members", "any_patch"])
def test_files_are_of_the_version_of_their_operators(made: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """IR version 8 came with opset 17 and 18; ONNX Runtime 1.15 reads it, but not 10, which the exporter writes."""
    file = Path(shutil.copy(request.getfixturevalue(made) / "largest.onnx", tmp_path))
    written = onnx.load(file)
    onnx.checker.check_model(written, full_check=True)
    assert written.ir_version == 8 and [(one.domain, one.version) for one in written.opset_import] == [("", 18)]
    model = Model(file)
    x = np.random.default_rng(0).normal(size=(1, *model.description.input_shape)).astype(np.float32)
    result = model(x)
    written.ir_version = 10
    newer = onnxruntime.InferenceSession(written.SerializeToString(), providers=["CPUExecutionProvider"])
    assert np.array_equal(result, newer.run(None, {"image": x})[0])
    described = Model(file).described
    written.opset_import.append(onnx.helper.make_opsetid("ai.onnx.ml", 5))  # which the file has no operator of
    onnx.save(written, file)
    describe_again(file, described)  # as after a quantisation
    again = onnx.load(file)
    assert again.ir_version == 8 and [(one.domain, one.version) for one in again.opset_import] == [("", 18)]
    assert Model(file).described == described


def test_no_layer_works_in_place_while_it_is_exported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It does again afterwards, also if the export fails."""
    network, seen = nn.Sequential(nn.Conv3d(1, 2, 1), nn.LeakyReLU(inplace=True), nn.ReLU()), list[bool]()

    def export(given: nn.Module, *_: Any, **__: Any) -> None:
        seen.extend(layer.inplace for layer in given if hasattr(layer, "inplace"))
        raise MemoryError

    monkeypatch.setattr(torch.onnx, "export", export)
    with pytest.raises(MemoryError):
        write_onnx(network, DESCRIBED, tmp_path / "member.onnx")
    assert seen == [False, False] and [layer.inplace for layer in network[1:]] == [True, False]


def test_weights_that_no_file_holds_are_refused_before_the_export(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = bare_model(bare_plans(prox={"space": TWO_MEMBERS}))
    monkeypatch.setattr(onnx_file, "MOST_BYTES", 80_000)
    refused("an ONNX file holds 80,000; take fewer folds", device_file, model, "largest", bare / "largest.onnx")
    assert not (bare / "largest.onnx").exists()
