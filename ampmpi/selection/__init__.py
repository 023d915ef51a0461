"""Which images next: what a committee is unsure of, in a running dynamics and in trajectories.

`SpreadWatch` decides by the spread of a committee's forces, and knows nothing of what calls
it; `SpreadObserver` watches a dynamics of ASE with it. `select` chooses from trajectories the
images that are most worth computing next.
"""

from __future__ import annotations

from ampmpi.selection.job import Selection, select
from ampmpi.selection.observer import SpreadObserver
from ampmpi.selection.survey import spread_quantile
from ampmpi.selection.watch import Look, SpreadWatch
from ampmpi.selection.writing import ImageAppender

__all__ = [
    "ImageAppender",
    "Look",
    "Selection",
    "SpreadObserver",
    "SpreadWatch",
    "select",
    "spread_quantile",
]
