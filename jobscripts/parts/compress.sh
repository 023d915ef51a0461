#!/bin/bash
#SBATCH --job-name=compress
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=4
#SBATCH --time=01:00:00
#SBATCH --output=%x-%j.log
#SBATCH --open-mode=append
#SBATCH --requeue
#
# Move the loose entries and packs of databases into their archives once other jobs have ended,
# however they ended. It may also run while others still write; killed at any moment it loses
# nothing.
#     sbatch --dependency=afterany:JOB[:JOB...] compress.sh [what `amp-compress` takes]

arguments=(--wait 1800 --recursive .) # every database in or below this folder
if [ $# -gt 0 ]; then arguments=("$@"); fi

# ---- From here on nothing needs a change. ----
@environment amp-compress
exec amp-compress "${arguments[@]}"
