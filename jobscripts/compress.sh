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
# shellcheck source=/dev/null
if [ -r env.sh ]; then . ./env.sh || exit 7; fi
if ! command -v amp-compress >/dev/null; then
    echo "ampmpi is not on the PATH: load its module or environment in $PWD/env.sh" >&2
    exit 7
fi
exec amp-compress "${arguments[@]}"
