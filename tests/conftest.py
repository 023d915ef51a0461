"""For all tests: no rank of a hung test stays silent, and kernels come from one cache."""

from __future__ import annotations

import faulthandler
import os
import sys

from pace import YIELD

from ampmpi.parallel import launch

faulthandler.enable(file=sys.__stderr__)
os.environ.update(YIELD)
launch.prepare()  # before numba is imported: the cache that the program itself uses
