"""The steps of the members that a training repeats: eagerly in float16 and bfloat16, and by torch.compile."""

from __future__ import annotations

import gc
from typing import Any

import torch
from torch._inductor.utils import fresh_cache

from benchmarks.gpu_steps import run_steps, time_epoch, training_only
from benchmarks.gpu_task import SyntheticTask
from monai_prox.nnunet.compiled_members import CompiledMembers
from monai_prox.nnunet.trainer import ProXTrainer

BACKEND = "inductor"  # of torch.compile
VARIANTS = {"eager": ("fp16", False), "bf16": ("bf16", False), "compiled": ("fp16", True)}  # compiled last, as it takes longest
COMPILED = 3  # shares of the time; the others have one


def members(task: SyntheticTask, seconds: float) -> dict[str, Any]:
    """The largest and the smallest member, in steps of ProXTrainer that train them alone.

    ``first_step_seconds`` has the compilation in it, which finds nothing in torch's caches.
    """
    share = seconds / (2 * (len(VARIANTS) - 1 + COMPILED))
    measured: dict[str, Any] = {"largest": {}, "smallest": {}}
    for variant, (precision, compiles) in VARIANTS.items():
        trainer = task.trainer(ProXTrainer, prox={"recipe": "prox", "monitor": False, "precision": precision})
        space, log = trainer.supernet.family.space, list[str]()
        if compiles:
            trainer.compiled_members = CompiledMembers(trainer.supernet, log=log.append, backend=BACKEND)
        for name, subnet in (("largest", space.largest()), ("smallest", space.smallest())):
            epoch = trainer.engine.schedule.starts[-1]  # of the stage in which all members are open
            with training_only(trainer, subnet):
                with fresh_cache(dir=str(task.root)):
                    (first,) = run_steps(trainer, task.batches, epoch, turns=1, most=1, until=0)
                if compiles and trainer.compiled_members.failed:
                    raise RuntimeError(log[-1])
                of_variant = share * (COMPILED if compiles else 1)
                times = time_epoch(trainer, task.batches, max(of_variant - first, of_variant / 4), epoch=epoch)
            measured[name][variant] = times | {"first_step_seconds": float(f"{first:.4g}")}
        if compiles:
            trainer.compiled_members.select(())
            torch.compiler.reset()
        del trainer
        gc.collect()  # it is in cycles, and would count in the memory of the next variant
    return measured
