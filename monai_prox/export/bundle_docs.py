"""The documents of an exported bundle, under the model zoo's headings: what is the same whatever its network does."""

from __future__ import annotations

from textwrap import fill

from monai_prox.export.prediction import Prediction

WIDTH = 120
EXPORTED = "--ckpt_file models/model.pt --meta_file configs/metadata.json --config_file configs/inference.json"
LICENCE_NOTE = (
    "Configurations and documents: Apache License 2.0, see LICENSE. The weights are their trainers' to license; the licence of "
    "the\ndata they were trained on is in docs/data_license.txt."
)


def readme(
    prediction: Prediction,
    *,
    overview: str,
    data: str,
    inputs: str,
    outputs: str,
    reference: str,
    weights_license: str = "",
    fine_tuning: str = "",
    programs: str = "",
) -> str:
    """docs/README.md.

    overview to outputs: paragraphs. reference: of the network. weights_license: in words, "" where nobody says. fine_tuning:
    the commands for it, "" if the bundle predicts only. programs: those that take it.
    """
    scores = "\n".join(f"| {name} | {value:.4f} |" for name, value in prediction.metrics.items())
    table = f"{fill(f'Measured on {prediction.measured_on}:', WIDTH)}\n\n| metric | value |\n|---|---|\n{scores}"
    before = "".join(f"{part}\n\n" for part in (fine_tuning, programs) if part)
    only = "" if fine_tuning else " This bundle predicts only."
    return f"""# Model Overview

{overview}

## Data

{data}

## Training configuration

Cut out of {prediction.source}.{only}

## Input

{inputs}

## Output

{outputs}

## Performance

{table if prediction.metrics else "Not measured."}

## MONAI Bundle Commands

Predict, from inside the bundle's folder:

```
python -m monai.bundle run --config_file configs/inference.json --dataset_dir IMAGES --output_dir OUTPUT
```

{before}Export to TorchScript and ONNX:

```
python -m monai.bundle ckpt_export network_def --filepath models/model.ts {EXPORTED}
python -m monai.bundle onnx_export network_def --filepath models/model.onnx {EXPORTED}
```

# References

[1] Lim et al. Neurocomputing (2024). https://doi.org/10.1016/j.neucom.2024.127512

[2] {reference}

# License

{LICENCE_NOTE}
{said_of_weights(weights_license)}"""


def data_license(task: str, licence: str, weights_license: str = "") -> str:
    """docs/data_license.txt. licence: of the data of ``task``, in words. weights_license: as of ``readme``."""
    return f"The data are not part of this bundle.\n\n{task}: {licence}\n{said_of_weights(weights_license)}"


def said_of_weights(licence: str) -> str:
    """A paragraph after others. licence: in words, "" where nobody says, and so does the paragraph."""
    return f"\n{fill(f'Said of the weights: {licence}', WIDTH)}\n" if licence else ""
