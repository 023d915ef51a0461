"""Molecular dynamics in LAMMPS: CPU time per atom and step beside ASE, and memory of many atoms.

    python benchmarks/md_lammps.py [--repeats 5]
    python benchmarks/md_lammps.py --memory

Potentials, structures and the steps in ASE are those of md.py, which has to be there. In LAMMPS
the steps are NVE at 300 K, 2 fs, its own work included. The time of two ranks is the sum of both;
while one waits for the other its clock goes on, which is much where the machine is not quiet, so
that the time in which they compute stands beside it. Memory is the peak of each rank, for two
numbers of atoms: their difference is what an atom costs.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from md import alloy, ase_road, calculator, descriptors, fastest

from ampmpi.lammps import Watch, attach, open_lammps
from ampmpi.potential import Potential

BOX = """
units metal
lattice fcc 3.75
region box block 0 {0} 0 {1} 0 {2}
create_box 2 box
create_atoms 1 box
set group all type/fraction 2 0.5 1
mass 1 63.546
mass 2 195.084
displace_atoms all random 0.05 0.05 0.05 1 units box
"""


def run(cells: list[int], functions: str, steps: int, repeats: int) -> dict[str, float]:
    """Return this rank's CPU time per atom of all and step in µs, and its peak of memory in MB."""
    calc = calculator(alloy(3), descriptors()[functions])
    lmp = open_lammps(["-log", "none", "-screen", "none"])
    lmp.commands_list(BOX.format(*cells).strip().splitlines())
    spent = measure(attach(lmp, calc, ["Cu", "Pt"], Watch()).potential)
    for line in ("velocity all create 300 1", "fix 1 all nve", "timestep 0.002", "run 1"):
        lmp.command(line)
    best = computing = float("inf")
    for _ in range(repeats):
        started, spent[0] = time.process_time(), 0.0
        lmp.command(f"run {steps} pre no post no")
        best = min(best, (time.process_time() - started) / (steps * lmp.get_natoms()))
        computing = min(computing, spent[0] / (steps * lmp.get_natoms()))
    found = {
        "time": 1e6 * best,
        "computing": 1e6 * computing,
        "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3,
        "local": lmp.extract_setting("nlocal"),
        "ghosts": lmp.extract_setting("nghost"),
    }
    lmp.close()
    return found


def measure(potential: Potential) -> list[float]:
    """Let a potential add up the CPU time of its evaluations, in s, in the list returned."""
    spent, original = [0.0], potential.evaluate_among

    def evaluate_among(*arguments: Any) -> Any:
        started = time.process_time()
        found = original(*arguments)
        spent[0] += time.process_time() - started
        return found

    potential.evaluate_among = evaluate_among  # type: ignore[method-assign]
    return spent


def on_ranks(ranks: int, *arguments: object) -> list[dict[str, float]]:
    """Return what `run` gives on each of several ranks."""
    command = ["mpirun", "-n", str(ranks), sys.executable, "-m", "mpi4py", __file__]
    command += ["--run", json.dumps(arguments)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def times(repeats: int) -> None:
    """Print times and their ratios to ASE."""
    print("µs of CPU time per atom and step, and ratio to ASE")
    for repeat in (5, 10):
        atoms = alloy(repeat)
        steps = max(4, 4000 // len(atoms))
        for functions, descriptor in descriptors().items():
            print(f"{len(atoms)} atoms, {functions} functions")
            calc = calculator(alloy(3), descriptor)
            found = fastest({"ASE": ase_road(calc)}, atoms, steps, repeats)
            for ranks in (1, 2):
                each = on_ranks(ranks, [repeat] * 3, functions, steps, repeats)
                name = f"LAMMPS, {ranks} rank{'s' if ranks > 1 else ''}"
                found[name] = sum(one["time"] for one in each)
                found[f"  computing, {ranks}"] = sum(one["computing"] for one in each)
            for road, microseconds in found.items():
                print(f"  {road:<28} {microseconds:8.2f} {microseconds / found['ASE']:6.2f}")


def memory() -> None:
    """Print what each of two ranks needs for 10⁵ atoms, and per atom."""
    few, many = [on_ranks(2, [25, 25, n], "20 default", 2, 1) for n in (20, 40)]
    for one, other in zip(few, many, strict=True):
        per_atom = 1e3 * (other["memory"] - one["memory"]) / (other["local"] - one["local"])
        print(
            f"{other['local']} atoms and {other['ghosts']} ghosts: {other['memory']:.0f} MB; "
            f"{one['local']} atoms and {one['ghosts']} ghosts: {one['memory']:.0f} MB; "
            f"{per_atom:.2f} kB per atom"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--memory", action="store_true", help="10⁵ atoms on two ranks")
    parser.add_argument("--run", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        sys.stdout.write(json.dumps(run(*json.loads(options.run))) + "\n")
    elif options.memory:
        memory()
    else:
        times(options.repeats)


if __name__ == "__main__":
    main()
