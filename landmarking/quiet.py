"""A console without what Lightning says about choices that are made here."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet() -> Iterator[None]:
    """Keep Lightning's banners, and its warnings about choices made here, from the console."""
    for name in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    with warnings.catch_warnings():
        # Lightning 2.6 calls a part of torch 2.13 that is on its way out.
        warnings.filterwarnings("ignore", ".*LeafSpec.*", FutureWarning)
        # Losses are logged by epoch, so the interval between logged steps does not matter.
        warnings.filterwarnings("ignore", "The number of training batches", UserWarning)
        # Slices lie on the device: there is nothing for worker processes to do.
        warnings.filterwarnings("ignore", ".*does not have many workers", UserWarning)
        # On a cluster's login node, or under sbatch without srun: one process is what is wanted.
        warnings.filterwarnings("ignore", "The `srun` command is available", UserWarning)
        # A run that early stopping has ended goes on without it.
        warnings.filterwarnings("ignore", "Be aware that when using `ckpt_path`", UserWarning)
        # A benchmark trains without validation.
        warnings.filterwarnings("ignore", "You defined a `validation_step`", UserWarning)
        yield
