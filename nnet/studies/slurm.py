"""A study as an array job of Slurm: one task per pair."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence

# The command runs in the background, so that the shell can pass on the signal that Slurm sends before the time limit.
SCRIPT = """\
#!/bin/bash
# {pairs} trainings, one task each; written by `{written_by}`.
# Options of sbatch's command line go before these, such as
#   sbatch --partition=NAME --time=24:00:00 --cpus-per-task=16 {path}
# A task that meets its time limit saves its state, and is queued again. So is one that is preempted.
#SBATCH --job-name={name}
#SBATCH --array={array}
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --gpus-per-node={gpus}
#SBATCH --cpus-per-task={cpus}
#SBATCH --output={log}
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:USR1@180

cd {folder} || exit 1
{command} --only "$SLURM_ARRAY_TASK_ID" &
task=$!
trap 'kill -USR1 "$task"' USR1
trap 'kill -TERM "$task"' TERM
wait "$task"; code=$?
while kill -0 "$task" 2> /dev/null; do wait "$task"; code=$?; done  # a signal ends `wait` before the task has saved
if [ "$code" -eq 138 ]; then  # stopped by SIGUSR1
    scontrol requeue "${{SLURM_ARRAY_JOB_ID}}_${{SLURM_ARRAY_TASK_ID}}"
fi
exit "$code"
"""
CPUS_PER_GPU = 8  # four loader processes, and the training


def array_script(
    name: str, output: str, waiting: Sequence[int], pairs: int, arguments: Sequence[str], processes: int
) -> str:
    """The text of an sbatch script.

    Args:
        output: folder of the study. waiting: numbers of the pairs to run, of `pairs` in all.
        arguments: of Python, ablate.py with the study. processes: of each run, one per GPU.
    """
    more = ["--processes", str(processes)] if processes > 1 else []
    return SCRIPT.format(
        name=name,
        pairs=pairs,
        path=shlex.quote(f"{output}/study.sbatch"),
        written_by=shlex.join(["python", *arguments, *more, "--slurm"]),
        array=ranges(waiting),
        gpus=processes,
        cpus=CPUS_PER_GPU * processes,
        log=shlex.quote(f"{output}/slurm-%a.txt"),
        folder=shlex.quote(os.getcwd()),
        command=shlex.join([sys.executable, *arguments, *more]),
    )


def ranges(numbers: Sequence[int]) -> str:
    """Numbers as Slurm writes them: 0-3,7."""
    texts, runs = [], []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    for first, last in runs:
        texts.append(str(first) if first == last else f"{first}-{last}")
    return ",".join(texts)
