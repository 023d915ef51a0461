"""For all tests: no rank of a hung test stays silent, and kernels come from one cache."""

from __future__ import annotations

import faulthandler
import sys

from ampmpi.parallel import launch

faulthandler.enable(file=sys.__stderr__)
launch.prepare()  # before numba is imported: the cache that the program itself uses
