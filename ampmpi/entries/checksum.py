"""CRC-32 of bytes, and of what came before them: as zlib's, and faster."""

from __future__ import annotations

from isal.isal_zlib import crc32

__all__ = ["crc32"]
