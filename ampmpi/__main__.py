"""``python -m ampmpi``: the same as the command ``ampmpi``."""

from ampmpi.cli.main import ampmpi

if __name__ == "__main__":
    ampmpi()
