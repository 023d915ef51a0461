import os

import pytest
import soak

SECONDS = float(os.environ.get("AMPMPI_SOAK_SECONDS", "60"))


@pytest.mark.timeout(SECONDS + 300)
def test_everything_at_once_and_random_kills(tmp_path):
    totals, problems = soak.soak(SECONDS, str(tmp_path))
    print(totals)
    assert problems == []
    assert [totals[name] for name in ("lost", "undead", "wrong", "errors")] == [0] * 4
    for name in (
        "puts",
        "appends",
        "packs",
        "saves",
        "gets",
        "many",
        "owned",
        "deletes",
        "compressions",
        "checks",
    ):
        assert totals[name] >= 5
    assert totals["merges"] >= 1
    assert sum(totals["kills"].values()) >= 20
