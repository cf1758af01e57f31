"""Runs of a small stream in processes of their own, which may be killed or train together.

Children are forked from one parent that has imported everything, has warm caches (`warm`) and runs one
thread, so that a process starts at once and all of them compute with the same number of threads.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import sys
import traceback
from collections.abc import Sequence

import numpy as np
import torch

from lit_cvit.testing.job import PARENT, Job
from lit_cvit.utils.forking import LAZY, ONE_THREAD, forking

# A limit against processes that hang, not a budget: a busy machine may be many times slower than an idle one.
SECONDS = 400
# A child with a quantised backbone would spend two seconds on importing bitsandbytes.
_PRELOAD = [*LAZY, "transformers.integrations.bitsandbytes", "lit_cvit.testing.warm"]


class JobFailed(AssertionError):
    """A process did not end as it should; carries its stack trace."""


def run_jobs(jobs: Sequence[Job]) -> None:
    """Run processes side by side and wait for all.

    Raises:
        JobFailed: one failed, or ran too long.
    """
    context = forking(_PRELOAD, {**ONE_THREAD, **PARENT})
    processes = [context.Process(target=_enter, args=(job,)) for job in jobs]
    for process in processes:
        process.start()
    for process in processes:
        process.join(SECONDS)
    for job, process in zip(jobs, processes, strict=True):
        wanted = 0 if job.kill_at is None else -signal.SIGKILL
        if process.exitcode is None:
            process.kill()
            raise JobFailed(f"{job.name}, rank {job.rank}: still running after {SECONDS} seconds")
        if process.exitcode != wanted:
            trace = job.failure.read_text(encoding="utf-8") if job.failure.is_file() else "no stack trace"
            raise JobFailed(f"{job.name}, rank {job.rank}: exit code {process.exitcode}\n{trace}")


def ranks_of(job: Job, ranks: int = 2) -> list[Job]:
    """The processes of a run on several ranks."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    values = {name: getattr(job, name) for name in job.__dataclass_fields__}
    return [Job(**{**values, "rank": rank, "ranks": ranks, "port": port}) for rank in range(ranks)]


def _enter(job: Job) -> None:
    from lit_cvit.testing import child

    # Loader workers are forked from the rank, as without the kit, and end when it is killed.
    multiprocessing.set_start_method("fork", force=True)
    # Forks inherit the parent's generators: what is drawn without a seed has to differ between processes.
    torch.seed()
    np.random.seed()
    # Only a power cut needs it, and a fit waits for the disk 80 times; what a killed process wrote is there.
    os.fsync = _unsynced
    try:
        if job.ranks > 1:
            # A launcher's variables; Lightning then starts no processes of its own.
            os.environ.update(_slurm(job) if job.slurm else _torchrun(job))
        getattr(child, job.task)(job)
    except BaseException:
        job.failure.write_text(traceback.format_exc(), encoding="utf-8")
        sys.exit(1)


def _unsynced(fd: object) -> None:
    """Stands for `os.fsync`."""


def _torchrun(job: Job) -> dict[str, str]:
    return {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(job.port),
        "LOCAL_RANK": str(job.rank),
        "NODE_RANK": "0",
        "WORLD_SIZE": str(job.ranks),
    }


def _slurm(job: Job) -> dict[str, str]:
    """One task for every rank on one node, as `srun` sets it."""
    return {
        "SLURM_JOB_ID": "1",
        "SLURM_JOB_NAME": "cvit",
        "SLURM_NTASKS": str(job.ranks),
        "SLURM_NTASKS_PER_NODE": str(job.ranks),
        "SLURM_NNODES": "1",
        "SLURM_NODELIST": "127.0.0.1",
        "SLURM_NODEID": "0",
        "SLURM_PROCID": str(job.rank),
        "SLURM_LOCALID": str(job.rank),
        # Without it Lightning makes a port of the job's number.
        "MASTER_PORT": str(job.port),
    }
