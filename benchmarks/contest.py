"""One run of one contender: training on a stream of batches, timed, and the Dice of its members. Writes a JSON."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import nn

from benchmarks.contenders import Contender, make_contender
from benchmarks.race import one_run
from benchmarks.stream import read_stream
from benchmarks.unfinished import Unfinished
from monai_prox.core import cost
from monai_prox.runtime.dice import dice_of
from monai_prox.surface_dice import surface_dice_of
from monai_prox.trained.nnunet_plans import surface_tolerance_of


class HeldOut:
    """Cases held out, in memory, and the scores of networks on them at native resolution, without mirroring.

    Scores are the mean over the foreground classes, by case; classes that neither occur nor are predicted do not count.
    tolerance: mm, of the surface Dice.
    """

    def __init__(self, trainer: nnUNetTrainer, cases: list[str]) -> None:
        self.trainer = trainer
        self.tolerance = surface_tolerance_of(trainer.plans_manager.plans, trainer.configuration_name, None)
        dataset = trainer.dataset_class(trainer.preprocessed_dataset_folder, cases)
        reader = trainer.plans_manager.image_reader_writer_class()
        truth = Path(trainer.preprocessed_dataset_folder_base, "gt_segmentations")
        self.cases = []
        for case in cases:
            data, _, _, properties = dataset.load_case(case)
            target = reader.read_seg(str(truth / f"{case}{trainer.dataset_json['file_ending']}"))[0][0]
            self.cases.append((torch.from_numpy(data[:].copy()), properties, target))

    def dice(self, network: nn.Module) -> list[float]:
        labels = self.trainer.dataset_json["labels"]
        return [dice_of(predicted, target, labels) for predicted, target, _ in self._predicted(network)]

    def dice_and_surface_dice(self, network: nn.Module) -> tuple[list[float], list[float]]:
        """Of the same predictions."""
        labels, given = self.trainer.dataset_json["labels"], {"tolerance": self.tolerance}
        scores = [
            (dice_of(predicted, target, labels), surface_dice_of(predicted, target, labels, spacing=spacing, **given))
            for predicted, target, spacing in self._predicted(network)
        ]
        dice, surface = zip(*scores, strict=True)
        return [*dice], [*surface]

    @torch.no_grad()
    def _predicted(self, network: nn.Module) -> Iterator[tuple[np.ndarray, np.ndarray, list[float]]]:
        """Labels that the network predicts and that are true, and mm per axis, of each case."""
        trainer = self.trainer
        predictor = nnUNetPredictor(use_mirroring=False, device=trainer.device, allow_tqdm=False)
        plans, configuration = trainer.plans_manager, trainer.configuration_manager
        predictor.manual_initialization(
            network.eval(), plans, configuration, None, trainer.dataset_json, type(trainer).__name__, None
        )
        for data, properties, target in self.cases:
            logits = predictor.predict_sliding_window_return_logits(data).cpu()
            predicted = convert_predicted_logits_to_segmentation_with_correct_shape(
                logits, plans, configuration, trainer.label_manager, properties
            )
            yield predicted, target, properties["spacing"]


def evaluate(contender: Contender, held_out: HeldOut, *, surfaces: bool) -> list[dict[str, Any]]:
    """surfaces: whether surface Dice is measured beside Dice."""
    rows = []
    patch = torch.zeros(1, contender.trainer.num_input_channels, *contender.trainer.configuration_manager.patch_size)
    for name, network in contender.members():
        decoder = getattr(network, "network", network).decoder
        supervised, decoder.deep_supervision = decoder.deep_supervision, False
        scores, surface = held_out.dice_and_surface_dice(network) if surfaces else (held_out.dice(network), [])
        with torch.no_grad(), cost.counting(network) as counted:
            network(patch.to(contender.trainer.device))
        decoder.deep_supervision = supervised
        size = {"parameters": sum(p.numel() for p in network.parameters()), "macs": counted.macs}
        row = {"name": name, **size, "dice": float(np.mean(scores)), "by_case": [round(score, 4) for score in scores]}
        if surface:
            row |= {"surface_dice": float(np.mean(surface)), "surface_by_case": [round(score, 4) for score in surface]}
        rows.append(row)
    return rows


def peak_memory(device: torch.device) -> int:
    """Bytes on the GPU, or of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def run(settings: dict[str, Any], *, make: Callable[..., Contender] = make_contender) -> dict[str, Any]:
    """settings: as ``make``'s, and ``stream``, ``curve`` (evaluations), ``curve_cases``, ``bfloat16``.

    ``place`` is the path of what is kept of the run while it lasts.
    """
    contender = make(
        settings["contender"],
        Path(settings["folder"]),
        settings["plan"],
        **{key: settings[key] for key in ("space", "seed", "steps", "epochs", "learning_rate")},
    )
    trainer, epochs = contender.trainer, contender.trainer.num_epochs
    cases = trainer.do_split()[1]
    some, every = HeldOut(trainer, cases[: settings["curve_cases"]]), HeldOut(trainer, cases)
    due = {round(epochs * (i + 1) / settings["curve"]) - 1 for i in range(settings["curve"] - 1)}
    unfinished = Unfinished(contender, Path(settings["place"]))
    measured = unfinished.take_up()
    for epoch in range(measured.epoch, epochs):
        trainer.on_train_epoch_start()
        of_epoch = []
        for step, batch in enumerate(read_stream(Path(settings["stream"]), epoch)):
            start, start_cpu = time.perf_counter(), time.process_time()
            with torch.autocast(trainer.device.type, torch.bfloat16) if settings["bfloat16"] else nullcontext():
                of_epoch.append(contender.step(batch, epoch, step))
            measured.seconds += time.perf_counter() - start
            measured.cpu += time.process_time() - start_cpu
            contender.count(epoch, step)
        measured.losses.append(loss := round(float(np.mean(of_epoch)), 4))
        print(
            f"{settings['contender']} {settings['seed']} epoch {epoch} loss {loss} seconds {measured.seconds:.0f}", flush=True
        )
        if epoch in due:
            rows = [{key: row[key] for key in ("name", "dice")} for row in evaluate(contender, some, surfaces=False)]
            measured.curve.append({"epoch": epoch, "seconds": measured.seconds, "macs": contender.macs, "members": rows})
            print({row["name"]: round(row["dice"], 3) for row in rows}, flush=True)
        measured.epoch, measured.peak = epoch + 1, max(measured.peak, peak_memory(trainer.device))
        unfinished.keep(measured)
        trainer.current_epoch += 1
    members = evaluate(contender, every, surfaces=True) if settings["curve"] else []
    return {
        "contender": settings["contender"],
        "seed": settings["seed"],
        "training_seconds": measured.seconds,
        "training_cpu_seconds": measured.cpu,
        "training_macs": contender.macs,
        "training_parts": measured.parts,
        "peak_memory_bytes": max(measured.peak, peak_memory(trainer.device)),
        "losses": measured.losses,
        "curve": measured.curve,
        "surface_tolerance_mm": every.tolerance,
        "members": members,
    }


if __name__ == "__main__":
    one_run(run, __doc__)
