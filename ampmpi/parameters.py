"""Amp's parameters of an object, to be read by key or by attribute."""

from __future__ import annotations

from typing import Any, NoReturn


class Parameters(dict[str, Any]):
    """What an object holds, as Amp names it. It is a copy: changing it would change nothing.

    Raises
    ------
    TypeError
        A value is set.
    """

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
