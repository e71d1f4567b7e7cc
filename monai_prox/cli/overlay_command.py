"""``monai-prox overlay``: a MONAI bundle that trains one network becomes one that trains a family."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from monai_prox.cli.completion import RECIPES, one_of
from monai_prox.cli.plan_command import space_of
from monai_prox.cli.terminal import say
from monai_prox.errors import ProXError

if TYPE_CHECKING:
    from monai_prox.trained.pipeline_config import PipelineConfig


def overlay(
    bundle: Annotated[Path, typer.Argument(help="The bundle, a folder with configs/train.json or train.yaml.")],
    config: Annotated[
        Path | None, typer.Option("--config-file", help="The configuration of its training, if it has another name.")
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(help="Voxels of a patch, such as 96,96,96, for which costs are counted. By default the bundle says it."),
    ] = None,
    space: Annotated[
        str,
        typer.Option(help="What is elastic, as JSON or a file of it. By default it is half, three quarters and all features."),
    ] = "default",
    recipe: Annotated[
        str,
        typer.Option(help="One of prox, prox_paper, progressive_shrinking, sandwich, adopt.", autocompletion=one_of(RECIPES)),
    ] = "prox",
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="The file to write. By default it is configs/prox.json of the bundle.")
    ] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace what is there.")] = False,
) -> None:
    """Make an existing MONAI bundle train a family of its network. The bundle's own files stay as they are."""
    from monai_prox.bundle.overlay import make_overlay
    from monai_prox.trained.pipeline_config import PipelineConfig

    pipeline = PipelineConfig.read(bundle, config)
    content = make_overlay(pipeline, size=voxels(size), space=space_of(space), recipe=recipe)
    write_overlay(bundle, pipeline, content, output, overwrite=overwrite)


def write_overlay(
    bundle: Path, pipeline: PipelineConfig, content: Mapping[str, Any], output: Path | None = None, *, overwrite: bool
) -> None:
    """Writes an overlay, and says what was understood and what trains.

    Args:
        bundle: the bundle.
        pipeline: its training.
        content: the overlay.
        output: the file to write. None means configs/prox.json of the bundle.
        overwrite: whether it is replaced.

    Raises:
        ProXError: the network cannot be made elastic, or the file exists.
    """
    from monai_prox.bundle.overlay import understood
    from monai_prox.files import write_json
    from monai_prox.trained.pipeline_config import OVERLAY

    lines = understood(pipeline, content)
    path = output or bundle / "configs" / OVERLAY
    if path.exists() and not overwrite:
        raise ProXError(f"{path} exists; --overwrite replaces it")
    write_json(content, path)
    inside = [file.relative_to(bundle) if file.is_relative_to(bundle) else file.resolve() for file in (pipeline.source, path)]
    files = "[" + ",".join(f"'{file.as_posix()}'" for file in inside) + "]"
    say(str(path), *lines, f'cd {shlex.quote(str(bundle))} && python -m monai.bundle run --config_file "{files}"')


def voxels(text: str | None) -> list[int] | None:
    """The voxels per axis that ``--size`` gives, or None.

    Args:
        text: what was given.

    Raises:
        ProXError: they are no numbers.

    >>> voxels("96,96 64")
    [96, 96, 64]
    """
    if text is None:
        return None
    try:
        return [int(part) for part in text.replace(",", " ").split()]
    except ValueError:
        raise ProXError(f"--size is {text!r:.80}; it must be numbers with commas between them") from None
