"""The Zernike descriptor: settings in, fingerprints of images out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from ..errors import DescriptorError
from .atom_centered import AtomCentered
from .settings import MODE
from .zernike_settings import VERSION, ZernikeSettings, from_amp, read_settings, write_settings

if TYPE_CHECKING:
    from ase import Atoms

    from .tables import Tables


class Zernike(AtomCentered):
    """Rotational invariants of the 3D Zernike moments of each atom's neighbours.

    Feature (n, l), n = 0 … nmax, l ≤ n with n − l even, is the sum of ``|c_nlm|²`` over
    m = −l … l, of the moments c_nlm = Σ_j η_j Z*_nlm(R_ij/Rc) fc(R_ij). Constants and order are
    Amp's.

    Parameters
    ----------
    cutoff : float, Cosine, Polynomial or dict, default 6.5
        Cutoff function, or its radius in Å for a cosine.
    Gs : dict of dict of float, optional
        Weights η by the elements of centre and neighbour, as in ``{"Cu": {"Cu": 29.0,
        "Pt": 78.0}, …}``; by default the neighbour's atomic number.
    nmax : int or dict of int, default 5
        Largest degree n, for all elements or by the element of the centre.
    dblabel : str, optional
        Prefix of the databases, where several jobs share them.
    elements : list of str, optional
        Elements of the set; left out, they are those of `Gs` or of the images.
    version : str, optional
        Amp's version of the scheme; only ``'2016.02'``.
    mode : str
        Only ``'atom-centered'``.
    fortran : bool
        Amp's switch between Fortran and Python; without effect here.

    Raises
    ------
    DescriptorError
        When a setting is wrong.

    References
    ----------
    M. Novotni and R. Klein, Comput.-Aided Des. 36, 1047 (2004);
    A. Khorshidi and A. A. Peterson, Comput. Phys. Commun. 207, 310 (2016), Eqs. 13 to 16.
    """

    settings: ZernikeSettings

    def __init__(
        self,
        cutoff: Any = 6.5,
        Gs: Any = None,
        nmax: Any = 5,
        dblabel: str | None = None,
        elements: Iterable[str] | None = None,
        version: str | None = VERSION,
        mode: str = MODE,
        fortran: bool = True,
    ) -> None:
        if version not in (None, VERSION):
            raise DescriptorError(f"version is {version!r}: only {VERSION!r} can be used.")
        if mode != MODE:
            raise DescriptorError(f"mode is {mode!r}: only {MODE!r} can be used.")
        self.dblabel = dblabel
        self.fortran = fortran
        self.settings = ZernikeSettings.from_arguments(cutoff, Gs, nmax, elements)

    @classmethod
    def from_parameters(cls, parameters: Mapping[str, Any]) -> Zernike:
        """Return the descriptor that `parameters` of this or of Amp's class describe."""
        return cls._from_settings(from_amp(parameters))

    @classmethod
    def from_toml(cls, path: str | Path) -> Zernike:
        """Return the descriptor written down in a TOML file."""
        return cls._from_settings(read_settings(path))

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
        """Number of features of each element."""
        return {
            element: (degree // 2 + 1) * ((degree + 1) // 2 + 1)
            for element, degree in self.settings.degrees().items()
        }

    @cached_property
    def _tables(self) -> Tables:
        from .tables import Tables
        from .zernike_tables import make_tables

        settings = self.settings
        tables = make_tables(settings.cutoff, settings.by_element(), settings.degrees())
        return Tables(tables.species_of, tables.n_species, tables)

    @property
    def _kernels(self) -> ModuleType:
        from . import zernike_kernels

        return zernike_kernels

    def __repr__(self) -> str:
        functions = "elements of the images"
        if self.elements is not None:
            counts = (f"{count} for {element}" for element, count in self.n_features.items())
            functions = f"features: {', '.join(counts)}"
        return f"<Zernike: {self.settings.cutoff}, nmax {self.settings.nmax}, {functions}>"

    @property
    def in_words(self) -> str:
        """Degree and cutoff function, for reports."""
        return f"Zernike, nmax {self.settings.nmax}, {self.settings.cutoff}"

    def feature_names(self, element: str) -> list[str]:
        """Return n and l of each feature of an element, in words."""
        from .zernike_tables import degrees_of_features

        degree = self.settings.degrees()[element]
        return [f"Zernike n {n}, l {l}" for n, l in degrees_of_features(degree)]

    def predict_cost(self, atoms: Atoms) -> float:
        """Return about how many μs the image takes, from its density alone.

        Only the ratio between images matters. Images that cannot be used have a cost, too.
        """
        return 25.0 + len(atoms) * (1.0 + 0.3 * self.expected_neighbors(atoms))
