"""Amp's parameters of an object, by key or by attribute."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import Any, NoReturn


class Parameters(dict[str, Any]):
    """What an object holds, as Amp names it. It is a copy: changing it would change nothing.

    Dictionaries in it can only be read, too.

    Raises
    ------
    TypeError
        A value is set.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        given = dict(*args, **kwargs)
        super().__init__({name: _read_only(value) for name, value in given.items()})

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"there is no parameter {name!r}") from None

    def _refuse(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise TypeError(
            "parameters can only be read; set the attribute of the object, or make a new one"
        )

    __setattr__ = __setitem__ = __delitem__ = _refuse
    update = setdefault = pop = popitem = clear = _refuse

    def __reduce__(self) -> tuple[Any, ...]:
        return Parameters, (dict(self),)

    def tostring(self) -> str:
        """Return Amp's text of the parameters; see `source`."""
        return source(self)


def _read_only(value: Any) -> Any:
    if type(value) is dict:
        return Parameters(value)
    if type(value) is list:
        return [_read_only(item) for item in value] if _holds_dict(value) else value
    return value


def _holds_dict(items: list[Any]) -> bool:
    return any(type(item) is dict for item in items)


class OpenParameters(dict[str, Any]):
    """Parameters that can be set, by key or by attribute; their owner checks them at each use.

    Parameters
    ----------
    given : mapping
        The parameters; mappings in it become such, too.
    changed : callable, optional
        Called after each change, here or in a mapping inside.
    """

    _changed: Callable[[], None]

    def __init__(self, given: Mapping[Any, Any], changed: Callable[[], None] | None = None) -> None:
        object.__setattr__(self, "_changed", changed or _nothing)
        super().__init__({name: self._inside(value) for name, value in given.items()})

    def _inside(self, value: Any) -> Any:
        return OpenParameters(value, self._changed) if isinstance(value, Mapping) else value

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"there is no parameter {name!r}") from None

    def __setitem__(self, name: Any, value: Any) -> None:
        super().__setitem__(name, self._inside(value))
        self._changed()

    __setattr__ = __setitem__

    def __delitem__(self, name: Any) -> None:
        super().__delitem__(name)
        self._changed()

    # The rest of a dict that can be changed, by way of the two above.
    update = MutableMapping.update
    setdefault = MutableMapping.setdefault
    pop = MutableMapping.pop
    popitem = MutableMapping.popitem
    clear = MutableMapping.clear

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Mapping) and plain(self) == plain(other)

    __hash__ = None

    def __reduce__(self) -> tuple[Any, ...]:
        return OpenParameters, (dict(self),)

    def tostring(self) -> str:
        """Return Amp's text of the parameters; see `source`."""
        return source(self)


def _nothing() -> None:
    """Nobody needs to know of a change."""


class ParametersOf(MutableMapping[str, Any]):
    """The parameters of an object, read from it whenever they are asked for, and set on it.

    Parameters
    ----------
    read : callable
        Returns all parameters by name.
    write : callable
        Takes a name and a value, checks the value, and sets it on the object.
    """

    _read: Callable[[], Mapping[str, Any]]
    _write: Callable[[str, Any], None]

    def __init__(
        self, read: Callable[[], Mapping[str, Any]], write: Callable[[str, Any], None]
    ) -> None:
        object.__setattr__(self, "_read", read)
        object.__setattr__(self, "_write", write)

    def __getitem__(self, name: str) -> Any:
        value = self._read()[name]
        if not isinstance(value, Mapping):
            return value
        inside = OpenParameters(value, lambda: self._write(name, inside))
        return inside

    def __setitem__(self, name: str, value: Any) -> None:
        if name not in self._read():
            raise KeyError(f"there is no parameter {name!r}")
        self._write(name, value)

    def __delitem__(self, name: str) -> NoReturn:
        raise TypeError("parameters cannot be removed; set them to None")

    def __iter__(self) -> Iterator[str]:
        return iter(self._read())

    def __len__(self) -> int:
        return len(self._read())

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"there is no parameter {name!r}") from None

    __setattr__ = __setitem__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Mapping) and plain(self) == plain(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return repr(plain(self))

    def __reduce__(self) -> tuple[Any, ...]:
        return OpenParameters, (copy.deepcopy(plain(self)),)

    def tostring(self) -> str:
        """Return Amp's text of the parameters; see `source`."""
        return source(self)


def plain(value: Any) -> Any:
    """Return mappings as dicts, and arrays in them as lists."""
    if isinstance(value, Mapping):
        return {name: plain(item) for name, item in value.items()}
    return value.tolist() if hasattr(value, "tolist") else value


def source(parameters: Mapping[str, Any]) -> str:
    """Return ``dict(key=value, …)``, sorted by key: what Amp's ``tostring`` gives.

    Raises
    ------
    ValueError
        A value is of a kind that Amp could not read back, or is not finite.
    """
    items = (f"{key}={_literal(parameters[key], key)}" for key in sorted(parameters))
    return "dict(" + ",\n     ".join(items) + ")\n"


def _literal(value: Any, key: str) -> str:
    """Python source of one value."""
    if hasattr(value, "tolist"):  # numpy's
        value = value.tolist()
    if value is None or isinstance(value, bool | int | str):
        return repr(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{key} holds {value!r}, which no .amp file can keep")
        return repr(value)
    if isinstance(value, Mapping):
        items = (f"{_literal(k, key)}: {_literal(v, key)}" for k, v in value.items())
        return "{" + ", ".join(items) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_literal(v, key) for v in value) + "]"
    if isinstance(value, tuple):
        return "(" + "".join(_literal(v, key) + ", " for v in value).strip() + ")"
    raise ValueError(f"{key} is a {type(value).__name__}, which no .amp file can keep")
