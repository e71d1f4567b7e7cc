"""The files of a bundle whose network classifies: MONAI and torchvision are all it needs."""

from __future__ import annotations

from dataclasses import dataclass
from textwrap import fill
from typing import Any

from monai_prox.export import bundle_configs, bundle_docs
from monai_prox.export.prediction import Prediction, check_plain
from monai_prox.runtime.classification import SUFFIXES

PACKAGES = ("pillow", "pytorch-ignite", "torchvision")
PLACE = "torchvision.models.mobilenetv3"
CONFIG = ("input_channels", "kernel", "expanded_channels", "out_channels", "use_se", "activation", "stride")


@dataclass(frozen=True, kw_only=True)
class ClassificationBundle(Prediction):
    """A member that classifies.

    classes: names of the outputs. image_size: pixels, rows and columns, that images are brought to; working_size: at which the
    network works on them. weights_license: of the weights, as their family.json says, or "".
    """

    classes: tuple[str, ...]
    image_size: tuple[int, int]
    working_size: tuple[int, int]
    weights_license: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_plain([self.classes, self.weights_license])

    def metadata(self) -> dict[str, Any]:
        """metadata.json."""
        tensors = {
            "image": bundle_configs.tensor("image", "magnitude", ["OCT"], self.working_size, patch=False, modality="OCT"),
            "pred": bundle_configs.tensor("probabilities", "classes", self.classes, (), patch=False),
        }
        return bundle_configs.metadata(
            self,
            does="Classification",
            network="MobileNetV3",
            packages=PACKAGES,
            data_type="jpeg",
            image_classes="1 channel, a retinal OCT B-scan; each image is normalised to mean 0 and standard deviation 1",
            outputs=self.classes,
            reference="Howard et al., Searching for MobileNetV3, ICCV (2019)",
            tensors=tensors,
            weights_license=self.weights_license,
        )

    def configurations(self) -> dict[str, dict[str, Any]]:
        """inference.json."""
        return {"inference": self._inference()}

    def _inference(self) -> dict[str, Any]:
        saver = {
            "_target_": "ClassificationSaver",
            "output_dir": "@output_dir",
            "batch_transform": bundle_configs.SOURCES,
            "output_transform": "$monai.handlers.from_engine('pred')",
        }
        return bundle_configs.inference(
            images=" or ".join(SUFFIXES),
            datalist="$sorted(i for i in glob.glob(os.path.join(glob.escape(@dataset_dir), '*')) "
            f"if i.lower().endswith({SUFFIXES}))",
            network=self._network(),
            preprocessing=self._preprocessing(),
            inferer={"_target_": "SimpleInferer"},
            postprocessing=[{"_target_": "Activationsd", "keys": "pred", "softmax": True}],
            handlers=[saver],
        )

    def _network(self) -> dict[str, Any]:
        """The stock network as a configuration, with what it refers to."""
        settings = [dict(zip(CONFIG, block, strict=True)) for block in self.architecture["blocks"]]
        return {
            "stem": {
                "_target_": "torch.nn.Conv2d",
                "in_channels": 1,
                "out_channels": self.architecture["blocks"][0][0],
                "kernel_size": 3,
                "stride": 2,
                "padding": 1,
                "bias": False,
            },
            "stock": {
                "_target_": f"{PLACE}.MobileNetV3",
                "inverted_residual_setting": [
                    {"_target_": f"{PLACE}.InvertedResidualConfig", **block, "dilation": 1, "width_mult": 1.0}
                    for block in settings
                ],
                "last_channel": self.architecture["last_channel"],
                "num_classes": self.architecture["num_classes"],
            },
            # torchvision's stem is for colour images; to put another one into its place gives None
            "network_def": "$@stock.features[0].__setitem__(0, @stem) or @stock",
        }

    def _preprocessing(self) -> list[dict[str, Any]]:
        size = list(self.working_size)
        resize = f"torch.nn.functional.interpolate(d['image'][None], {size}, mode='bilinear', antialias=True)"
        smaller: list[Any] = [] if self.working_size == self.image_size else [f"$lambda d: {{**d, 'image': {resize}[0]}}"]
        return [
            {
                "_target_": "LoadImaged",
                "keys": "image",
                "reader": "$monai.data.PILReader(converter=lambda image: image.convert('L'), reverse_indexing=False)",
            },
            {"_target_": "EnsureChannelFirstd", "keys": "image", "channel_dim": "no_channel"},
            {
                "_target_": "Resized",
                "keys": "image",
                "spatial_size": list(self.image_size),
                "mode": "bilinear",
                "anti_aliasing": True,
            },
            {"_target_": "NormalizeIntensityd", "keys": "image"},
            {"_target_": "EnsureTyped", "keys": "image", "dtype": "$torch.float32"},
            *smaller,
        ]

    def readme(self) -> str:
        classes = ", ".join(self.classes)
        overview = fill(
            f"Classifies retinal OCT B-scans as {classes}. This is {self.name}, one member of a once-for-all family of "
            f"networks, cut out without retraining: {self.source}. The network is torchvision's MobileNetV3 with other blocks; "
            "it runs wherever MONAI and torchvision are installed.",
            bundle_docs.WIDTH,
        )
        (rows, columns), working = self.image_size, " x ".join(map(str, self.working_size))
        return bundle_docs.readme(
            self,
            overview=overview,
            data=f"{self.task}. For the licence of the data ask whoever provides it.",
            inputs=f"Grey-scale images in a folder ({', '.join(SUFFIXES)}), brought to {rows} x {columns} pixels; the network "
            f"works on {working}.",
            outputs=f"eval/predictions.csv: a line per image with its file and the probabilities of {classes}, in this order.",
            reference='Howard, A. et al. "Searching for MobileNetV3." ICCV (2019).',
            weights_license=self.weights_license,
        )

    def data_license(self) -> str:
        return bundle_docs.data_license(self.task, "ask whoever provides it for its licence.", self.weights_license)
