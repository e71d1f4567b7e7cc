"""Tables and plots of families."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter

from monai_prox.errors import printable
from monai_prox.files import replacing
from monai_prox.training.stage import Schedule

if TYPE_CHECKING:
    from rich.table import Table

    from monai_prox.trained.family_file import NamedMember

UNITS = {"E": 1e18, "P": 1e15, "T": 1e12, "G": 1e9, "M": 1e6, "k": 1e3}
COLOURS = {"smallest": "#0b7285", "small": "#1c7ed6", "middle": "#7048e8", "large": "#c2255c", "largest": "#e8590c"}


@dataclass(frozen=True)
class Row:
    """A member in a table.

    Args:
        name: name of the member.
        parameters: number of weights.
        macs: multiply-accumulates for one input.
        scores: score by class, or None for a class that no case has.
        seconds: time per case, or None if it was not measured.
        choices: the member's values in words, see ``describe_choices``.
        surface_dice: mean surface Dice over the classes, or None if it was not measured.
    """

    name: str
    parameters: int
    macs: int
    scores: dict[str, float | None]
    seconds: float | None = None
    choices: str = ""
    surface_dice: float | None = None

    def to_json(self) -> dict[str, Any]:
        """The row as plain data."""
        return asdict(self)


def count(number: float) -> str:
    """A number of three digits with a unit.

    Args:
        number: the number, at least 0.

    >>> count(1_234_567), count(999_999)
    ('1.23 M', '1 M')
    """
    rounded = float(f"{number:.3g}")
    for unit, factor in UNITS.items():
        if rounded >= factor:
            return f"{rounded / factor:.3g} {unit}"
    return f"{number:.3g}"


def describe_choices(subnet: Mapping[str, Sequence[float]]) -> str:
    """A member's values in words. A dimension with different values has the smallest and the largest.

    Args:
        subnet: values by dimension. 0 stands for a missing stage and is left out.

    >>> describe_choices({"levels": [3], "decoder_depth": [1, 2, 0]})
    'levels 3, decoder depth 1-2'
    """
    present = {name: sorted({value for value in values if value}) for name, values in subnet.items()}
    spans = {name: [values[0], values[-1]][: len(values)] for name, values in present.items() if values}
    return ", ".join(f"{name.replace('_', ' ')} {'-'.join(f'{value:g}' for value in span)}" for name, span in spans.items())


def rows_of(members: Iterable[NamedMember]) -> list[Row]:
    """The rows of members in a table.

    Args:
        members: the members.
    """
    return [
        Row(
            m.name,
            m.parameters,
            m.macs,
            dict(m.scores or {}),
            choices=describe_choices(m.subnet),
            surface_dice=(m.surface_dice or {}).get("mean"),
        )
        for m in members
    ]


def _table(rows: Sequence[Row]) -> list[list[str]]:
    """The headings, and the cells of every row. Columns without values are left out."""
    labels = list(dict.fromkeys(label for row in rows for label in row.scores))
    timed = any(row.seconds is not None for row in rows)
    surfaces = any(row.surface_dice is not None for row in rows)
    head = ["member", "parameters", "MACs", *labels, *["surface Dice"] * surfaces, *["seconds a case"] * timed]
    table = [head]
    for row in rows:
        scores = [*(row.scores.get(label) for label in labels), *[row.surface_dice] * surfaces]
        cells = [row.name, count(row.parameters), count(row.macs), *("-" if s is None else f"{s:.3f}" for s in scores)]
        seconds = f"{row.seconds:.2f}" if row.seconds is not None else "-"
        table.append([*cells, *[seconds] * timed])
    return table


def _caption(rows: Sequence[Row], measure: str, scored: str) -> str:
    """The caption of a table. ``scored`` says in words what the scores were measured on."""
    scores = f" {measure.capitalize()} by class, of {scored}." if any(row.scores for row in rows) else ""
    return (
        "A member is a network of the family, which shares its weights with the others until it is exported. Names go by MACs, "
        "those of a patch or image; one of fewer MACs may have more parameters."
    ) + scores


def family_table(rows: Sequence[Row], measure: str, scored: str, *, width: int) -> Table:
    """A table of members for a terminal.

    If the terminal is too narrow, columns are left out and named: the last classes, surface Dice, parameters, seconds, MACs.

    Args:
        rows: one row per member.
        measure: name of the scores.
        scored: the cases that were scored, in words.
        width: characters of the terminal's lines.
    """
    from rich.table import Table  # a machine that only trains may not have it
    from rich.text import Text

    columns = [[printable(cell) for cell in column] for column in zip(*_table(rows), strict=True)]
    least = [max(map(len, [*heading.split(), *cells])) for heading, *cells in columns]
    after = 3 + len({label for row in rows for label in row.scores})  # member, parameters, MACs and the classes
    last = list(range(after, len(columns)))  # surface Dice, seconds
    surface = [last.pop(0)] if any(row.surface_dice is not None for row in rows) else []
    shown, dispensable = list(range(len(columns))), [*range(after - 1, 3, -1), *surface, 1, *last, 2]
    for column in dispensable:
        if sum(least[number] + 3 for number in shown) + 1 <= width:  # each with a line and two spaces, and one more line
            break
        shown.remove(column)
    left_out = [heading for number, (heading, *_) in enumerate(columns) if number not in shown]
    caption = _caption(rows, measure, scored) + (f" Too wide to be shown: {', '.join(left_out)}." if left_out else "")
    table = Table(title="Members of the family", caption=caption)
    for number in shown:
        table.add_column(Text(columns[number][0]), justify="right" if number else "left", no_wrap=number == 0)
    for cells in zip(*(columns[number][1:] for number in shown), strict=True):
        table.add_row(*map(Text, cells))
    return table


def choices_text(rows: Sequence[Row]) -> list[str]:
    """One line per member with its values.

    Args:
        rows: one row per member.
    """
    return [f"{row.name}: {row.choices}" for row in rows]


def family_text(rows: Sequence[Row], measure: str, scored: str) -> str:
    """A table of members in plain lines, for a log.

    Args:
        rows: one row per member.
        measure: name of the scores.
        scored: the cases that were scored, in words.
    """
    table = _table(rows)
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    first, *lines = ("  ".join([cells[0].ljust(widths[0]), *map(str.rjust, cells[1:], widths[1:])]).rstrip() for cells in table)
    return "\n".join(["Members of the family", first, *lines, _caption(rows, measure, scored), *choices_text(rows)])


def plot_progress(
    history: Sequence[dict[str, Any]],
    schedule: Schedule,
    path: Path,
    *,
    measure: str,
    key: str = "dice",
    verdicts: Sequence[tuple[int, str, str]] = (),
) -> None:
    """Writes a plot of the named members' scores over epochs. Bands show the stages.

    Args:
        history: entries {"epoch": int, key: {name: float}} in the order of the epochs.
        schedule: the schedule of the training.
        path: path of the image file.
        measure: label of the scores.
        key: key of the scores in ``history``.
        verdicts: (epoch, dimension, "closed" or "kept") for each decision about the last choice of a dimension.
    """
    with _axes(path, width=9, height=5) as axes:
        ends = [*schedule.starts[1:], schedule.epochs]
        for number, (stage, start, end) in enumerate(zip(schedule.stages, schedule.starts, ends, strict=True)):
            axes.axvspan(start - 0.5, end - 0.5, color="#868e96", alpha=0.05 + 0.1 * (number % 2), linewidth=0)
            place: dict[str, Any] = {"transform": axes.get_xaxis_transform(), "rotation": 35, "ha": "left", "va": "bottom"}
            axes.text((start + end - 1) / 2, 1.01, stage.name, fontsize=9, color="#495057", **place)
        for epoch, dimension, verdict in verdicts:
            axes.axvline(epoch, color="#495057", linewidth=1, linestyle="--" if verdict == "closed" else ":", zorder=1)
            style: dict[str, Any] = {"fontsize": 9, "color": "#495057", "rotation": 90, "ha": "right", "va": "bottom"}
            place = {"xycoords": axes.get_xaxis_transform(), "xytext": (-3, 0), "textcoords": "offset points"}
            axes.annotate(f"{dimension} {verdict}", (epoch, 0.02), **style, **place)
        for name, colour in COLOURS.items():
            points = [(entry["epoch"], entry[key][name]) for entry in history if name in entry[key]]
            if points:
                axes.plot(*zip(*points, strict=True), marker="o", markersize=4, label=name, color=colour)
        axes.set(xlim=(-0.5, schedule.epochs - 0.5), xlabel="epoch", ylabel=measure)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)  # outside of the axes


def plot_family(
    members: Iterable[NamedMember],
    path: Path,
    *,
    title: str,
    measure: str = "mean Dice on held-out cases",
    input: str = "patch",
) -> None:
    """Writes a plot of scores over MACs with a point per member that was validated.

    A line joins those than which no smaller one is as good. The area of a point grows with the member's number of weights.

    Args:
        members: the members of family.json.
        path: path of the image file.
        title: title of the plot.
        measure: name of the scores.
        input: what MACs are those of.
    """
    scored = [(member, mean) for member in members if (mean := (member.scores or {}).get("mean")) is not None]
    scored.sort(key=lambda of: of[0].macs)
    shown, dice = [member for member, _ in scored], [mean for _, mean in scored]
    with _axes(path, width=7, height=4.5) as axes:
        axes.set(xlabel=f"MACs per {input} (billion)", ylabel=measure, title=title)
        if not shown:
            return
        largest = max(member.parameters for member in shown)
        macs = [member.macs / 1e9 for member in shown]
        front = [index for index, score in enumerate(dice) if score > max(dice[:index], default=-1.0)]
        axes.plot([macs[index] for index in front], [dice[index] for index in front], color="#ced4da", zorder=1)
        for member, x, y in zip(shown, macs, dice, strict=True):
            area = 40 + 500 * member.parameters / largest
            axes.scatter(x, y, s=area, color=COLOURS.get(member.name, "#495057"), alpha=0.85, zorder=2, linewidth=0)
            label = f"{member.name}\n{count(member.parameters)} weights"
            style: dict[str, Any] = {
                "textcoords": "offset points",
                "xytext": (0, -16),
                "ha": "center",
                "va": "top",
                "fontsize": 8.5,
            }
            axes.annotate(label, (x, y), **style)
        spread = max(max(dice) - min(dice), 0.02)
        axes.set(xscale="log", ylim=(min(dice) - 0.5 * spread, max(dice) + 0.3 * spread))
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.margins(x=0.15)


def plot_choices(
    members: Sequence[tuple[Mapping[str, float], float]],
    finalists: Sequence[tuple[Mapping[str, float], float, float | None]],
    path: Path,
    *,
    axes: Mapping[str, str],
    measure: str,
) -> None:
    """Writes a plot of scores over costs, with one pair of axes per cost.

    Args:
        members: costs by name, and score, of each member. They are grey.
        finalists: costs by name, score, and standard error or None, of each finalist. They are coloured.
        path: path of the image file.
        axes: label by name of the costs. The steps are the Pareto front over each cost.
        measure: label of the scores.
    """
    with matplotlib.style.context("default"):
        figure = Figure(figsize=(4.2 * len(axes), 4), layout="constrained")
        for place, (name, label) in zip(
            figure.subplots(1, len(axes), sharey=True, squeeze=False)[0], axes.items(), strict=True
        ):
            place.spines[["top", "right"]].set_visible(False)
            place.scatter([c[name] for c, _ in members], [score for _, score in members], s=14, color="#ced4da", linewidth=0)
            scored = [*members, *((costs, score) for costs, score, _ in finalists)]
            points = sorted((costs[name], score) for costs, score in scored)
            best = list(accumulate((score for _, score in points), max))
            place.step([cost for cost, _ in points], best, where="post", color="#a5d8ff", zorder=1)
            ordered = sorted(finalists, key=lambda finalist: finalist[0][name])
            errors = [error or 0 for *_, error in ordered]
            style: dict[str, Any] = {"fmt": "o", "color": COLOURS["small"], "markersize": 5, "elinewidth": 1, "zorder": 2}
            place.errorbar([c[name] for c, *_ in ordered], [score for _, score, _ in ordered], yerr=errors, **style)
            place.set(xscale="log", xlabel=label)
            place.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            place.xaxis.set_major_formatter(FuncFormatter(lambda value, _: count(value)))
            place.xaxis.set_minor_formatter(NullFormatter())
        figure.axes[0].set_ylabel(measure)
        with replacing(path) as temporary:
            figure.savefig(temporary, dpi=120)


@contextmanager
def _axes(path: Path, *, width: float, height: float) -> Iterator[Axes]:
    """Axes of a figure that is written to ``path``, in matplotlib's default style. nnU-Net may have set another style."""
    with matplotlib.style.context("default"):
        figure = Figure(figsize=(width, height), layout="constrained")
        axes = figure.subplots()
        axes.spines[["top", "right"]].set_visible(False)
        yield axes
        with replacing(path) as temporary:
            figure.savefig(temporary, dpi=120)
