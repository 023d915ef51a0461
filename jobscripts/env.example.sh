# shellcheck shell=bash disable=SC2034
# Copy this to env.sh in the folder that you submit from, and keep what your site needs. Each job
# script reads it before anything else.

# The modules with which mpi4py was built or for which it was installed.
# module purge
# module load gcc openmpi python || return 1

# The environment in which ampmpi is installed.
# . "$HOME/ampmpi/bin/activate" || return 1

# How this site starts MPI; the scripts' own settings, here for all of them.
# launcher=mpirun
# mpi=pmix

# Compiled kernels are kept here: a folder that every node can write to, best not on NFS.
# export NUMBA_CACHE_DIR="$SCRATCH/numba"
