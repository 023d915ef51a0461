"""Numbers with their nouns, and text of unknown origin on its way to a terminal."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ampmpi.text import amount, figures, plain, size


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("images.traj", "images.traj"),
        ("Ångström, 水, 𝜂", "Ångström, 水, 𝜂"),
        ("red \x1b[31m text", "red ?[31m text"),
        ("\x9b2Jcleared", "?2Jcleared"),
        ("bell\a, back\b, null\0, delete\x7f", "bell?, back?, null?, delete?"),
        ("one\nampmpi: forged\r\tline\x85", "one?ampmpi: forged??line?"),
        ("\u2028line and paragraph\u2029", "?line and paragraph?"),
        ("\u202aa\u202eb\u2066c\u2069", "?a?b?c?"),
        ("", ""),
    ],
)
def test_what_a_terminal_would_act_on_is_replaced(given, expected):
    assert plain(given) == expected


def test_a_long_text_is_cut():
    assert plain("x" * 200) == "x" * 200
    assert plain("x" * 201) == "x" * 199 + "…"
    assert plain("\x1b" * 10**7, limit=3) == "??…"


@given(st.text(), st.integers(1, 50))
def test_any_text_is_one_short_line_without_controls(text, limit):
    safe = plain(text, limit)
    assert len(safe) <= limit
    assert len(safe.splitlines()) <= 1
    bidi = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
    for character in safe:
        assert unicodedata.category(character) not in {"Cc", "Zl", "Zp"}
        assert unicodedata.bidirectional(character) not in bidi
    assert plain(safe, limit) == safe


def test_amounts_and_sizes():
    assert amount(1, "image") == "1 image"
    assert amount(0, "image") == "0 images"
    assert amount(2, "entry", "entries") == "2 entries"
    assert [size(n) for n in (0, 999, 1000, 999_500, 12_345_678, 10**15)] == [
        "0 bytes",
        "999 bytes",
        "1 kB",
        "1 MB",
        "12.3 MB",
        "1 PB",
    ]


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.01234, "0.0123"), (12.34, "12.3"), (999.4, "999"), (1272.4, "1272"), (3e12, "3e+12")],
)
def test_large_numbers_have_no_exponent(value, text):
    assert figures(value, 3) == text
