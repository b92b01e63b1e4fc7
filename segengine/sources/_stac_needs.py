"""What `kind: stac` takes from the extra `earth`, and what is said where that is not installed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from segengine.errors import JobError


@contextmanager
def need(package: str) -> Iterator[None]:
    """An import of a package of the extra; without it JobError with the remedy."""
    try:
        yield
    except ImportError as error:
        raise JobError(
            f"source.kind: stac needs {package.replace('_', '-')} for this, which is not installed "
            f"({error}); python -m pip install 'segengine[earth]'"
        ) from error
