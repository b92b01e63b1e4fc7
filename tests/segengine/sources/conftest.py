"""What several tests of sources read."""

import tarfile
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent / "fixtures" / "pystac.tar.xz"
"""Of pystac's own tests and manual (github.com/stac-utils/pystac, Apache-2.0)."""


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Catalogs that pystac is tried on, unpacked."""
    folder = tmp_path_factory.mktemp("pystac")
    with tarfile.open(EXAMPLES) as held:
        held.extractall(folder, filter="data")
    return folder
