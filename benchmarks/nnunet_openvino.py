"""nnU-Net's own predictor with its network in OpenVINO, as its authors' entry to FLARE24 has it, on the processor.

OpenVINO's latency mode, tiles half a patch apart, no mirroring, one process that prepares and one that writes. The precision is
what OpenVINO chooses. ``write_network`` writes what it reads.

    python -m benchmarks.nnunet_openvino MODEL_FOLDER NETWORK.xml -i IMAGES -o FOLDER
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import openvino
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from torch import Tensor, nn


class Compiled(nn.Module):
    """A network of OpenVINO where nnU-Net's predictor expects one of torch."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.compiled = openvino.Core().compile_model(file, "CPU", {"PERFORMANCE_HINT": "LATENCY"})

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, *patch) -> logits (B, outputs, *patch)."""
        return torch.from_numpy(self.compiled(x.numpy())[0].copy())


def predictor(model: Path, fold: str) -> Any:
    """nnU-Net's, of a fold of a model folder."""
    given = {"use_mirroring": False, "perform_everything_on_device": False, "allow_tqdm": False}
    made = nnUNetPredictor(device=torch.device("cpu"), **given)
    made.initialize_from_trained_model_folder(str(model), (fold,))
    return made


def write_network(model: Path, fold: str, file: Path) -> None:
    made = predictor(model, fold)
    example = torch.zeros(1, len(made.dataset_json["channel_names"]), *made.configuration_manager.patch_size)
    openvino.save_model(openvino.convert_model(made.network.eval(), example_input=example), file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("network", type=Path)
    parser.add_argument("-f", "--fold", default="0")
    parser.add_argument("-i", "--images", type=Path, required=True)
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    made = predictor(arguments.model, arguments.fold)
    made.network, made.list_of_parameters = Compiled(arguments.network), [{}]
    made.predict_from_files(
        str(arguments.images),
        str(arguments.output),
        num_processes_preprocessing=1,
        num_processes_segmentation_export=1,
    )


if __name__ == "__main__":  # nnU-Net's processes import this module again
    main()
