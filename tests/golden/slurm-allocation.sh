#!/bin/bash
#SBATCH --job-name=stackbench-note
#SBATCH --chdir=/shared/s
#SBATCH --output=/shared/s/job-%j.txt
#SBATCH --open-mode=append
#SBATCH --nodes=4
#SBATCH --time=90
#SBATCH --partition=gpu
#SBATCH --account=lab
#SBATCH --qos=normal
#SBATCH --constraint="a100&nvlink"
#SBATCH --no-requeue
#SBATCH --no-kill
#SBATCH --exclusive
#SBATCH --gres=gpu:a100:8
#SBATCH --mem=0
#SBATCH --comment="a \"b\" $c"
# One allocation for the run: its cells are steps that the orchestrator starts, one after the other on each GPU.
set -u
spool=/shared/s
ended() { [ -e "$spool/over" ]; }

# The orchestrator writes another word into this file every few seconds. When none comes any more it was killed, and
# nobody else would end this job. Only changes count, timed by this node: no two machines' clocks are compared.
heard='' silent=0
until ended; do
  word=$(cat "$spool/alive" 2>/dev/null)
  if [ "$word" != "$heard" ]; then
    heard=$word silent=0
  elif [ $((silent += 2)) -ge 60 ]; then
    echo "nothing was heard of the orchestrator for $silent s: this job ends itself" >&2
    # Gently first, so that the cells' containers are removed.
    scancel --signal=TERM "$SLURM_JOB_ID"
    sleep 5
    break
  fi
  sleep 2
done
