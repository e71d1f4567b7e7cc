"""Members under torch.compile: what is captured, that it computes what the eager member does, and what is freed.

Most tests capture graphs and run them eagerly, which needs no compiler.
"""

import gc
import logging
import shutil
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.architectures import EVERYTHING, FLAT, KINDS, batch, randomise_norms, segmentation_loss, unet_family
from helpers.nnunet_task import SHALLOW, TWO_MEMBERS, ProXTrainerTiny, bare_folders, bare_plans, make_trainer
from helpers.validation_batches import PATCH, images
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import Tensor, nn
from torch._dynamo.backends.common import aot_autograd

from monai_prox.comparators.kernel_transform import kernel_transforms_of
from monai_prox.core.space import Subnet
from monai_prox.core.supernet import SuperNet
from monai_prox.nnunet.compiled_members import CompiledMembers
from monai_prox.report import count

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs g++ on a CPU, which is not here")


class Captured:
    """A graph that runs eagerly."""

    def __init__(self, graph: Any) -> None:
        self.graph = graph

    def __call__(self, *tensors: Tensor) -> Any:
        return self.graph(*tensors)


class Capturing:
    """A backend of torch.compile that counts what it captures, and knows what of it is alive."""

    def __init__(self) -> None:
        self.captured: list[weakref.ref[Captured]] = []

    def __call__(self, graph: Any, _: Any) -> Captured:
        captured = Captured(graph)
        self.captured.append(weakref.ref(captured))
        return captured

    @property
    def alive(self) -> list[bool]:
        gc.collect()
        return [captured() is not None for captured in self.captured]


def supernet(kind: str = KINDS[0], *, deep_supervision: bool = True, **family: Any) -> SuperNet:
    """With one block per stage, if not told otherwise: it is captured in half the time."""
    torch.manual_seed(0)
    made = unet_family(kind, **({"choices": EVERYTHING, "depths": (1, 1), "decoder_depths": (1,)} | family))
    net = SuperNet(made)
    randomise_norms(net)
    net.network.decoder.deep_supervision = deep_supervision  # type: ignore[union-attr]
    return net


def results(net: SuperNet, forward: Callable[[Tensor, Subnet], Any], subnet: Subnet, seed: int) -> list[Tensor]:
    """The outputs of a step, and the gradients of all weights."""
    x, target = batch(seed)
    net.zero_grad()
    outputs = forward(x, subnet)
    segmentation_loss(outputs, target).backward()
    gradients = [weight.new_zeros(1) if weight.grad is None else weight.grad for weight in net.parameters()]
    return [*([outputs] if isinstance(outputs, Tensor) else outputs), *gradients]


def compiled(net: SuperNet, backend: Any, log: list[str] | None = None) -> CompiledMembers:
    """With the largest and the smallest member selected."""
    members = CompiledMembers(net, log=[].append if log is None else log.append, backend=backend)
    members.select([net.family.space.largest(), net.family.space.smallest()])
    return members


# ---------------------------------------------------------------------- what is captured
@pytest.mark.parametrize(("kind", "deep_supervision"), zip(KINDS, (True, False), strict=True))
def test_each_member_is_captured_once_as_one_graph_and_trains_alike(kind: str, deep_supervision: bool) -> None:
    """The smallest has all its weights cut, and a lower resolution."""
    deep = {"depths": (2, 2), "decoder_depths": (2,)}
    net, backend = supernet(kind, deep_supervision=deep_supervision, **deep), Capturing()
    members = compiled(net, backend)
    for number, subnet in enumerate((net.family.space.largest(), net.family.space.smallest()), start=1):
        for seed in (1, 2):
            captured = results(net, members, subnet, seed)
            assert len(backend.captured) == number
            eager = results(net, net, subnet, seed)
            assert len(captured) == len(eager) and all(map(torch.equal, captured, eager))
    assert not members.failed
    assert not [name for name in net.network.state_dict() if "_orig_mod" in name]


def test_transformed_kernels_train_alike() -> None:
    family = unet_family(choices=FLAT)
    net, backend = SuperNet(family, kernel_transforms=kernel_transforms_of(family)), Capturing()
    smallest = family.space.smallest()
    captured, eager = (results(net, forward, smallest, 1) for forward in (compiled(net, backend), net))
    assert len(backend.captured) == 1 and all(map(torch.equal, captured, eager))


def test_members_that_are_not_selected_are_not_compiled() -> None:
    net, backend = supernet(), Capturing()
    members = CompiledMembers(net, log=[].append, backend=backend)
    results(net, members, net.family.space.largest(), 1)
    assert backend.captured == []


def test_an_evaluation_between_two_steps_compiles_nothing_anew() -> None:
    net, backend = supernet(), Capturing()
    members, largest = compiled(net, backend), net.family.space.largest()
    before = results(net, members, largest, 1)
    with torch.no_grad():
        net.eval()(batch(1)[0], largest)
    net.train()
    assert all(map(torch.equal, results(net, members, largest, 1), before))
    assert len(backend.captured) == 1


def test_the_first_step_uses_no_gradient_and_no_random_number_of_the_compilation() -> None:
    """Of a network with dropout, whose other steps draw as many."""
    net = supernet(dropout=0.5)
    members, largest = compiled(net, Capturing()), net.family.space.largest()

    def step() -> tuple[list[Tensor], Tensor]:
        torch.manual_seed(3)
        return results(net, members, largest, 1), torch.get_rng_state()

    (first, state), (second, later) = step(), step()
    assert all(map(torch.equal, first, second)) and torch.equal(state, later)


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=[needs_compiler, pytest.mark.slow])])
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_what_a_backend_compiles_computes_the_same_within_rounding(backend: str, precision: torch.dtype) -> None:
    net = supernet()
    members, smallest = compiled(net, backend), net.family.space.smallest()

    def autocast(forward: Callable[[Tensor, Subnet], Any]) -> Callable[[Tensor, Subnet], Any]:
        def run(x: Tensor, subnet: Subnet) -> Any:
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
                return forward(x, subnet)

        return run

    captured, eager = (results(net, autocast(forward), smallest, 1) for forward in (members, net))
    assert captured[0].dtype == precision
    tolerance = 1e-4 if precision == torch.float32 else 0.05
    for one, other in zip(captured, eager, strict=True):
        assert (one - other).abs().max().item() <= tolerance * max(1.0, other.abs().max().item())


# ---------------------------------------------------------------------- freeing
def test_a_member_that_is_not_selected_any_more_is_freed_and_the_other_stays() -> None:
    net, backend, log = supernet(), Capturing(), list[str]()
    members, (largest, smallest) = compiled(net, backend, log), (net.family.space.largest(), net.family.space.smallest())
    for subnet in (largest, smallest):
        results(net, members, subnet, 1)
    members.select([smallest])
    assert backend.alive == [False, True]
    results(net, members, smallest, 2)
    results(net, members, largest, 2)  # eagerly
    assert len(backend.captured) == 2
    members.select([smallest, largest])
    results(net, members, largest, 2)
    assert backend.alive == [False, True, True]
    members.select(())
    assert backend.alive == [False, False, False]
    sizes = [sum(weight.numel() for weight in net.shapes(subnet).parameters()) for subnet in (largest, smallest)]
    assert sizes[0] > sizes[1] and len(log) == 3
    assert [line.split(":")[0] for line in log] == [
        f"ProX compiled a member of {count(size)} parameters" for size in (sizes[0], sizes[1], sizes[0])
    ]


def test_a_torch_that_frees_in_another_way_compiles_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("torch._dynamo.eval_frame.remove_from_cache")
    net, backend = supernet(), Capturing()
    members, largest = compiled(net, backend), net.family.space.largest()
    for number in (1, 2):
        members.select([largest])
        results(net, members, largest, 1)
        assert len(backend.captured) == number and not members.failed
        members.select(())


# ---------------------------------------------------------------------- failing
def fails(*_: Any) -> Any:
    raise RuntimeError("no working\ncompiler")


@pytest.mark.parametrize(
    "backend", [fails, aot_autograd(fw_compiler=lambda graph, _: graph, bw_compiler=fails)], ids=["forward", "backward"]
)
def test_a_compilation_that_fails_is_said_once_and_the_training_goes_on(backend: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    net, log = supernet(), list[str]()
    members = compiled(net, backend, log)
    for subnet in (net.family.space.largest(), net.family.space.smallest()):
        captured, eager = (results(net, forward, subnet, 1) for forward in (members, net))
        assert all(map(torch.equal, captured, eager))
        members.select([subnet])
    (line,) = log
    assert "runs all members without torch.compile from now on, because it failed: " in line
    assert "no working compiler" in line and "\n" not in line


def test_what_cannot_be_one_graph_runs_eagerly(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: nn.Module, x: Tensor) -> Tensor:
        torch._dynamo.graph_break()
        return torch.nn.functional.leaky_relu(x)

    monkeypatch.setattr(nn.LeakyReLU, "forward", broken)
    net, log, backend = supernet(), list[str](), Capturing()
    results(net, compiled(net, backend, log), net.family.space.largest(), 1)
    assert backend.captured == [] and len(log) == 1 and "graph" in log[0]


# ---------------------------------------------------------------------- in nnU-Net
@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    bare_folders(tmp_path, monkeypatch)
    return tmp_path


def trained(compiles: bool, backend: Any = "eager") -> Any:
    """ProXTrainer after two steps of each stage, where nnU-Net compiles or where it does not."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nnUNetTrainer, "_do_i_compile", lambda self: compiles)
        torch.manual_seed(0)
        trainer = make_trainer(bare_plans(patch=PATCH, prox={"space": TWO_MEMBERS, "monitor": False}, **SHALLOW))
        trainer.initialize()
        assert (trainer.compiled_members is not None) == compiles
        if compiles:
            trainer.compiled_members.backend = backend
        for epoch in trainer.engine.schedule.starts:
            trainer.current_epoch = epoch
            trainer.on_train_epoch_start()
            for seed in (1, 2):
                trainer.train_step(images(["case_0", "case_1"], seed=seed))
    return trainer


def test_a_trainer_compiles_if_nnunet_would_and_trains_the_same_weights_under_stock_names(bare: Path) -> None:
    """Its two members are the smallest in all stages, and the largest in those in which it is open."""
    backend = Capturing()
    compiling, eager = trained(True, backend), trained(False)
    log = Path(compiling.log_file).read_text()
    assert len(backend.captured) == log.count("ProX compiled a member of") == 2
    weights = compiling.network.state_dict()
    assert type(compiling.network) is type(eager.network) and weights.keys() == eager.network.state_dict().keys()
    assert all(torch.equal(weight, weights[name]) for name, weight in eager.network.state_dict().items())


@pytest.mark.parametrize("compiles", [True, False])
@pytest.mark.parametrize("mixed_in", [True, False])
def test_a_class_of_the_user_s_decides_as_in_nnunet(compiles: bool, mixed_in: bool, bare: Path) -> None:
    """The network and the loss stay as they are in any case."""
    answer = {"_do_i_compile": lambda self: compiles}
    variant = type("Variant", (nnUNetTrainer,), answer)
    cls = type("Mine", (ProXTrainerTiny, variant), {}) if mixed_in else type("Mine", (ProXTrainerTiny,), answer)
    trainer = make_trainer(bare_plans(prox={"space": TWO_MEMBERS}), cls=cls)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nnUNetTrainer, "_do_i_compile", lambda self: not compiles)
        trainer.initialize()
    assert (trainer.compiled_members is not None) == compiles
    assert not any(isinstance(part, torch._dynamo.OptimizedModule) for part in (trainer.network, *trainer.loss.modules()))


@pytest.mark.parametrize("value", ["t", None])
def test_on_a_cpu_nothing_is_compiled(value: str | None, bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in nnU-Net, which says so if it is asked to."""
    monkeypatch.delenv("nnUNet_compile", raising=False)
    if value is not None:
        monkeypatch.setenv("nnUNet_compile", value)
    trainer = make_trainer(bare_plans(prox={"space": TWO_MEMBERS}))
    trainer.initialize()
    assert trainer.compiled_members is None
    assert ("torch.compile disabled because device is CPU" in Path(trainer.log_file).read_text()) == (value == "t")
