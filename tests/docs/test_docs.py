"""The examples of README.md and docs/*.md run, page by page and in their order."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.io import write
from pace import stretched

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(
    r"(?P<skip><!-- not run: [^>]+ -->\n+)?"
    r"^```(?P<kind>python|console|\{code-block\} (?:python|text)\n:caption: (?P<file>\S+)\n)\n"
    r"(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


def script(page: str) -> str:
    """Return one Python script that does what the examples of a page say."""
    parts = ["import subprocess"]
    for block in BLOCK.finditer(page):
        if block["skip"]:
            continue
        if block["file"]:
            parts.append(f"open({block['file']!r}, 'w').write({block['text']!r})")
        elif block["kind"] == "python":
            parts.append(block["text"])
        else:
            lines = block["text"].replace("\\\n", " ").splitlines()
            parts += [
                f"subprocess.run({line[2:]!r}, shell=True, check=True, stdin=subprocess.DEVNULL)"
                for line in lines
                if line.startswith("$ ")
            ]
    return "\n".join(parts) if len(parts) > 1 else ""


def write_images(folder: Path) -> None:
    """Write what the examples take for granted: a few images of copper and platinum."""
    images = []
    for seed in range(8):
        atoms = bulk("Cu", cubic=True)
        atoms.symbols[0] = "Pt"
        atoms.rattle(0.1, seed=seed)
        atoms.calc = EMT()
        atoms.get_forces()
        images.append(atoms)
    write(folder / "images.traj", images[:6])
    write(folder / "held-out.traj", images[6:])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_examples_run(page, tmp_path):
    code = script(page.read_text())
    if not code:
        return
    write_images(tmp_path)
    (tmp_path / "examples.py").write_text(code)
    tools = Path(sys.executable).parent
    result = subprocess.run(
        [sys.executable, "examples.py"],
        cwd=tmp_path,
        env={**os.environ, "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=stretched(280),
    )
    assert result.returncode == 0, f"{result.stdout}\n{result.stderr}"


def test_blocks_are_found_and_marked_ones_left_out():
    page = (
        "```python\nx = 1\n```\n\n<!-- not run: needs SLURM -->\n```console\n$ sbatch a\n```\n"
        "```console\n$ echo a \\\n  b\nb\n```\n```sh\nnever\n```\n"
        "```{code-block} python\n:caption: own.py\n\ny = 2\n```\n"
    )
    assert script(page).splitlines() == [
        "import subprocess",
        "x = 1",
        "",
        "subprocess.run('echo a    b', shell=True, check=True, stdin=subprocess.DEVNULL)",
        r"open('own.py', 'w').write('y = 2\n')",
    ]


def test_links_between_pages_lead_somewhere():
    for page in [*PAGES, ROOT / "CONTRIBUTING.md"]:
        for target in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
