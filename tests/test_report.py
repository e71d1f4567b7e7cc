"""Plots: what is written on them, and that it can be read."""

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure
from rich.console import Console

from monai_prox.report import Row, count, describe_choices, family_table, family_text, plot_progress
from monai_prox.training.stage import Schedule, Stage

STAGES = tuple(Stage(name=name, share=share) for name, share in (("smallest", 1), ("depth", 1), ("sandwich", 6)))
NAMES = ("smallest", "small", "middle", "large", "largest")
HISTORY = [{"epoch": epoch, "dice": dict.fromkeys(NAMES, 0.9 * epoch / 1000)} for epoch in range(0, 1000, 25)]


def figure_of(path: Path, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> Figure:
    figures: list[Figure] = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *args, **kwargs: [figures.append(self), save(self, *args, **kwargs)])
    plot_progress(HISTORY, Schedule(STAGES, 1000), path, measure="Dice", **settings)
    (figure,) = figures
    assert path.read_bytes().startswith(b"\x89PNG")
    return figure


def test_verdicts_are_lines_with_the_dimension_s_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    verdicts = [(600, "decoder_depth", "closed"), (625, "kernel", "kept"), (999, "width", "closed")]
    (axes,) = figure_of(tmp_path / "plot.png", monkeypatch, verdicts=verdicts).axes
    lines = {style: [line.get_xdata()[0] for line in axes.lines if line.get_linestyle() == style] for style in ("--", ":")}
    assert lines == {"--": [600, 999], ":": [625]}
    labels = axes.texts[len(STAGES) :]
    assert [label.get_text() for label in labels] == ["decoder_depth closed", "kernel kept", "width closed"]
    boxes = [text.get_window_extent() for text in axes.texts]
    assert not any(one.overlaps(other) for index, one in enumerate(boxes) for other in boxes[:index])
    legend, inside = axes.get_legend().get_window_extent(), axes.get_window_extent()
    for label in labels:
        box = label.get_window_extent()
        assert inside.contains(box.x0, box.y0) and inside.contains(box.x1, box.y1) and not box.overlaps(legend)


def test_without_verdicts_there_is_no_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (axes,) = figure_of(tmp_path / "plot.png", monkeypatch).axes
    assert not [line for line in axes.lines if line.get_linestyle() in ("--", ":")]
    assert [text.get_text() for text in axes.texts] == ["smallest", "depth", "sandwich"]


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"),
        (0.012345, "0.0123"),
        (999.4, "999"),
        (999.6, "1 k"),
        (1_234_567, "1.23 M"),
        (999_499, "999 k"),
        (999_999, "1 M"),
        (3.2e12, "3.2 T"),
        (999.9e9, "1 T"),
        (4.56e16, "45.6 P"),
    ],
)
def test_numbers_have_three_digits_and_a_unit(number: float, text: str) -> None:
    assert count(number) == text


ROWS = [
    Row("smallest", 585, 896_000, {"mean": 0.8, "anterior": 0.81}, choices="width 4"),
    Row("largest", 450, 3_200_000_000_000, {"mean": 0.85, "anterior": None}, choices="width 4-16"),
]


def test_a_table_shows_weights_and_work_and_says_what_members_and_scores_are() -> None:
    text = family_text(ROWS, "dice", "whole cases that fold_0 held out")
    _, head, *rows = text.splitlines()
    assert head.split() == ["member", "parameters", "MACs", "mean", "anterior"]
    assert rows[0].split() == ["smallest", "585", "896", "k", "0.800", "0.810"]
    assert rows[1].split() == ["largest", "450", "3.2", "T", "0.850", "-"]
    assert rows[2].endswith("Dice by class, of whole cases that fold_0 held out.")

    assert "Names go by MACs" in rows[2] and "may have more parameters" in rows[2]
    assert rows[3:] == ["smallest: width 4", "largest: width 4-16"]
    table = family_table(ROWS, "accuracy", "scans that training held out", width=80)
    assert [str(column.header) for column in table.columns] == head.split()
    assert str(table.caption).endswith("Accuracy by class, of scans that training held out.")


def test_a_table_without_scores_says_nothing_of_them() -> None:
    rows = [replace(row, scores={}) for row in ROWS]
    assert "Dice" not in family_text(rows, "dice", "whole cases that fold_0 held out")
    assert str(family_table(rows, "dice", "whole cases", width=80).caption).endswith("may have more parameters.")


def test_what_a_member_is_names_its_choices() -> None:
    subnet = {"levels": [3], "resolution": [0.75], "decoder_depth": [1, 2, 0], "width": [4, 8, 16], "none": [0, 0]}
    assert describe_choices(subnet) == "levels 3, resolution 0.75, decoder depth 1-2, width 4-16"


def test_a_table_leaves_out_the_classes_for_which_a_terminal_is_too_narrow() -> None:
    classes = {"mean": 0.5, "right ventricle": 0.4, "myocardium": 0.6, "left ventricular cavity": None}
    rows = [replace(row, scores=classes, seconds=35.25) for row in ROWS]

    def shown(width: int) -> str:
        console = Console(width=width, record=True, file=io.StringIO())
        console.print(family_table(rows, "dice", "8 cases", width=width))
        return console.export_text()

    for width in (200, 80, 72, 60, 56):
        text = shown(width)
        assert "…" not in text and all(len(line) <= width for line in text.splitlines())
        assert "35.25" in text and "0.500" in text
    words = " ".join(shown(68).split())
    assert "Too wide to be shown: myocardium, left ventricular cavity." in words
    assert "Too wide" not in shown(100)


@pytest.mark.parametrize(
    ("width", "left_out"),
    [
        (71, "anterior"),
        (60, "anterior, surface Dice"),
        (40, "parameters, anterior, surface Dice"),
        (32, "parameters, anterior, surface Dice, seconds a case"),
        (24, "parameters, MACs, anterior, surface Dice, seconds a case"),
    ],
)
def test_a_terminal_that_is_narrower_still_has_no_surface_dice_then_no_costs(width: int, left_out: str) -> None:
    rows = [replace(row, scores={"mean": 0.5, "anterior": 0.5}, surface_dice=0.9, seconds=35.25) for row in ROWS]
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(family_table(rows, "dice", "8 cases", width=width))
    text = console.export_text()
    table = text[: text.index("A member")]
    assert "…" not in table and "0.500" in table and all(len(line) <= width for line in text.splitlines())
    assert f"Too wide to be shown: {left_out}" in " ".join(text.split())


def test_a_table_shows_surface_dice_where_it_was_measured() -> None:
    surfaces = [replace(ROWS[0], surface_dice=0.912), replace(ROWS[1], seconds=1.5)]
    _, head, *rows = family_text(surfaces, "dice", "whole cases").splitlines()
    assert head.split() == ["member", "parameters", "MACs", "mean", "anterior", "surface", "Dice", "seconds", "a", "case"]
    assert rows[0].split()[-3:] == ["0.810", "0.912", "-"] and rows[1].split()[-3:] == ["-", "-", "1.50"]
