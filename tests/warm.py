"""Have the kernels compiled into the cache that every test then loads them from."""

from ampmpi.parallel import launch

launch.prepare()

from ampmpi.parallel.comm import world  # noqa: E402
from ampmpi.parallel.kernels import warm_up  # noqa: E402

for package in ("ampmpi.descriptor", "ampmpi.descriptor.strain_warmup", "ampmpi.model"):
    warm_up(world(), package)
