"""Prefect's settings, read without Prefect: as Prefect itself reads them."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from segengine_flows.settings import configured_url, home

A, B = "http://a:4200/api", "http://b:4200/api"
PROFILES = f"""
active = "team"
[profiles.team]
PREFECT_API_URL = "{A}"
PREFECT_HOME = "/prefect/team"
[profiles.alone]
PREFECT_SERVER_EPHEMERAL_ENABLED = "true"
[profiles.empty]
PREFECT_API_URL = ""
"""
CASES: dict[str, tuple[dict[str, str], dict[str, str]]] = {
    # name: environment, and files in the working directory, whose `home` is the user's
    "nothing": ({}, {}),
    "environment": ({"PREFECT_API_URL": A}, {}),
    "small letters": ({"prefect_api_url": A}, {}),
    "empty hides a file": ({"PREFECT_API_URL": ""}, {"prefect.toml": f'[api]\nurl = "{B}"'}),
    "dotenv": ({}, {".env": f"# Prefect\nexport PREFECT_API_URL='{A}'  # ours\n"}),
    "dotenv in words": ({"TEAM": "a"}, {".env": "prefect_api_url=http://${TEAM}:4200/api\n"}),
    "dotenv without a value": ({}, {".env": "PREFECT_API_URL\n"}),
    "environment before dotenv": ({"PREFECT_API_URL": A}, {".env": f"PREFECT_API_URL={B}\n"}),
    "prefect.toml": ({}, {"prefect.toml": f'[api]\nurl = "{A}"\n'}),
    "pyproject.toml": ({}, {"pyproject.toml": f'[tool.prefect.api]\nurl = "{A}"\n'}),
    "another's pyproject.toml": ({}, {"pyproject.toml": f'[tool.other.api]\nurl = "{A}"\n'}),
    "both": ({}, {
        "prefect.toml": f'[api]\nurl = "{A}"\n',
        "pyproject.toml": f'[tool.prefect.api]\nurl = "{B}"\n',
    }),
    "dotenv before prefect.toml": ({}, {
        ".env": f"PREFECT_API_URL={A}\n", "prefect.toml": f'[api]\nurl = "{B}"\n',
    }),
    "profile at home": ({}, {"home/.prefect/profiles.toml": PROFILES}),
    "profile of PREFECT_HOME": ({"PREFECT_HOME": "there"}, {"there/profiles.toml": PROFILES}),
    "no profiles there": ({"PREFECT_HOME": "there"}, {"home/.prefect/profiles.toml": PROFILES}),
    "a tilde": ({"PREFECT_HOME": "~/there"}, {"home/there/profiles.toml": PROFILES}),
    "another profile": (
        {"PREFECT_PROFILE": "alone"}, {"home/.prefect/profiles.toml": PROFILES},
    ),
    "an unknown profile": (
        {"PREFECT_PROFILE": "nobody"}, {"home/.prefect/profiles.toml": PROFILES},
    ),
    "a profile's empty URL": (
        {"PREFECT_PROFILE": "empty"}, {"home/.prefect/profiles.toml": PROFILES},
    ),
    "an empty profile's name": (
        {"PREFECT_PROFILE": ""}, {"home/.prefect/profiles.toml": PROFILES},
    ),
    "a profile that Prefect brings": ({"PREFECT_PROFILE": "local"}, {}),
    "that one, and a home": ({"PREFECT_PROFILE": "local", "PREFECT_HOME": "there"}, {}),
    "profile elsewhere": ({"PREFECT_PROFILES_PATH": "mine.toml"}, {"mine.toml": PROFILES}),
    "nowhere": (
        {"PREFECT_PROFILES_PATH": "none.toml"}, {"home/.prefect/profiles.toml": PROFILES},
    ),
    "profile by dotenv": (
        {}, {".env": "PREFECT_PROFILES_PATH=mine.toml\n", "mine.toml": PROFILES},
    ),
    "profile by prefect.toml": (
        {}, {"prefect.toml": 'profiles_path = "mine.toml"\n', "mine.toml": PROFILES},
    ),
    "profile by pyproject.toml": ({}, {
        "pyproject.toml": '[tool.prefect]\nprofiles_path = "mine.toml"\n', "mine.toml": PROFILES,
    }),
    "file before profile": ({}, {
        "prefect.toml": f'home = "/prefect/file"\n[api]\nurl = "{B}"\n',
        "home/.prefect/profiles.toml": PROFILES,
    }),
    "test mode": ({"PREFECT_TEST_MODE": "1"}, {"home/.prefect/profiles.toml": PROFILES}),
    "home by dotenv": ({}, {".env": "PREFECT_HOME=~/x\n", "home/.prefect/profiles.toml": PROFILES}),
}  # fmt: skip


@pytest.fixture
def set_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Environment and files of a case, in an empty folder."""
    for name in os.environ:
        if name.upper().startswith("PREFECT"):
            monkeypatch.delenv(name)

    def put(case: str) -> None:
        environment, files = CASES[case]
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
        for key, value in environment.items():
            monkeypatch.setenv(key, value)
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        monkeypatch.chdir(tmp_path)

    return put


@pytest.mark.parametrize("case", CASES)
def test_the_api_and_the_home_are_those_that_prefect_finds(
    case: str, set_up: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    import prefect.settings

    set_up(case)
    # Prefect asks for the user's folder once, when it is loaded.
    monkeypatch.setattr("prefect.settings.sources.DEFAULT_PREFECT_HOME", Path.home() / ".prefect")
    found = prefect.settings.Settings()
    assert configured_url() == (found.api.url or None)
    assert home() == found.home


def test_the_cases_are_of_every_kind(set_up: Callable[[str], None]) -> None:
    """So that the comparison above cannot hold for a reader that finds nothing."""
    set_up("profile at home")
    assert configured_url() == A
    assert home() == Path("/prefect/team")


@pytest.mark.parametrize("name", ["profiles.toml", "prefect.toml", "pyproject.toml"])
def test_a_broken_file_names_no_api(
    name: str, tmp_path: Path, set_up: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    set_up("nothing")
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    (tmp_path / name).write_text("active = [broken")
    assert configured_url() is None
    (tmp_path / name).write_text('profiles = 1\nactive = ["a"]\napi = 2\ntool = {prefect = 3}')
    assert configured_url() is None


def test_prefect_is_not_loaded_for_it() -> None:
    code = (
        "import sys; from segengine_flows.settings import configured_url; configured_url(); "
        "sys.exit('prefect' in sys.modules)"
    )
    environment = os.environ | {"PREFECT_PROFILE": "local"}
    assert subprocess.run([sys.executable, "-P", "-c", code], env=environment).returncode == 0
