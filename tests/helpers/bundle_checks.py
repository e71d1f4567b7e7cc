"""What the model zoo and MONAI ask of a bundle."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from monai.bundle import ConfigParser, ckpt_export, onnx_export, verify_metadata, verify_net_in_out

from helpers.bundle_commands import arguments, torchrun
from helpers.bundle_hosts import workflow_of
from helpers.commands import forked
from helpers.programs import Programs
from monai_prox.export.bundle import SCHEMA

REQUIRED = [
    "LICENSE",
    "configs/metadata.json",
    "configs/train.json",
    "configs/evaluate.json",
    "configs/inference.json",
    "configs/multi_gpu_train.json",
    "configs/family.json",
    "configs/logging.conf",
    "docs/README.md",
    "docs/data_license.txt",
]
HEADINGS = [
    "# Model Overview",
    "## Data",
    "## Training configuration",
    "## Input",
    "## Output",
    "## Performance",
    "## MONAI Bundle Commands",
    "# References",
    "# License",
]
LIMIT = 25 * 2**20  # bytes of a file in the model zoo
TOLERANCE = 1e-4  # of the largest of ONNX Runtime's logits


def config(bundle: Path, name: str) -> Any:
    return json.loads((bundle / "configs" / f"{name}.json").read_text())


def check_zoo_rules(bundle: Path, required: list[str]) -> None:
    """What the model zoo asks of every bundle's files."""
    for name in required:
        assert (bundle / name).is_file(), name
    metadata = config(bundle, "metadata")
    assert metadata["schema"] == SCHEMA
    assert metadata["version"] in metadata["changelog"]
    assert all(metadata["required_packages_version"].values())
    assert all(version(package) for package in metadata["required_packages_version"])
    assert re.fullmatch(r"\d+\.\d+\.\d+", metadata["version"])
    lines = (bundle / "docs" / "README.md").read_text().splitlines()
    assert [line for line in lines if line in HEADINGS] == HEADINGS
    assert max(path.stat().st_size for path in bundle.rglob("*") if path.is_file()) <= LIMIT
    assert all(path.parent == bundle / "scripts" for path in bundle.rglob("*.py"))


def targets(bundle: Path) -> set[str]:
    """The components that a training bundle's configurations name."""
    found: set[str] = set()

    def collect(part: Any) -> None:
        if isinstance(part, dict):
            found.update([part["_target_"]] if "_target_" in part else [])
            for value in part.values():
                collect(value)
        elif isinstance(part, list):
            for value in part:
                collect(value)

    for file in ("train", "evaluate", "inference", "multi_gpu_train"):
        collect(config(bundle, file))
    return found


def check_network(bundle: Path, output: Path, shape: tuple[int, ...], **metadata: Any) -> None:
    """MONAI's own checks and exports of network_def; shape: of what it takes, with its channels."""
    files = {"meta_file": str(bundle / "configs/metadata.json"), "config_file": str(bundle / "configs/inference.json")}
    data = {"ckpt_dir": str(bundle / "models"), "bundle_root": str(bundle), **metadata}
    verify_net_in_out(net_id="network_def", device="cpu", **files, **data)
    weights = {"net_id": "network_def", "ckpt_file": str(bundle / "models" / "model.pt")}
    ckpt_export(filepath=str(output / "model.ts"), **weights, **files, **data)
    onnx_export(filepath=str(output / "model.onnx"), **weights, **files, **data)

    parser = ConfigParser()
    parser.read_config(files["config_file"])
    parser.read_meta(files["meta_file"])
    parser.update(data)
    network = parser.get_parsed_content("network_def").eval()
    network.load_state_dict(torch.load(weights["ckpt_file"], weights_only=True), strict=True)
    x = torch.rand(1, *shape)
    with torch.no_grad():
        logits = network(x)
        for scripted in [output / "model.ts", *(bundle / "models").glob("model.ts")]:
            assert torch.equal(torch.jit.load(scripted).eval()(x), logits)
    session = onnxruntime.InferenceSession(output / "model.onnx")
    (onnx,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    np.testing.assert_allclose(onnx, logits.numpy(), atol=TOLERANCE * max(1.0, float(logits.abs().max())), rtol=0)


def check_properties(bundle: Path, names: Sequence[str], kind: str, **overrides: Any) -> None:
    """That the configurations ``names`` together have what MONAI's workflows of this kind, train or infer, ask for."""
    assert workflow_of(bundle, names, kind, **overrides).check_properties() == []


def check_metadata(bundle: Path, folder: Path) -> None:
    """That the schema takes the bundle's metadata, and not others. folder: for the schema."""
    verify_metadata(meta_file=str(bundle / "configs" / "metadata.json"), filepath=str(schema(folder)))
    (folder / "wrong.json").write_text(json.dumps(config(bundle, "metadata") | {"version": 1}))
    with pytest.raises(ValueError, match="is not of type 'string'"):
        verify_metadata(meta_file=str(folder / "wrong.json"), filepath=str(schema(folder)))


def check_before_training(bundle: Path, **metadata: Any) -> None:
    """MONAI's check of network_def, of a bundle that has no weights yet."""
    files = {"meta_file": str(bundle / "configs/metadata.json"), "config_file": str(bundle / "configs/inference.json")}
    verify_net_in_out(net_id="network_def", device="cpu", bundle_root=str(bundle), **files, **metadata)


def train_in_two_processes(root: Path, bundle: str, output: Path, programs: Programs, **overrides: Any) -> str:
    """By MONAI's command in ``root`` under torchrun, with gloo on the CPU; both get the same weights. Returns its output."""
    weights = "$torch.save([p.detach() for p in @largest.parameters()], @ckpt_dir + f'/rank_{dist.get_rank()}.pt')"
    (output / "leave.json").write_text(json.dumps({"run": ["$@train#trainer.run()", weights]}))
    files = [*(f"bundles/{bundle}/configs/{name}.json" for name in ("train", "multi_gpu_train")), str(output / "leave.json")]
    places = {"ckpt_dir": output / "models", "output_dir": output / "eval"}
    said = torchrun(2, ["run", "--config_file", str(files), *arguments(places | overrides)], cwd=root, programs=programs)
    ranks = [torch.load(output / "models" / f"rank_{rank}.pt", weights_only=True) for rank in (0, 1)]
    assert all(map(torch.equal, *ranks))
    assert said.count("Epoch[5] Metrics") == 1
    return said


def zoo_test(published: Path, bundle: str) -> subprocess.CompletedProcess[str]:
    """The zoo's unit test of a bundle in a published folder, in a process of its own as the zoo runs it."""
    command = ["unittest", "discover", "-s", "ci/unit_tests", "-p", f"test_{bundle}.py"]
    return forked(command, os.environ, cwd=published, module=True)


def check_zoo_test(published: Path, bundle: str) -> None:
    """That this test runs and passes; it trains, too, if the bundle can be trained further."""
    done, trains = zoo_test(published, bundle), (published / "models" / bundle / "configs" / "multi_gpu_train.json").is_file()
    said = f"Ran {2 if trains else 1} test"
    assert done.returncode == 0 and said in done.stderr, done.stdout[-2000:] + done.stderr[-2000:]


def schema(folder: Path) -> Path:
    """Where verify_metadata finds the schema, in ``folder``; without it, it would be downloaded."""
    data = os.environ.get("MONAI_PROX_DATA")
    path = Path(data or "", "..", "schema", SCHEMA.rpartition("/")[2])
    if not data or not path.is_file():
        pytest.skip(f"there is no {SCHEMA.rpartition('/')[2]} in a folder schema beside the one that MONAI_PROX_DATA names")
    return Path(shutil.copyfile(path, folder / "schema.json"))
