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
resources=(--nodes 2 --ntasks-per-node 2) # of each MPI job
time=01:00:00 # of each job
site=() # of every job: --partition, --account

# ---- From here on nothing needs a change. ----
set -e -o pipefail
# shellcheck source=/dev/null
if [ -r env.sh ]; then . ./env.sh; fi
job() { ampmpi jobscript "$1" --time "$time" "${site[@]}" "${@:2}"; }
send() { sbatch --parsable "${@:2}" <<<"$1" | cut -d ';' -f 1; }

# All scripts are made before the first is submitted, and of a chain that breaks nothing is left.
fingerprinting=$(job fingerprint "${resources[@]}" -- "${images[@]}" \
    --label "$dblabel" --dblabel "$dblabel" "${fingerprint[@]}")
training=$(job committee "${resources[@]}" --array "$array" --label "$dblabel" -- \
    "${images[@]}" --dblabel "$dblabel" "${train[@]}")
compressing=$(job compress -- --wait 1800 --label "$dblabel")

submitted=()
trap 'if [ ${#submitted[@]} -gt 0 ]; then scancel "${submitted[@]}"; fi' ERR
first=$(send "$fingerprinting")
submitted+=("$first")
second=$(send "$training" --dependency="afterok:$first" --kill-on-invalid-dep=yes)
submitted+=("$second")
third=$(send "$compressing" --dependency="afterany:$first:$second")
echo "fingerprint $first, trainings $second, compress $third"
