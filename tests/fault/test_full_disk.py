"""Nothing is lost on a full disk, and what is wrong is said."""

import subprocess
import sys

import pytest
from faults import HERE


def run(what, folder, *prefix):
    """Run a part of ``full_disk.py``; return what it counted."""
    command = [*prefix, sys.executable, HERE / "full_disk.py", what, folder]
    done = subprocess.run(command, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr
    lines = (line.rsplit(maxsplit=1) for line in done.stdout.splitlines())
    return {name: int(number) for name, number in lines}


def namespace():
    """Return what gives a command a mount namespace of its own, or None."""
    for prefix in (["unshare", "-m"], ["unshare", "-Urm"]):
        trial = [*prefix, "mount", "-t", "tmpfs", "none", "/mnt"]
        if subprocess.run(trial, capture_output=True).returncode == 0:
            return prefix
    return None


def test_full_disk(tmp_path):
    prefix = namespace()
    if prefix is None:
        pytest.skip("needs the right to mount a tmpfs")
    counts = run("full_disk", tmp_path, *prefix)
    assert counts["put failed"] >= 3
    assert counts["compress failed"] >= 5
    assert counts["put succeeded"] >= 60
    assert counts["checks"] == 120


def test_limited_files(tmp_path):
    counts = run("limited_files", tmp_path)
    assert counts["put failed"] >= 3
    assert counts["compress failed"] >= 3
    assert min(counts["put succeeded"], counts["compress succeeded"]) >= 5
    assert counts["checks"] == 40
