#!/bin/bash
# A step on one node: this package's own code there, on files that both sides see.
set -u
exec >> '/shared/it'"'"'s $HOME "a" %j/step.txt' 2>&1
# From here on it is not Slurm that keeps the step from running.
: > '/shared/it'"'"'s $HOME "a" %j/begun'
module load docker
export PYTHONPATH=/shared/stackbench${PYTHONPATH:+:$PYTHONPATH}
exec /venv/bin/python -m orchestrator.runner.slurm_node --scratch="$TMPDIR" cell '/shared/it'"'"'s $HOME "a" %j/a cell'
