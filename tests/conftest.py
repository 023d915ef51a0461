"""For all tests: no rank of a hung test stays silent."""

from __future__ import annotations

import faulthandler
import sys

faulthandler.enable(file=sys.__stderr__)
