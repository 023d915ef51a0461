#!/bin/bash
#SBATCH --job-name=fingerprint
#SBATCH --output=%x-%j.log
@resources
#
# Fingerprint images into a database, on all ranks of all nodes. Nothing is computed twice: to go
# on after a job that was killed, submit it again. On many nodes add --packs: then each rank writes
# a few large files and not one for each image.
#     sbatch fingerprint.sh [what `ampmpi fingerprint` takes]

arguments=(images.traj --label amp --derivatives)
if [ $# -gt 0 ]; then arguments=("$@"); fi
@launcher

# ---- From here on nothing needs a change. ----
@launch ampmpi fingerprint
