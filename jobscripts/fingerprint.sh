#!/bin/bash
#SBATCH --job-name=fingerprint
#SBATCH --output=%x-%j.log
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=2
#SBATCH --time=01:00:00
#SBATCH --signal=B:USR1@120
#SBATCH --open-mode=append
#SBATCH --requeue
#
# Fingerprint images into a database, on all ranks of all nodes. Nothing is computed twice: to go
# on after a job that was killed, submit it again. On many nodes add --packs: then each rank writes
# a few large files and not one for each image.
#     sbatch fingerprint.sh [what `ampmpi fingerprint` takes]

arguments=(images.traj --label amp --derivatives)
if [ $# -gt 0 ]; then arguments=("$@"); fi
launcher=srun # or mpirun
mpi=pmi2      # what srun --mpi=list offers: pmi2 for MPICH and its kin, pmix for Open MPI
restarts=20   # so many times at most the job puts itself back into the queue

# ---- From here on nothing needs a change. ----
# Some minutes before the time is up (--signal above) SLURM sends this shell USR1. The ranks then
# finish their images and end with code 75, and the job goes back into the queue. USR1 is sent on
# more than once, as a rank that still starts up ignores it, and not before the launcher is up.
# TERM is scancel or the end of the time; SLURM sends it to the ranks, too.
warned='' stopped='' job=''
warn() {
    warned=1
    while sleep $((SECONDS < 5 ? 5 - SECONDS : 0)); kill -USR1 "$job" 2>/dev/null; do sleep 10; done &
}
trap warn USR1
trap stopped=1 TERM

# shellcheck source=/dev/null
if [ -r env.sh ]; then . ./env.sh || exit 7; fi
if ! command -v ampmpi >/dev/null; then
    echo "ampmpi is not on the PATH: load its module or environment in $PWD/env.sh" >&2
    exit 7
fi
export OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1 # a rank is one thread
case $launcher in
srun) launch=(srun --mpi="$mpi" --kill-on-bad-exit=1) ;; # without it a dead rank hangs the job
mpirun) launch=(mpirun) ;;                               # finds nodes and tasks by itself
*) echo "launcher=$launcher: give srun or mpirun" >&2 && exit 2 ;;
esac

# In the background, since bash runs a trap only between commands.
"${launch[@]}" bash -c 'trap "" USR1; exec "$@"' bash ampmpi fingerprint "${arguments[@]}" &
job=$! SECONDS=0
if [ -n "$warned" ]; then warn; fi
while kill -0 "$job" 2>/dev/null; do wait "$job"; done
wait "$job"
code=$?
if [ -n "$warned" ] && [ "$code" -gt 128 ]; then code=75; fi # a signal came before it was ready for it
if [ "$code" -eq 75 ] && [ -z "$stopped" ]; then
    echo "Unfinished: restart ${SLURM_RESTART_COUNT:-0} of $restarts ends here"
    if [ "${SLURM_RESTART_COUNT:-0}" -lt "$restarts" ]; then scontrol requeue "$SLURM_JOB_ID"; fi
fi
exit "$code"
