"""Files from outside: nothing in them is executed, and nonsense is an error of one line, not a crash."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.architectures import unet_architecture
from helpers.commands import forked
from helpers.nnunet_task import SHALLOW, TWO_MEMBERS, bare_model, bare_plans, make_trainer
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from monai_prox.core.network import largest, prediction_graph
from monai_prox.core.space import SearchSpace, Subnet
from monai_prox.data.decathlon_plan import Plan
from monai_prox.errors import ProXError
from monai_prox.export.from_nnunet import prediction_of
from monai_prox.export.nnunet import export_nnunet
from monai_prox.families.unet import UNetFamily
from monai_prox.files import read_json
from monai_prox.latency.device import Device
from monai_prox.runtime.description import read_description
from monai_prox.search.storage import open_storage
from monai_prox.trained.bundle_folder import FAMILY, FORMAT, KERNEL_TRANSFORMS, STATISTICS, WEIGHTS, TrainedBundle
from monai_prox.trained.nnunet_folder import FINAL, ModelFolder
from monai_prox.trained.nnunet_source import TrainedNNUNet

pytest_plugins = ["helpers.nnunet_fixtures"]


class Bomb:
    """What unpickling it would do is to make a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return Path.touch, (self.marker,)


@pytest.fixture
def model(bare: Path) -> ModelFolder:
    return bare_model(bare_plans(prox={"space": TWO_MEMBERS}, **SHALLOW))


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A folder of models as a training leaves it, by a recipe that transforms kernels."""
    architecture = unet_architecture("PlainConvUNet", axes=3)
    plan = Plan(
        task="Task",
        channels=("MRI",),
        labels=("background", "organ"),
        spacing=(1.0, 1.0, 1.0),
        patch_size=(32, 32, 32),
        intensity={"kind": "z-score"},
        architecture=architecture,
    )
    family = plan.family()
    folder = tmp_path / "bundle" / "models"
    folder.mkdir(parents=True)
    torch.save(prediction_graph(largest(family)).state_dict(), folder / WEIGHTS)
    space = family.space
    data = {
        "format": FORMAT,
        "plan": plan.to_json(),
        "choices": asdict(family.choices),
        "recipe": "progressive_shrinking",
        "members": [{"name": "smallest", "subnet": space.smallest().to_json(), "parameters": 1, "macs": 1}],
    }
    (folder / FAMILY).write_text(json.dumps(data))
    torch.save({}, folder / KERNEL_TRANSFORMS)
    return folder.parent


# ---------------------------------------------------------------------- pickles
def is_refused(read: Callable[[], object], marker: Path) -> None:
    with pytest.raises(ProXError):
        read()
    assert not marker.exists()


def test_the_bomb_would_go_off(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Bomb(tmp_path / "marker")))
    assert (tmp_path / "marker").exists()


def test_a_checkpoint_executes_nothing(model: ModelFolder, tmp_path: Path) -> None:
    path, marker = model.path / "fold_0" / FINAL, tmp_path / "marker"
    data = torch.load(path, weights_only=True)
    torch.save(data | {"prox": {"engine": Bomb(marker)}}, path)
    is_refused(lambda: ModelFolder.open(model.path).checkpoint("fold_0"), marker)
    is_refused(lambda: TrainedNNUNet.open(model.path).supernet, marker)


class Allocated(TorchDispatchMode):
    """Counts the elements of tensors that operations make outside of the meta device."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.elements += sum(part.numel() for part in tree_leaves(result) if isinstance(part, Tensor) and not part.is_meta)
        return result


def test_transforms_of_kernels_take_no_memory_before_they_are_checked(bundle: Path, bare: Path) -> None:
    """A kernel of 15 voxels per axis has a matrix of 5 million elements or more, whatever the size of the file is."""
    path, kernels = bundle / "models" / FAMILY, [1, 3]
    family = read_json(path)
    path.write_text(json.dumps(family | {"choices": family["choices"] | {"kernel": kernels}}))
    (bundle / "models" / WEIGHTS).unlink()
    model = bare_model(bare_plans(prox={"space": {**TWO_MEMBERS, "kernel": kernels}}))
    checkpoint = model.checkpoint("fold_0")
    checkpoint["network_weights"], checkpoint["prox"]["engine"]["kernel_transforms"] = {}, {}
    with Allocated() as allocated:
        with pytest.raises(ProXError, match=WEIGHTS):
            TrainedBundle.open(bundle).supernet()
        with pytest.raises(ProXError, match="checkpoint of fold 0"):
            model.supernet(checkpoint)
    assert allocated.elements == 0


@pytest.mark.parametrize("name", [WEIGHTS, KERNEL_TRANSFORMS, STATISTICS])
def test_a_bundles_tensors_execute_nothing(name: str, bundle: Path, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    torch.save({"weight": Bomb(marker)}, bundle / "models" / name)
    opened = TrainedBundle.open(bundle)
    is_refused(opened.statistics if name == STATISTICS else opened.supernet, marker)


# ---------------------------------------------------------------------- nonsense
NONSENSE = {
    "nothing": "",
    "no JSON": "{",
    "null": "null",
    "a number": "3",
    "a text": '"x"',
    "a list": "[]",
    "an empty object": "{}",
    "deep": "[" * 100_000 + "]" * 100_000,
    "deep objects": '{"a":' * 50_000 + "1" + "}" * 50_000,
    "not a number": '{"format": NaN}',
    "a huge number": '{"format": 1' + "0" * 5_000 + "}",
    "wrong types": '{"format": 1, "plan": 3, "choices": [], "members": {}, "configurations": 7, "device": [], "labels": 5}',
    "wrong members": '{"format": 1, "plan": {"kind": {}}, "choices": {"depth": 5}, "members": [3, null, {"name": []}]}',
    "no text": "\udcff\udcfe",
}


@pytest.mark.parametrize("nonsense", NONSENSE.values(), ids=NONSENSE.keys())
@pytest.mark.parametrize("name", ["plans.json", "dataset.json", "fold_0/family.json"])
def test_nonsense_in_a_model_folder_is_refused(name: str, nonsense: str, model: ModelFolder) -> None:
    (model.path / name).write_bytes(nonsense.encode(errors="surrogateescape"))

    def use() -> None:
        source = TrainedNNUNet.open(model.path)
        source.family()
        source.describe("largest")

    with pytest.raises(ProXError):
        use()


@pytest.mark.parametrize("nonsense", NONSENSE.values(), ids=NONSENSE.keys())
def test_nonsense_in_a_bundle_is_refused(nonsense: str, bundle: Path) -> None:
    (bundle / "models" / FAMILY).write_bytes(nonsense.encode(errors="surrogateescape"))

    def use() -> None:
        opened = TrainedBundle.open(bundle)
        opened.family()
        opened.supernet()

    with pytest.raises(ProXError):
        use()


@pytest.mark.parametrize("nonsense", NONSENSE.values(), ids=NONSENSE.keys())
def test_nonsense_elsewhere_is_refused(nonsense: str, tmp_path: Path) -> None:
    """A member's file, a device's, a space, and what a model file says of itself."""
    architecture = unet_architecture("PlainConvUNet", axes=3)
    family = UNetFamily(architecture, input_channels=1, num_classes=2, patch_size=(32, 32, 32))
    path = tmp_path / "file.json"
    path.write_bytes(nonsense.encode(errors="surrogateescape"))
    for read in (
        lambda: Subnet.from_json(read_json(path)),
        lambda: Device.read(path, family, (32, 32, 32)),
        lambda: SearchSpace.from_json(read_json(path)).smallest(),
        lambda: read_description(nonsense, "a test"),
    ):
        with pytest.raises(ProXError):
            read()


CODE = "$__import__('pathlib').Path('marker').touch()"


@pytest.mark.parametrize("where", ["channel", "label", "licence", "dataset", "architecture"])
def test_names_do_not_become_code_in_an_exported_bundle(where: str, model: ModelFolder) -> None:
    dataset, plans = json.loads(json.dumps(model.dataset)), json.loads(json.dumps(model.plans))
    if where == "channel":
        dataset["channel_names"] = {"0": CODE}
    elif where == "label":
        dataset["labels"] = {"background": 0, CODE: 1, "posterior": 2}
    elif where == "licence":
        dataset["licence"] = " @network_def"
    elif where == "dataset":
        plans["dataset_name"] = CODE
    else:
        (configuration,) = plans["configurations"].values()
        configuration["architecture"]["arch_kwargs"]["norm_op_kwargs"]["eps"] = CODE
    with pytest.raises(ProXError, match=r"would be read as an expression in a bundle|allowed is a float such as 1e-05"):
        prediction_of(TrainedNNUNet.of(replace(model, dataset=dataset, plans=plans)), "largest")


def test_a_model_folder_is_not_followed_out_of_itself(model: ModelFolder, tmp_path: Path) -> None:
    """Names of members come from a file: they are no paths."""
    family = json.loads((model.path / "fold_0" / "family.json").read_text())
    family["members"][0]["name"] = "../../outside"
    (model.path / "fold_0" / "family.json").write_text(json.dumps(family))
    shutil.rmtree(tmp_path / "outside", ignore_errors=True)
    with pytest.raises(ProXError):
        TrainedNNUNet.open(model.path).member("../../outside")


@pytest.mark.parametrize("file", ["fold_0/progress.png", "dataset_fingerprint.json", "fold_0/validation/summary.json"])
def test_links_that_lead_out_of_a_model_folder_are_not_followed_into_an_export(
    file: str, model: ModelFolder, tmp_path: Path
) -> None:
    secret, link = tmp_path / "secret", model.path / file
    secret.write_text('{"secret": 1}')
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(secret)
    if "validation" in file:
        family = json.loads((model.path / "fold_0" / "family.json").read_text())
        family["validated_epoch"] = model.checkpoint("fold_0")["current_epoch"]
        family["members"] = [member | {"dice": {"mean": 0.5}} for member in family["members"]]
        (model.path / "fold_0" / "family.json").write_text(json.dumps(family))
    with pytest.raises(ProXError, match=f"{file} is a link out of .*, to {secret}; put the file itself there"):
        export_nnunet(TrainedNNUNet.of(model), "largest", tmp_path / "exported__a__3d_fullres")
    assert not (tmp_path / "exported__a__3d_fullres").exists()
    (model.path / "elsewhere").write_text('{"metric_per_case": []}')
    link.unlink()
    link.symlink_to(model.path / "elsewhere")  # inside it, links are as good as files
    export_nnunet(TrainedNNUNet.of(model), "largest", tmp_path / "exported__a__3d_fullres")


# ---------------------------------------------------------------------- what a terminal shows
def test_names_do_nothing_to_a_terminal(bundle: Path) -> None:
    """Neither rich's markup nor a terminal's own."""
    path = bundle / "models" / FAMILY
    data = json.loads(path.read_text())
    name = "[red]kidney [left][/x]\x1b]0;title\x07\u202e"
    data["members"][0]["dice"] = {name: 0.5}
    path.write_text(json.dumps(data))
    done = forked(["monai-prox", "family", bundle], os.environ | {"COLUMNS": "200"})
    assert done.returncode == 0 and not {"\x1b", "\x07", "\u202e"} & set(done.stdout), done.stderr
    assert "[red]kidney [left][/x]" in done.stdout
    data["members"][0]["name"] = "\x1b[31mred"
    path.write_text(json.dumps(data))
    done = forked(["monai-prox", "family", bundle], os.environ)
    assert done.returncode == 1 and "\x1b[31m" not in done.stderr and "got {'name':" in done.stderr


def test_more_members_than_a_table_shows_are_refused(bundle: Path) -> None:
    path = bundle / "models" / FAMILY
    data = json.loads(path.read_text())
    (member,) = data["members"]
    for members, reason in (
        ([member | {"name": f"m{number}"} for number in range(1_001)], "names 1,001 members, at most 1,000 are allowed"),
        (
            [member | {"name": f"m{i}", "dice": {f"{i} {j}": 0.5 for j in range(9)}} for i in range(200)],
            "scores of 1,800 labels",
        ),
    ):
        path.write_text(json.dumps(data | {"members": members}))
        with pytest.raises(ProXError, match=reason):
            TrainedBundle.open(bundle).family()


# ---------------------------------------------------------------------- searches
def test_a_lock_or_a_journal_that_somebody_brings_keeps_nobody_waiting(tmp_path: Path) -> None:
    path = tmp_path / "study.journal"
    (tmp_path / "study.journal.lock").symlink_to("nowhere")
    with pytest.raises(ProXError, match=r"study\.journal\.lock is no lock of this journal; remove it"):
        open_storage(str(path))
    (tmp_path / "study.journal.lock").unlink()
    line = '{"op_code": 0, "worker_id": "x", "study_name": "%d", "directions": [1]}'
    path.write_text("\n".join(line % number for number in range(1_001)))
    with pytest.raises(ProXError, match="1,001 searches"):
        open_storage(str(path))


def test_a_searchs_folder_that_leads_elsewhere_is_not_written_to(model: ModelFolder, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (model.path / "search").symlink_to(tmp_path / "elsewhere")
    done = forked(["monai-prox", "search", model.path, "--trials", "1"], os.environ)
    assert done.returncode == 1 and "is a link out of" in done.stderr
    assert not list((tmp_path / "elsewhere").iterdir())


# ---------------------------------------------------------------------- training
@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("dataset_name", "../../escaped", "'dataset_name' is part of paths"),
        ("plans_name", "a/../../b", "'plans_name' is part of paths"),
        ("label_manager", "os", "'label_manager' must be of type"),
        ("configurations", {"3d_fullres": {"inherits_from": "3d_fullres"}}, "Circular dependency|cannot be used"),
    ],
)
def test_a_training_leaves_its_folders_alone(key: str, value: Any, message: str, bare: Path) -> None:
    before = set(bare.parent.rglob("*"))
    with pytest.raises(ProXError, match=message):
        make_trainer(bare_plans() | {key: value})
    assert set(bare.parent.rglob("*")) == before
