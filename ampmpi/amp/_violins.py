"""Amp's pictures of how features, and the outputs of a network's nodes, are distributed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from ampmpi.amp._pictures import keep_pages, new_figure, require_matplotlib
from ampmpi.errors import InputError, ModelError
from ampmpi.images import hash_images
from ampmpi.model.layers import Array
from ampmpi.model.scaling import network_input
from ampmpi.parallel.comm import world
from ampmpi.parallel.failure import abort_on_error, install_excepthook, on_all
from ampmpi.parallel.schedule import block

if TYPE_CHECKING:
    from ase import Atoms

    from ampmpi.calculator import Amp

ACTIVATION: Mapping[str, Callable[[Array], Array]] = {
    "tanh": np.tanh,
    "sigmoid": lambda x: 1.0 / (1.0 + np.exp(-x)),
    "linear": lambda x: x,
}


def features_of(calc: Amp, images: Any) -> dict[str, Array]:
    """Return the features of all atoms of an element, in the images' order, on every rank.

    Ranks share the images.

    Returns
    -------
    dict of str to (n_atoms, n_features) float array
    """
    comm = world()
    hashed = on_all(comm, lambda: hash_images(images))
    atoms = list((hashed or {}).values())
    if not atoms:
        raise InputError("there is no image to draw; give some")
    symbols = {symbol for each in atoms for symbol in each.symbols}
    descriptor = calc.descriptor.resolve(calc.model.fprange or symbols)
    mine = on_all(
        comm,
        lambda: [
            descriptor.fingerprint(atoms[index])
            for index in block(len(atoms), comm.rank, comm.size)
        ],
    )
    found: dict[str, list[Array]] = {}
    for part in comm.allgather(mine):
        for fingerprint in part:
            for symbol, row in zip(fingerprint.symbols, fingerprint.values, strict=True):
                found.setdefault(symbol, []).append(row[: fingerprint.n_features[symbol]])
    return {symbol: np.array(rows) for symbol, rows in sorted(found.items())}


class FingerprintPlot:
    """Draws how the features of each element are distributed.

    Parameters
    ----------
    calc : Amp
        A calculator; if its model is trained, the features are drawn as it scales them, too.

    Attributes
    ----------
    data : dict of str to (n_atoms, n_features) float array
        The features that were drawn last, by element.
    """

    def __init__(self, calc: Amp) -> None:
        self._calc = calc
        self.data: dict[str, Array] = {}

    def __call__(self, images: Any, name: Any = "fingerprints.pdf", overlay: Any = None) -> None:
        """Draw the features of images, as a PDF with a page for each element.

        Parameters
        ----------
        images : list of ase.Atoms, or file name
            The images.
        name : str or open file
            The picture; one that is there is replaced.
        overlay : ase.Atoms or list of ase.Atom, optional
            Atoms whose features are drawn as points.

        Raises
        ------
        InputError
            There is no image, or an atom to draw belongs to no `Atoms`.
        ImageError
            An image cannot be described.
        """
        comm = world()
        install_excepthook(comm)
        with abort_on_error(comm):
            on_all(comm, require_matplotlib)
            self.data = features_of(self._calc, images)
            points: dict[str, list[Array]] = {}
            for atom in () if overlay is None else overlay:
                symbol, row = on_all(comm, partial(self._row, atom))
                points.setdefault(symbol, []).append(row)
            keep_pages(
                (self._page(element, points.get(element, ())) for element in self.data), name
            )

    def compile_fingerprints(self, images: Any) -> None:
        """Compute the features of images, and keep them in `data`."""
        self.data = features_of(self._calc, images)

    def _row(self, atom: Any) -> tuple[str, Array]:
        """Return an atom's element and features."""
        atoms: Atoms | None = atom.atoms
        if atoms is None:
            raise InputError(f"{atom!r} belongs to no Atoms, so that it has no surroundings")
        descriptor = self._calc.descriptor.resolve(self._calc.model.fprange or set(atoms.symbols))
        fingerprint = descriptor.fingerprint(atoms)
        symbol = fingerprint.symbols[atom.index]
        return symbol, fingerprint.values[atom.index, : fingerprint.n_features[symbol]]

    def _page(self, element: str, points: Iterable[Array]) -> Any:
        ranges = self._calc.model.fprange
        figure = new_figure(11.0, 8.5)
        figure.suptitle(element)
        views: list[tuple[str, Callable[[Array], Array]]] = [("raw value", lambda rows: rows)]
        if ranges is not None and element in ranges:
            views.append(("scaled value", lambda rows: network_input(rows, ranges[element])[:-1].T))
        for axes, (what, view) in zip(figure.subplots(len(views), 1, squeeze=False)[:, 0], views,
                                      strict=True):  # fmt: skip
            axes.violinplot(view(self.data[element]))
            for row in points:
                numbers = range(1, len(row) + 1)
                axes.plot(numbers, view(row[np.newaxis])[0], ".b")
            axes.set_xlim(0, self.data[element].shape[1] + 1)
            axes.set_ylabel(what)
            axes.set_xlabel("fingerprint")
        return figure


class NodePlot:
    """Draws how the outputs of the nodes of each element's network are distributed.

    Parameters
    ----------
    calc : Amp
        A calculator whose model has parameters.

    Attributes
    ----------
    data : dict
        By element ``header``, the (layer, node) of each column, counted from 0 where layer 0 is
        the scaled features, and ``table``, an (n_atoms, n_nodes) float array.
    """

    def __init__(self, calc: Amp) -> None:
        self.calc = calc
        self.data: dict[str, dict[str, Any]] = {}

    def plot(self, images: Any, filename: Any = "nodeplot.pdf") -> None:
        """Draw the outputs for images, as a PDF with a page for each element.

        Raises
        ------
        ModelError
            The model has no parameters yet, or lacks an element.
        InputError
            There is no image.
        """
        comm = world()
        install_excepthook(comm)
        with abort_on_error(comm):
            on_all(comm, require_matplotlib)
            on_all(comm, lambda: self.calc.model.vector)
            features = features_of(self.calc, images)
            self.data = on_all(
                comm, lambda: {e: self._outputs(e, rows) for e, rows in features.items()}
            )
            keep_pages(map(self._page, self.data), filename)

    def _outputs(self, element: str, features: Array) -> dict[str, Any]:
        model = self.calc.model
        ranges, layers = model.fprange or {}, model.layers or {}
        if element not in ranges or element not in layers:
            raise ModelError(f"the model lacks {element}: train it on images that hold it")
        outputs = [network_input(features, ranges[element])[:-1].T]
        for weights in layers[element]:
            excited = outputs[-1] @ weights[:-1] + weights[-1]
            outputs.append(ACTIVATION[model.activation](excited))
        header = [(layer, node) for layer, o in enumerate(outputs) for node in range(o.shape[1])]
        return {"header": header, "table": np.hstack(outputs)}

    def _page(self, element: str) -> Any:
        header, table = self.data[element]["header"], self.data[element]["table"]
        n_layers = 1 + header[-1][0]
        figure = new_figure(8.5, 11.0)
        figure.suptitle(f"Node outputs for {element}")
        for layer, axes in enumerate(figure.subplots(n_layers, 1)):
            columns = [column for column, place in enumerate(header) if place[0] == layer]
            axes.violinplot(table[:, columns], positions=range(len(columns)))
            axes.set_ylim(-1.2, 1.2)
            axes.set_xlim(-0.5, len(columns) - 0.5)
            axes.set_ylabel(f"Layer {layer}")
        axes.set_xlabel("node")
        return figure
