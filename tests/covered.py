"""Print how much of each package the tests have run, from coverage's own JSON."""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from pathlib import PurePath


def by_package(files: dict[str, dict[str, dict[str, int]]]) -> dict[str, tuple[int, int]]:
    """Return how many lines of each package, with those inside it, were run, and of how many."""
    sums: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for name, about in files.items():
        summary = about["summary"]
        parts = PurePath(name).parts
        place = parts[parts.index("ampmpi") : -1]
        for depth in range(1, len(place) + 1):
            total = sums["/".join(place[:depth])]
            total[0] += summary["covered_lines"]
            total[1] += summary["num_statements"]
    return {name: (run, count) for name, (run, count) in sorted(sums.items())}


if __name__ == "__main__":
    for package, (run, count) in by_package(json.load(sys.stdin)["files"]).items():
        print(f"{package:32} {100 * run / count:5.1f} %  of {count} lines")
