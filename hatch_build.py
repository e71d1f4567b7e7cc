"""Places the thin re-exports of nnunet_trainers/ where nnU-Net looks for trainers, in wheels and editable installs alike."""

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

IN_NNUNET = "nnunetv2/training/nnUNetTrainer/variants/monai_prox/prox_trainers.py"
IN_PACKAGE = "monai_prox/nnunet_trainers/prox_trainers.py"  # what `monai-prox trainers` shows for another nnU-Net


class TrainersHook(BuildHookInterface):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        source = str(Path(self.root, "nnunet_trainers", "prox_trainers.py"))
        build_data["force_include"] |= {source: IN_NNUNET}
        build_data["force_include_editable"] |= {source: IN_NNUNET}
        if version == "standard":
            build_data["force_include"][source + "/../prox_trainers.py"] = IN_PACKAGE
