"""Prepare a cohort on a Dask cluster, where there is no SLURM: shards are its tasks.

python experiments/prepare_dask.py --shards 8 --workers 2 cohort=phantom cohort/preset=demo
python experiments/prepare_dask.py --shards 64 --scheduler tcp://HOST:8786 cohort=bids ...

Every shard is one call of prepare.py on a worker; the outputs folder has to be shared by all. A
shard whose worker dies is given to another one, and one that fails is named and done again by the
same command, alone: the cache knows what is finished. Needs pip install ".[dask]".
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

SCRIPT = Path(__file__).with_name("prepare.py")


def run_shard(shard: int, shards: int, words: Sequence[str]) -> tuple[int, int, str]:
    """What a worker does: prepare one shard.

    Args:
        shard: Number of the shard.
        shards: How many there are.
        words: Further words of the command line.

    Returns:
        The shard, its exit status, and the last lines that it said.
    """
    command = [sys.executable, str(SCRIPT), *words, f"shards={shards}", f"shard={shard}"]
    done = subprocess.run(  # noqa: S603 - our own script
        [*command, "workers=1", "progress=false"], capture_output=True, text=True, check=False
    )
    return shard, done.returncode, (done.stderr or done.stdout).strip()[-400:]


def main(arguments: Sequence[str] | None = None) -> int:
    """Send out the shards, say which failed, and write the prepared cohort.

    Args:
        arguments: The command line; by default that of this process.

    Returns:
        The exit status: 1 if a shard failed.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shards", type=int, default=8, help="shares of the scans (default 8)")
    parser.add_argument("--scheduler", metavar="ADDRESS", help="of a Dask cluster that is running")
    parser.add_argument("--workers", type=int, default=2, help="without one: local processes")
    options, words = parser.parse_known_args(arguments)
    try:
        from dask.distributed import Client, LocalCluster, as_completed
    except ImportError:
        sys.stderr.write('dask is not installed; pip install "landmarking[dask]"\n')
        return 2
    from rich.progress import track

    if options.scheduler:
        client = Client(options.scheduler, timeout="30s")
    else:
        cluster = LocalCluster(
            n_workers=options.workers, threads_per_worker=1, dashboard_address=None
        )
        client = Client(cluster)
    failed = {}
    with client:
        tasks = client.map(
            run_shard,
            range(options.shards),
            shards=options.shards,
            words=words,
            pure=False,
            retries=2,
        )
        every = track(as_completed(tasks), "shards", total=len(tasks), transient=True)
        for task in every:
            number = tasks.index(task)
            if task.status != "finished":
                failed[number] = f"its worker was lost ({task.exception()})"
                continue
            shard, status, said = task.result()
            # 1 is a bad scan that was left out; the whole says so again.
            if status not in (0, 1):
                failed[shard] = said
    for shard, said in sorted(failed.items()):
        sys.stderr.write(f"shard {shard} of {options.shards} failed: {said}\n")
    if failed:
        sys.stderr.write("the same command does these shards again, and no other\n")
        return 1
    done = subprocess.run([sys.executable, str(SCRIPT), *words], check=False)  # noqa: S603
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
