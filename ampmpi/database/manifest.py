"""``descriptor.json``: whose fingerprints a database holds.

A key names an image, not a descriptor, so that without this file the values of
one descriptor would be taken for those of another one.
"""

from __future__ import annotations

import json
import time
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

from ampmpi.database.layout import ARCHIVE, MANIFEST, Home
from ampmpi.errors import DatabaseError, DescriptorMismatchError
from ampmpi.files.atomic import is_young, write_new_file
from ampmpi.files.trouble import database_error
from ampmpi.text import plain

FORMAT = "ampmpi-descriptor"
VERSION = 1
_SHOWN = 6
_LARGEST = 1 << 24
"""No manifest has more bytes; one of ten thousand functions has two millions."""

_PATIENCE = 5.0


class DamagedManifestError(DatabaseError):
    """A manifest is not what was written."""


class _UnknownError(ValueError):
    """A manifest is whole, but none that this version can use."""


@dataclass(frozen=True)
class Manifest:
    """The descriptor of a database.

    Attributes
    ----------
    parameters : mapping
        All settings of the descriptor, of plain JSON values.
    digest : str
        Digest of those that determine the numbers.
    """

    parameters: Mapping[str, Any]
    digest: str

    def to_json(self) -> bytes:
        """Return the file's content."""
        content = {
            "format": FORMAT,
            "version": VERSION,
            "digest": self.digest,
            "parameters": dict(self.parameters),
        }
        content["crc32"] = _checksum(content)
        return json.dumps(content, indent=1, allow_nan=False).encode("ascii") + b"\n"

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        """Read the file's content; raises ValueError if it is damaged, or of a later version."""
        try:
            content = json.loads(data.decode("ascii"))
        except (ValueError, RecursionError):
            raise ValueError("it is no JSON") from None
        if not isinstance(content, dict):
            raise ValueError("it describes no descriptor")
        if content.pop("crc32", None) != _checksum(content):
            raise ValueError("its checksum is wrong")
        # From here on it is what somebody wrote, and no damage.
        if content.get("format") != FORMAT:
            raise _UnknownError("it describes no descriptor")
        if content.get("version") != VERSION:
            raise _UnknownError(f"its version is not {VERSION}: a later ampmpi wrote it")
        parameters, digest = content.get("parameters"), content.get("digest")
        if len(content) != 4 or not isinstance(parameters, dict) or not isinstance(digest, str):
            raise _UnknownError("it has other keys than ampmpi writes")
        return cls(parameters, digest)


def _checksum(content: Mapping[str, Any]) -> int:
    try:
        text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (ValueError, RecursionError):
        return -1
    return zlib.crc32(text.encode("ascii"))


def read(home: Home) -> Manifest | None:
    """Return the manifest of a database; None if it has none.

    One that is damaged and young is read again for some seconds: where a file system
    has neither links nor renames that replace nothing, it may just be being written.

    Raises
    ------
    DamagedManifestError
        It is damaged.
    DatabaseError
        It cannot be read, or a later version of this package wrote it.
    """
    name, deadline = home.full(MANIFEST), time.monotonic() + _PATIENCE
    while True:
        try:
            data, stamp = home.root.read(MANIFEST, _LARGEST)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise database_error(error, "read", name) from error
        try:
            return Manifest.from_json(data)
        except _UnknownError as error:
            raise DatabaseError(
                f"{name} cannot be used ({error}): use the ampmpi that wrote it, or another "
                "database"
            ) from None
        except ValueError as error:
            if not is_young(stamp) or time.monotonic() > deadline:
                raise DamagedManifestError(
                    f"{name} is damaged ({error}): remove it, and the next job compares the "
                    "entries with its own before it uses them"
                ) from None
        time.sleep(0.05)


def claim(home: Home, manifest: Manifest) -> None:
    """Write down whose fingerprints a database holds; the first one to do so is right.

    Raises
    ------
    DescriptorMismatchError
        It holds those of another descriptor.
    DatabaseError
        The manifest cannot be read or written.
    """
    found = read(home)
    if found is None:
        data = manifest.to_json()
        home.write(lambda: write_new_file(home.temporaries, home.root, MANIFEST, data, "manifest"))
        found = read(home)
    if found is None:
        raise home.removed()
    require_same(home, found, manifest)


def require_same(home: Home, found: Manifest, manifest: Manifest) -> None:
    """Raise DescriptorMismatchError if a database's manifest is of another descriptor."""
    if found.digest != manifest.digest:
        raise DescriptorMismatchError(
            f"the database {home.path} holds the fingerprints of another descriptor "
            f"({difference(found.parameters, manifest.parameters)}): "
            "choose another label or dblabel, or that descriptor"
            + (", or remove it, as it is empty, if no job uses it" if _is_empty(home) else "")
        )


def _is_empty(home: Home) -> bool:
    """Whether a database holds nothing, such as one of a job whose images all failed."""
    try:
        loose = home.loose
        return (loose is None or not loose.names()) and not home.root.has(ARCHIVE)
    except OSError:
        return False


def difference(database: Mapping[str, Any], asked: Mapping[str, Any]) -> str:
    """Say in words where a database's parameters differ from those that are asked for."""
    found = list(_differences("", database, asked))
    if len(found) > _SHOWN:
        found[_SHOWN:] = [f"and {len(found) - _SHOWN} more differences"]
    return "; ".join(map(plain, found)) or "equal settings, other numbers"


def _differences(name: str, database: Any, asked: Any) -> Iterator[str]:
    if isinstance(database, Mapping) and isinstance(asked, Mapping):
        for key in sorted({*database, *asked}):
            inner = f"{name}.{key}" if name else str(key)
            if key not in asked:
                yield f"{inner} only in the database"
            elif key not in database:
                yield f"{inner} not in the database"
            else:
                yield from _differences(inner, database[key], asked[key])
    elif isinstance(database, list) and isinstance(asked, list):
        gone = [item for item in database if item not in asked]
        new = [item for item in asked if item not in database]
        for item in gone:
            yield f"{name} has {_brief(item)} in the database only"
        for item in new:
            yield f"{name} has {_brief(item)} here only"
        if not gone and not new and database != asked:
            yield f"{name} has the same functions in another order or number"
    elif database != asked:
        yield f"{name} is {database!r} in the database, {asked!r} here"


def _brief(function: Any) -> str:
    """Return a symmetry function in few words; anything else as it is."""
    if not isinstance(function, Mapping):
        return str(function)
    return " ".join(
        str(value) if key == "type" else f"{key}={value}" for key, value in function.items()
    )
