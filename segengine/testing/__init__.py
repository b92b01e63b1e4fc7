"""Suites that the author of a plug-in subclasses, and pytest runs: what the engine relies on, tried.

    from segengine.testing import SegmenterTests

    class TestMine(SegmenterTests):
        def make(self):
            return Mine(radius=3)

Each law that does not hold fails with one line: what is wrong, and what to do.
"""

from segengine.testing.clusters import ClusterTests
from segengine.testing.exports import ExportTests
from segengine.testing.measures import LossTests, MetricTests
from segengine.testing.segmenters import SegmenterTests, SurveyorTests
from segengine.testing.sources import SourceTests

__all__ = [
    "ClusterTests",
    "ExportTests",
    "LossTests",
    "MetricTests",
    "SegmenterTests",
    "SourceTests",
    "SurveyorTests",
]
