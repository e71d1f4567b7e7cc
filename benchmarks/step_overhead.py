"""What slicing costs: a training step on a member of the supernet against the same step on the extracted network.

    python -m benchmarks.step_overhead --results benchmarks/results/slicing

Forward and backward with deep supervision for the smallest, a middle and the largest member of two networks: nnU-Net's stock
plan for MSD Task04 (PlainConvUNet, features 32..256, patch 40x56x40, batch 7), and one of the same layers so small that the
processor hardly computes, where what the framework does for each operation is all that counts, as on a GPU that waits for it.
Both steps are run in pairs, in alternating order, after a warm-up; the medians of the pairs' times and the median of their
ratios are recorded. A member's first step also builds its skeleton, for about 4 new random members in an epoch; that time is
recorded too.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks import records
from benchmarks.about import about
from monai_prox.core.named_members import named_members
from monai_prox.core.supernet import SuperNet
from monai_prox.data.topology import plan_architecture
from monai_prox.families.unet import UNetFamily
from monai_prox.families.unet_choices import UNetChoices

LEVELS = 4
KERNELS = ((3, 3, 3),) * LEVELS
STRIDES = ((1, 1, 1),) + ((2, 2, 2),) * (LEVELS - 1)


class Workload(NamedTuple):
    features: int  # of the first level
    patch: tuple[int, ...]
    batch_size: int
    pairs: int


WORKLOADS = {"stock plan": Workload(32, (40, 56, 40), 7, 9), "tiny": Workload(4, (16, 16, 16), 1, 200)}


def step(network: Callable[[torch.Tensor], Any], x: torch.Tensor, parameters: list[torch.nn.Parameter]) -> float:
    for parameter in parameters:
        parameter.grad = None
    start = time.perf_counter()
    sum(output.square().mean() for output in network(x)).backward()
    if x.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - start


def measure(title: str, workload: Workload, device: str) -> Iterator[dict[str, Any]]:
    # resolution 1 throughout: resizing belongs to a lower one and is not part of either network
    choices, patch = UNetChoices(resolution=(1.0,)), workload.patch
    architecture = plan_architecture("PlainConvUNet", workload.features, STRIDES, KERNELS)
    family = UNetFamily(architecture, input_channels=1, num_classes=3, patch_size=patch, choices=choices)
    supernet = SuperNet(family).to(device)
    supernet.network.decoder.deep_supervision = True
    x = torch.randn(workload.batch_size, 1, *patch, device=device)
    probes = named_members(supernet.family, patch)
    for name in ("smallest", "middle", "largest"):
        subnet = probes[name]
        start = time.perf_counter()
        SuperNet(family, supernet.network).shapes(subnet)
        skeleton_seconds = time.perf_counter() - start
        extracted = supernet.extract(subnet)
        contenders = {
            "sliced": (lambda batch, subnet=subnet: supernet(batch, subnet), list(supernet.parameters())),
            "extracted": (extracted, list(extracted.parameters())),
        }
        seconds: dict[str, list[float]] = {key: [] for key in contenders}
        for pair in track(range(-3, workload.pairs), name):
            for key in sorted(contenders, reverse=bool(pair % 2)):
                network, parameters = contenders[key]
                elapsed = step(network, x, parameters)
                if pair >= 0:
                    seconds[key].append(elapsed)
        ratios = [s / e for s, e in zip(seconds["sliced"], seconds["extracted"], strict=True)]
        yield {
            "contender": f"{title}, {name}",
            "subnet": subnet.to_json(),
            "sliced_seconds": statistics.median(seconds["sliced"]),
            "extracted_seconds": statistics.median(seconds["extracted"]),
            "skeleton_seconds": skeleton_seconds,
            "ratio": statistics.median(ratios),
            "ratio_quartiles": statistics.quantiles(ratios, n=4),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    rows = [
        about(workload._asdict() | {"device": device}, threads=arguments.threads) | row
        for title, workload in WORKLOADS.items()
        for row in measure(title, workload, device)
    ]
    records.write(rows, arguments.results)
    table = Table("network and member", "sliced ms", "extracted ms", "ratio", "quartiles of the ratio", "skeleton ms")
    for row in rows:
        low, _, high = row["ratio_quartiles"]
        times = (f"{1000 * row[key]:.1f}" for key in ("sliced_seconds", "extracted_seconds"))
        ratios = f"{row['ratio']:.3f}", f"{low:.3f} to {high:.3f}"
        table.add_row(row["contender"], *times, *ratios, f"{1000 * row['skeleton_seconds']:.1f}")
    Console().print(table)


if __name__ == "__main__":
    main()
