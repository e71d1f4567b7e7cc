"""What ``monai-prox export --half`` costs in Dice: members of the shared family on the cases that its training held out.

python -m benchmarks.half_precision Task04_Hippocampus --work FOLDER --results benchmarks/results/half
"""

from __future__ import annotations

import argparse
from itertools import product
from pathlib import Path
from statistics import fmean

from rich.console import Console

from benchmarks import records
from benchmarks.about import about
from benchmarks.quantities import quantities, terminal
from monai_prox.export.device_file import ENDINGS, export_file
from monai_prox.runtime.model import Model
from monai_prox.trained.door import open_trained

BUNDLE = Path(__file__).parents[1] / "bundles" / "hippocampus_prox"
MEMBERS, FORMATS = ("largest", "smallest"), ("onnx", "openvino")
PARTS = {"onnx": (".onnx",), "openvino": (".xml", ".bin")}
COLUMNS = ["dice", "file_bytes"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", type=Path)
    parser.add_argument("--cases", type=int, help="the first ones that were held out; by default all")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--results", type=Path, required=True)
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    source = open_trained(BUNDLE, dataset=arguments.task.resolve())
    cases = source.held_out()
    which = range(len(cases.names))[: arguments.cases]
    described = about({"cases": len(which)}, threads=arguments.threads, packages=["onnxruntime", "openvino"])
    rows = []
    for member, format, half in product(MEMBERS, FORMATS, (False, True)):
        file = arguments.work / f"{member}{'_half' * half}{ENDINGS[format]}"
        export_file(source, member, file, format, overwrite=True, half=half)
        model = Model(file, threads=arguments.threads)
        size = sum(file.with_suffix(part).stat().st_size for part in PARTS[format])
        found = {"dice": fmean(cases.scores(which, model.description, model)), "file_bytes": size}
        rows.append({"contender": f"{member}, {format}{' half' * half}", **described} | found)
    records.write(rows, arguments.results)
    Console().print(terminal(quantities(rows), COLUMNS))


if __name__ == "__main__":
    main()
