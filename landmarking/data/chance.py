"""Random numbers that depend on a seed, an epoch and a subject, and on nothing else.

Augmentation must come out the same whatever the batch a slice falls into, whoever its neighbours
are, on whatever device, and after a resumed run. Numbers are therefore hashes of (key, counter), as
in counter-based generators (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"),
with the 32-bit finaliser of MurmurHash3 (Appleby, public domain) as the mixer.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_LOW = 0xFFFFFFFF
_GOLDEN = 0x9E3779B1


def _mix(values: Tensor) -> Tensor:
    """Scramble 32-bit numbers held in int64; products wrap, and only the low half is kept."""
    values = values ^ (values >> 16)
    values = (values * 0x85EBCA6B) & _LOW
    values = values ^ (values >> 13)
    values = (values * 0xC2B2AE35) & _LOW
    return values ^ (values >> 16)


class Chance:
    """A stream of random numbers for each subject of a batch.

    Every call takes the next stream, so that a fixed order of calls gives fixed numbers.

    Attributes:
        size: Number of subjects, B.
        device: Where the numbers are made.
    """

    def __init__(self, seed: int, epoch: int, subjects: Tensor) -> None:
        """Key the streams.

        Args:
            seed: Seed of the run.
            epoch: Number of the epoch.
            subjects: Whole numbers that name the subjects, shape (B,), on the device to use.
        """
        key = _mix(subjects.to(torch.int64) & _LOW)
        for part in (epoch, seed):
            key = _mix((key * _GOLDEN + 1 + (part & _LOW)) & _LOW)
        self._key = key
        self._stream = 0
        self.size = len(subjects)
        self.device = subjects.device

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        """Numbers in [low, high), float32, shape (B, *shape)."""
        self._stream += 1
        key = _mix((self._key + self._stream * _GOLDEN) & _LOW)
        counter = torch.arange(math.prod(shape), device=self.device, dtype=torch.int64)
        bits = _mix((_mix((counter * _GOLDEN) & _LOW)[None] + key[:, None]) & _LOW)
        # 24 bits are what a float32 holds; half a step keeps zero out, as `normal` needs.
        share = ((bits >> 8).to(torch.float32) + 0.5) * 2.0**-24
        return (low + (high - low) * share).reshape(self.size, *shape)

    def normal(self, *shape: int) -> Tensor:
        """Standard normal numbers, float32, shape (B, *shape)."""
        # One ulp below 1, so that the largest share does not become infinite in float32.
        centred = (2.0 * self.uniform(*shape) - 1.0).clamp(-1.0 + 2.0**-23, 1.0 - 2.0**-23)
        return math.sqrt(2.0) * torch.erfinv(centred)

    def happens(self, probability: float) -> Tensor:
        """One if an event of this probability happens, else zero; float32, shape (B,)."""
        return (self.uniform() < probability).to(torch.float32)
