"""Files of other programs that ASE does not read: what they are, and what converts them."""

from __future__ import annotations

import re
import zlib
from pathlib import Path

HEAD = 4096

ACE = (
    "a compressed Python pickle, perhaps a data frame of pacemaker (ACE), which is not opened "
    "because it can run code: load it with pandas.read_pickle and write its ase_atoms, energy and "
    "forces as extended XYZ with ase.io.write"
)

NO_IMAGES = [
    (
        b"version https://git-lfs.",
        "a pointer of Git LFS and not the file itself: get that with 'git lfs pull'",
    ),
    (b"<!doctype html", "a web page, perhaps what a failed download left: get the file again"),
    (b"<html", "a web page, perhaps what a failed download left: get the file again"),
]
"""What may be in the place of any file, whatever its name."""

BEGINNINGS = [
    (
        b"\x89HDF",
        "an HDF5 file: ASE knows no images in it; write its arrays as extended XYZ with the "
        "library that made it, or with h5py and ase.io.write",
    ),
    (b"(\xb5/\xfd", "compressed with zstd, which ASE does not read: unpack it with unzstd"),
    (b"BZh", "a bzip2 file: ASE reads it if its name ends like that of the file in it, .xyz.bz2"),
    (
        b"PAR1",
        "a Parquet file: load it with pandas.read_parquet and write its images as extended XYZ "
        "with ase.io.write",
    ),
    (
        b"ARROW1",
        "an Arrow file: load it with pyarrow or datasets and write its images as extended XYZ with "
        "ase.io.write",
    ),
    (
        b"\x93NUMPY",
        "a numpy array, perhaps of a DeePMD system: dpdata converts the folder "
        "(dpdata.LabeledSystem(FOLDER, 'deepmd/npy').to_ase_structure())",
    ),
    *(
        (
            b"\x80" + bytes([protocol]),
            "a Python pickle, which is not opened because it can run code: load it with the "
            "program that made it and write the images as a .traj with ase.io.write",
        )
        for protocol in range(2, 6)
    ),
]

DEEPMD = (
    "of a DeePMD system: dpdata converts the folder "
    "(dpdata.LabeledSystem(FOLDER, 'deepmd/{}').to_ase_structure())"
)

RAW = re.compile(r"(type|type_map|box|coord|energy|force|virial)\.raw")

JSON = [
    (
        b'"@module"',
        "JSON of pymatgen: convert its structures with pymatgen.io.ase.AseAtomsAdaptor and write "
        "them as extended XYZ",
    ),
    (
        b'"lattice_mat"',
        "JSON of JARVIS: convert it with jarvis.core.atoms.Atoms.from_dict(...).ase_converter()",
    ),
    (
        b'"Dataset"',
        "JSON of FitSNAP: make ASE Atoms of its Positions, Lattice, Energy and Forces and write "
        "them as extended XYZ with ase.io.write",
    ),
]


def foreign(path: str, format: str = "") -> str | None:
    """Return what a file is that ASE cannot read but a user may have, and what converts it.

    Parameters
    ----------
    path : str
        The file.
    format : str
        What ASE takes it for: it goes by the ending of some names, which other programs use, too.
    """
    with open(path, "rb") as file:
        head = file.read(HEAD)
        size = file.seek(0, 2)
        file.seek(max(size - HEAD, 0))
        tail = file.read(HEAD)
    start = head.lstrip().lower()
    for sign, what in NO_IMAGES:
        if start.startswith(sign):
            return what
    if format == "lammps-dump-text":
        return _dump(head)
    if format in ("xyz", "extxyz"):
        return _qm9(head)
    if format not in ("", "cfg", "json"):
        return None
    return _other(Path(path).name, head, tail)


def is_runner(path: str) -> bool:
    """Return whether a file begins as RuNNer's do, whatever its name."""
    with open(path, "rb") as file:
        return file.read(HEAD).split()[:1] == [b"begin"]


def foreign_folder(path: str) -> str | None:
    """Return what a folder is if another program made it, and what converts it."""
    if not Path(path, "type.raw").exists():
        return None
    return "the folder " + DEEPMD.format("npy" if any(Path(path).glob("set.*")) else "raw")


def _other(name: str, head: bytes, tail: bytes) -> str | None:
    if b"BEGIN_CFG" in head:
        return (
            "a .cfg file of MLIP (moment tensor potentials), which ASE does not read: convert it "
            "to extended XYZ; the documentation's page on your own data has the lines for that"
        )
    if b"Version" in head[:80] and b"The number of configurations" in head:
        return "an ML_AB file of VASP: convert it with pymlff (mlff write-extxyz ML_AB ML_AB.xyz)"
    if RAW.fullmatch(name):
        return "a file " + DEEPMD.format("raw")
    if head[16:20] == b"\xde\xc0\xef\xbe":
        return (
            "an LMDB database, perhaps of fairchem (OC20, OMat24): read it with "
            "fairchem.core.datasets.AseDBDataset and write its Atoms as extended XYZ with "
            "ase.io.write"
        )
    if head[257:262] == b"ustar":
        return "a tar archive: unpack it with tar -xf and name the files in it"
    if head.startswith(b"PK\x03\x04"):
        return (
            "a zip file of numpy arrays, .npz as of MD17: load it with numpy and write its arrays "
            "as extended XYZ with ase.io.write"
            if b".npy" in head[:200]
            else "a zip archive: unpack it with unzip and name the files in it"
        )
    if head.startswith(b"\x1f\x8b"):
        return _gzipped(head)
    for sign, what in BEGINNINGS:
        if head.startswith(sign):
            return what
    if head.lstrip()[:1] in (b"{", b"[") and b'"nextid"' not in tail and b'"ids"' not in tail:
        return next(
            (what for sign, what in JSON if sign in head),
            "JSON, but no database of ASE: make ASE Atoms of what it holds and write them as "
            "extended XYZ with ase.io.write",
        )
    return None


def _gzipped(head: bytes) -> str:
    try:
        inside = zlib.decompressobj(wbits=31).decompress(head, HEAD)
    except zlib.error:
        return "a damaged gzip file: get it again"
    if inside[257:262] == b"ustar":
        return "a compressed tar archive: unpack it with tar -xf and name the files in it"
    if inside[:1] == b"\x80":
        return ACE
    return "a gzip file: ASE reads it if its name ends like that of the file in it, as in .xyz.gz"


def _dump(head: bytes) -> str | None:
    columns = re.search(rb"^ITEM: ATOMS (.*)$", head, re.MULTILINE)
    if columns is None or {b"element", b"mass"} & set(columns[1].split()):
        return None
    return (
        "a LAMMPS dump without elements, of which ASE takes the types for atomic numbers: dump the "
        "element, too (dump_modify ID element ...), or write it as .traj with the elements that "
        "you give to ase.io.read(..., format='lammps-dump-text', specorder=[...])"
    )


def _qm9(head: bytes) -> str | None:
    lines = head.split(b"\n", 2)
    if len(lines) < 3 or not lines[1].startswith(b"gdb "):
        return None
    return (
        "a file of QM9 with lines that are no XYZ: in Python, leave out the last three, replace "
        "*^ by e, and write its energy, the 13th word of line 2, in Hartree, and its atoms with "
        "ase.io.write"
    )
