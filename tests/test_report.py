"""Plots: what is written on them, and that it can be read."""

from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from monai_prox.report import plot_progress
from monai_prox.schedule import Schedule, Stage

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
