"""The files that take longest come first, so that two processes end at about the same time."""

from __future__ import annotations

import pytest

LONGEST = ("test_training_accuracy.py", "test_training.py", "test_check.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    place = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.name, len(LONGEST)))
