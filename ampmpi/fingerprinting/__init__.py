"""The main job: fingerprint images into a database, on any number of ranks."""

from __future__ import annotations

from ampmpi.fingerprinting.job import fingerprint
from ampmpi.fingerprinting.summary import FailedImage, Plan, Summary

__all__ = ["FailedImage", "Plan", "Summary", "fingerprint"]
