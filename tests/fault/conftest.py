"""The shim that places faults, compiled once."""

import pytest
from faults import compile_shim


@pytest.fixture(scope="session")
def shim(tmp_path_factory):
    """Path of the compiled shim."""
    return compile_shim(tmp_path_factory.mktemp("shim"))
