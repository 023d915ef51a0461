import os

import pytest
import soak

SECONDS = float(os.environ.get("AMPMPI_SOAK_SECONDS", "60"))


@pytest.mark.timeout(SECONDS + 300)
def test_writers_readers_compressors_and_random_kills(tmp_path):
    totals, problems = soak.soak(SECONDS, str(tmp_path))
    print(totals)
    assert problems == []
    assert (totals["lost"], totals["wrong"], totals["errors"]) == (0, 0, 0)
    for name in ("puts", "gets", "many", "compressions"):
        assert totals[name] >= 5
    assert sum(totals["kills"].values()) >= 20
