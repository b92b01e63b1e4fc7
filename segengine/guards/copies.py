"""A model's files where nobody else can change them: what is digested and checked is what is loaded."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

MOST_FILES = 10_000
"""Files of one model."""


@contextmanager
def copied(files: Iterable[tuple[Path, str]], base: Path | None = None) -> Iterator[Path]:
    """A private folder with copies of files under the names given, while the context lasts.

    base: the model's folder, which no link in it may lead out of. Raises ValueError. One that is
    raised while it lasts names the files that were copied, and not their copies.
    """
    given = list(files)
    with tempfile.TemporaryDirectory(prefix="segengine-") as folder:
        add(Path(folder), given, base)
        try:
            yield Path(folder)
        except ValueError as error:
            text = str(error)
            for file, name in given:
                text = text.replace(str(Path(folder, name)), str(file))
            if text == str(error):
                raise
            raise ValueError(text) from error


def add(folder: Path, files: Iterable[tuple[Path, str]], base: Path | None = None) -> None:
    """Copies of more files, as `copied` takes them."""
    for count, (file, name) in enumerate(files, 1):
        if count > MOST_FILES:
            raise ValueError(f"it has more than {MOST_FILES} files; give the model's own folder")
        if base is not None:
            check_inside(file, base, name)
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        copy(file, target, name)


def copy(file: Path, target: Path, name: str) -> None:
    """The bytes of a regular file, never of a pipe or a device. Raises ValueError."""
    # A pipe would wait for its writer for ever.
    with open(os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as source:
        if not stat.S_ISREG(os.fstat(source.fileno()).st_mode):
            raise ValueError(f"{name} is no plain file and is refused")
        with target.open("xb") as made:
            shutil.copyfileobj(source, made, 1 << 20)


def check_inside(file: Path, base: Path, name: str) -> None:
    """Raise ValueError where a file, followed through links, lies outside of a model's folder."""
    if not file.resolve().is_relative_to(base.resolve()):
        raise ValueError(f"{name} leads out of the model's folder and is refused")
