"""Draws docs/front.svg from the committed results, and docs/supernet.svg:

python docs/pictures.py

front.svg names the results it was drawn from, so that a test notices if it is of others.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from statistics import fmean, pstdev
from typing import NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, Rectangle
from matplotlib.ticker import LogLocator, NullFormatter

from benchmarks import records
from benchmarks.records import Run
from benchmarks.registry import RESULTS

CLAIM = "four-dimensions"
FAMILIES = {"prox long": "#0b7285", "prox": "#66b3c2"}  # by their contender, colours
ALONE = ("alone smallest", "alone middle", "alone largest")
INK, SOFT, PALE = "#212529", "#5c636a", "#dee2e6"
USED, UNUSED = "#0b7285", "#e9ecef"


class Point(NamedTuple):
    """A network in a picture.

    Args:
        gmacs: multiply-accumulates of a patch, in 10^9.
        dice: mean over the seeds.
        error: standard deviation over the seeds.
    """

    gmacs: float
    dice: float
    error: float


class Drawn(NamedTuple):
    """What front.svg is drawn from.

    Args:
        points: members of each family, and the networks trained alone under "alone".
        work: multiply-accumulates of a training, in 10^12, mean over the seeds, likewise; of all networks alone together.
    """

    points: dict[str, list[Point]]
    work: dict[str, float]

    @property
    def digest(self) -> str:
        """A text that is equal for equal figures."""
        return f"results {sha256(json.dumps([self.points, self.work]).encode()).hexdigest()[:16]}"


def drawn_from(runs: Sequence[Run]) -> Drawn:
    """The points of the picture.

    Args:
        runs: the results of the claim.
    """
    points: dict[str, list[Point]] = {}
    work: dict[str, float] = {}
    for contender in (*FAMILIES, *ALONE):
        of_seeds = [run for run in runs if run["contender"] == contender]
        name = "alone" if contender in ALONE else contender
        for members in zip(*(run["members"] for run in of_seeds), strict=True):
            dice = [member["dice"] for member in members]
            point = Point(round(members[0]["macs"] / 1e9, 4), round(fmean(dice), 4), round(pstdev(dice), 4))
            points.setdefault(name, []).append(point)
        work[name] = round(work.get(name, 0) + fmean(run["training_macs"] for run in of_seeds) / 1e12, 2)
    return Drawn(points, work)


def front(points: Sequence[Point]) -> list[Point]:
    """The points that no other one beats, from the cheapest.

    Args:
        points: the points.
    """
    best: list[Point] = []
    for point in sorted(points):
        if not best or point.dice > best[-1].dice:
            best.append(point)
    return best


def draw_front(drawn: Drawn, path: Path) -> None:
    """Dice over the cost of a member: families, and the same networks trained alone.

    Args:
        drawn: the figures.
        path: the file to write.
    """
    figure = Figure(figsize=(6.2, 3.8), layout="constrained")
    axes = figure.subplots()
    labels = {
        "prox long": f"a family, one longer training: {drawn.work['prox long']:.3g} TMAC",
        "prox": f"a family, one training: {drawn.work['prox']:.3g} TMAC",
    }
    for name, colour in FAMILIES.items():
        members, best = drawn.points[name], front(drawn.points[name])
        others = [point for point in members if point not in best]
        axes.plot([p.gmacs for p in best], [p.dice for p in best], color=colour, lw=1.5)
        axes.errorbar(
            [p.gmacs for p in best], [p.dice for p in best], [p.error for p in best], fmt="o", color=colour, ms=6, elinewidth=1
        )
        axes.plot([p.gmacs for p in others], [p.dice for p in others], "o", color=colour, ms=4, alpha=0.35)
        axes.plot([], [], "o-", color=colour, label=labels[name])
    alone = drawn.points["alone"]
    axes.errorbar(
        [p.gmacs for p in alone],
        [p.dice for p in alone],
        [p.error for p in alone],
        fmt="x",
        color=INK,
        ms=8,
        mew=2,
        elinewidth=1,
        label=f"three networks, a training each: {drawn.work['alone']:.3g} TMAC",
    )
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    lowest = min(p.dice for points in drawn.points.values() for p in front(points))
    axes.set_ylim(bottom=lowest - 0.03)  # a few members lie below
    axes.set_xlim(left=0.19)
    axes.set_xlabel("cost of a member: GMAC a patch", color=SOFT)
    axes.set_ylabel("Dice on 60 held-out cases", color=SOFT)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color=PALE, lw=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(colors=SOFT)
    axes.legend(loc="lower right", frameon=False)
    _save(figure, path, drawn.digest)


def draw_supernet(path: Path) -> None:
    """What a member uses of the largest network.

    Args:
        path: the file to write.
    """
    figure = Figure(figsize=(9.6, 3.2), layout="constrained")
    panels = figure.subplots(1, 3, width_ratios=(8, 6, 14))
    for axes, draw in zip(panels, (_draw_weights, _draw_kernel, _draw_network), strict=True):
        axes.set_aspect("equal", anchor="N")
        axes.set_axis_off()
        draw(axes)
    _save(figure, path, "a drawing")


def _draw_weights(axes: Axes) -> None:
    """A convolution's weight, of which a member of half the width uses a corner."""
    _draw_squares(axes, 8, range(4))
    axes.set_title("width: the first channels", color=INK, fontsize=11)
    axes.text(3.93, 8.1, "input channels", ha="center", color=SOFT, fontsize=9)
    axes.text(-0.5, 3.93, "output channels", va="center", ha="center", rotation=90, color=SOFT, fontsize=9)
    axes.set_xlim(-1, 8)
    axes.set_ylim(-0.6, 8.8)


def _draw_kernel(axes: Axes) -> None:
    """A kernel of 5, of which a member with kernels of 3 uses the centre."""
    _draw_squares(axes, 5, range(1, 4))
    axes.set_title("kernel: the centre", color=INK, fontsize=11)
    axes.set_xlim(-0.6, 5.5)
    axes.set_ylim(-1.6, 5.8)


def _draw_squares(axes: Axes, side: int, used: range) -> None:
    for row in range(side):
        for column in range(side):
            colour = USED if row in used and column in used else UNUSED
            axes.add_patch(Rectangle((column, side - 1 - row), 0.86, 0.86, color=colour, lw=0))


def _draw_network(axes: Axes) -> None:
    """A U-Net, of which a member uses the first blocks of each stage and the upper levels."""
    levels, blocks = 4, 2
    for level in range(levels):
        y = 3.0 * (levels - 1 - level) / 1.5
        for side in (0, 1):
            for block in range(blocks):
                used = block == 0 and level < levels - 1
                x = 1.2 * level + 1.0 * block if side == 0 else 13.0 - 1.2 * level + 1.0 * block
                if level == levels - 1 and side == 1:
                    continue  # the lowest level has no decoder
                axes.add_patch(Rectangle((x, y), 0.85, 1.15, color=USED if used else UNUSED, lw=0))
        if level < levels - 1:
            line = (1.2 * level + 2.0, y + 0.57), (12.85 - 1.2 * level, y + 0.57)
            axes.add_patch(FancyArrowPatch(*line, arrowstyle="-|>", mutation_scale=8, color=SOFT, lw=0.8))
    axes.set_title("depth and levels: the first blocks, the upper levels", color=INK, fontsize=11)
    axes.set_xlim(-0.4, 15.2)
    axes.set_ylim(-0.6, 8.2)


def _save(figure: Figure, path: Path, description: str) -> None:
    as_texts_and_always_alike = {"svg.hashsalt": path.stem, "svg.fonttype": "none"}
    with matplotlib.rc_context(as_texts_and_always_alike):
        figure.savefig(path, metadata={"Description": description, "Date": None, "Creator": None}, facecolor="white")


if __name__ == "__main__":
    folder = Path(__file__).parent
    draw_front(drawn_from(records.read(RESULTS / CLAIM)), folder / "front.svg")
    draw_supernet(folder / "supernet.svg")
