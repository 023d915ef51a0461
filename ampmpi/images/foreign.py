"""Files of other programs that ASE does not read: what they are, and what converts them."""

from __future__ import annotations

HEAD = 4096

BEGINNINGS = [
    (
        b"\x89HDF",
        "an HDF5 file: ASE knows no images in it; write its arrays as extended XYZ with the "
        "library that made it, or with h5py and ase.io.write",
    ),
    (
        b"PK\x03\x04",
        "a zip file, perhaps numpy's .npz as of MD17: load it with numpy and write its arrays as "
        "extended XYZ with ase.io.write",
    ),
    (
        b"\x93NUMPY",
        "a numpy array, perhaps of a DeePMD system: dpdata converts the folder "
        "(dpdata.LabeledSystem(FOLDER, 'deepmd/npy').to_ase_structure())",
    ),
    (
        b"\x80\x04",
        "a Python pickle, which is not opened because it can run code: load it with the program "
        "that made it and write the images as a .traj with ase.io.write",
    ),
]

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


def foreign(path: str) -> str | None:
    """Return what a file is that ASE cannot read but a user may have, and what converts it."""
    with open(path, "rb") as file:
        head = file.read(HEAD)
        size = file.seek(0, 2)
        file.seek(max(size - HEAD, 0))
        tail = file.read(HEAD)
    if b"BEGIN_CFG" in head:
        return (
            "a .cfg file of MLIP (moment tensor potentials), which ASE does not read: convert it "
            "to extended XYZ; the documentation's page on your own data has the lines for that"
        )
    if b"Version" in head[:80] and b"The number of configurations" in head:
        return "an ML_AB file of VASP: convert it with pymlff (mlff write-extxyz ML_AB ML_AB.xyz)"
    for start, what in BEGINNINGS:
        if head.startswith(start):
            return what
    if head.lstrip()[:1] in (b"{", b"[") and b'"nextid"' not in tail and b'"ids"' not in tail:
        return next(
            (what for sign, what in JSON if sign in head),
            "JSON, but no database of ASE: make ASE Atoms of what it holds and write them as "
            "extended XYZ with ase.io.write",
        )
    return None
