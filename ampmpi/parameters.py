"""Amp's parameters of an object, to be read by key or by attribute."""

from __future__ import annotations

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


def _read_only(value: Any) -> Any:
    if type(value) is dict:
        return Parameters(value)
    if type(value) is list:
        return [_read_only(item) for item in value] if _holds_dict(value) else value
    return value


def _holds_dict(items: list[Any]) -> bool:
    return any(type(item) is dict for item in items)
