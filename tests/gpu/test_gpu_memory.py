"""The memory of validated members is given back."""

import gc
from pathlib import Path

import torch
from helpers.bundle_training import training
from helpers.nnunet_task import bare_plans, make_trainer
from helpers.validation_batches import PATCH, validate


def held(device: torch.device) -> int:
    """Bytes of all tensors on a device."""
    gc.collect()
    if device.type == "cuda":
        return torch.cuda.memory_allocated()
    tensors = [found for found in gc.get_objects() if type(found) in (torch.Tensor, torch.nn.Parameter)]
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(storages.values())


def test_a_validation_in_nnunet_leaves_no_member(device: torch.device, bare: Path) -> None:
    trainer = make_trainer(bare_plans(patch=PATCH), device=device)
    trainer.initialize()
    validate(trainer)  # the first one has libraries take memory that they keep
    del trainer.member_validation  # and what that would have kept
    before = held(device)
    validate(trainer)
    trainer.member_validation.outputs.clear()  # arrays, which on a CPU are tensors' memory
    assert len(trainer.progress[-1]["dice"]) > 2
    assert held(device) == before


def test_a_validation_in_monai_leaves_no_member(device: torch.device) -> None:
    made = training("prox", epochs=5, deep_supervision=False, device=device)
    validation, network = made.validation, made.validation.validator.network
    validation.network_of = made.engine.supernet.member  # copies, as those of classifiers
    made.run()
    validation(made.trainer)  # the training's own have left images of another class
    validation.validator.network = network
    before = held(device)
    validation(made.trainer)
    assert len(validation.history[-1]["scores"]) > 2
    assert held(device) == before
