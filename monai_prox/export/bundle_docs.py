"""The documents of an exported bundle, under the model zoo's headings."""

from __future__ import annotations

from textwrap import fill

from monai_prox.export.prediction import Prediction
from monai_prox.families.architecture import kind_of

WIDTH = 120
EXPORTED = "--ckpt_file models/model.pt --meta_file configs/metadata.json --config_file configs/inference.json"
LICENCE_NOTE = (
    "Configurations and documents: Apache License 2.0, see LICENSE. The weights are their trainers' to license; the licence of "
    "the\ndata they were trained on is in docs/data_license.txt."
)
AS_STORED = (
    "The network sees images as they are stored. They must be stored in the orientation of the training's images, which is\n"
    "not known: segmentations of others are wrong."
)
UNKNOWN_LICENCE = "not stated in its dataset.json; ask whoever provides it"


def readme(prediction: Prediction) -> str:
    p = prediction
    segmented = ", ".join(name for name in p.outputs if name != "background")
    overview = fill(
        f"Segments {segmented} in images like those of {p.task}. This is {p.name}, one member of a once-for-all family of "
        f"networks, cut out without retraining: {p.source}.",
        WIDTH,
    )
    network = fill(
        f"The network is a stock U-Net of dynamic-network-architectures, {kind_of(p.architecture)}, with features "
        f"{p.architecture['arch_kwargs']['features_per_stage']}. It works on patches of {' x '.join(map(str, p.patch_size))} "
        f"voxels of {' x '.join(f'{mm:.4g}' for mm in p.spacing)} mm. It runs wherever MONAI and "
        "dynamic-network-architectures are installed.",
        WIDTH,
    )
    labels = "\n".join(f"- {number}: {name}" for number, name in enumerate(p.outputs))
    scores = "\n".join(f"| {name} | {value:.4f} |" for name, value in p.metrics.items())
    table = f"{fill(f'Measured on {p.measured_on}:', WIDTH)}\n\n| metric | value |\n|---|---|\n{scores}"
    oriented = f"Images may be stored in any orientation; the network sees them turned to {p.orientation}."
    if p.orientation is None:
        oriented = AS_STORED
    return f"""# Model Overview

{overview}

{network}

## Data

{p.task}. Licence of the data: {p.licence or UNKNOWN_LICENCE}.

## Training configuration

Cut out of {p.source}. This bundle predicts only.

## Input

NIfTI images in a folder, see `datalist` in configs/inference.json. Channels: {", ".join(p.channels)}.

{oriented}

Voxels that are not finite numbers count as 0.

## Output

Logits of the network's {len(p.outputs)} outputs:

{labels}

and from them label images, at the resolution and in the place of the input.

## Performance

{table if p.metrics else "Not measured."}

## MONAI Bundle Commands

Predict, from inside the bundle's folder:

```
python -m monai.bundle run --config_file configs/inference.json --dataset_dir IMAGES --output_dir OUTPUT
```

MONAI Label takes the bundle as it is. A MONAI Deploy application takes models/model.ts; put the folder `scripts`, which
has the transforms that MONAI lacks, beside its app.py.

Export to TorchScript and ONNX:

```
python -m monai.bundle ckpt_export network_def --filepath models/model.ts {EXPORTED}
python -m monai.bundle onnx_export network_def --filepath models/model.onnx {EXPORTED}
```

# References

[1] Lim et al. Neurocomputing (2024). https://doi.org/10.1016/j.neucom.2024.127512

[2] Isensee, F. et al. "nnU-Net: a self-configuring method for deep learning-based biomedical image segmentation." Nature
Methods 18, 203-211 (2021).

# License

{LICENCE_NOTE}
"""


def data_license(prediction: Prediction) -> str:
    return f"""The data are not part of this bundle.

{prediction.task}: {prediction.licence or UNKNOWN_LICENCE}
"""
