#!/usr/bin/env bash
# One run on the GPUs of several Slurm nodes, a process for each GPU:
#
#   sbatch --nodes=2 --gpus-per-node=4 --ntasks-per-node=4 launch/slurm.sh \
#     --config=configs/gta2cs.py:batch=16 --workdir=/shared/runs/gta2cs
#
# What follows the script's name is given to `python -m corda_jax.main`. The checkout, its .venv (or
# PYTHON) and the folder of the run lie on a disk that all nodes share. Preempted, or two minutes
# before its time is up, a run saves its state and is put back into the queue; submitted again it
# goes on from there, too.
#SBATCH --job-name=corda_jax
#SBATCH --cpus-per-task=8
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=TERM@120
set -euo pipefail

cd "${SLURM_SUBMIT_DIR:?is not set: submit this file with sbatch, from the checkout}"
# srun does not take this over from sbatch by itself (Slurm 22.05 and later).
export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-8}
trap : TERM  # the processes of srun answer it
code=0
srun --kill-on-bad-exit=1 "${PYTHON:-.venv/bin/python}" -m corda_jax.main --multihost "$@" || code=$?
if [[ $code -eq 143 && -n ${SLURM_JOB_ID:-} ]]; then
  # After a preemption Slurm does it by itself; then there is nothing left to do here.
  scontrol requeue "$SLURM_JOB_ID" || true
fi
exit "$code"
