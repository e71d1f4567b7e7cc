"""The bundles that come with the package, and folders that are made of them."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

from monai_prox.errors import ProXError
from monai_prox.files import make_folder, read_json, temporary_folder, write_json

ANY_TASK = "msd_prox"  # plans for whatever task of the Decathlon
EXAMPLE = "Task09_Spleen"  # which it names unless another task is asked for
TASK = re.compile(r"Task\d+_\w+")
WHOLE = ("configs", "docs", "LICENSE")  # what a bundle consists of before it is trained


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
        folder: the folder to make. It is not there yet, or empty.
        task: the Decathlon task that it trains on. None means the bundle's own.

    Raises:
        ProXError: there is no such bundle, the folder has something in it, or the bundle is for one task.
    """
    if name not in shipped():
        raise ProXError(f"there is no bundle {name!r:.80}; there are {', '.join(shipped())}")
    if task is not None and name != ANY_TASK:
        raise ProXError(f"{name} is for one task; {ANY_TASK} takes --task")
    if task is not None and not TASK.fullmatch(task):
        raise ProXError(f"the task is {task!r:.80}; it is the name of a Decathlon task's folder, such as {EXAMPLE}")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ProXError(f"{folder} exists; name a folder that is not there yet")
    make_folder(folder.parent)
    with temporary_folder(folder) as temporary:
        made = temporary / name
        made.mkdir()
        for part in WHOLE:
            source = shipped_folder() / name / part
            if source.is_dir():
                shutil.copytree(source, made / part)
            else:
                shutil.copyfile(source, made / part)
        for path in made.glob("configs/*.json"):
            config = read_json(path)
            if "bundle_root" in config:
                write_json(_own(config, task), path)
        if folder.is_dir():
            folder.rmdir()
        made.rename(folder)


def _own(config: dict[str, Any], task: str | None) -> dict[str, Any]:
    """A configuration of a bundle that stands by itself. In a checkout, bundle_root is a folder of the repository."""
    config["bundle_root"] = "."
    if task is not None:
        for key in ("task", "dataset_dir"):
            if key in config:
                config[key] = config[key].replace(EXAMPLE, task)
    return config
