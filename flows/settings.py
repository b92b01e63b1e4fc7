"""What Prefect is told of its API and its folder, read where Prefect reads it, without loading it.

    environment > .env > prefect.toml > [tool.prefect] of pyproject.toml > the active profile

Files without a path lie in the working directory. What is empty counts as not given.
"""

from __future__ import annotations

import importlib.util
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

TEST_MODES = (
    "PREFECT_TEST_MODE",
    "PREFECT_UNIT_TEST_MODE",
    "PREFECT_TESTING_UNIT_TEST_MODE",
    "PREFECT_TESTING_TEST_MODE",
)
"""Where one of these is set, Prefect reads no profile."""


def configured_url() -> str | None:
    """The API that is configured, in the environment, a file or the active profile."""
    return _setting("api", "url")


def home() -> Path:
    """Prefect's folder: settings, and the database of the embedded API."""
    return Path(_setting("home") or "~/.prefect").expanduser()


def _setting(*keys: str) -> str | None:
    """A setting by its place in Prefect's TOML files."""
    name = "_".join(("prefect", *keys)).upper()
    for found in (
        {key.upper(): value for key, value in os.environ.items()}.get(name),
        {key.upper(): value for key, value in _dotenv().items()}.get(name),
        *(_within(table, keys) for table in _tables()),
    ):
        if found is not None:
            return str(found) or None
    found = _profile().get(name)
    return str(found) if found else None


def _dotenv() -> Mapping[str, str | None]:
    if not os.path.isfile(".env"):
        return {}
    from dotenv import dotenv_values

    return dotenv_values(".env")


def _tables() -> tuple[Any, Any]:
    """Prefect's tables of prefect.toml and of pyproject.toml."""
    return _read("prefect.toml"), _within(_read("pyproject.toml"), ("tool", "prefect"))


def _read(path: str | Path) -> Any:
    """A TOML file; nothing where it cannot be read, which is for Prefect to tell."""
    try:
        with open(path, "rb") as file:
            return tomllib.load(file)
    except (OSError, ValueError):
        return {}


def _within(table: Any, keys: tuple[str, ...]) -> Any:
    for key in keys:
        table = table.get(key) if isinstance(table, dict) else None
    return table


def _profile() -> Mapping[str, Any]:
    """The settings of the active profile; of the one that Prefect comes with, none is of an API."""
    if any(os.environ.get(name) for name in TEST_MODES):
        return {}
    read = _read(_profiles_path())
    active = os.environ.get("PREFECT_PROFILE") or _within(read, ("active",))
    found = _within(read, ("profiles", active)) if isinstance(active, str) else None
    return found if isinstance(found, dict) else {}


def _profiles_path() -> Path:
    given = os.environ.get("PREFECT_PROFILES_PATH") or _dotenv().get("PREFECT_PROFILES_PATH")
    for table in _tables():
        given = given or _within(table, ("profiles_path",))
    if given:
        return Path(given)
    if os.environ.get("PREFECT_HOME"):
        return Path(os.environ["PREFECT_HOME"], "profiles.toml")
    own = Path.home() / ".prefect/profiles.toml"
    return own if own.exists() else _shipped_profiles()


def _shipped_profiles() -> Path:
    """The profiles that come with Prefect, of which `PREFECT_PROFILE` may name one."""
    spec = importlib.util.find_spec("prefect")
    return (
        Path(spec.origin if spec and spec.origin else "prefect").parent / "settings/profiles.toml"
    )
