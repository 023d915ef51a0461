"""The fingerprint database: one directory, many processes."""

from __future__ import annotations

from ampmpi.database.database import DatabaseInfo, FingerprintDatabase
from ampmpi.database.manifest import Manifest

__all__ = ["DatabaseInfo", "FingerprintDatabase", "Manifest"]
