"""The files of a bundle whose network segments. The axes of everything are MONAI's, (x, y, z) as in the NIfTI file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from textwrap import fill
from typing import Any, Literal

from monai_prox.errors import ProXError
from monai_prox.export import bundle_configs, bundle_docs
from monai_prox.export.bundle_entries import SCRIPTS_PATH, inverting, output_name, own
from monai_prox.export.fine_tuning import FINE_TUNED, FineTuning
from monai_prox.export.prediction import Prediction, check_plain
from monai_prox.families.architecture import kind_of

PACKAGES = ("nibabel", "pytorch-ignite", "dynamic-network-architectures", "scipy")
HIGHEST = 65535  # label
SCRIPTS_ENTRY = {SCRIPTS_PATH: "$sys.path.insert(0, os.path.abspath(@bundle_root))"}
AS_STORED = (
    "The network sees images as they are stored. They must be stored in the orientation of the training's images, which is\n"
    "not known: segmentations of others are wrong."
)
UNKNOWN_LICENCE = "not stated in its dataset.json; ask whoever provides it"
PROGRAMS = (
    "MONAI Label takes the bundle as it is. A MONAI Deploy application takes models/model.ts; put the folder `scripts`, which\n"
    "has the transforms that MONAI lacks, beside its app.py."
)
RUN = "python -m monai.bundle run --config_file"
FINE_TUNING = f"""Train the member further, and evaluate the result on the last fifth of the cases, which is held out:

```
{RUN} configs/train.json --dataset_dir DATASET
{RUN} "['configs/train.json','configs/evaluate.json']" --dataset_dir DATASET --ckpt_path models/{FINE_TUNED}
```

See `images` and `labels` in configs/train.json for what is read of the folder. The best weights, those at the start included,
go to models/{FINE_TUNED}; models/model.pt stays. Predictions use them with `--ckpt_path models/{FINE_TUNED}`."""
REFERENCE = (
    'Isensee, F. et al. "nnU-Net: a self-configuring method for deep learning-based biomedical image segmentation." Nature\n'
    "Methods 18, 203-211 (2021)."
)


@dataclass(frozen=True, kw_only=True)
class SegmentationBundle(Prediction):
    """A member that segments. Axes are (x, y, z).

    architecture: its entry as in nnU-Net's plans.
    channels: names; modality: "CT" or "MR" and so on; outputs: names of the network's output channels.
    written: the label of each output in label images, of regions; None where an output's number is its label.
    highest_label: in the label images that it makes of them, up to 65535.
    patch_size: voxels; spacing: mm.
    orientation: axis codes that images are turned to for the network, None where it sees them as stored.
    licence: of the data, as its dataset.json says, or "". weights_license: of the weights, as their family.json says, or "".
    preprocessing: configurations of MONAI's transforms, from files to the network. labelling: that of the transform from logits
    where the image came from to a label image ``pred`` (1, x, y, z), which is then saved.
    datalist: expression for the images in ``@dataset_dir``, named like ``images``.
    weighing: of a tile's voxels, MONAI's or nnU-Net's.
    fine_tuning: how MONAI trains the member further; None if it cannot.
    """

    channels: tuple[str, ...]
    modality: str
    outputs: tuple[str, ...]
    written: tuple[int, ...] | None
    highest_label: int
    patch_size: tuple[int, ...]
    spacing: tuple[float, ...]
    licence: str
    weights_license: str = ""
    preprocessing: tuple[Mapping[str, Any], ...]
    labelling: Mapping[str, Any]
    images: str
    orientation: str | None
    datalist: str
    fine_tuning: FineTuning | None
    weighing: Literal["monai", "nnunet"] = "monai"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_plain([self.channels, self.modality, self.outputs, self.licence, self.weights_license])
        if not 0 <= self.highest_label <= HIGHEST:
            raise ProXError(f"there is a label {self.highest_label}; bundles write labels from 0 to {HIGHEST}")

    def metadata(self) -> dict[str, Any]:
        """metadata.json."""
        magnitude = "hounsfield" if self.modality == "CT" else "magnitude"
        tensors = {
            "image": bundle_configs.tensor(
                "image", magnitude, self.channels, self.patch_size, patch=True, modality=self.modality
            ),
            "pred": bundle_configs.tensor("image", "logits", self.outputs, self.patch_size, patch=True),
        }
        return bundle_configs.metadata(
            self,
            does="Segmentation",
            network=kind_of(self.architecture),
            packages=PACKAGES,
            data_type="nibabel",
            image_classes=f"{len(self.channels)} channels: {', '.join(self.channels)}",
            outputs=self.outputs,
            reference="Isensee et al., nnU-Net, Nature Methods 18, 203-211 (2021)",
            tensors=tensors,
            labels=self._labels(),
            weights_license=self.weights_license,
            spacing=list(self.spacing),
        )

    def _labels(self) -> dict[int, str]:
        """Names by value in label images: that of regions is the last one which a voxel is in."""
        if self.written is None:
            return dict(enumerate(self.outputs))
        return {0: "background", **dict(sorted(zip(self.written, self.outputs, strict=True)))}

    def configurations(self) -> dict[str, dict[str, Any]]:
        """inference.json, and those for training the member further."""
        configurations = {"inference": self._inference()}
        if self.fine_tuning is not None:
            configurations |= self.fine_tuning.configurations(
                entries={**bundle_configs.COMMON, **SCRIPTS_ENTRY, "network_def": self._network()},
                patch_size=self.patch_size,
                preprocessing=self.preprocessing,
                inferer=self._inferer(),
                labelling=self.labelling,
            )
        return configurations

    def _inference(self) -> dict[str, Any]:
        save = {
            "_target_": "SaveImaged",
            "keys": "pred",
            "output_dir": "@output_dir",
            "output_postfix": "@output_postfix",
            "output_dtype": "$np.uint8" if self.highest_label <= 255 else "$np.uint16",
            "output_name_formatter": "@output_name",
            "separate_folder": False,
            "resample": True,  # to the grid that it is on: without, MONAI takes some affines for those of two axes, and stops
            "mode": "nearest",
        }
        return bundle_configs.inference(
            imports=("sys", "numpy as np"),
            entries={
                **SCRIPTS_ENTRY,
                "output_postfix": "",
                "output_name": output_name(self.images),
            },
            images=self.images,
            datalist=self.datalist,
            network={"network_def": self._network()},
            preprocessing=self.preprocessing,
            inferer=self._inferer(),
            postprocessing=[inverting("@preprocessing"), self.labelling, save],
        )

    def _inferer(self) -> dict[str, Any]:
        window = {"_target_": "SlidingWindowInferer"} if self.weighing == "monai" else own("NNUNetInferer")
        return {**window, "roi_size": list(self.patch_size), "sw_batch_size": 1, "overlap": 0.5, "mode": "gaussian"}

    def _network(self) -> dict[str, Any]:
        """The stock network as a configuration.

        Its graph rather than itself, because torch.jit.script compiles only that; the weights keep their stock names.
        """
        kwargs, named = self.architecture["arch_kwargs"], self.architecture["_kw_requires_import"]
        root = {
            "_target_": self.architecture["network_class_name"],
            "input_channels": len(self.channels),
            "num_classes": len(self.outputs),
            **kwargs,
            **{key: value and f"${value}" for key, value in kwargs.items() if key in named},
            "deep_supervision": False,
        }
        return {"_target_": "torch.fx.symbolic_trace", "root": root}

    def readme(self) -> str:
        segmented = ", ".join(name for name in self.outputs if name != "background")
        overview = fill(
            f"Segments {segmented} in images like those of {self.task}. This is {self.name}, one member of a once-for-all "
            f"family of networks, cut out without retraining: {self.source}.",
            bundle_docs.WIDTH,
        )
        network = fill(
            f"The network is a stock U-Net of dynamic-network-architectures, {kind_of(self.architecture)}, with features "
            f"{self.architecture['arch_kwargs']['features_per_stage']}. It works on patches of "
            f"{' x '.join(map(str, self.patch_size))} voxels of {' x '.join(f'{mm:.4g}' for mm in self.spacing)} mm. It runs "
            "wherever MONAI and dynamic-network-architectures are installed.",
            bundle_docs.WIDTH,
        )
        oriented = f"Images may be stored in any orientation; the network sees them turned to {self.orientation}."
        inputs = (
            f"NIfTI images in a folder, see `datalist` in configs/inference.json. Channels: {', '.join(self.channels)}.",
            AS_STORED if self.orientation is None else oriented,
            "Voxels that are not finite numbers count as 0.",
        )
        outputs = [
            f"Logits of the network's {len(self.outputs)} outputs:",
            "\n".join(f"- {number}: {name}" for number, name in enumerate(self.outputs)),
            "and from them label images, at the resolution and in the place of the input.",
        ]
        if self.written is not None:
            listed = "\n".join(f"- {value}: {name}" for value, name in self._labels().items())
            outputs += ["Outputs overlap. The label of a voxel is that of the last output that it is in:", listed]
        return bundle_docs.readme(
            self,
            overview=f"{overview}\n\n{network}",
            data=f"{self.task}. Licence of the data: {self.licence or UNKNOWN_LICENCE}.",
            inputs="\n\n".join(inputs),
            outputs="\n\n".join(outputs),
            reference=REFERENCE,
            weights_license=self.weights_license,
            fine_tuning=FINE_TUNING if self.fine_tuning is not None else "",
            programs=PROGRAMS,
        )

    def data_license(self) -> str:
        return bundle_docs.data_license(self.task, self.licence or UNKNOWN_LICENCE, self.weights_license)
