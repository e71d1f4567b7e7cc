"""The bundles that come with the package, and folders that are made of them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from monai_prox.bundle.metadata import without_weights
from monai_prox.errors import ProXError
from monai_prox.files import make_folder, read_json, remove_unfinished, temporary_folder, write_json

ANY_TASK = "msd_prox"  # plans for whatever task of the Decathlon
EXAMPLE = "Task09_Spleen"  # which it names unless another task is asked for
TASK = re.compile(r"Task\d+_\w+")
CONFIGS = "configs"
WHOLE = ("docs", "LICENSE", CONFIGS)  # what a bundle consists of before it is trained, what makes it one at the end
IN_CHECKOUT = re.compile(r"From inside this folder; from the folder that has `bundles` in it, put `[^`]*` before `configs/`\.")
COMMAND = re.compile(r"^.*--dataset_dir DATA/.*$", re.MULTILINE)


def shipped_folder() -> Path:
    """The folder of the bundles: within the package, or beside it in a checkout."""
    package = Path(__file__).parents[1]
    inside = package / "bundles"
    return inside if inside.is_dir() else package.parent / "bundles"


def shipped() -> list[str]:
    """The names of the bundles."""
    return sorted(path.parents[1].name for path in shipped_folder().glob("*/configs/metadata.json"))


def init_bundle(name: str, folder: Path, task: str | None = None) -> None:
    """Makes a bundle of one that comes with the package.

    Args:
        name: name of the bundle.
        folder: the folder to make, or an empty one.
        task: the Decathlon task that it trains on. None means the bundle's own.

    Raises:
        ProXError: there is no such bundle, the folder has something in it or cannot be written, or the bundle is for one task.
    """
    if name not in shipped():
        raise ProXError(f"there is no bundle {name!r:.80}; there are {', '.join(shipped())}")
    if task is not None and name != ANY_TASK:
        raise ProXError(f"{name} is for one task; {ANY_TASK} takes --task")
    if task is not None and not TASK.fullmatch(task):
        raise ProXError(f"the task is {task!r:.80}; it is the name of a Decathlon task's folder, such as {EXAMPLE}")
    for place, of in ((folder.parent, folder.name), (folder, CONFIGS)):  # see _write
        if place.is_dir():
            remove_unfinished(place, of)
    if (folder.exists() or folder.is_symlink()) and (not folder.is_dir() or any(folder.iterdir())):
        raise ProXError(f"{folder} exists; name a folder that is not there yet, or is empty")
    try:
        _write(shipped_folder() / name, folder, task)
    except OSError as error:
        raise ProXError(f"cannot write {folder}: {error.strerror or error}") from error


def _write(source: Path, folder: Path, task: str | None) -> None:
    """An empty folder is filled, because it may be where somebody is, or on a disk of its own."""
    filled = folder.is_dir()
    if not filled:
        make_folder(folder.parent)
    with temporary_folder(folder / CONFIGS if filled else folder) as temporary:
        made = temporary / source.name
        for file in sorted(file for part in WHOLE for file in [source / part, *(source / part).rglob("*")] if file.is_file()):
            copied = made / file.relative_to(source)
            copied.parent.mkdir(parents=True, exist_ok=True)
            copied.write_bytes(file.read_bytes())
        for path in made.glob("configs/*.json"):
            config = read_json(path)
            if "bundle_root" in config:
                write_json(_own_config(config, task), path)
            elif "eval_metrics" in config:
                write_json(without_weights(config), path)
        readme = made / "docs" / "README.md"
        readme.write_text(_own_readme(readme.read_text(encoding="utf-8"), task), encoding="utf-8")
        if filled:
            for part in WHOLE:
                (made / part).rename(folder / part)
        else:
            made.rename(folder)


def _own_config(config: dict[str, Any], task: str | None) -> dict[str, Any]:
    """A configuration of a bundle that stands by itself. In a checkout, bundle_root is a folder of the repository."""
    config["bundle_root"] = "."
    if task is not None:
        for key in ("task", "dataset_dir"):
            if key in config:
                config[key] = config[key].replace(EXAMPLE, task)
    return config


def _own_readme(text: str, task: str | None) -> str:
    """A description of a bundle that stands by itself. Its commands name the task; what was measured keeps the example."""
    text = IN_CHECKOUT.sub("From inside this folder.", text)
    return text if task is None else COMMAND.sub(lambda found: found[0].replace(EXAMPLE, task), text)
