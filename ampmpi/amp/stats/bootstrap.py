"""Amp's ``amp.stats.bootstrap``."""

from __future__ import annotations

from ampmpi.amp._bootstrap import BootStrap, TrainingArchive, archive_directory, bootstrap

__all__ = ["BootStrap", "TrainingArchive", "archive_directory", "bootstrap"]
