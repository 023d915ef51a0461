"""The fingerprint database: one directory, many processes."""

from __future__ import annotations

from ampmpi.database.database import FingerprintDatabase
from ampmpi.database.manifest import Manifest
from ampmpi.database.store import DatabaseInfo

__all__ = ["DatabaseInfo", "FingerprintDatabase", "Manifest"]
