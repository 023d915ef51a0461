"""What Amp's pictures have in common: new figures, and how rank 0 writes them."""

from __future__ import annotations

import importlib.util
import io
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ampmpi.errors import AmpmpiError, InputError
from ampmpi.files.whole import write_whole
from ampmpi.parallel.comm import world
from ampmpi.parallel.failure import agree


def new_figure(width: float, height: float, *, fitted: bool = True) -> Any:
    """Return an empty figure, of so many inches; `InputError` without matplotlib.

    `fitted` gives each part the room that it needs, which takes as long as the drawing.
    """
    require_matplotlib()
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained" if fitted else None)


def require_matplotlib() -> None:
    """Refuse to begin a picture where matplotlib is not installed."""
    if importlib.util.find_spec("matplotlib") is None:
        raise InputError("pictures need matplotlib; install ampmpi[plot]")


def refuse_existing(file: Any, *, overwrite: bool) -> None:
    """Refuse to replace a picture that is there, before anything is computed."""
    if not overwrite and isinstance(file, str | os.PathLike) and Path(file).exists():
        raise InputError(
            f"{os.fspath(file)} is there already; give overwrite=True to replace it, or another "
            "name"
        )


def keep(figure: Any, file: Any) -> None:
    """Write a figure, in the format that its name tells, on rank 0; all ranks call it."""
    picture = io.BytesIO()
    if world().rank == 0:
        name = file if isinstance(file, str | os.PathLike) else ""
        figure.savefig(picture, format=Path(name).suffix[1:] or "pdf")
    _write(file, picture.getvalue())


def keep_pages(figures: Iterable[Any], file: Any) -> None:
    """Write figures as the pages of a PDF, on rank 0; all ranks call it."""
    _write(file, as_pdf(figures) if world().rank == 0 else b"")


def as_pdf(figures: Iterable[Any]) -> bytes:
    """Return a PDF whose pages are figures."""
    from matplotlib.backends.backend_pdf import PdfPages

    picture = io.BytesIO()
    with PdfPages(picture) as pdf:
        for figure in figures:
            pdf.savefig(figure)
    return picture.getvalue()


def _write(file: Any, data: bytes) -> None:
    def write() -> None:
        if isinstance(file, str | os.PathLike):
            write_picture(file, data)
        else:
            file.write(data)

    agree(world(), write)


def write_picture(file: str | os.PathLike[str], data: bytes) -> None:
    """Write a picture's bytes; `InputError` where it cannot be."""
    try:
        write_whole(file, data)
    except AmpmpiError:
        raise
    except OSError as error:
        raise InputError(f"{os.fspath(file)} cannot be written: {error.strerror}") from error
