"""What the model zoo checks of a bundle before it takes it, by MONAI's own functions."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from monai.apps.utils import download_url
from monai.bundle import verify_metadata, verify_net_in_out

from monai_prox.errors import ProXError, refusing
from monai_prox.export.bundle import without_log_lines
from monai_prox.export.publishing.member_bundle import LARGE_FILES, LICENSE, METADATA, README
from monai_prox.files import read_json
from monai_prox.requirements import missing

NECESSARY = (LICENSE, METADATA, README, "models/model.pt")
LARGEST = 25 * 2**20  # bytes of a file in the zoo's repository; weights are elsewhere


def check_files(bundle: Path) -> str:
    """Checks that a bundle has the files that the model zoo asks for, and that none is too large for its repository.

    Args:
        bundle: folder of the bundle.

    Returns:
        What was found, in words.

    Raises:
        ProXError: a file is missing or too large.
    """
    lacking = [name for name in NECESSARY if not (bundle / name).is_file()]
    if not list((bundle / "configs").glob("inference.*")):
        lacking.append("configs/inference.json")
    if lacking:
        raise ProXError(f"{bundle.name} has no {', '.join(lacking)}, which the model zoo asks for; add it to the bundle")
    files = (path.relative_to(bundle) for path in bundle.rglob("*") if path.is_file() and path.stat().st_size > LARGEST)
    if large := [path.as_posix() for path in files if path.parts[0] != "models"]:
        raise ProXError(f"{bundle.name}: {', '.join(large)} has more than 25 MiB, the most that the zoo takes; leave it out")
    return "files complete" if (bundle / LARGE_FILES).is_file() else f"files complete but for {LARGE_FILES}"


def find_schema(metadata: Mapping[str, Any], folder: Path, given: Path | None) -> Path | str:
    """A copy of the schema that metadata names.

    Args:
        metadata: metadata of a bundle.
        folder: for the copy.
        given: the schema, None if it is downloaded.

    Returns:
        The copy, or in words why there is none.

    Raises:
        ProXError: the file that was given is no JSON.
    """
    copy, url = folder / "schema.json", metadata.get("schema")
    if given is not None:
        read_json(given)
        return Path(shutil.copyfile(given, copy))
    if not isinstance(url, str) or not url.startswith("https://"):
        return f"it names no schema at an address, but {url!r:.80}"
    try:
        with _quiet():
            download_url(url=url, filepath=copy, progress=False)
    except (OSError, RuntimeError, ValueError) as error:  # of the last kind what does not have its digest
        return f"{url} could not be downloaded ({' '.join(str(error).split()):.80}); give it as --schema"
    return copy


def check_metadata(bundle: Path, schema: Path | str) -> str:
    """Checks a bundle's metadata against the schema.

    Args:
        bundle: folder of the bundle.
        schema: the schema, or in words why there is none.

    Returns:
        What was found, in words.

    Raises:
        ProXError: the metadata does not fit.
    """
    if isinstance(schema, str):
        return f"metadata not checked: {schema}"
    if find_spec("jsonschema") is None:
        return f"metadata not checked: {missing('jsonschema')}"
    with _quiet(), refusing(f"{bundle.name}/{METADATA} does not fit its schema"):
        verify_metadata(meta_file=str(bundle / METADATA), filepath=str(schema))
    return "metadata fits its schema"


def check_network(bundle: Path) -> str:
    """Runs a bundle's network on random numbers, and compares inputs and outputs with the metadata.

    Args:
        bundle: folder of an exported bundle, whose configuration is this package's and not somebody's code.

    Returns:
        What was found, in words.

    Raises:
        ProXError: they differ.
    """
    files = {"meta_file": str(bundle / METADATA), "config_file": str(bundle / "configs" / "inference.json")}
    with without_log_lines(), refusing(f"{bundle.name}: the network does not fit {METADATA}"):
        verify_net_in_out(net_id="network_def", device="cpu", bundle_root=str(bundle), **files)
    return "network fits its metadata"


@contextmanager
def _quiet() -> Iterator[None]:
    """MONAI warns that the schema has no digest."""
    with without_log_lines(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
