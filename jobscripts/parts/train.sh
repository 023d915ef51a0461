#!/bin/bash
#SBATCH --job-name=train
#SBATCH --output=%x-%j.log
@resources
#
# Train a potential on all ranks of all nodes. To go on after a job that was killed, submit it
# again: the training continues from its last checkpoint.
#     sbatch train.sh [what `ampmpi train` takes]

arguments=(images.traj --label amp)
if [ $# -gt 0 ]; then arguments=("$@"); fi
@launcher

# ---- From here on nothing needs a change. ----
@launch ampmpi train
