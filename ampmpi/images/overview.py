"""What is in a set of images: numbers for people, before anything is computed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ampmpi.errors import ImageError
from ampmpi.images.checks import problem, unreadable
from ampmpi.images.distances import Pairs, merge, ratio, shortest
from ampmpi.images.doubts import Facts, Ratio, distance_doubts, label_doubts, named
from ampmpi.images.hashing import digest_image
from ampmpi.images.imageset import ImageRef, Images
from ampmpi.images.labels import (
    FLAGS,
    NO_CELL,
    NO_ENERGY,
    NO_FORCES,
    NO_STRESS,
    Choice,
    LabelError,
    energy_of,
    forces_of,
    offers,
    stress_of,
)
from ampmpi.text import amount, plain

if TYPE_CHECKING:
    from ase import Atoms

Array = NDArray[np.float64]

DISTANCES = 2000
"""Images of which each rank looks at the distances."""

COMPOSITIONS, FILES = 12, 6
"""So many compositions and files are listed."""


@dataclass
class Overview:
    """What was seen of some images; those of several ranks add up.

    Attributes
    ----------
    indices, keys, energies, largest, squares, volumes : list
        Of each image that can be read: number, hash, energy in eV, largest force in eV/Å, mean
        squared force component, and volume per atom in Å³; nan where it has none.
    formulas : list of str
        Composition of each, which counts every element: ``Cu3Pt``.
    periodic : list of int
        Number of periodic directions of each.
    stresses : list
        Largest component of each image's stress, eV/Å³; nan where it has none.
    carried : Counter
        How often each name is carried beside atoms and cell.
    pairs : dict
        Shortest distance in Å by pair of elements.
    ratios : list of Ratio
        Shortest distances as parts of the covalent radii.
    wrong : list of (int, str, str)
        Number, kind and sentence of what is wrong with images and labels.
    """

    indices: list[int] = field(default_factory=list)
    keys: list[bytes] = field(default_factory=list)
    energies: list[float] = field(default_factory=list)
    largest: list[float] = field(default_factory=list)
    squares: list[float] = field(default_factory=list)
    volumes: list[float] = field(default_factory=list)
    formulas: list[tuple[tuple[str, int], ...]] = field(default_factory=list)
    periodic: list[int] = field(default_factory=list)
    stresses: list[float] = field(default_factory=list)
    carried: Counter[str] = field(default_factory=Counter)
    pairs: Pairs = field(default_factory=dict)
    ratios: list[Ratio] = field(default_factory=list)
    wrong: list[tuple[int, str, str]] = field(default_factory=list)

    @classmethod
    def of(cls, images: Images, mine: Sequence[int], choice: Choice) -> Overview:
        """Look at some images of a set, in ascending order."""
        seen = cls()
        step = max(1, len(mine) // DISTANCES)
        for number, (index, image) in enumerate(images.read_many(mine, results=True)):
            if isinstance(image, ImageError):
                seen.wrong.append((index, unreadable(image), str(image)))
                continue
            if (wrong := problem(image)) is not None:
                seen.wrong.append((index, wrong.kind, wrong.sentence))
                continue
            seen._add(index, image, choice)
            if number % step == 0:
                distances = shortest(image)
                seen.pairs = merge([seen.pairs, distances])
                smallest = ratio(distances)
                if smallest is not None:
                    seen.ratios.append(Ratio(index, smallest, images.length_unit(index)))
        images.close()
        return seen

    def _add(self, index: int, image: Atoms, choice: Choice) -> None:
        energy = largest = squares = stress = float("nan")
        try:
            energy = energy_of(image, choice.keys)
        except LabelError as error:
            if error.kind != NO_ENERGY:
                self.wrong.append((index, error.kind, str(error)))
        try:
            forces = forces_of(image, choice.keys)
            if len(forces):
                lengths = np.einsum("ij,ij->i", forces, forces)
                largest, squares = float(np.sqrt(lengths.max())), float(lengths.mean() / 3.0)
        except LabelError as error:
            if error.kind != NO_FORCES:
                self.wrong.append((index, error.kind, str(error)))
        try:
            stress = float(np.abs(stress_of(image, choice.keys)).max())
        except LabelError as error:
            if error.kind not in (NO_STRESS, NO_CELL):
                self.wrong.append((index, error.kind, str(error)))
        self.carried.update({name for place, name in offers(image) if place != FLAGS})
        self.indices.append(index)
        self.keys.append(digest_image(image))
        self.energies.append(energy)
        self.largest.append(largest)
        self.squares.append(squares)
        self.stresses.append(stress)
        self.formulas.append(tuple(sorted(Counter(image.symbols).items())))
        n_periodic = int(image.pbc.sum())
        self.periodic.append(n_periodic)
        self.volumes.append(
            float(image.cell.volume) / len(image)
            if n_periodic == 3 and len(image)
            else float("nan")
        )

    @classmethod
    def joined(cls, parts: Iterable[Overview]) -> Overview:
        """Return what several ranks have seen, in the order of the images."""
        whole = cls()
        columns = (
            "indices", "keys", "energies", "largest", "squares", "stresses", "volumes",
            "formulas", "periodic", "ratios", "wrong",
        )  # fmt: skip
        for part in parts:
            for name in columns:
                getattr(whole, name).extend(getattr(part, name))
            whole.carried.update(part.carried)
            whole.pairs = merge([whole.pairs, part.pairs])
        return whole

    @property
    def elements(self) -> list[str]:
        """The elements, in alphabetical order."""
        return sorted({symbol for formula in set(self.formulas) for symbol, _ in formula})

    def facts(self) -> Facts:
        """Return the labels as arrays."""
        elements = self.elements
        rows = {
            formula: [dict(formula).get(element, 0) for element in elements]
            for formula in set(self.formulas)
        }
        composition = np.array([rows[formula] for formula in self.formulas], dtype=float)
        return Facts(
            np.array(self.indices, dtype=np.int64),
            np.array(self.keys, dtype="V16").view("S16") if self.keys else np.empty(0, "S16"),
            np.array(self.energies, dtype=float),
            np.array(self.largest, dtype=float),
            composition.reshape(len(self.formulas), len(elements)),
            tuple(elements),
            np.array(self.stresses, dtype=float),
        )

    def duplicates(self) -> list[int]:
        """Return the images that come a second time."""
        seen: set[bytes] = set()
        again = []
        for index, key in zip(self.indices, self.keys, strict=True):
            if key in seen:
                again.append(index)
            seen.add(key)
        return again

    def suspicious(self, ref: Callable[[int], ImageRef]) -> list[str]:
        """Return what is suspicious, a sentence each."""
        if not self.indices:
            return []
        return distance_doubts(self.ratios, ref) + label_doubts(self.facts(), ref)

    def lines(self, ref: Callable[[int], ImageRef], choice: Choice) -> list[str]:
        """Return all that is to be said, as lines."""
        if not self.indices:
            return self._wrong(ref)
        facts = self.facts()
        parts = [
            self._size(facts),
            self._labels(facts, ref, choice),
            self._compositions(),
            self._cells(),
            self._distances(),
            self._duplicates(ref),
            self._wrong(ref),
        ]
        return [line for part in parts for line in part]

    def _size(self, facts: Facts) -> list[str]:
        n_atoms = facts.n_atoms
        return [
            f"{amount(len(self.indices), 'image')} of {_range(n_atoms, '.0f')} atoms, "
            f"{int(n_atoms.sum())} atoms in all, of {', '.join(self.elements)}"
        ]

    def _labels(self, facts: Facts, ref: Callable[[int], ImageRef], choice: Choice) -> list[str]:
        lines = ["", "Labels"]
        if choice.note:
            lines.append(f"  {choice.note}")
        good = np.isfinite(facts.energies)
        if good.any():
            per_atom = facts.energies[good] / facts.n_atoms[good]
            lines.append(
                f"  energy      {amount(int(good.sum()), 'image')}, {_range(per_atom, '.4f')} "
                f"eV/atom, {_range(facts.energies[good], '.4f')} eV"
            )
        forced = np.isfinite(facts.largest_forces)
        if forced.any():
            top = int(np.nanargmax(facts.largest_forces))
            rms = float(np.sqrt(np.nanmean(np.array(self.squares))))
            lines.append(
                f"  forces      {amount(int(forced.sum()), 'image')}, rms {rms:.4g} eV/Å, largest "
                f"{facts.largest_forces[top]:.4g} eV/Å ({ref(int(facts.indices[top]))})"
            )
        stresses = np.array(self.stresses)
        if (stressed := np.isfinite(stresses)).any():
            lines.append(
                f"  stress      {amount(int(stressed.sum()), 'image')}, largest component "
                f"{stresses[stressed].max():.4g} eV/Å³"
            )
        for have, what in ((good, "energy"), (forced, "forces")):
            if not have.any():
                lines.append(f"  {what:<12}none")
            elif not have.all():
                without = map(ref, facts.indices[~have].tolist())
                lines.append(f"  no {what:<9}{named(without, 20)}")
        if self.carried:
            carried = sorted(self.carried.items(), key=lambda item: (-item[1], item[0]))
            shown = [
                plain(name, 60) + ("" if count == len(self.indices) else f" ({count} images)")
                for name, count in carried[:20]
            ]
            lines.append(f"  carried     {', '.join(shown)}")
        return lines

    def _compositions(self) -> list[str]:
        counts = Counter(self.formulas).most_common()
        lines = ["", "Compositions"]
        for formula, count in counts[:COMPOSITIONS]:
            text = "".join(f"{symbol}{n if n > 1 else ''}" for symbol, n in formula)
            lines.append(f"  {text:<20} {amount(count, 'image')}")
        if len(counts) > COMPOSITIONS:
            lines.append(f"  and {len(counts) - COMPOSITIONS} more")
        return lines

    def _cells(self) -> list[str]:
        names = {
            0: "not periodic",
            1: "periodic in one direction",
            2: "periodic in two directions",
            3: "periodic in all directions",
        }
        lines = ["", "Cells"]
        for number, count in sorted(Counter(self.periodic).items(), reverse=True):
            text = f"  {names[number]:<28}{amount(count, 'image')}"
            volumes = np.array(self.volumes)
            if number == 3:
                text += f", {_range(volumes[np.isfinite(volumes)], '.2f')} Å³ per atom"
            lines.append(text)
        return lines

    def _distances(self) -> list[str]:
        if not self.pairs:
            return []
        lines = ["", "Shortest distances, and as part of the sum of covalent radii"]
        for (a, b), distance in sorted(self.pairs.items()):
            part = ratio({(a, b): distance})
            lines.append(
                f"  {a + '-' + b:<8}{distance:8.3f} Å" + ("" if part is None else f"   {part:.2f}")
            )
        return lines

    def _duplicates(self, ref: Callable[[int], ImageRef]) -> list[str]:
        again = self.duplicates()
        if not again:
            return []
        which = f"{amount(len(again), 'image repeats', 'images repeat')} an earlier one"
        return ["", f"Duplicates: {which}: {named(map(ref, again), 20)}"]

    def _wrong(self, ref: Callable[[int], ImageRef]) -> list[str]:
        if not self.wrong:
            return []
        lines = ["", "Cannot be used"]
        for kind in sorted({kind for _, kind, _ in self.wrong}):
            some = sorted((index, text) for index, one, text in self.wrong if one == kind)
            predicate = kind if len(some) == 1 else kind.replace("has ", "have ", 1)
            which = named((ref(index) for index, _ in some), 20)
            first = f"; in the first, {some[0][1]}" if "…" in kind else ""
            lines.append(f"  {len(some)} {predicate}: {which}{first}")
        return lines


def _range(values: Any, form: str) -> str:
    low, high = format(float(np.min(values)), form), format(float(np.max(values)), form)
    return low if low == high else f"{low} to {high}"
