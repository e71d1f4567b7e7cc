"""Places the thin re-exports of nnunet_trainers/ where nnU-Net looks for trainers, in wheels and editable installs alike.

Wheels have the bundles, too; editable installs have them in the checkout.
"""

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

IN_NNUNET = "nnunetv2/training/nnUNetTrainer/variants/monai_prox"
IN_PACKAGE = "monai_prox/nnunet_trainers"  # what `monai-prox trainers` prints, for an nnU-Net in another site folder
BUNDLES = "monai_prox/bundles"  # what `monai-prox init-bundle` copies, without what a training has written there


class TrainersHook(BuildHookInterface):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        folder = Path(self.root, "nnunet_trainers")
        if version == "editable":
            for source in sorted(folder.glob("*.py")):
                build_data["force_include_editable"][str(source)] = f"{IN_NNUNET}/{source.name}"
        else:
            # two targets of one source: hatchling keys by source, and a folder and its files are different sources
            build_data["force_include"][str(folder)] = IN_PACKAGE
            for source in sorted(folder.glob("*.py")):
                build_data["force_include"][str(source)] = f"{IN_NNUNET}/{source.name}"
            for bundle in sorted(path.parents[1] for path in Path(self.root, "bundles").glob("*/configs/metadata.json")):
                for part in ("configs", "docs", "LICENSE"):
                    build_data["force_include"][str(bundle / part)] = f"{BUNDLES}/{bundle.name}/{part}"
