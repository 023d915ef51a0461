#!/bin/sh
# The whole way once, in demo/: images, functions that fit them, fingerprints
# under MPI, what lies on disk, a second run, compression, reading back, a
# committee, its errors on images that it has not seen, a report,
# molecular dynamics, and the images to compute next.
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
run ampmpi images bulk.traj clusters.traj

say "Symmetry functions that fit them (what runs first compiles its kernels)"
run mpirun -n 2 ampmpi functions bulk.traj clusters.traj -o cupt-functions.toml

say "Fingerprints and their derivatives, on two ranks"
run mpirun -n 2 ampmpi fingerprint bulk.traj clusters.traj --label cupt --derivatives \
    --descriptor cupt-functions.toml --no-compress

say "What lies on disk"
run ampmpi info cupt-fingerprints.ampdb cupt-fingerprint-primes.ampdb
run du -sh cupt-fingerprints.ampdb cupt-fingerprint-primes.ampdb

say "The same again: everything is found, nothing is computed"
run mpirun -n 2 ampmpi fingerprint bulk.traj clusters.traj --label cupt --derivatives \
    --descriptor cupt-functions.toml --no-compress

say "Many small files become one archive that stays readable"
run amp-compress cupt-fingerprints.ampdb cupt-fingerprint-primes.ampdb
run find cupt-fingerprints.ampdb cupt-fingerprint-primes.ampdb
run du -sh cupt-fingerprints.ampdb cupt-fingerprint-primes.ampdb

say "Read back"
run python ../examples/read_back.py

say "A committee of four potentials (--functions auto would make the functions, were they not there)"
run mpirun -n 2 ampmpi train bulk.traj clusters.traj --label cupt --functions auto \
    --hidden 10,10 --overfit 0.0003 --committee 4 --max-steps 250

say "How good it is, on images that it has not seen, and a report with pictures"
run ampmpi evaluate cupt held-out.traj
run ampmpi plot cupt held-out.traj --training bulk.traj --training clusters.traj

say "Molecular dynamics, with EMT, from which the images come, beside it"
run python ../examples/dynamics.py

say "The images of that trajectory that are most worth computing next"
run mpirun -n 2 ampmpi select cupt md.traj -n 5 -o next.traj --known bulk.traj --known clusters.traj
run ls
