"""The options of a whole case: its size, and what it may take."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from monai_prox.errors import ProXError

if TYPE_CHECKING:
    from monai_prox.runtime.grid import ImageSize

MaxSecondsOption = Annotated[
    float | None,
    typer.Option(help="The most seconds of a case, alone and without mirroring, on the device of --profile."),
]
MaxRamOption = Annotated[
    float | None,
    typer.Option(help="The most gigabytes of memory of a process that predicts a case, on the device of --profile."),
]
CaseShapeOption = Annotated[
    tuple[int, int, int] | None,
    typer.Option(help="The voxels of a case along x, y and z. By default it is the training's median, with --case-spacing."),
]
CaseSpacingOption = Annotated[
    tuple[float, float, float] | None, typer.Option(help="The spacing of a case along x, y and z in mm, with --case-shape.")
]


def image_size(shape: tuple[int, int, int] | None, spacing: tuple[float, float, float] | None) -> ImageSize | None:
    """The size that a command was given, or None.

    Args:
        shape: voxels along x, y and z.
        spacing: mm along x, y and z.

    Raises:
        ProXError: one of them is missing, or no image has this size.
    """
    from monai_prox.runtime.grid import ImageSize

    if shape is None and spacing is None:
        return None
    if shape is None or spacing is None:
        missing, given = ("--case-shape", "--case-spacing") if shape is None else ("--case-spacing", "--case-shape")
        raise ProXError(
            f"{given} needs {missing}, too; a case has both, such as --case-shape 512 512 160 --case-spacing 0.8 0.8 1"
        )
    return ImageSize(shape[::-1], spacing[::-1])
