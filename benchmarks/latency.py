"""How well latency is predicted: members measured as ``monai-prox profile measure`` does, and random ones beside them.

python -m benchmarks.latency MODEL --results benchmarks/results/latency
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks import records
from benchmarks.about import about
from monai_prox.latency.device import Device
from monai_prox.latency.pack import choose_members, measure_here
from monai_prox.trained.door import open_trained


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--runtimes", nargs="+", default=["onnxruntime", "openvino"])
    parser.add_argument("--others", type=int, default=24)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    source = open_trained(arguments.model)
    family, size, generator = source.supernet.family, source.size, random.Random(1)
    fitted = choose_members(family, size)
    others = {family.space.sample(generator) for _ in range(arguments.others)} - set(fitted)
    members = [*fitted, *sorted(others, key=str)]
    described = about({"model": source.path.name, "fitted": len(fitted), "others": len(others)}, threads=arguments.threads)
    rows: list[dict[str, Any]] = []
    for runtime in arguments.runtimes:
        data = measure_here(source, members, runtime, threads=arguments.threads, progress=lambda _: None)
        of_fitted = data | {"members": data["members"][: len(fitted)]}
        device = Device.from_json(of_fitted, family, size, runtime)
        times = [one["milliseconds"] for one in data["members"]]
        errors = [
            abs(device.latency_ms(subnet) / time - 1) for subnet, time in list(zip(members, times, strict=True))[len(fitted) :]
        ]
        spreads = [(one["quartiles"][1] - one["quartiles"][0]) / one["milliseconds"] for one in data["members"]]
        rows.append(
            {
                "contender": runtime,
                **described,
                "runtime": data["runtime"],
                "milliseconds": [min(times), max(times)],
                "left_out_error": device.held_out_error,
                "median_error": float(np.median(errors)),
                "error_of_nine_in_ten": float(np.percentile(errors, 90)),
                "largest_error": max(errors),
                "spread": float(np.median(spreads)),
                "profile": data,
            }
        )
    records.write(rows, arguments.results)
    table = Table("runtime", "ms a patch", "median error", "9 in 10 below", "largest", "quartiles apart")
    for row in rows:
        errors = [f"{row[key]:.1%}" for key in ("median_error", "error_of_nine_in_ten", "largest_error", "spread")]
        table.add_row(row["runtime"], "{:.3g} to {:.3g}".format(*row["milliseconds"]), *errors)
    Console().print(table)


if __name__ == "__main__":
    main()
