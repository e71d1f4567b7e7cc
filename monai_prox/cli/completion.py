"""What the shell completes an option's value to.

The values are repeated here, because importing them takes torch and so seconds, too long for a press of the tab key.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

FORMATS = ("nnunet", "bundle", "onnx", "openvino", "torchscript", "html")
CHECKPOINTS = ("final", "best", "latest")
RECIPES = ("prox", "prox_paper", "progressive_shrinking", "sandwich", "adopt")
SPACES = ("default", "paper")
UPDATES = (*map(str, range(1, 9)), "fill")  # with each batch
PRECISIONS = ("fp16", "bf16")
COSTS = ("latency_ms", "macs", "parameters", "memory_mb", "file_mb", "seconds", "ram_gb")
METRICS = ("dice", "surface_dice")
RUNTIMES = ("onnxruntime", "openvino", "torch")
PROVIDERS = ("cpu", "cuda", "tensorrt", "coreml", "dml", "openvino")
OUTPUTS = ("dicom-seg", "nifti", "both")
DEVICES = ("cpu", "cuda", "mps")
MEMBERS = ("smallest", "small", "middle", "large", "largest")
CONFIGURATIONS = ("2d", "3d_lowres", "3d_fullres")
BUNDLES = ("brats_prox", "hippocampus_prox", "msd_prox", "roct_prox")


def one_of(values: tuple[str, ...]) -> Callable[[str], list[str]]:
    """A completion to some values.

    Args:
        values: the values.
    """

    def complete(incomplete: str) -> list[str]:
        return [value for value in values if value.startswith(incomplete)]

    return complete


def complete_profile(incomplete: str) -> list[str]:
    """The files that may be a device's profile, and the folders on the way to them.

    Args:
        incomplete: beginning of the path.
    """
    return sorted(_paths(incomplete, ".json"))


def _paths(incomplete: str, ending: str) -> Iterator[str]:
    head, beginning = os.path.split(incomplete)
    try:
        for entry in os.scandir(Path(head or ".").expanduser()):
            if entry.name.startswith(beginning) and (beginning or not entry.name.startswith(".")):
                path = os.path.join(head, entry.name)  # noqa: PTH118 (Path would change "./", which the user has typed)
                if entry.is_dir():
                    yield f"{path}/"
                elif entry.name.endswith(ending):
                    yield path
    except OSError:  # a folder that is not there, or may not be read, has nothing to complete to
        return


def complete_dataset(variable: str) -> Callable[[str], list[str]]:
    """A completion to the names of nnU-Net's datasets.

    Args:
        variable: the environment variable of the folder that has them.
    """

    def complete(incomplete: str) -> list[str]:
        folder = os.environ.get(variable)
        names = [path.name for path in Path(folder).glob("Dataset*") if path.is_dir()] if folder else []
        return sorted(name for name in names if name.startswith(incomplete))

    return complete
