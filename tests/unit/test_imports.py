"""Who may import whom, and what no part of the package does."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "ampmpi"
MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts): ast.parse(path.read_text())
    for path in sorted(PACKAGE.rglob("*.py"))
}
BASE = {"errors", "keys", "heap", "parameters", "text"}
MAY_IMPORT = {
    **{name: set() for name in BASE},
    "files": BASE,
    "entries": BASE,
    "images": BASE,
    "descriptor": BASE | {"entries"},
    "parallel": BASE,
    "model": BASE | {"entries", "files"},
    "database": BASE | {"entries", "files"},
}
USE_OTHERS = {
    "amp", "cli", "evaluation", "plots", "report", "fingerprinting", "functions", "training",
    "lammps", "members", "calculator", "committee", "on_atoms", "potential"
}  # fmt: skip
WHEN_CALLED = {
    "descriptor.gaussian": {"functions"},  # Gaussian.from_images
    "descriptor.amp_methods": {"fingerprinting"},  # Amp's calculate_fingerprints
    "model.amp_methods": {"training"},  # Amp's fit
}


def imported(tree: ast.AST, package: str) -> Iterator[str]:
    """Yield the full name of every module that is imported anywhere in a tree."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parent = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parent, base]).strip(".")
            yield base
            if base == "ampmpi":
                yield from (f"ampmpi.{alias.name}" for alias in node.names)


def parts_used(name: str) -> set[str]:
    is_package = (PACKAGE / name.replace(".", "/")).is_dir() or name.endswith("__init__")
    package = f"ampmpi.{name}".removesuffix(".__init__")
    if not is_package:
        package = package.rpartition(".")[0]
    names = imported(MODULES[name], package)
    return {full.split(".")[1] for full in names if full.startswith("ampmpi.")}


@pytest.mark.parametrize("name", [name for name in MODULES if name.split(".")[0] in MAY_IMPORT])
def test_parts_do_not_know_each_other(name):
    part = name.split(".")[0]
    when_called = WHEN_CALLED.get(name, set())
    assert parts_used(name) <= {part, *MAY_IMPORT[part], *when_called}
    assert not {one.split(".")[0] for one in imported_at_once(name)} & when_called


def test_a_descriptor_is_known_by_its_public_names():
    """One module still takes a name from inside; none may follow."""
    import ampmpi.descriptor

    public = set(ampmpi.descriptor.__all__)
    inside = {
        name.removeprefix("descriptor.") for name in MODULES if name.startswith("descriptor.")
    }
    users = set()
    for name, tree in MODULES.items():
        if name.split(".")[0] in {"descriptor", "__init__"}:
            continue
        for node in ast.walk(tree):
            full = set(imported(node, f"ampmpi.{name}".rpartition(".")[0]))
            if any(module.startswith("ampmpi.descriptor.") for module in full):
                users.add(name)
            if full == {"ampmpi.descriptor"} and isinstance(node, ast.ImportFrom):
                assert {alias.name for alias in node.names} <= public - inside, name
    assert users == set()


def test_every_module_has_a_place():
    known = {*MAY_IMPORT, *USE_OTHERS, "__init__", "__main__"}
    assert {name.split(".")[0] for name in MODULES} <= known


def imported_at_once(name: str) -> set[str]:
    """Return the modules of ours that are imported when a module is, and not only when it works."""
    body = [node for node in MODULES[name].body if not isinstance(node, ast.If)]
    base, names = ast.Module(body, []), set()
    for node in ast.walk(base):
        if isinstance(node, ast.FunctionDef):
            node.body = []
    for full in imported(base, f"ampmpi.{name}".rpartition(".")[0]):
        names.add(full.removeprefix("ampmpi."))
    for node in body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ampmpi."):
            names |= {f"{node.module}.{alias.name}".removeprefix("ampmpi.") for alias in node.names}
    return (names & MODULES.keys()) - {name}


@pytest.mark.parametrize("room", ["files", "entries", "database", "fingerprinting", "parallel"])
def test_modules_of_a_room_know_each_other_one_way(room):
    """No circle: each module knows only such as do not know it."""
    known = {name: imported_at_once(name) for name in MODULES if name.split(".")[0] == room}
    known = {name: {one for one in ones if one in known} for name, ones in known.items()}
    while known:
        lowest = {name for name, ones in known.items() if not ones}
        assert lowest, f"there is a circle in {known}"
        known = {name: ones - lowest for name, ones in known.items() if name not in lowest}


OPERATIONS = {"database.compress", "database.merge", "database.check", "database.database"}


def test_floors_of_the_database():
    """The archive knows bytes only, the parts of a directory no archive, the store no operation."""
    for name in MODULES:
        used = imported_at_once(name)
        if name.startswith("database.archive."):
            above = {one for one in used if one.startswith("database.")}
            assert all(one.startswith("database.archive.") for one in above), name
        if name in ("database.layout", "database.manifest", "database.lock"):
            assert not {one for one in used if one.startswith("database.archive.")}, name
        if name in ("database.store", "database.sound", "database.loose", "database.workers"):
            assert not used & OPERATIONS, name


def outside(name: str, allowed: set[str]) -> bool:
    return not any(name == home or name.startswith(f"{home}.") for home in allowed)


@pytest.mark.parametrize(
    ("library", "homes"),
    [
        ("mpi4py", {"parallel", "lammps"}),
        ("click", {"cli"}),
        ("signal", {"cli", "parallel.launch", "database.workers"}),
        ("numba", {"descriptor", "cli", "parallel.launch", "model"}),
    ],
)
def test_library_is_imported_only_at_home(library, homes):
    users = {
        name
        for name, tree in MODULES.items()
        if any(full.split(".")[0] == library for full in imported(tree, "ampmpi"))
    }
    assert {name for name in users if outside(name, homes)} == set()


@pytest.mark.parametrize(
    ("attribute", "homes"),
    [("os.environ", {"cli", "parallel.launch"}), ("sys.argv", {"cli"})],
)
def test_surroundings_are_read_only_at_home(attribute, homes):
    users = {
        name
        for name, tree in MODULES.items()
        if any(
            isinstance(node, ast.Attribute) and ast.unparse(node) == attribute
            for node in ast.walk(tree)
        )
    }
    assert {name for name in users if outside(name, homes)} == set()


def test_nothing_that_is_read_can_run():
    forbidden = {"eval", "exec", "load", "loads", "Unpickler", "extract", "extractall"}
    modules = {"pickle", "tarfile", "builtins"}
    for name, tree in MODULES.items():
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            owner, _, last = called.rpartition(".")
            assert not (owner in modules and last in forbidden), f"{name} calls {called}"
            assert called not in {"eval", "exec"}, f"{name} calls {called}"
            assert last not in {"extract", "extractall"}, f"{name} calls {called}"


def test_importing_the_package_loads_no_library():
    heavy = ["numpy", "ase", "numba", "scipy", "mpi4py", "matplotlib", "click"]
    code = f"import sys, ampmpi; print(*(set({heavy}) & set(sys.modules)))"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.split() == []


def test_training_members_and_calculator_make_no_circle():
    """The calculator imports trainings when it trains; nothing of these imports it."""
    for part in ("training", "members", "evaluation", "plots", "report", "model", "fingerprinting"):
        names = [name for name in MODULES if name.split(".")[0] == part]
        assert names
        for name in names:
            assert "calculator" not in parts_used(name), name
            if part != "training":
                assert "training" not in parts_used(name) - WHEN_CALLED.get(name, set()), name
    at_start = {
        full
        for node in MODULES["calculator"].body
        if isinstance(node, ast.Import | ast.ImportFrom)
        for full in imported(node, "ampmpi")
    }
    assert not any(full.startswith(("ampmpi.training", "ampmpi.members")) for full in at_start)
