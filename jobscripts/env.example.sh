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

# Only for the MPICH from PyPI under srun --mpi=pmi2, where UCX can fail as MPI starts.
# export MPIR_CVAR_CH4_NETMOD=ofi

# Compiled kernels are kept here: a folder that every node can write to, best not on NFS.
# export NUMBA_CACHE_DIR="$SCRATCH/numba"
