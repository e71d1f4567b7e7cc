"""A member of a pipeline's family as that pipeline's own bundle: its configurations, with a smaller network and its weights."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from monai_prox.errors import ProXError
from monai_prox.export.bundle import MARK
from monai_prox.export.bundle_docs import said_of_weights
from monai_prox.export.folder import new_folder
from monai_prox.export.prediction import check_plain, metrics_of
from monai_prox.families.monai_arguments import TARGET, class_named
from monai_prox.files import check_inside, read_json
from monai_prox.tensor_file import write_tensors
from monai_prox.trained.bundle_folder import WEIGHTS
from monai_prox.trained.pipeline_config import OVERLAY, PipelineConfig
from monai_prox.trained.pipeline_source import TrainedPipeline

FOLDERS = ("configs", "docs", "scripts")  # of a bundle, beside its models
ENDINGS = (".json", ".yaml", ".yml")
METADATA, INFERENCE, README = "metadata.json", "inference", "README.md"
DATA_LICENCE = "data_license.txt"  # which says the licence of weights, too, as that of other bundles does
LARGEST_FILE = 25_000_000  # bytes, of the files beside the folders; the model zoo keeps larger ones elsewhere
LARGE_FILES = "large_files.yml"  # names weights that are not the member's


def write_pipeline(source: TrainedPipeline, which: str, output: Path, *, overwrite: bool = False) -> Path:
    """Writes a member as the bundle that its family was trained in.

    Transforms, inferer, postprocessing and metrics are the bundle's. In each configuration that has the network, its features
    become the member's. ``models/model.pt`` has the member's weights.

    Args:
        source: the trained family.
        which: a member's name, or a JSON file with a subnet.
        output: folder of the new bundle.
        overwrite: whether an existing folder is replaced.

    Returns:
        ``output``.

    Raises:
        ProXError: the member is unknown, the bundle's configurations are missing or have another network, or the folder exists
            or cannot be written. Then nothing is left behind.
    """
    root = source.path.parent
    if not (root / "configs").is_dir():
        raise ProXError(f"there is no folder {root / 'configs'}; give the bundle that the family was trained in")
    if any(output.resolve().is_relative_to((root / part).resolve()) for part in (*FOLDERS, "models")):
        raise ProXError(f"{output} is within the bundle {root}; give a folder of its own")
    name, subnet = source.member(which)
    network = source.network(subnet)
    architecture = source.bundle.network_family.architecture_of(subnet)
    with new_folder(output, overwrite=overwrite) as folder:
        _copy(root, folder)
        swapped = [path.name for path in sorted((folder / "configs").iterdir()) if _swap(path, source, architecture)]
        if not any(Path(file).stem == INFERENCE for file in swapped):
            raise ProXError(
                f"{root / 'configs'} has no {INFERENCE}.json or .yaml with the network that was trained, "
                f"{source.bundle.plan.network!r:.300}; write these arguments into it, so that a member can take its place"
            )
        _describe(folder, source, name, subnet)
        (folder / "models").mkdir()
        write_tensors(network.state_dict(), folder / "models" / WEIGHTS)
    return output


def _copy(root: Path, folder: Path) -> None:
    """A bundle without its models, results and overlay."""
    code = (path.parent.name for path in root.glob("*/*.py"))
    for part in sorted({*FOLDERS, *code}):
        for path in sorted((root / part).rglob("*")):
            relative = check_inside(path, root).relative_to(root)
            if path.is_file() and path.name != OVERLAY and "__pycache__" not in relative.parts:
                (folder / relative).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, folder / relative)
    for path in sorted(root.iterdir()):
        if path.is_file() and path.name != LARGE_FILES and check_inside(path, root).stat().st_size <= LARGEST_FILE:
            shutil.copyfile(path, folder / path.name)


def _swap(path: Path, source: TrainedPipeline, architecture: Mapping[str, Any]) -> bool:
    """Gives the network of a configuration the member's features. Returns whether it has the network."""
    if path.suffix not in ENDINGS or path.name == METADATA:
        return False
    try:
        pipeline, largest = PipelineConfig.read(source.path.parent, path), source.bundle.plan.network
    except ProXError:  # a list, or a file of another kind
        return False
    found = [one for one in pipeline.components(architecture[TARGET]) if _is_same(pipeline, one.value, largest)]
    for component in found:
        changed = {name: value for name, value in architecture.items() if name != TARGET and value != largest.get(name)}
        component.value.update(changed)
    if found:
        _write(pipeline.config, path)
    return bool(found)


def _write(content: Mapping[str, Any], path: Path) -> None:
    """In the manner of the model zoo."""
    if path.suffix == ".json":
        text = json.dumps(content, indent=4) + "\n"
    else:
        text = yaml.safe_dump(dict(content), sort_keys=False, default_flow_style=None, width=120)
    path.write_text(text, encoding="utf-8")


def _is_same(pipeline: PipelineConfig, component: Mapping[str, Any], largest: Mapping[str, Any]) -> bool:
    """Whether a component is the network that was trained. Arguments that an expression makes are taken for the same."""

    def same(name: str) -> bool:
        try:
            return bool(pipeline.static(component.get(name)) == largest.get(name))
        except LookupError:
            return True

    names = {name for name in (*component, *largest) if not (name.startswith("_") and name.endswith("_"))}
    return class_named(component[TARGET]) is class_named(largest[TARGET]) and all(map(same, names))


def _describe(folder: Path, source: TrainedPipeline, name: str, subnet: Any) -> None:
    """Says in the new bundle's documents what it is."""
    said, licence = f"the member {name} of {source.bundle.origin}", source.family().license
    check_plain(licence)
    path = folder / "configs" / METADATA
    if path.is_file() and isinstance(metadata := read_json(path), dict):
        metrics = metrics_of("dice", source.bundle.measured(subnet))
        metadata["eval_metrics"] = dict(metrics)
        metadata["description"] = f"{metadata.get('description', '')}; {said}".lstrip("; ")
        metadata[MARK] = {"name": name, "subnet": subnet.to_json()}
        metadata |= {} if licence is None else {"weights_license": licence}
        _write(metadata, path)
    path = folder / "docs" / README
    if path.is_file():
        note = f"> This bundle has {said}. Scores below that are not said to be its own are of another network.\n\n"
        path.write_text(note + path.read_text(encoding="utf-8"), encoding="utf-8")
    if licence is not None:
        path = folder / "docs" / DATA_LICENCE
        path.parent.mkdir(exist_ok=True)
        before = path.read_text(encoding="utf-8") if path.is_file() else ""
        path.write_text((before + said_of_weights(licence)).lstrip(), encoding="utf-8")
