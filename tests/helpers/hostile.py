"""Files of every kind that a command reads, spoilt in one place or more, and commands that are given them.

The commands run in a process that is forked for them, one after another. What would harm a user is counted: code that was
executed, commands that hang, memory of more than a gigabyte, and tracebacks.
"""

from __future__ import annotations

import gc
import json
import os
import random
import resource
import shutil
import signal
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnx
import torch

from helpers.cases import with_cases
from helpers.in_process import prox
from helpers.nnunet_task import SHALLOW, TWO_MEMBERS, bare_model, bare_plans, device_file, write_held_out
from helpers.places import places
from monai_prox.core.network import largest, prediction_graph
from monai_prox.data.decathlon_plan import Plan
from monai_prox.latency.device import fingerprint
from monai_prox.runtime.description import KEY
from monai_prox.trained.bundle_folder import FORMAT
from monai_prox.trained.nnunet_folder import FINAL
from monai_prox.trained.nnunet_source import TrainedNNUNet

SECONDS = 30  # beyond which a command hangs
BYTES = 2**30  # that a command may take beside what the process has
HARMS = ("executed", "hung", "memory", "traceback")
CASES = [f"case_{number}" for number in range(3)]
OF_MEMORY = ("alloc", "out of memory", "MemoryError", "memory")
MARKER = "marker"
CODE = f"__import__('pathlib').Path({MARKER!r}).touch()"
VALUES: list[Any] = [
    {"_target_": "pathlib.Path.touch", "self": f"$__import__('pathlib').Path({MARKER!r})"},
    {"_target_": "os.system", "command": f"touch {MARKER}"},
    {"_target_": "builtins.eval", "_args_": [CODE]},
    json.dumps({"_target_": "os.system", "command": f"touch {MARKER}"}),
    f"${CODE}",
    f" ${CODE}",
    "@network_def",
    "%inference.json#network_def",
    "this.PlainConvUNet",
    "os.system",
    "../../outside",
    "/etc/passwd",
    "a\0b",
    "a\nb",
    "x" * 100_000,
    "",
    "1",
    [],
    {},
    [[]],
    None,
    True,
    False,
    0,
    1,
    -1,
    2,
    3,
    1_000,
    10**6,
    10**9,
    10**17,
    0.5,
    -0.5,
    1e-300,
    1e300,
    float("nan"),
    float("inf"),
    [1] * 10_000,
    list(range(10_000)),
    [index / 10_000 for index in range(1, 10_001)],
    {str(index): index for index in range(10_000)},
]


# ---------------------------------------------------------------------- what is spoilt
def a_value(generator: random.Random) -> Any:
    return deepcopy(generator.choice(VALUES))


def spoilt(data: Any, generator: random.Random) -> Any:
    """Plain data with another value, one more, one less, or a branch elsewhere."""
    data = deepcopy(data)
    for _ in range(generator.choice([1, 1, 1, 2, 3])):
        every = [path for path in places(data) if path]
        if not every:
            return a_value(generator)
        *way, last = generator.choice(every)
        branch = data
        for key in way:
            branch = branch[key]
        how = generator.choice(["value", "value", "value", "value", "missing", "more", "branch", "deep", "longer"])
        if how == "value":
            branch[last] = a_value(generator)
        elif how == "missing":
            del branch[last]
        elif how == "more" and isinstance(branch, dict):
            branch[generator.choice(["_target_", "_requires_", "_disabled_", "more", last])] = a_value(generator)
        elif how == "branch":
            branch[last] = deepcopy(data)
        elif how == "deep":
            for _ in range(generator.choice([1, 20, 40])):
                branch[last] = [branch[last]]
        elif how == "longer" and isinstance(branch[last], list):
            branch[last] *= generator.choice([2, 1_000])
    return data


def spoilt_bytes(data: bytes, generator: random.Random) -> bytes:
    at = generator.randrange(len(data) or 1)
    new = generator.randbytes(generator.choice([1, 1, 2, 8, 100]))
    how = generator.choice(["other", "other", "other", "more", "short", "none", "twice"])
    if how == "other":
        return data[:at] + new + data[at + len(new) :]
    return {"more": data[:at] + new + data[at:], "short": data[:at], "none": b"", "twice": data + data}[how]


def spoil_json(path: Path, generator: random.Random) -> None:
    text = path.read_bytes()
    if generator.random() < 0.1:
        path.write_bytes(spoilt_bytes(text, generator))
    else:
        path.write_text(json.dumps(spoilt(json.loads(text), generator)))


def spoil_lines(path: Path, generator: random.Random) -> None:
    """A journal: a JSON object in each line."""
    lines = path.read_text().splitlines()
    for _ in range(generator.choice([1, 3])):
        index = generator.randrange(len(lines))
        how = generator.choice(["spoilt", "spoilt", "spoilt", "bytes", "missing", "twice"])
        if how == "missing" and len(lines) > 1:
            del lines[index]
        elif how == "twice":
            lines.insert(generator.randrange(len(lines)), lines[index])
        elif how == "bytes":
            lines[index] = spoilt_bytes(lines[index].encode(), generator).decode(errors="replace")
        else:
            lines[index] = json.dumps(spoilt(json.loads(lines[index]), generator))
    path.write_text("\n".join(lines) + generator.choice(["", "\n"]))


class Bomb:
    """What unpickling it would do is to make a file."""

    def __reduce__(self) -> Any:
        return Path.touch, (Path(MARKER).absolute(),)


def spoil_tensors(path: Path, generator: random.Random) -> None:
    if generator.random() < 0.4:
        path.write_bytes(spoilt_bytes(path.read_bytes(), generator))
        return
    data = torch.load(path, weights_only=True)
    *way, last = generator.choice([place for place in places(data) if place])
    branch = data
    for key in way:
        branch = branch[key]
    tensors = [torch.zeros(2), torch.zeros(1).expand(4096, 4096, 64), torch.zeros(()), torch.tensor([float("nan")] * 4)]
    new = generator.choice([*VALUES, *tensors, Bomb(), branch])
    if isinstance(branch, tuple):
        branch = data
        last = next(iter(data))
    branch[last] = new
    torch.save(data, path)


def spoil_description(path: Path, generator: random.Random) -> None:
    model = onnx.load(path)
    (described,) = (entry for entry in model.metadata_props if entry.key == KEY)
    described.value = json.dumps(spoilt(json.loads(described.value), generator))
    path.write_bytes(model.SerializeToString())


def spoil_graph(path: Path, generator: random.Random) -> None:
    """Numbers, names and operators of an ONNX file."""
    model = onnx.load(path)
    node = generator.choice(model.graph.node)
    how = generator.choice(["numbers", "numbers", "operator", "input", "shape", "bytes", "external"])
    lists = [attribute for attribute in node.attribute if attribute.ints]
    if how == "numbers" and lists:
        numbers = generator.choice(lists).ints
        numbers[generator.randrange(len(numbers))] = generator.choice([0, -1, 2, 100, 10_000, 2**40])
    elif how == "operator":
        node.op_type = generator.choice(["ConstantOfShape", "Loop", "Resize", "Expand", "Tile", "Range", "Relu", "Concat", "x"])
    elif how == "input":
        node.input[generator.randrange(len(node.input))] = generator.choice(["", "image", "logits", "nowhere"])
    elif how == "shape":
        dims = generator.choice(model.graph.initializer).dims
        dims[generator.randrange(len(dims))] = generator.choice([0, -1, 1, 10**6, 2**40])
    elif how == "external":
        tensor = generator.choice(model.graph.initializer)
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=generator.choice(["/etc/passwd", "../secret", "/dev/zero"]))
    path.write_bytes(spoilt_bytes(model.SerializeToString(), generator) if how == "bytes" else model.SerializeToString())


def spoil_bytes(path: Path, generator: random.Random) -> None:
    path.write_bytes(spoilt_bytes(path.read_bytes(), generator))


# ---------------------------------------------------------------------- valid files
@dataclass(frozen=True)
class Kind:
    """A file below the folder of valid ones, what spoils it, and the commands that read it, whose words name no output."""

    file: str
    spoil: Callable[[Path, random.Random], None]
    commands: Sequence[str]


MODEL = "results/Dataset990_Phantom/ProXTrainerTiny__nnUNetPlansCut__3d_fullres"
FROM_MODEL = [
    f"family {MODEL}",
    f"export {MODEL} --subnet smallest --format nnunet --output OUT/a__b__3d_fullres",
    f"export {MODEL} --subnet smallest --format bundle --output OUT/bundle",
    f"export {MODEL} --subnet smallest --format onnx --output OUT/a.onnx",
    f"export {MODEL} --subnet smallest --format torchscript --output OUT/a.ts",
]
SEARCH = f"search {MODEL} --dataset raw/Dataset990_Phantom --trials 2 --cases 1 --finalists 1 -o OUT/search"
FROM_BUNDLE = [
    "family bundle",
    "export bundle --subnet smallest --format bundle --output OUT/bundle",
    "export bundle --subnet smallest --format onnx --output OUT/a.onnx",
]
KINDS = {
    "plans.json": Kind(f"{MODEL}/plans.json", spoil_json, [*FROM_MODEL, SEARCH]),
    "dataset.json": Kind(f"{MODEL}/dataset.json", spoil_json, [*FROM_MODEL, SEARCH]),
    "family.json": Kind(f"{MODEL}/fold_0/family.json", spoil_json, [*FROM_MODEL, SEARCH]),
    "summary.json": Kind(f"{MODEL}/fold_0/validation/summary.json", spoil_json, [FROM_MODEL[1], SEARCH]),
    "checkpoint": Kind(f"{MODEL}/fold_0/{FINAL}", spoil_tensors, FROM_MODEL[1:]),
    "bundle's family.json": Kind("bundle/models/family.json", spoil_json, FROM_BUNDLE),
    "bundle's model.pt": Kind("bundle/models/model.pt", spoil_tensors, FROM_BUNDLE[1:]),
    "member": Kind("member.json", spoil_json, [FROM_MODEL[1].replace("smallest", "member.json")]),
    "device": Kind(
        "device.json", spoil_json, [f"{SEARCH} --profile device.json --max-latency-ms 1000 --max-seconds 1000 --max-ram-gb 99"]
    ),
    "journal": Kind("study.journal", spoil_lines, [f"{SEARCH} --storage study.journal"]),
    "description": Kind("a.onnx", spoil_description, ["predict a.onnx -i images -o OUT/masks"]),
    "onnx": Kind("a.onnx", spoil_graph, ["predict a.onnx -i images -o OUT/masks"]),
    "torchscript": Kind("a.ts", spoil_bytes, ["predict a.ts -i images -o OUT/masks"]),
    "openvino": Kind("a.xml", spoil_bytes, ["predict a.xml -i images -o OUT/masks"]),
    "image": Kind("images/case_0_0000.nii.gz", spoil_bytes, ["predict a.onnx -i images -o OUT/masks"]),
}


def make_valid(root: Path) -> None:
    """Runs in a process of its own, whose environment has nnU-Net's variables below ``root``."""
    prepared = root / "preprocessed" / "Dataset990_Phantom" / "nnUNetPlans_3d_fullres"
    prepared.mkdir(parents=True)
    (prepared / "case.b2nd").touch()
    model = bare_model(bare_plans(prox={"space": TWO_MEMBERS | {"width": [0.5, 1.0]}}, **SHALLOW))
    raw = write_held_out(model, CASES)
    assert raw == root / "raw" / "Dataset990_Phantom" and model.path == root / MODEL, (raw, model.path)
    shutil.copytree(raw / "imagesTr", root / "images")
    for case in CASES[1:]:
        (root / "images" / f"{case}_0000.nii.gz").unlink()
    for ending, form in ((".onnx", "onnx"), (".ts", "torchscript"), (".xml", "openvino")):
        device_file(model, "smallest", root / f"a{ending}", form)
    source = TrainedNNUNet.open(model.path)
    family, generator = source.supernet.family, random.Random(0)
    smallest = family.space.smallest()
    (root / "member.json").write_text(json.dumps(smallest.to_json()))
    drawn = {family.space.sample(generator) for _ in range(1_000)}
    members = [{"subnet": subnet.to_json(), "milliseconds": 1.0 + number} for number, subnet in enumerate(drawn)]
    device = {"processor": "a processor", "threads": 1}
    measured = {"format": 1, "family": fingerprint(family, source.size), "device": device, "runtime": "onnxruntime"}
    (root / "device.json").write_text(json.dumps(with_cases(measured | {"members": members}, source)))
    architecture = bare_plans()["configurations"]["3d_fullres"]["architecture"]
    write_bundle(
        root / "bundle",
        Plan(
            task="Task",
            channels=("MRI",),
            labels=("background", "organ"),
            spacing=(1.0, 1.0, 2.0),
            patch_size=(16, 16, 16),
            intensity={"kind": "z-score"},
            architecture=architecture,
        ),
    )
    os.chdir(root)
    assert run_command(f"{SEARCH} --storage study.journal".replace("OUT", "made").split()) == (0, "")
    shutil.rmtree(root / "made")


def write_bundle(folder: Path, plan: Plan, choices: Any = None) -> Path:
    """As a training leaves it, without a training."""
    family = plan.family(choices)
    member = {
        "name": "smallest",
        "subnet": family.space.smallest().to_json(),
        "parameters": 1,
        "macs": 1,
        "dice": {"organ": 0.5},
    }
    data = {"format": FORMAT, "plan": plan.to_json(), "choices": asdict(family.choices), "closed": {}, "recipe": "prox"}
    data |= {"epochs": 5, "members": [member], "regions": {"organ": [1]}, "validation_cases": ["case.nii.gz"]}
    (folder / "models").mkdir(parents=True)
    (folder / "models" / "family.json").write_text(json.dumps(data))
    torch.save(prediction_graph(largest(family)).state_dict(), folder / "models" / "model.pt")
    return folder


# ---------------------------------------------------------------------- running
class Hangs(BaseException):
    """No command catches it."""


class Executed(BaseException):
    """No command catches it."""


def run_command(words: Sequence[str]) -> tuple[int, str]:
    """Its exit code and what it has said to standard error; what escapes it is raised."""
    done = prox(*words)
    return done.code, done.err


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if event in ("os.system", "os.exec", "os.posix_spawn", "os.spawn", "pty.spawn") or (
        event == "subprocess.Popen" and "touch" in str(arguments)
    ):
        raise Executed(f"{event} {arguments!r:.200}")


def campaign(name: str, command: str, count: int, seed: int, valid: Path, work: Path, result: Path) -> None:
    """Runs ``command`` on ``count`` spoilt files of the kind ``name``; writes what happened to ``result``, as JSON."""
    kind, generator = KINDS[name], random.Random(f"{name} {command} {seed}")
    shutil.copytree(valid, work, symlinks=True)
    os.chdir(work)
    whole = Path(kind.file).read_bytes()
    words = command.split()
    code, said = run_command([word.replace("OUT", "out") for word in words])  # also imports what it needs
    assert code == 0, f"{command}: {said}"
    shutil.rmtree("out", ignore_errors=True)
    sys.addaudithook(_watch)
    signal.signal(signal.SIGALRM, _hang)
    happened: Counter[str] = Counter()
    faults: list[str] = []
    for number in range(count):
        Path(kind.file).write_bytes(whole)
        kind.spoil(Path(kind.file), generator)
        kept = Path(kind.file).read_bytes()
        outcome, why = _outcome([word.replace("OUT", "out") for word in words])
        if Path(MARKER).exists():
            outcome, why = "executed", "the marker is there"
            Path(MARKER).unlink()
        happened[outcome] += 1
        if outcome in HARMS:
            faults.append(f"{outcome}, number {number}: {why[-1500:]}")
            (result.parent / f"{result.stem}_{number}_{Path(kind.file).name}").write_bytes(kept)
        Path(kind.file).write_bytes(whole)
        for left in ("out", f"{kind.file}.lock"):
            shutil.rmtree(left) if Path(left).is_dir() else Path(left).unlink(missing_ok=True)
        if number % 50 == 0:
            gc.collect()
    result.write_text(json.dumps({"happened": happened, "faults": faults}))


def _hang(*_: Any) -> None:
    raise Hangs


def _outcome(words: Sequence[str]) -> tuple[str, str]:
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + BYTES, resource.RLIM_INFINITY))
    signal.alarm(SECONDS)
    try:
        code, said = run_command(words)
    except Executed as error:
        return "executed", str(error)
    except Hangs:
        return "hung", traceback.format_exc()
    except MemoryError:
        return "memory", traceback.format_exc()
    except BaseException:
        return "traceback", traceback.format_exc()
    finally:
        signal.alarm(0)
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    if any(word in said for word in OF_MEMORY):
        return "memory", said
    if "Traceback" in said:
        return "traceback", said
    return ("done" if code == 0 else "refused"), said
