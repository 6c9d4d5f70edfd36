#!/bin/bash
#SBATCH --job-name="it's $x"
#SBATCH --chdir="/shared/it's $HOME \"a\" %j"
#SBATCH --output="/shared/it's $HOME \"a\" %%j/job-%j.txt"
#SBATCH --open-mode=append
#SBATCH --nodes=1
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
# Each element of the array is a job of its own, for one cell.
set -u
spool='/shared/it'"'"'s $HOME "a" %j'
folder=$spool/steps/$(sed -n "$((SLURM_ARRAY_TASK_ID + 1))p" "$spool/arrays/$1")
srun --nodes=1 --ntasks=1 --cpu-bind=none --input=none --output=none bash "$folder/step.sh" &
step=$!
ended() { ! kill -0 $step 2>/dev/null; }

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
