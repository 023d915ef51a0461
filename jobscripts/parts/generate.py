"""Write the job scripts from their parts: ``python jobscripts/parts/generate.py``.

Each script has to be whole, as ``sbatch`` copies it away from whatever lies beside it. What they
share is therefore put into each of them: a line ``@NAME WORDS`` in a part stands for the part
NAME, in which ``@WORDS`` becomes these words.
"""

from __future__ import annotations

from pathlib import Path

PARTS = Path(__file__).parent
KINDS = ("fingerprint", "train", "committee", "compress")


def part(name: str, words: str = "") -> str:
    """Return a part, with those that it names put in."""
    lines = []
    for line in (PARTS / f"{name}.sh").read_text(encoding="utf-8").splitlines():
        if line.startswith("@"):
            inner, _, given = line[1:].partition(" ")
            lines.append(part(inner, given))
        else:
            lines.append(line.replace("@WORDS", words))
    return "\n".join(lines)


def scripts() -> dict[str, str]:
    """Return each script by the name of its file."""
    return {f"{kind}.sh": part(kind) + "\n" for kind in KINDS}


if __name__ == "__main__":
    for file, text in scripts().items():
        (PARTS.parent / file).write_text(text, encoding="utf-8")
