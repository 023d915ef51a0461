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

@environment ampmpi
export OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1 # a rank is one thread
case $launcher in
srun) launch=(srun --mpi="$mpi" --kill-on-bad-exit=1) ;; # without it a dead rank hangs the job
mpirun) launch=(mpirun) ;;                               # finds nodes and tasks by itself
*) echo "launcher=$launcher: give srun or mpirun" >&2 && exit 2 ;;
esac

# In the background, since bash runs a trap only between commands.
"${launch[@]}" bash -c 'trap "" USR1; exec "$@"' bash @WORDS "${arguments[@]}" &
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
