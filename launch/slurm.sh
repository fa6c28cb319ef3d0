#!/usr/bin/env bash
# One run on the GPUs of several Slurm nodes, a process for each GPU:
#
#   sbatch --nodes=2 --gpus-per-node=4 --ntasks-per-node=4 launch/slurm.sh \
#     --config=configs/gta2cs.py:batch=16 --workdir=/shared/runs/gta2cs
#
# What follows the script's name is given to `python -m corda_jax.main`. The checkout, its .venv (or
# PYTHON) and the folder of the run lie on a disk that all nodes share. Submitted again, or requeued,
# a run goes on from its newest checkpoint.
#SBATCH --job-name=corda_jax
#SBATCH --cpus-per-task=8
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail

cd "${SLURM_SUBMIT_DIR:?is not set: submit this file with sbatch, from the checkout}"
# srun does not take this over from sbatch by itself (Slurm 22.05 and later).
export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-8}
exec srun --kill-on-bad-exit=1 "${PYTHON:-.venv/bin/python}" -m corda_jax.main --multihost "$@"
