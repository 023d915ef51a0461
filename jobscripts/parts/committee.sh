#!/bin/bash
#SBATCH --job-name=committee
#SBATCH --array=0-3
#SBATCH --output=%x-%A-%a.log
@resources
#
# Train a committee: each job of the array trains one member, from its own seed, and all read one
# database. Member i is LABEL-i.amp.
#     sbatch --array=0-9 committee.sh [what `ampmpi train` takes, without --label and --seed]

label=amp # prefix of all the members' files
arguments=(images.traj --dblabel amp)
if [ $# -gt 0 ]; then arguments=("$@"); fi
arguments+=(--label "$label-$SLURM_ARRAY_TASK_ID" --seed "$SLURM_ARRAY_TASK_ID")
@launcher

# ---- From here on nothing needs a change. ----
@launch ampmpi train
