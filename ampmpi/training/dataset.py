"""The images of a training, over all ranks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ampmpi.errors import ImageError, InputError, ModelError, UnusableImagesError
from ampmpi.images import ImageRef, digest_image
from ampmpi.images.distances import ratio, shortest
from ampmpi.images.doubts import Facts, Ratio, distance_doubts, label_doubts
from ampmpi.images.labels import (
    NO_CELL,
    NO_FORCES,
    NO_STRESS,
    Choice,
    LabelError,
    LabelKeys,
)
from ampmpi.images.weights import NO_TYPE, TYPE, Weighting, Weights, names_of, type_of
from ampmpi.model.batch import PARTS, part_of
from ampmpi.model.layers import Array
from ampmpi.parallel.comm import Communicator
from ampmpi.parallel.failure import agree, on_all, share
from ampmpi.parallel.schedule import block, deal
from ampmpi.text import plain
from ampmpi.training.pool import Pool, Target, target
from ampmpi.training.unusable import (
    KEY_ADVICE,
    NO_FORCES_ADVICE,
    NO_STRESS_ADVICE,
    STRESS_KEY_ADVICE,
    Unusable,
    complaint,
    hindrance,
    left_out,
    of_no_weight,
)

if TYPE_CHECKING:
    from ase import Atoms

COMPOSITIONS = 20
"""So many compositions are listed in a report."""

FILES = 5
"""So many files are named in it."""

TYPES = 10
"""So many types of images are named in an error."""

DISTANCES = 20
"""Images of which each rank looks at the distances, to find out whether they can be in Å."""

TENTH, ENOUGH = 0.1, 20
"""What is kept for validation where nothing is said, and of how many images at least."""


class Part(NamedTuple):
    """A part of the images to train on."""

    n_images: float
    n_residuals: int  # energies and components of forces and stresses
    n_energies: float  # images that count with their energy
    n_forces: float  # images that have forces
    n_stresses: float  # images that have a stress


@dataclass(frozen=True, eq=False)
class Dataset:
    """What every rank knows of the unique images of a training."""

    pool: Pool
    indices: NDArray[np.int64]  # of each unique image: the last of equal ones with most labels
    keys: NDArray[np.bytes_]  # hashes
    copies: NDArray[np.int64]  # how often each image was given
    first: NDArray[np.int64]  # number of the first image with each hash
    energies: Array  # eV
    has_energy: NDArray[np.bool_]  # which images have an energy of a weight above 0
    has_forces: NDArray[np.bool_]  # the same of forces; all of them where none are trained
    has_stress: NDArray[np.bool_]  # the same of stresses
    elements: tuple[str, ...]  # sorted
    composition: Array  # (n_images, n_elements), number of atoms
    validation: NDArray[np.bool_]  # which images are kept for validation
    n_shared: int  # images that were given for validation, but are trained on
    forces: bool  # whether forces are trained
    stress: bool  # whether stresses are trained
    digests: NDArray[Any]  # of each image and its labels
    weight_digests: NDArray[Any]  # of each image's weights; zeros where they are 1
    weighting: Weighting  # under which names weights are
    weight_notes: tuple[str, ...]  # what weights there are; empty without any
    choice: Choice  # under which names the labels are
    remarks: tuple[str, ...]  # what is suspicious, or left out

    @property
    def digest(self) -> str:
        """Changes with the training images, their energies and their forces."""
        return _combined(self.digests[~self.validation])

    @property
    def validation_digest(self) -> str:
        """The same of the validation images."""
        return _combined(self.digests[self.validation])

    @property
    def weights_digest(self) -> str | None:
        """Changes with the weights of all images; None where they are 1."""
        total = _combined(self.weight_digests)
        return total if total.strip("0") else None

    def n_training_energies(self, drawn: Mapping[str, float] | None = None) -> float:
        """Return how many images to train on count with their energy; with `drawn`, how often."""
        return self._n_training(self.has_energy, drawn)

    def n_training_forces(self, drawn: Mapping[str, float] | None = None) -> float:
        """Return how many images to train on have forces; with `drawn`, how often these count."""
        return self._n_training(self.has_forces, drawn)

    def n_training_stresses(self, drawn: Mapping[str, float] | None = None) -> float:
        """Return how many images to train on have a stress; with `drawn`, how often they count."""
        return self._n_training(self.has_stress, drawn)

    def _n_training(self, has: NDArray[np.bool_], drawn: Mapping[str, float] | None) -> float:
        chosen = ~self.validation & has
        if drawn is None:
            return float(chosen.sum())
        return sum(drawn.get(key.decode(), 0.0) for key in self.keys[chosen].tolist())

    def parts(self, drawn: Mapping[str, float] | None = None) -> list[Part]:
        """Return how many images to train on there are, then in ever smaller parts of the set.

        With `drawn`, an image counts as often as it was drawn.
        """
        chosen = ~self.validation
        keys = [key.decode() for key in self.keys[chosen].tolist()]
        counts = np.array([1.0 if drawn is None else drawn.get(key, 0.0) for key in keys])
        forces = np.where(self.has_forces & self.forces, 3 * self.n_atoms, 0)[chosen]
        stresses = np.where(self.has_stress & self.stress, 6, 0)[chosen]
        smallest = np.array([part_of(key) for key in keys])
        found = []
        for part in range(PARTS + 1):
            inside = (smallest >= part) & (counts > 0)
            energies = self.has_energy[chosen][inside]
            residuals = int((energies + forces[inside] + stresses[inside]).sum())
            labels = (
                float(counts[inside & has[chosen]].sum())
                for has in (self.has_energy, self.has_forces, self.has_stress)
            )
            found.append(Part(float(counts[inside].sum()), residuals, *labels))
        return found

    @property
    def n_validation_energies(self) -> int:
        """Number of images to validate on that count with their energy."""
        return int((self.validation & self.has_energy).sum())

    @property
    def n_validation_forces(self) -> int:
        """Number of images to validate on that have forces."""
        return int((self.validation & self.has_forces).sum())

    @property
    def n_validation_stresses(self) -> int:
        """Number of images to validate on that have a stress."""
        return int((self.validation & self.has_stress).sum())

    def without(self, refs: Sequence[ImageRef]) -> tuple[Dataset, list[ImageRef]]:
        """Return the set without these images, and which of them were in it.

        Raises
        ------
        InputError
            There is none left to train on, or none of those to validate on.
        """
        if not refs:
            return self, []
        wanted = set(refs)
        here = [
            {self.pool.ref(last), self.pool.ref(first)} & wanted
            for last, first in zip(self.indices.tolist(), self.first.tolist(), strict=True)
        ]
        out = np.array([bool(some) for some in here])
        if (out | self.validation).all():
            raise share(InputError("no image that is left can be trained on; give other images"))
        columns = (
            "indices", "keys", "copies", "first", "energies", "has_energy", "has_forces",
            "has_stress", "composition", "validation", "digests", "weight_digests",
        )  # fmt: skip
        left = replace(self, **{name: getattr(self, name)[~out] for name in columns})
        left.check_parts(validates=self.n_validation > 0)
        return left, sorted(set().union(*here))

    @property
    def n_atoms(self) -> Array:
        """Number of atoms of each image."""
        total: Array = self.composition.sum(axis=1)
        return total

    @property
    def n_training(self) -> int:
        """Number of images to train on."""
        return int((~self.validation).sum())

    @property
    def n_validation(self) -> int:
        """Number of images to validate on."""
        return int(self.validation.sum())

    @cached_property
    def about(self) -> dict[str, str]:
        """What a report says of the images: files, numbers, compositions."""
        chosen = self.composition[~self.validation].astype(np.int64)
        rows, counts = np.unique(chosen, axis=0, return_counts=True)
        most = np.argsort(-counts, kind="stable")[:COMPOSITIONS]
        formulas = [
            "".join(
                f"{element}{number if number > 1 else ''}"
                for element, number in zip(self.elements, row, strict=True)
                if number
            )
            + f" ({times})"
            for row, times in zip(rows[most].tolist(), counts[most].tolist(), strict=True)
        ]
        more = len(rows) - len(formulas)
        atoms = chosen.sum(axis=0).tolist()
        by_element = ", ".join(
            f"{n} of {e}" for e, n in zip(self.elements, atoms, strict=True) if n
        )
        files = self.pool.files()
        others = f" and {len(files) - FILES} more files" if len(files) > FILES else ""
        return {
            "images": f"{self.n_training} to train on, {self.n_validation} to validate on, from "
            + (", ".join(files[:FILES]) + others or "memory"),
            "atoms": f"{sum(atoms)} in the training images: {by_element}",
            "composition": ", ".join(formulas) + (f" and {more} more" if more else ""),
        }

    def check_parts(self, *, validates: bool) -> None:
        """Refuse a set that lacks what it is for, after images were left out.

        There are to be forces and stresses to train on, where these are trained, and images
        to validate on, where some were given or chosen (`validates`); and energies of both.
        """
        if not self.n_training_energies():
            raise share(
                UnusableImagesError(
                    "no image to train on has an energy of a weight above 0; give weights above "
                    "0, and to train on the forces alone --energy-coefficient 0, too "
                    "(LossFunction(energy_coefficient=0) in a script)"
                )
            )
        if self.forces and not self.n_training_forces():
            raise share(
                UnusableImagesError(
                    f"no image to train on that can be used has forces: {self.choice.found}; "
                    f"{KEY_ADVICE}, or {NO_FORCES_ADVICE}"
                )
            )
        if self.stress and not self.n_training_stresses():
            raise share(
                UnusableImagesError(
                    f"no image to train on that can be used has a stress: {self.choice.found}; "
                    f"{STRESS_KEY_ADVICE}, or {NO_STRESS_ADVICE}"
                )
            )
        if validates and not self.n_validation:
            raise share(
                UnusableImagesError(
                    "no image to validate on can be used; give others, or train without validation"
                )
            )
        if self.n_validation and not self.n_validation_energies:
            raise share(
                UnusableImagesError(
                    "no image to validate on has an energy of a weight above 0; give others, or "
                    "another seed where they are chosen at random"
                )
            )

    def check_validation(self, known: Iterable[str] = ()) -> None:
        """Refuse elements that only images to validate on have and the model does not know."""
        trained = self.composition[~self.validation].any(axis=0)
        for column in np.flatnonzero(~trained):
            element = self.elements[column]
            if element not in known:
                holds = self.validation & (self.composition[:, column] > 0)
                name = self.pool.name(int(self.indices[holds].min()))
                raise share(
                    InputError(
                        f"{name} is to validate on and holds {element}, which no image to train "
                        "on does; give other images for validation, or another seed where they "
                        "are chosen at random"
                    )
                )

    def check_elements(self, known: Iterable[str]) -> None:
        """Refuse elements that a model which is trained further does not know."""
        for column, element in enumerate(self.elements):
            if element not in known:
                name = self.pool.name(int(self.indices[self.composition[:, column] > 0].min()))
                raise share(
                    ModelError(
                        f"{name} holds {element}, an element that the model lacks (it has "
                        f"{', '.join(sorted(known))}): leave such images out, or train a new "
                        "model on all images"
                    )
                )

    def targets(
        self, comm: Communicator, which: NDArray[np.bool_], *, keep_atoms: bool = False
    ) -> list[Target]:
        """Read this rank's share of the images in `which`, dealt over `comm` by cost."""
        chosen = np.flatnonzero(which)
        owners = deal(self.n_atoms[chosen] ** 2, comm.size)
        mine = self.indices[chosen[owners == comm.rank]]

        def take() -> list[Target]:
            found = []
            columns = (self.keys, self.has_forces, self.has_stress)
            known = {
                key: has
                for key, *has in zip(*(one[chosen].tolist() for one in columns), strict=True)
            }
            for key, name, atoms in self.read(mine):
                forces, stress = known[key.encode()]
                forces, stress = forces and self.forces, stress and self.stress
                try:
                    seen = target(
                        atoms,
                        key,
                        self.choice.keys,
                        forces=forces,
                        stress=stress,
                        weighting=self.weighting,
                    )
                except LabelError as error:
                    raise ImageError(f"{name} {error}; it was changed meanwhile") from error
                found.append(replace(seen, atoms=atoms) if keep_atoms or stress else seen)
            return found

        return on_all(comm, take)

    def read(self, indices: NDArray[np.int64]) -> Iterator[tuple[str, str, Atoms]]:
        """Read images again that were surveyed, as hash, name and atoms, in ascending order."""
        key_of = dict(zip(self.indices.tolist(), self.keys.tolist(), strict=True))
        for index, key, name, atoms in self.pool.read(sorted(indices.tolist())):
            if key_of[index] != key.encode():
                raise ImageError(
                    f"{name} is not the same on every rank, or was changed meanwhile: give all "
                    "ranks the same images, from a file or with a seed for whatever is random in "
                    "them"
                )
            yield key, name, atoms


@dataclass
class _Look:
    """What one rank has seen."""

    found: list[tuple[int, Target]]
    forceless: list[int]  # images without forces, of which the energies are trained
    stressless: list[int]  # the same of stresses
    unusable: list[Unusable]
    ratios: list[Ratio]
    weighted: set[str]  # names of weights
    types: set[str]


def survey(
    comm: Communicator,
    pool: Pool,
    *,
    forces: bool,
    stress: bool = False,
    fraction: float | None = 0.0,
    seed: int = 0,
    keys: LabelKeys | None = None,
    weighting: Weighting | None = None,
    skip_unusable: bool = False,
) -> Dataset:
    """Look at every image once, each rank at its block, and tell all ranks.

    `fraction` of the images is chosen with `seed` for validation, where none were given for it;
    None is a tenth, and nothing of a few images.
    `keys` are names of labels; those that are not given are found out. `weighting` says where
    weights are. Images that cannot be
    trained on are left out with `skip_unusable`, and refused otherwise.
    """
    choice = agree(comm, lambda: pool.choose_labels(keys or LabelKeys(), forces, stress))
    mine = block(len(pool), comm.rank, comm.size)
    where = weighting or Weighting()
    wanted = _Wanted(choice.keys, forces, stress, where, skip_unusable)
    seen = on_all(comm, lambda: _look(pool, mine, wanted))
    found = seen.found
    unusable = [one for part in comm.allgather(seen.unusable) for one in part]
    if unusable and not skip_unusable:
        raise share(complaint(unusable, len(pool), choice, pool.ref))
    symbols = sorted({s for _, one in found for s in one.symbols})
    elements = tuple(sorted({s for part in comm.allgather(symbols) for s in part}))
    composition = np.array(
        [[one.symbols.count(e) for e in elements] for _, one in found], dtype=float
    ).reshape(len(found), len(elements))
    parts = comm.allgather(
        (
            np.array([index for index, _ in found], dtype=np.int64),
            np.array([one.key for _, one in found], dtype="S32"),
            np.array([one.energy for _, one in found], dtype=float),
            composition,
            np.array([one.digest() for _, one in found], dtype="V16"),
            np.array([one.largest_force for _, one in found], dtype=float),
            np.array([one.largest_stress for _, one in found], dtype=float),
            np.array([_largest_weights(one.weights) for _, one in found]).reshape(-1, 3),
            np.array([_weights_digest(one) for _, one in found], dtype="V16"),
        )
    )
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
    without = comm.allgather((seen.forceless, seen.stressless))
    forceless, stressless = (
        sorted(index for part in parts for index in part) for parts in zip(*without, strict=True)
    )
    ratios = [one for part in comm.allgather(seen.ratios) for one in part]
    indices, hashes, energies, composition, digests = columns[:5]
    weights, weight_digests = columns[7:]
    counts = weights > 0.0
    has_energy = counts[:, 0]
    has_forces = counts[:, 1] & ~np.isin(indices, forceless)
    has_stress = counts[:, 2] & ~np.isin(indices, stressless)
    named = comm.allgather((seen.weighted, seen.types))
    names, types = (set[str]().union(*parts) for parts in zip(*named, strict=True))
    agree(comm, lambda: _check_names(where, names, types))
    given = pool.given_for_validation
    repeated = (indices >= given.start) & np.isin(hashes, hashes[indices < given.start])
    n_shared = len(np.unique(hashes[repeated]))
    here = np.flatnonzero(~repeated)
    first, last, copies = _unique(hashes[here], has_forces[here], has_stress[here])
    first, last = here[first], here[last]

    def suspicious() -> tuple[list[str], list[str]]:
        facts = Facts(
            indices,
            hashes,
            energies,
            columns[5],
            composition,
            elements,
            largest_stresses=columns[6],
        )
        doubts = distance_doubts(ratios, pool.ref) + label_doubts(facts, pool.ref)
        lacking = {
            "forces": indices[last[counts[last, 1] & ~has_forces[last]]].tolist(),
            "a stress": indices[last[counts[last, 2] & ~has_stress[last]]].tolist(),
        }
        kinds = {"energy": True, "forces": forces, "stress": stress}
        zeros = {
            kind: indices[last[~counts[last, column]]].tolist()
            for column, (kind, trained) in enumerate(kinds.items())
            if trained
        }
        remarks = left_out(unusable, lacking, given, pool.ref) + doubts
        return remarks, of_no_weight(zeros, pool.ref)

    remarks, without_weight = agree(comm, suspicious)
    in_validation = indices[first] >= given.start
    if not given:
        # By hash: whatever the order of the images is, the same ones are chosen.
        in_validation = np.empty(len(last), bool)
        chosen = on_all(comm, partial(validation_split, len(last), fraction, seed))
        in_validation[np.argsort(hashes[last])] = chosen
    if not len(last) or in_validation.all():
        raise share(InputError("there is no image to train on; give files or a list of images"))
    if n_shared and not in_validation.any():
        raise share(
            InputError(
                "all images given for validation are among those to train on; give images that "
                "are not trained on"
            )
        )
    dataset = Dataset(
        pool=pool,
        indices=indices[last],
        keys=hashes[last],
        copies=copies,
        first=indices[first],
        energies=energies[last],
        has_energy=has_energy[last],
        has_forces=has_forces[last],
        has_stress=has_stress[last],
        elements=elements,
        composition=composition[last],
        validation=in_validation,
        n_shared=n_shared,
        forces=forces,
        stress=stress,
        digests=digests[last],
        weight_digests=weight_digests[last],
        weighting=where,
        weight_notes=(
            *_weight_note(where, names, weights[last], forces=forces, stress=stress),
            *without_weight,
        ),
        choice=choice,
        remarks=tuple(remarks),
    )
    dataset.check_parts(validates=bool(given))
    return dataset


def _unique(
    hashes: NDArray[np.bytes_], has_forces: NDArray[np.bool_], has_stress: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return the first of equal images, the one that counts, and how often each comes.

    The last one counts, as in Amp, but one with forces before one without, and then one with
    a stress. They are in the order of the first ones.
    """
    _, first, copies = np.unique(hashes, return_index=True, return_counts=True)
    counts = np.lexsort((has_stress, has_forces, hashes))[np.cumsum(copies) - 1]
    order = np.argsort(first, kind="stable")
    return first[order], counts[order], copies[order]


@dataclass(frozen=True)
class _Wanted:
    """What is wanted of images."""

    keys: LabelKeys
    forces: bool
    stress: bool
    weighting: Weighting
    skip_unusable: bool


def _largest_weights(weights: Weights | None) -> tuple[float, float, float]:
    """Return the weights of an image's energy, of its forces at most, and of its stress."""
    if weights is None:
        return 1.0, 1.0, 1.0
    return weights.energy, float(weights.forces.max()), weights.stress


def _weights_digest(one: Target) -> bytes:
    return bytes(16) if one.weights is None else one.weights.digest(one.key)


def _check_names(weighting: Weighting, names: set[str], types: set[str]) -> None:
    """Refuse names of weights and types that no image has: they are misspelt."""
    for name, option in ((weighting.key, "weight"), (weighting.atom_key, "atom-weight")):
        if name is not None and name not in names:
            raise InputError(
                f"no image carries {plain(name, 60)!r}, the name that --{option}-key gives (in a "
                f"script {option.replace('-', '_')}_key): correct it, or leave it out"
            )
    unknown = sorted(set(weighting.types) - types - {NO_TYPE})
    if unknown:
        known = ", ".join(plain(name, 60) for name in sorted(types)[:TYPES])
        raise InputError(
            f"no image has the {TYPE} {plain(unknown[0], 60)!r}, to which a weight is given; "
            f"there are {known}{' and more' if len(types) > TYPES else ''}"
        )


def _weight_note(
    weighting: Weighting, names: set[str], weights: Array, *, forces: bool, stress: bool
) -> list[str]:
    """Say where weights come from, and between what they are; nothing where all are 1."""
    if (weights == 1.0).all() and weighting.atom_key is None:
        return []
    sources = sorted(plain(name, 60) for name in names) + ([TYPE] if weighting.types else [])
    kinds = {"energies": True, "forces": forces, "stresses": stress}
    spans = [
        f"{kind} {weights[:, column].min():.3g} to {weights[:, column].max():.3g}"
        for column, (kind, trained) in enumerate(kinds.items())
        if trained
    ]
    return [f"Weights: {', '.join(sources)}; {', '.join(spans)}."]


def _look(pool: Pool, mine: range, wanted: _Wanted) -> _Look:
    """Look at one rank's images."""
    forces, stress = wanted.forces, wanted.stress
    seen = _Look([], [], [], [], [], set(), set())
    step = max(1, len(mine) // DISTANCES)
    for index, atoms in pool.look(mine):
        wrong = hindrance(pool.ref(index), index, atoms)
        if wrong is not None or isinstance(atoms, ImageError):
            seen.unusable += [wrong] if wrong else []
            continue
        key = digest_image(atoms).hex()
        try:
            one = _with_what_it_has(atoms, key, wanted)
        except LabelError as error:
            sentence = f"{pool.name(index)} {error}"
            seen.unusable.append(Unusable(index, error.kind, sentence))
        else:
            seen.found.append((index, one))
            _, by_force, by_stress = _largest_weights(one.weights)
            seen.forceless += [index] if forces and by_force and one.forces is None else []
            seen.stressless += [index] if stress and by_stress and one.stress is None else []
            seen.weighted.update(names_of(atoms, wanted.weighting))
            seen.types.add(type_of(atoms))
        if (index - mine.start) % step == 0:
            smallest = ratio(shortest(atoms))
            if smallest is not None:
                seen.ratios.append(Ratio(index, smallest, pool.length_unit(index)))
    return seen


def _with_what_it_has(atoms: Atoms, key: str, wanted: _Wanted) -> Target:
    """Take the labels of an image; `LabelError` where it lacks some that it has to have.

    It need not have forces or a stress with `skip_unusable`, and no stress in any case where it
    is not periodic in all directions.
    """
    forces, stress = wanted.forces, wanted.stress
    dispensable = set() if atoms.pbc.all() else {NO_STRESS}
    if wanted.skip_unusable:
        dispensable = {NO_FORCES, NO_STRESS, NO_CELL}
    while True:
        try:
            return target(
                atoms, key, wanted.keys, forces=forces, stress=stress, weighting=wanted.weighting
            )
        except LabelError as error:
            if error.kind not in dispensable:
                raise
            forces, stress = (False, stress) if error.kind == NO_FORCES else (forces, False)


def _combined(digests: NDArray[Any]) -> str:
    """Add up digests of 16 bytes to one that does not depend on their order."""
    total: NDArray[np.uint64] = digests.view(np.uint64).reshape(-1, 2).sum(axis=0, dtype=np.uint64)
    return total.tobytes().hex()


def validation_split(n: int, fraction: float | None, seed: int) -> NDArray[np.bool_]:
    """Choose images for validation at random: True for about ``fraction * n`` of them."""
    if fraction is None:
        fraction = TENTH if n >= ENOUGH else 0.0
    if not (isinstance(fraction, Real) and 0.0 <= fraction < 1.0):
        raise InputError(f"validation fraction is {fraction!r}; it must be at least 0 and below 1")
    if not isinstance(seed, Integral) or seed < 0:
        raise InputError(f"the seed of the validation set is {seed!r}; give a number of at least 0")
    chosen = np.zeros(n, dtype=bool)
    count = round(fraction * n)
    if fraction > 0.0 and not 0 < count < n:
        raise InputError(
            f"a validation fraction of {fraction} leaves {n - count} of {n} images to train on "
            f"and {count} to validate; give more images or another fraction"
        )
    chosen[np.random.default_rng(seed).permutation(n)[:count]] = True
    return chosen
