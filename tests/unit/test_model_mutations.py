"""Checkpoints and .amp files with wrong bytes: loaded right, or refused in one sentence."""

from __future__ import annotations

import io
import json
import os
import re
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_calculator import alloy, random_calculator

from ampmpi import Amp
from ampmpi.errors import ModelError
from ampmpi.model import amp_file, checkpoint

ARRAYS = {
    "best": np.arange(12.0),
    "best_value": np.array(0.5),
    "best_vector": np.arange(5.0),
    "latest": np.arange(5.0) + 1,
    "optimiser.losses": np.arange(2.0),
    "optimiser.points": np.arange(10.0).reshape(2, 5),
}
STATE = {"steps": 3, "seconds": 1.5, "outcome": None, "ends": {"maxiter": 9}, "results": ["a"]}
SETTINGS = {"images": "0" * 32, "loss": {"overfit": 0.0}, "hiddenlayers": [5, 4]}


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "t-checkpoint.npz"
    checkpoint.save(path, checkpoint.Checkpoint(SETTINGS, STATE, ARRAYS))
    return path


def is_right(found):
    return (
        found.settings == SETTINGS
        and found.state == STATE
        and all(np.array_equal(found.arrays[name], ARRAYS[name]) for name in found.arrays)
        and found.arrays.keys() == ARRAYS.keys()
    )


def loaded_right_or_refused(path, data):
    path.write_bytes(data)
    try:
        found = checkpoint.load(path)
    except ModelError as error:
        assert re.search(
            r"checkpoint .*t-checkpoint\.npz cannot be read \(.+\); remove", str(error)
        )
        return False
    assert is_right(found)
    return True


def test_a_checkpoint_with_any_byte_changed_is_loaded_right_or_refused(saved):
    data = saved.read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for i in range(len(data)):
        changed = bytearray(data)
        changed[i] ^= int(rng.integers(1, 256))
        refused += not loaded_right_or_refused(saved, bytes(changed))
    assert refused > len(data) / 2


def test_a_checkpoint_of_any_length_is_loaded_right_or_refused(saved):
    data = saved.read_bytes()
    for length in range(0, len(data), 7):
        assert not loaded_right_or_refused(saved, data[:length])
    assert loaded_right_or_refused(saved, data)


def header(shape, kind="<f8"):
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        stream, {"descr": kind, "fortran_order": False, "shape": shape}
    )
    return stream.getvalue()


def as_array(data):
    stream = io.BytesIO()
    np.save(stream, np.frombuffer(data, np.uint8))
    return stream.getvalue()


HEAD = {"format": checkpoint.FORMAT, "settings": SETTINGS, "state": STATE, "arrays": ["best"]}
HOSTILE = {
    "a huge shape": {"best.npy": header((10**15,))},
    "a huge shape of dimensions": {"best.npy": header((10**5, 10**5, 10**5))},
    "a negative shape": {"best.npy": header((-1,))},
    "objects": {"best.npy": header((1,), "|O") + b"cos\nsystem\n(S'false'\ntR."},
    "text": {"best.npy": header((1,), "<U4") + b"\0" * 16},
    "deep JSON": {"head.npy": as_array(b"[" * 100_000)},
    "deep settings": {
        "head.npy": as_array(
            json.dumps(HEAD).replace("[5, 4]", '{"a":' * 5000 + "1" + "}" * 5000).encode()
        )
    },
    "no state": {"head.npy": as_array(json.dumps({**HEAD, "state": None}).encode())},
    "steps of text": {
        "head.npy": as_array(json.dumps({**HEAD, "state": {**STATE, "steps": "3"}}).encode())
    },
    "another format": {"head.npy": as_array(json.dumps({**HEAD, "format": 1}).encode())},
    "no head": {},
    "a list": {"head.npy": as_array(b"[1, 2]")},
    "a part is missing": {"head.npy": as_array(json.dumps(HEAD).encode())},
}


@pytest.mark.parametrize("parts", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_checkpoint_made_to_harm_is_refused(saved, parts):
    with zipfile.ZipFile(saved, "w") as archive:
        for name, data in parts.items():
            archive.writestr(name, data)
        if parts and "head.npy" not in parts:
            archive.writestr("head.npy", as_array(json.dumps(HEAD).encode()))
    with pytest.raises(ModelError, match="cannot be read"):
        checkpoint.load(saved)


def test_a_checkpoint_that_would_unpack_to_much_is_refused(saved):
    with zipfile.ZipFile(saved, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("best.npy", header((10**7,)) + b"\0" * 80_000_000)
    with pytest.raises(ModelError, match="claims to be larger than it is"):
        checkpoint.load(saved)


@pytest.mark.parametrize("kind", ["fifo", "folder"])
def test_what_is_no_file_is_not_waited_for(tmp_path, kind):
    for name in ("t-checkpoint.npz", "t.amp"):
        (os.mkfifo if kind == "fifo" else os.mkdir)(tmp_path / name)
    with pytest.raises(ModelError, match="is not a regular file"):
        checkpoint.load(tmp_path / "t-checkpoint.npz")
    with pytest.raises(ModelError, match="is not a regular file"):
        amp_file.read(tmp_path / "t.amp")


def test_a_calculator_too_large_to_be_one_is_not_read(tmp_path):
    with open(tmp_path / "t.amp", "wb") as file:
        file.truncate(2**40)
    with pytest.raises(ModelError, match="is larger than 64 MB"):
        amp_file.read(tmp_path / "t.amp")


@pytest.fixture(scope="module")
def calculator_text(tmp_path_factory):
    path = tmp_path_factory.mktemp("amp") / "x.amp"
    random_calculator(alloy()).save(path)
    return path, path.read_bytes()


def loads_or_is_refused(path, data):
    path.write_bytes(data)
    try:
        Amp.load(path)
    except ModelError as error:
        assert str(path) in str(error)
        return False
    return True


def test_a_calculator_with_any_byte_changed_loads_or_is_refused(calculator_text):
    path, data = calculator_text
    rng = np.random.default_rng(1)
    letters = np.frombuffer(b"0129'\"()[]{},:=abexEfr+-. \\\n\0\xff_", np.uint8)
    outcomes = set()
    for i in [*range(0, 1500, 5), *rng.integers(0, len(data), 300)]:
        changed = bytearray(data)
        changed[i] = rng.choice(letters)
        outcomes.add(loads_or_is_refused(path, bytes(changed)))
    assert outcomes == {True, False}


VALUES = ["None", "-1", "0", "1e999", "0x" + "f" * 400, "[]", "{}", "()", "[[1]]", "{1: 2}",
          "True", "1.5", "Cu", "array([1])", "1j", "...", "1" * 5000]  # fmt: skip


@settings(deadline=None, max_examples=150)
@given(st.floats(0, 1), st.sampled_from(VALUES))
def test_a_calculator_with_any_value_changed_loads_or_is_refused(calculator_text, where, value):
    path, data = calculator_text
    text = data.decode()
    tokens = list(re.finditer(r"\w+=|'[A-Za-z]\w*'|-?\d[\d.e-]*|\[\]|None", text[:4000]))
    token = tokens[int(where * (len(tokens) - 1))]
    loads_or_is_refused(path, (text[: token.start()] + value + text[token.end() :]).encode())
