"""`.amp` files: written as Amp loads them, read without running what they say.

A file holds ``dict(descriptor='dict(…)', model='dict(…)')``: Python source that Amp
evaluates. Here its syntax tree is walked, and what is not a literal or a call of
``dict``, ``OrderedDict``, ``array``, ``matrix`` or one of numpy's scalars is refused.
"""

from __future__ import annotations

import ast
import os
import warnings
from collections.abc import Iterable, Mapping
from typing import Any, TextIO

from ampmpi.errors import ModelError
from ampmpi.files.whole import read_whole, write_whole
from ampmpi.parameters import source

SECTIONS = ("descriptor", "model")

LARGEST = 64_000_000
"""Bytes of the largest file that is read: some two million parameters."""

# Since numpy 2 a number of numpy's writes itself down as a call, such as np.float64(0.5).
NUMPY = ("np", "numpy")
SCALARS = ("float64", "float32", "int64", "int32", "str_")


def read(file: str | os.PathLike[str] | TextIO) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read the parameters of a descriptor and a model.

    Parameters
    ----------
    file : path or text file
        The `.amp` file.

    Returns
    -------
    descriptor, model : dict
        Keyword arguments as Amp's classes take them, with ``importname``.

    Raises
    ------
    ModelError
        The file cannot be read, or is no `.amp` file.
    """
    name = name_of(file)
    if isinstance(file, str | os.PathLike):
        try:
            text = read_whole(file, LARGEST).decode()
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            if isinstance(error, UnicodeDecodeError):
                reason = "it is not text"
            raise ModelError(
                f"cannot read the calculator {name}: {reason}; give a file that Amp or ampmpi saved"
            ) from error
    else:
        text = file.read(LARGEST)
    sections = _mapping(text, name)
    missing = [section for section in SECTIONS if not isinstance(sections.get(section), str)]
    if missing:
        raise ModelError(
            f"{name} is no .amp file: it has no {' and no '.join(missing)}; give a file that Amp "
            "or ampmpi saved"
        )
    descriptor, model = (_mapping(sections[section], name) for section in SECTIONS)
    return descriptor, model


def name_of(file: str | os.PathLike[str] | TextIO) -> str:
    """Return what a file is called in messages."""
    if isinstance(file, str | os.PathLike):
        return os.fspath(file)
    return str(getattr(file, "name", "the open file"))


def write(
    path: str | os.PathLike[str], descriptor: Mapping[str, Any], model: Mapping[str, Any]
) -> None:
    """Write a `.amp` file that Amp loads; the file is there whole or not at all.

    Raises
    ------
    ModelError
        A value is of a kind that Amp could not read back, or is not finite.
    OSError
        The file cannot be written.
    """
    write_whole(path, text_of(descriptor, model).encode())


def text_of(descriptor: Mapping[str, Any], model: Mapping[str, Any]) -> str:
    """Return what a `.amp` file holds.

    Raises
    ------
    ModelError
        A value is of a kind that Amp could not read back, or is not finite.
    """
    try:
        sections = {"descriptor": source(descriptor), "model": source(model)}
    except ValueError as error:
        raise ModelError(f"the calculator cannot be saved: {error}") from error
    return source(sections)


def _mapping(text: str, name: str) -> dict[str, Any]:
    """Value of a source text that must be one mapping."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python's about odd escapes and literals in the text
            tree = ast.parse(text.strip(), filename=name, mode="eval")
        value = _value(tree.body)
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError) as error:
        reason = error.msg if isinstance(error, SyntaxError) else str(error) or "nested too deeply"
        raise ModelError(
            f"{name} is no .amp file ({reason}); give a file that Amp or ampmpi saved"
        ) from error
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise ModelError(
            f"{name} is no .amp file (it holds no dict of named values); give a file that Amp or "
            "ampmpi saved"
        )
    return value


def _value(node: ast.expr) -> Any:
    """Value of a literal, or of a call that is allowed."""
    match node:
        case ast.Constant(value=str() | int() | float() | None as value):
            return value
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)):
            return -value
        case ast.UnaryOp(op=ast.UAdd(), operand=ast.Constant(value=int() | float() as value)):
            return value
        case ast.List(elts=items):
            return [_value(item) for item in items]
        case ast.Tuple(elts=items):
            return tuple(_value(item) for item in items)
        case ast.Dict(keys=keys, values=values) if None not in keys:
            pairs = zip((k for k in keys if k is not None), values, strict=True)
            return _dict((_value(k), _value(v)) for k, v in pairs)
        case ast.Call(func=ast.Name(id=function), args=arguments, keywords=keywords):
            return _call(function, arguments, keywords)
        case ast.Call(
            func=ast.Attribute(value=ast.Name(id=module), attr=name), args=[argument], keywords=[]
        ) if module in NUMPY and name in SCALARS:
            value = _value(argument)
            if isinstance(value, str if name == "str_" else int | float):
                return value
    raise ValueError(f"line {node.lineno} holds something other than numbers, text and lists")


def _call(function: str, arguments: list[ast.expr], keywords: list[ast.keyword]) -> Any:
    """Value of ``dict``, ``OrderedDict``, ``array`` or ``matrix``."""
    if function in ("dict", "OrderedDict") and len(arguments) <= 1:
        given = _value(arguments[0]) if arguments else []
        pairs = given.items() if isinstance(given, dict) else given
        named = [(k.arg, _value(k.value)) for k in keywords if k.arg is not None]
        if len(named) != len(keywords):
            raise ValueError("it unpacks a mapping")
        return _dict([*pairs, *named])
    if function in ("array", "matrix") and len(arguments) == 1:
        # a keyword can only be array's dtype, which says nothing that matters here
        value = _value(arguments[0])
        if isinstance(value, list):
            return value
    raise ValueError(f"it calls {function}")


def _dict(pairs: Iterable[Any]) -> dict[Any, Any]:
    """Make a dict whose keys are text or numbers."""
    result = {}
    for pair in pairs:
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise ValueError("a dict in it is not made of pairs")
        key, value = pair
        if not isinstance(key, str | int | float | tuple):
            raise ValueError("a key in it is neither text nor a number")
        result[key] = value
    return result


def parse(text: str, name: str) -> dict[str, Any]:
    """Return the mapping that a source text is; `name` is what messages call it.

    Raises
    ------
    ModelError
        It is something else.
    """
    return _mapping(text, name)
