"""The page of areas estimated from reference points; pictures lie beside it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from segengine.report import rendered


def areas_page(values: Mapping[str, Any]) -> str:
    """HTML without a script, in the style of the report; whatever came from a file is escaped."""
    return rendered("areas.html", values)
