#!/bin/bash
# On the login node: submit fingerprint → array of trainings on one dblabel → compress.
#     bash chain.sh
# The trainings wait for the fingerprints and are dropped when those failed; the compress job runs
# after all of them, however they ended.

images=(images.traj)
dblabel=amp # prefix of the databases that all jobs share
fingerprint=(--derivatives) # further options of `ampmpi fingerprint`
train=() # further options of `ampmpi train`
array=0-3 # members of the committee: $dblabel-0.amp, $dblabel-1.amp, …
resources=(--nodes 2 --ntasks-per-node 2 --time 01:00:00) # of each MPI job
site=() # of every job: --partition, --account

# ---- From here on nothing needs a change. ----
set -e -o pipefail
# shellcheck source=jobscripts/env.example.sh
if [ -r env.sh ]; then . ./env.sh; fi
job() { ampmpi jobscript "$@"; }
send() { sbatch --parsable "$@" | cut -d ';' -f 1; }

first=$(job fingerprint "${resources[@]}" "${site[@]}" -- "${images[@]}" \
    --label "$dblabel" --dblabel "$dblabel" "${fingerprint[@]}" | send)
second=$(job committee "${resources[@]}" "${site[@]}" --array "$array" --label "$dblabel" -- \
    "${images[@]}" --dblabel "$dblabel" "${train[@]}" |
    send --dependency="afterok:$first" --kill-on-invalid-dep=yes)
third=$(job compress "${site[@]}" | send --dependency="afterany:$first:$second")
echo "fingerprint $first, trainings $second, compress $third"
