"""Images that cannot be trained on: all of them named at once, or left out when asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ampmpi.errors import ImageError, UnusableImagesError
from ampmpi.images import ImageRef
from ampmpi.images.checks import problem, unreadable
from ampmpi.images.doubts import SHOWN, named
from ampmpi.images.labels import NO_CELL, NO_ENERGY, NO_FORCES, NO_STRESS, Choice
from ampmpi.text import amount

if TYPE_CHECKING:
    from ase import Atoms

NO_FORCES_ADVICE = "train energies alone with --no-forces, or in a script without force criteria"
NO_STRESS_ADVICE = "train without stresses: leave --stress-coefficient (stress_coefficient) out"
NAMED = 50
"""So many runs of images of a kind are named where they are refused."""

SKIP_ADVICE = "train on the others with --skip-unusable (skip_unusable=True in a script)"
KEY_ADVICE = (
    "give the names of the labels with --energy-key and --forces-key (energy_key and forces_key "
    "in a script)"
)

STRESS_KEY_ADVICE = "give the name of the stresses with --stress-key (stress_key in a script)"


@dataclass(frozen=True)
class Unusable:
    """One image that cannot be trained on.

    Attributes
    ----------
    index : int
        Its number.
    kind : str
        What is wrong, the same for all images of a kind: "has no energy".
    sentence : str
        The image and what is wrong with it.
    """

    index: int
    kind: str
    sentence: str


def hindrance(ref: ImageRef, index: int, image: Atoms | ImageError) -> Unusable | None:
    """Say why an image can have no fingerprint, whatever the descriptor; None if it can."""
    if isinstance(image, ImageError):
        return Unusable(index, unreadable(image), f"{ref}: {image}")
    wrong = problem(image)
    return None if wrong is None else Unusable(index, wrong.kind, f"{ref} {wrong.sentence}")


def complaint(
    unusable: Sequence[Unusable], n_images: int, choice: Choice, ref: Callable[[int], ImageRef]
) -> UnusableImagesError:
    """Return the error for images that cannot be trained on: it names all of them."""
    kinds = {one.kind for one in unusable}
    n = len(unusable)
    if n == n_images and len(kinds) == 1 and kinds <= {NO_ENERGY, NO_FORCES, NO_STRESS}:
        return _nothing(unusable, choice)
    advice = [NO_FORCES_ADVICE] if NO_FORCES in kinds else []
    advice += [NO_STRESS_ADVICE] if kinds & {NO_STRESS, NO_CELL} else []
    if n == 1:
        return UnusableImagesError(
            f"{unusable[0].sentence}; {advice[0] if advice else 'take it out of the set'}"
            + (f", or {SKIP_ADVICE}" if n_images > 1 else "")
        )
    lines = by_kind(unusable, ref, NAMED)
    advice.insert(0, SKIP_ADVICE if n < n_images else KEY_ADVICE)
    return UnusableImagesError(
        "\n".join(
            [
                f"{n} of {n_images} images cannot be trained on:",
                *(f"  {line}" for line in lines[:SHOWN]),
                *([f"  and {len(lines) - SHOWN} more kinds"] if len(lines) > SHOWN else []),
                ", or ".join(advice),
            ]
        )
    )


def _nothing(unusable: Sequence[Unusable], choice: Choice) -> UnusableImagesError:
    """Return the error where all images lack one kind of label."""
    first = unusable[0]
    kind = {NO_ENERGY: "energy", NO_FORCES: "forces", NO_STRESS: "stress"}[first.kind]
    name = choice.keys.get(kind)
    others = f", nor {'has' if len(unusable) == 2 else 'have'} the {len(unusable) - 1} others"
    other = {NO_FORCES: NO_FORCES_ADVICE, NO_STRESS: NO_STRESS_ADVICE}.get(first.kind)
    alone = "" if other is None else f", or {other}"
    key_advice = STRESS_KEY_ADVICE if first.kind == NO_STRESS else KEY_ADVICE
    return UnusableImagesError(
        f"{first.sentence} under the name '{name}'{others if len(unusable) > 1 else ''}: "
        f"{choice.found}; {key_advice}{alone}"
    )


def by_kind(
    unusable: Sequence[Unusable], ref: Callable[[int], ImageRef], most: int | None = None
) -> list[str]:
    """Return a line for each kind of what is wrong, with how many images and which."""
    lines = []
    for kind in sorted({one.kind for one in unusable}):
        some = sorted((one for one in unusable if one.kind == kind), key=lambda one: one.index)
        predicate = kind if len(some) == 1 else kind.replace("has ", "have ", 1)
        which = named((ref(one.index) for one in some), most)
        first = f"; the first is {some[0].sentence}" if "…" in kind else ""
        lines.append(f"{len(some)} {predicate}: {which}{first}")
    return lines


def left_out(
    unusable: Sequence[Unusable],
    lacking: Mapping[str, Sequence[int]],
    given_for_validation: range,
    ref: Callable[[int], ImageRef],
) -> list[str]:
    """Return what is said of images that are left out, and of those that lack a kind of label.

    `lacking` has the numbers of the latter. Images that were given for validation are counted
    apart.
    """
    lines = []
    for numbers, purpose in (
        (range(given_for_validation.start), ""),
        (given_for_validation, " to validate on"),
    ):
        some = [one for one in unusable if one.index in numbers]
        if some:
            why = "; ".join(by_kind(some, ref, SHOWN))
            n = amount(len(numbers), "image")
            lines.append(f"{len(some)} of {n}{purpose} left out: {why}")
        for what, which in lacking.items():
            alone = sorted(index for index in which if index in numbers)
            if alone:
                how = "validated" if purpose else "trained"
                by = "by energy alone" if what == "forces" else "without it"
                lines.append(
                    f"{amount(len(alone), 'image')} without {what}, {how} on {by}: "
                    f"{named(map(ref, alone), SHOWN)}"
                )
    return lines


def of_no_weight(zeros: Mapping[str, Sequence[int]], ref: Callable[[int], ImageRef]) -> list[str]:
    """Return what is said of images of weight 0, whose numbers `zeros` has for each kind of label.

    Those of which nothing is trained make up one line.
    """
    whole = set.intersection(*(set(numbers) for numbers in zeros.values()))
    lines = []
    for kind, numbers in {"": sorted(whole), **zeros}.items():
        some = sorted(index for index in numbers if not kind or index not in whole)
        if some:
            it, is_, its = ("it", "is", "its") if len(some) == 1 else ("they", "are", "their")
            what = f"{amount(len(some), 'image')} with the weight 0"
            if kind:
                noun = {"energy": "energies", "stress": "stresses"}.get(kind, kind)
                of = kind if len(some) == 1 else noun
                lines.append(
                    f"{what} for {its} {of}, which {'is' if of in ('energy', 'stress') else 'are'} "
                    f"not trained on, and in no errors: {named(map(ref, some), SHOWN)}"
                )
            else:
                lines.append(
                    f"{what}: {it} {is_} described, but not trained on, and in no errors: "
                    f"{named(map(ref, some), SHOWN)}"
                )
    return lines
