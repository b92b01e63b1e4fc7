"""What `kind: stac` says where a package of its extra is missing."""

import pytest

from segengine.errors import JobError
from segengine.sources._stac_needs import need


def test_a_missing_package_is_the_jobs_trouble() -> None:
    said = "stac needs pystac-client for this, which is not"
    with pytest.raises(JobError, match=said) as caught, need("pystac_client"):
        raise ImportError("No module named 'pystac_client'")
    assert caught.value.exit_code == 2
