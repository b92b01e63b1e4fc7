"""Whose code may run, by the environment."""

from __future__ import annotations

import pytest

from segengine.guards.trust import ALLOW, is_forbidden


@pytest.mark.parametrize(
    ("value", "forbidden"),
    [
        ("0", True),
        ("00", True),
        (" False ", True),
        ("no", True),
        ("never", True),
        ("1", False),
        ("TRUE", False),
        ("", False),
    ],
)
def test_a_word_that_is_not_known_forbids(
    value: str, forbidden: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ALLOW, value)
    assert is_forbidden() is forbidden
