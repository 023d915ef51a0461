launcher=srun # or mpirun
mpi=pmi2      # what srun --mpi=list offers: pmi2 for MPICH and its kin, pmix for Open MPI
restarts=20   # so many times at most the job puts itself back into the queue
