"""Samplers: which images an epoch of a training takes, and which cases a process validates."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Sized

import torch
from monai.data import DistributedSampler
from torch.utils.data import DistributedSampler as TorchDistributedSampler
from torch.utils.data import RandomSampler, Sampler, SequentialSampler, WeightedRandomSampler

from monai_prox.core.distributed import rank, world_size
from monai_prox.errors import ProXError


class TrainingSampler(TorchDistributedSampler[int]):
    """The images of an epoch that counts iterations, as nnU-Net's epochs do, whatever the number of images.

    All processes draw the same images in the same order, and share them out. So each has as many iterations, and none has an
    image of another before all images were drawn. The order depends on the seed and the epoch only, which MONAI's trainer sets.

    Args:
        data: the images.
        iterations: number of iterations of an epoch.
        batch_size: number of images of an iteration, in each process.
        weights: the probability of each image, not necessarily summing up to 1, for draws with replacement. None means that
            images are drawn in permutations of all of them.
        seed: seed of the training.

    Raises:
        ProXError: ``iterations`` is not a number of iterations.

    >>> sampler = TrainingSampler(["a", "b", "c"], iterations=3, batch_size=2)
    >>> order = list(sampler)
    >>> sorted(order[:3]), sorted(order[3:])
    ([0, 1, 2], [0, 1, 2])
    """

    def __init__(
        self, data: Sized, *, iterations: int, batch_size: int, weights: Sequence[float] | None = None, seed: int = 0
    ) -> None:
        if not isinstance(iterations, int) or isinstance(iterations, bool) or iterations < 1:
            raise ProXError(
                f"the number of iterations of an epoch is {iterations!r:.80}; it must be a whole number, at least 1"
            )
        super().__init__(data, num_replicas=world_size(), rank=rank(), seed=seed)  # type: ignore[arg-type]
        self.iterations, self.batch_size, self.weights = iterations, batch_size, weights
        self.num_samples = iterations * batch_size

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        total = self.num_samples * self.num_replicas
        drawn: Sampler[int]
        if self.weights is None:
            drawn = RandomSampler(self.dataset, num_samples=total, generator=generator)  # type: ignore[arg-type]
        else:
            drawn = WeightedRandomSampler(self.weights, total, generator=generator)
        return iter(list(drawn)[self.rank :: self.num_replicas])


def validation_sampler(dataset: Sized) -> Sampler[int]:
    """The part of the validation cases that a process has.

    Args:
        dataset: the cases.

    Returns:
        A sampler that divides the cases among the processes. If there are fewer cases than processes, each has all.
    """
    if len(dataset) < world_size():
        return SequentialSampler(dataset)
    divided: Sampler[int] = DistributedSampler(dataset, even_divisible=False, shuffle=False)
    return divided
