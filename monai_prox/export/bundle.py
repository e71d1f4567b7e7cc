"""A member as a MONAI bundle that predicts and can be trained further: MONAI and its network's package are all it needs.

What the bundle's files hold comes from a training bundle (``from_bundle``) or from a model folder of nnU-Net
(``from_nnunet``); here they are written.
"""

from __future__ import annotations

import logging
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import distribution
from io import BytesIO
from pathlib import Path
from typing import Any, Protocol
from zipfile import ZipFile

from monai.bundle import ckpt_export
from torch import fx, nn

from monai_prox.errors import ProXError
from monai_prox.export import bundle_transforms
from monai_prox.export.bundle_entries import OWN_TRANSFORMS, SCRIPTS, SCRIPTS_PATH
from monai_prox.export.folder import new_folder
from monai_prox.files import write_json
from monai_prox.tensor_file import write_tensors

SCHEMA = "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json"
VERSION = "0.1.0"  # of an exported bundle; its authors count on from here
MARK = "prox_member"  # in metadata.json: this folder is an exported member
LOGGING = """[loggers]
keys=root

[handlers]
keys=consoleHandler

[formatters]
keys=fullFormatter

[logger_root]
level=INFO
handlers=consoleHandler

[handler_consoleHandler]
class=StreamHandler
level=INFO
formatter=fullFormatter
args=(sys.stdout,)

[formatter_fullFormatter]
format=%(asctime)s - %(name)s - %(levelname)s - %(message)s
"""


class Exportable(Protocol):
    """What a bundle is written from: a network with its weights, and the contents of the bundle's files."""

    @property
    def network(self) -> nn.Module: ...

    def metadata(self) -> dict[str, Any]: ...

    def configurations(self) -> dict[str, dict[str, Any]]: ...

    def readme(self) -> str: ...

    def data_license(self) -> str: ...


def write_bundle(prediction: Exportable, output: Path, *, overwrite: bool = False) -> Path:
    """Writes a member as a MONAI bundle.

    Args:
        prediction: the member's network, and the contents of the bundle's files.
        output: folder of the bundle.
        overwrite: whether an existing folder is replaced.

    Returns:
        ``output``.

    Raises:
        ProXError: the folder exists, or cannot be written. Then nothing is left behind.
    """
    with new_folder(output, overwrite=overwrite) as folder:
        for part in ("configs", "models", "docs"):
            (folder / part).mkdir()
        write_json(prediction.metadata(), folder / "configs" / "metadata.json")
        configurations = prediction.configurations()
        for name, configuration in configurations.items():
            write_json(configuration, folder / "configs" / f"{name}.json")
        (folder / "configs" / "logging.conf").write_text(LOGGING, encoding="utf-8")
        (folder / "docs" / "README.md").write_text(prediction.readme(), encoding="utf-8")
        (folder / "docs" / "data_license.txt").write_text(prediction.data_license(), encoding="utf-8")
        (folder / "LICENSE").write_text(license_text(), encoding="utf-8")
        if SCRIPTS_PATH in configurations["inference"]:
            (folder / SCRIPTS).mkdir()
            (folder / SCRIPTS / "__init__.py").touch()
            shutil.copyfile(bundle_transforms.__file__, folder / SCRIPTS / f"{OWN_TRANSFORMS}.py")
        write_tensors(fx.symbolic_trace(prediction.network.eval()).state_dict(), folder / "models" / "model.pt")
        _write_torchscript(folder)
    return output


def license_text() -> str:
    """The Apache License 2.0, which this package comes with. Raises ProXError if it does not."""
    text = distribution("monai-prox").read_text("licenses/LICENSE")
    if text is None:
        raise ProXError("the installed package monai-prox lacks its LICENSE file, which the bundle needs; install it again")
    return text


def _write_torchscript(folder: Path) -> None:
    """models/model.ts by MONAI's own command, as the bundle's users would make it."""
    buffer = BytesIO()  # on a full disk torch's own writer ends the process
    with without_log_lines(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what torch says about its own TorchScript
        ckpt_export(
            net_id="network_def",
            filepath=buffer,
            ckpt_file=str(folder / "models" / "model.pt"),
            meta_file=str(folder / "configs" / "metadata.json"),
            config_file=str(folder / "configs" / "inference.json"),
        )
    (folder / "models" / "model.ts").write_bytes(_archive_named("model", buffer))


@contextmanager
def without_log_lines() -> Iterator[None]:
    """MONAI's commands log their arguments."""
    disabled = logging.root.manager.disable
    logging.disable(max(disabled, logging.INFO))
    try:
        yield
    finally:
        logging.disable(disabled)


def _archive_named(name: str, archive: BytesIO) -> bytes:
    """A zip archive of one folder, which becomes ``name``: MONAI Deploy looks for configurations in one named as the file is.

    torch names it otherwise where it does not write the file itself.
    """
    renamed = BytesIO()
    with ZipFile(archive) as old, ZipFile(renamed, "w") as new:
        for entry in old.infolist():
            new.writestr(f"{name}/{entry.filename.partition('/')[2]}", old.read(entry))
    return renamed.getvalue()
