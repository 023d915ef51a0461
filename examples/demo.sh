#!/bin/sh
# The whole way once, in demo/: images, fingerprints under MPI, what lies on
# disk, a second run, compression, reading back, and a short training.
set -eu
cd "$(dirname "$0")/.."
rm -rf demo
mkdir demo
cd demo

say() { printf '\n# %s\n' "$*"; }
run() {
    printf '$ %s\n' "$*"
    "$@"
}

say "Images: copper and platinum, periodic cells and clusters, some of them twice"
run python ../examples/make_images.py

say "Fingerprints and their derivatives, on two ranks (the first run compiles the kernels)"
run mpirun -n 2 ampmpi fingerprint bulk.traj clusters.traj --label cupt --derivatives --no-compress

say "What lies on disk"
run ampmpi info cupt-fingerprints.ampdb cupt-fingerprint-primes.ampdb
run du -sh cupt-fingerprints.ampdb cupt-fingerprint-primes.ampdb

say "The same again: everything is found, nothing is computed"
run mpirun -n 2 ampmpi fingerprint bulk.traj clusters.traj --label cupt --derivatives --no-compress

say "Many small files become one archive that stays readable"
run amp-compress cupt-fingerprints.ampdb cupt-fingerprint-primes.ampdb
run find cupt-fingerprints.ampdb cupt-fingerprint-primes.ampdb
run du -sh cupt-fingerprints.ampdb cupt-fingerprint-primes.ampdb

say "Read back"
run python ../examples/read_back.py

say "A short training on them, stopped early at errors that are far from the best"
run mpirun -n 2 ampmpi train bulk.traj clusters.traj --label cupt --hidden 10,10 \
    --force-coefficient 0.1 --energy-rmse 0.02 --force-rmse 0.5 --validation-fraction 0.1

say "How good it is, and pictures of it"
run ampmpi evaluate cupt.amp bulk.traj clusters.traj
run ampmpi plot cupt bulk.traj clusters.traj
run ls
