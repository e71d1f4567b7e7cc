"""Tables and plots."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from monai_prox.files import replacing
from monai_prox.schedule import Schedule

COLOURS = {"smallest": "#0b7285", "small": "#1c7ed6", "middle": "#7048e8", "large": "#c2255c", "largest": "#e8590c"}


def plot_progress(history: Sequence[dict[str, Any]], schedule: Schedule, path: Path) -> None:
    """Writes probes' pseudo Dice over epochs to ``path``, the stages as bands behind them.

    history: entries {"epoch": int, "dice": {probe: float}} in the order of the epochs.
    """
    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.subplots()
    ends = [*schedule.starts[1:], schedule.epochs]
    for number, (stage, start, end) in enumerate(zip(schedule.stages, schedule.starts, ends, strict=True)):
        axes.axvspan(start - 0.5, end - 0.5, color="#868e96", alpha=0.05 + 0.1 * (number % 2), linewidth=0)
        axes.text(
            (start + end - 1) / 2, 1.01, stage.name, transform=axes.get_xaxis_transform(),
            rotation=35, ha="left", va="bottom", fontsize=9, color="#495057",
        )  # fmt: skip
    for name, colour in COLOURS.items():
        points = [(entry["epoch"], entry["dice"][name]) for entry in history if name in entry["dice"]]
        if points:
            axes.plot(*zip(*points, strict=True), marker="o", markersize=4, label=name, color=colour)
    axes.set(xlim=(-0.5, schedule.epochs - 0.5), ylim=(0, 1), xlabel="epoch", ylabel="pseudo Dice")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend(loc="lower right", frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=120)
