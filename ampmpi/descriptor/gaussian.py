"""The Gaussian descriptor: settings in, fingerprints of images out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from ..errors import DescriptorError
from .angles import Doubtful, check_angles, doubtful_functions
from .atom_centered import AtomCentered, Surroundings
from .settings import MODE, VERSION, Settings, from_amp
from .toml import read_settings, write_settings

if TYPE_CHECKING:
    from ase import Atoms

    from .tables import Tables


class Gaussian(AtomCentered):
    """Behler's symmetry functions of each atom, with Amp's constants and order.

    Parameters
    ----------
    cutoff : float, Cosine, Polynomial or dict, default 6.5
        Cutoff function, or its radius in Å for a cosine.
    Gs : dict, list or None
        Symmetry functions: for each element a list of dictionaries as Amp
        takes them, or one list for every element, or None for Amp's defaults.
    dblabel : str, optional
        Prefix of the databases, where several jobs share them.
    elements : list of str, optional
        Elements of the set; left out, they are those of `Gs` or of the images.
    version : str, optional
        Amp's version of the scheme; only ``'2015.12'``.
    fortran : bool
        Amp's switch between Fortran and Python; without effect here.
    mode : str
        Only ``'atom-centered'``.

    Raises
    ------
    DescriptorError
        When a setting is wrong.

    References
    ----------
    J. Behler, J. Chem. Phys. 134, 074106 (2011);
    A. Khorshidi and A. A. Peterson, Comput. Phys. Commun. 207, 310 (2016).
    """

    settings: Settings

    def __init__(
        self,
        cutoff: Any = 6.5,
        Gs: Any = None,
        dblabel: str | None = None,
        elements: Iterable[str] | None = None,
        version: str | None = None,
        fortran: bool = True,
        mode: str = MODE,
    ) -> None:
        if version not in (None, VERSION):
            raise DescriptorError(f"version is {version!r}: only {VERSION!r} can be used.")
        if mode != MODE:
            raise DescriptorError(f"mode is {mode!r}: only {MODE!r} can be used.")
        self.dblabel = dblabel
        self.fortran = fortran
        self.settings = Settings.from_arguments(cutoff, Gs, elements)

    @classmethod
    def from_parameters(cls, parameters: Mapping[str, Any]) -> Gaussian:
        """Return the descriptor that `parameters` of this or of Amp's class describe."""
        return cls._from_settings(from_amp(parameters))

    @classmethod
    def from_toml(cls, path: str | Path) -> Gaussian:
        """Return the descriptor written down in a TOML file."""
        return cls._from_settings(read_settings(path))

    @classmethod
    def from_images(
        cls, images: Any, per_element: int | None = None, cutoff: Any = 6.5, comm: Any = None
    ) -> Gaussian:
        """Return a descriptor with functions made for a set of images.

        Parameters
        ----------
        images : file names or list of ase.Atoms
            The set, with energies and forces where it has them.
        per_element : int, optional
            Functions of each element; by default as many as the set needs, up to 32.
        cutoff : float, Cosine or Polynomial
            Cutoff function, or its radius in Å.
        comm : communicator, optional
            The ranks, which all get the same descriptor; all of the job by default.

        Raises
        ------
        InputError
            There is no image, or `per_element` is not a number of functions.
        ImageError
            An image cannot be read or used.
        """
        from ampmpi.functions import make_functions  # joins images, ranks and this class

        return make_functions(images, per_element, cutoff, comm).descriptor

    def to_toml(self, remarks: Iterable[str] = ()) -> str:
        """Return the text of a TOML file for `from_toml`, with `remarks` as comments.

        Raises
        ------
        DescriptorError
            The elements are not known yet.
        """
        return write_settings(self.settings, remarks)

    @cached_property
    def n_features(self) -> dict[str, int]:
        """Number of functions of each element."""
        return {element: len(listed) for element, listed in self.settings.by_element.items()}

    @cached_property
    def _tables(self) -> Tables:
        from .tables import make_tables

        return make_tables(self.settings.cutoff, self.settings.by_element)

    @cached_property
    def _doubtful(self) -> dict[str, set[Doubtful]]:
        return doubtful_functions(self.settings.by_element)

    @property
    def _kernels(self) -> ModuleType:
        from . import kernels

        return kernels

    @property
    def looks_at_angles(self) -> bool:
        """Whether some functions have no value at some angles."""
        return bool(self._doubtful)

    def surroundings(self, atoms: Atoms) -> Surroundings:
        """Check an image and find its neighbours."""
        found = super().surroundings(atoms)
        if self._doubtful:
            check_angles(atoms, found.neighbors, self._doubtful)
        return found

    def __repr__(self) -> str:
        functions = "elements and functions of the images"
        if self.elements is not None:
            counts = (f"{count} for {element}" for element, count in self.n_features.items())
            functions = f"functions: {', '.join(counts)}"
        return f"<Gaussian: {self.settings.cutoff}, {functions}>"

    @property
    def in_words(self) -> str:
        """The cutoff function, for reports."""
        return str(self.settings.cutoff)

    def feature_names(self, element: str) -> list[str]:
        """Return type, neighbours and parameters of each function of an element, in words."""
        return [_named(function) for function in self.settings.by_element[element]]

    def predict_cost(self, atoms: Atoms) -> float:
        """Return about how many μs the image takes, from its density alone.

        Only the ratio between images matters. Images that cannot be used have a cost, too.
        """
        n_atoms = len(atoms)
        near = self.expected_neighbors(atoms)
        return 25.0 + n_atoms * (0.5 + 0.1 * near + 0.0035 * near**2)


def _named(function: Mapping[str, Any]) -> str:
    """Return a symmetry function's type, elements and parameters in words."""
    given = dict(function)
    elements = [given.pop("element")] if "element" in given else given.pop("elements")
    numbers = "".join(f", {key} {given[key]:.4g}" for key in sorted(given) if key != "type")
    return f"{given['type']} of {'-'.join(elements)}{numbers}"
