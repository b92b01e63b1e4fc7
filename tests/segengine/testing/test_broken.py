"""Plug-ins that break one law each: the suite says which, in one line. A sound one of each kind passes."""

from __future__ import annotations

import contextlib
import itertools
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

import segengine
from segengine.dispatch.pool import InProcess
from segengine.errors import CorruptInputError, JobError
from segengine.segmenters.meanshift import MeanShift
from segengine.segmenters.meanshift import create as mean_shift
from segengine.testing import (
    ClusterTests,
    ExportTests,
    LossTests,
    MetricTests,
    SegmenterTests,
    SourceTests,
    SurveyorTests,
)
from segengine.testing._pictures import picture
from segengine.types import Prediction, Probe, Tile, Truth, Unreadable


def failures(base: type, made: Any, only: Sequence[str] = (), **parts: Any) -> list[str]:
    """What the suite of a kind says of a plug-in, law by law."""
    body = {"make": lambda self, *folder: made(*folder), **parts}
    suite = type("TestIt", (base,), body)
    said = []
    for name in only or [name for name in dir(suite) if name.startswith("test_")]:
        try:
            getattr(suite(), name)()
        except AssertionError as error:
            said.append(str(error))
    return said


def assert_says(said: list[str], pattern: str) -> None:
    assert [text for text in said if re.search(pattern, text)], said
    for text in said:
        assert "\n" not in text
        assert len(text) < 400


# Segmenters


@dataclass(frozen=True)
class Blur:
    """Brighter than its surroundings."""

    radius: int = 2
    classes = ("dark", "bright")
    stride = 1

    def __post_init__(self) -> None:
        if not (isinstance(self.radius, int) and self.radius >= 0):
            raise ValueError(f"radius: must be a whole number from 0, got {self.radius!r}")

    @property
    def halo(self) -> int:
        return self.radius

    def segment(self, pixels: Any) -> Prediction:
        gray = pixels.astype(np.int64).sum(axis=-1)
        r, (_, h, w) = self.radius, gray.shape
        near = np.pad(gray, ((0, 0), (r, r), (r, r)))
        side = range(2 * r + 1)
        total = sum(near[:, y : y + h, x : x + w] for y in side for x in side)
        return Prediction((gray * len(side) ** 2 > total).astype(np.uint8))


class ShortSighted(Blur):
    """Its halo is smaller than what it looks at."""

    @property
    def halo(self) -> int:
        return self.radius - 1


class Moody(Blur):
    """Throws dice."""

    def segment(self, pixels: Any) -> Prediction:
        found = super().segment(pixels)
        dice = np.random.default_rng(random.getrandbits(32)).random(found.labels.shape)
        return replace(found, labels=found.labels ^ (dice < 0.5).astype(np.uint8))


class Scribbler(Blur):
    """Works in the pixels that it is given."""

    def segment(self, pixels: Any) -> Prediction:
        found = super().segment(pixels)
        pixels[..., 0] = 0
        return found


class Signed(Blur):
    def segment(self, pixels: Any) -> Prediction:
        return Prediction(super().segment(pixels).labels.astype(np.int64))


class Anything(Blur):
    def __init__(self, **options: Any) -> None:
        super().__init__(options.get("radius", 2))


class Lax(Blur):
    def __post_init__(self) -> None:
        pass


class Meddler(Blur):
    """A frame's labels depend on the others of its call."""

    def segment(self, pixels: Any) -> Prediction:
        found = super().segment(pixels)
        return replace(found, labels=found.labels ^ np.uint8(len(pixels) > 1))


class Clinging(Blur):
    """Keeps how large the first picture was."""

    def segment(self, pixels: Any) -> Prediction:
        self.__dict__.setdefault("first", pixels.shape[1] > 20)
        found = super().segment(pixels)
        return replace(found, labels=found.labels ^ np.uint8(self.__dict__["first"]))


class Timid(Blur):
    """Divides by the contrast."""

    def segment(self, pixels: Any) -> Prediction:
        if pixels.min() == pixels.max():
            raise ZeroDivisionError("no contrast")
        return super().segment(pixels)


def hidden() -> Any:
    class Inner(Blur):
        pass

    return Inner()


def test_a_sound_segmenter_passes() -> None:
    assert failures(SegmenterTests, Blur, refused={"radius": [-1, "x"]}) == []


@pytest.mark.parametrize(
    ("made", "pattern"),
    [
        (ShortSighted, r"ShortSighted labels rows .* otherwise .* its halo 1 or stride 1 is too small"),
        (Moody, r"Moody\.segment gives other labels when it is asked again; seed what is random"),
        (Scribbler, r"Scribbler\.segment changes the pixels that it is given; work on a copy"),
        (Signed, r"Signed\.segment .* int64 labels; they must be unsigned; return a Prediction"),
        (Clinging, r"Clinging labels rows .* otherwise when a frame is cut there"),
        (Timid, r"Timid\.segment of .* pixels raised ZeroDivisionError: no contrast"),
        (Meddler, r"Meddler\.segment labels a frame otherwise when others share its call"),
        (Anything, r"Anything takes no_such_option=1 without a word; name each option"),
        (hidden, r"Inner is made inside a function, where no worker can find it"),
        (lambda: NoSurveyor(), r"surveys before it labels; subclass SurveyorTests"),
    ],
)  # fmt: skip
def test_a_broken_segmenter_is_told_what_is_wrong(made: Any, pattern: str) -> None:
    assert_says(failures(SegmenterTests, made), pattern)


@pytest.mark.parametrize(
    ("options", "pattern"),
    [
        ({}, r"gives other labels made from its options; let it hold what decides"),
        ({"radius": np.int64(5)}, r"options that travelled as JSON raised TypeError"),
        ({"radius": 5}, ""),
    ],
    ids=["not all of them", "no plain value", "sound"],
)
def test_what_a_worker_makes_from_its_options_is_compared(
    options: dict[str, Any], pattern: str
) -> None:
    law = ["test_it_labels_alike_on_a_worker"]
    said = failures(
        SegmenterTests, lambda: Blur(5), law, sent=False, options=options, factory=lambda _: Blur
    )
    if not pattern:
        assert said == []
    else:
        assert_says(said, pattern)


def test_a_bad_value_that_is_taken_is_named() -> None:
    said = failures(SegmenterTests, Lax, refused={"radius": [-1]})
    assert_says(said, r"Lax takes radius=-1 without a word; raise ValueError\('radius: ")


class Shortsighted(MeanShift):
    """Regions by less context than they need."""

    halo = 1


def test_what_merges_regions_sees_as_far_as_it_needs() -> None:
    sound = mean_shift(spatial=2, range=40, iterations=2, min_size=9)
    only = ["test_tiled_equals_whole"]
    assert failures(SegmenterTests, lambda: sound, only) == []
    parts = (sound.filter, sound.near, sound.like, sound.least, sound.drops)
    said = failures(SegmenterTests, lambda: Shortsighted(*parts), only)
    assert_says(said, "Shortsighted finds other regions when a frame is cut; its halo 1")


# Surveyors


@dataclass(frozen=True)
class Above:
    """Above a level."""

    level: float
    classes = ("low", "high")
    halo = 0
    stride = 1

    def segment(self, pixels: Any) -> Prediction:
        return Prediction((pixels[..., 0] > self.level).astype(np.uint8))


class Mean:
    """Above the mean: its state is (sum, count)."""

    classes = ("low", "high")
    scope = "run"

    def survey(self, pixels: Any, valid: Any) -> Any:
        return int(pixels[valid][:, 0].sum()), int(valid.sum())

    def merge(self, a: Any, b: Any) -> Any:
        return a[0] + b[0], a[1] + b[1]

    def fit(self, state: Any) -> Above:
        return Above(state[0] / max(1, state[1]))


class MeanOfMeans(Mean):
    """Halves at each merge."""

    def survey(self, pixels: Any, valid: Any) -> Any:
        return float(pixels[valid][:, 0].mean()) if valid.any() else 0.0, 1

    def merge(self, a: Any, b: Any) -> Any:
        return (a[0] + b[0]) / 2, 1


class Blind(Mean):
    """Takes nodata for pixels."""

    def survey(self, pixels: Any, valid: Any) -> Any:
        return int(pixels[..., 0].sum()), valid.size


class Greedy(Mean):
    """Merges into the state that it is given."""

    def survey(self, pixels: Any, valid: Any) -> Any:
        return list(super().survey(pixels, valid))

    def merge(self, a: Any, b: Any) -> Any:
        a[0] += b[0]
        a[1] += b[1]
        return a


class Handle(Mean):
    """Keeps what cannot be stored."""

    def survey(self, pixels: Any, valid: Any) -> Any:
        return iter(super().survey(pixels, valid))


class Hungry(Mean):
    """Asks for a pixel at least."""

    def fit(self, state: Any) -> Above:
        return Above(state[0] / state[1])


class Hasty(Mean):
    """Labels a frame by another level than it fits."""

    def label_frame(self, pixels: Any, valid: Any) -> tuple[Above, Prediction]:
        found = self.fit(self.survey(pixels, valid))
        return found, Above(found.level / 2).segment(pixels)


class NoSurveyor(Mean):
    scope = "all"  # type: ignore[assignment]


def test_a_sound_surveyor_passes() -> None:
    assert failures(SurveyorTests, Mean) == []


@pytest.mark.parametrize(
    ("made", "pattern"),
    [
        (MeanOfMeans, r"MeanOfMeans\.merge gives other states in another order or grouping; add int"),
        (Blind, r"Blind\.survey looks at pixels where `valid` is False; take pixels\[valid\]"),
        (Greedy, r"Greedy\.merge changes a state that it is given; return a new one"),
        (Hungry, r"Hungry\.fit of nodata alone raised ZeroDivisionError: .*all of it becomes void"),
        (Handle, r"storing Handle's state raised TypeError: .*; build it of numbers, strings"),
        (Hasty, r"Hasty\.label_frame gives other labels than survey, fit and segment"),
        (NoSurveyor, r"NoSurveyor\.scope is 'all'; it is one of frame, scene, run"),
        (Blur, r"Blur has no survey; subclass SegmenterTests"),
    ],
)  # fmt: skip
def test_a_broken_surveyor_is_told_what_is_wrong(made: Any, pattern: str) -> None:
    only = ["test_it_is_a_surveyor"] if made is Blur else []
    if made is Handle:
        only = ["test_states_and_fits_can_be_committed"]
    assert_says(failures(SurveyorTests, made, only), pattern)


# Sources


@dataclass(frozen=True)
class Raw:
    """`.raw` files: RAW, height and width, then rows of gray bytes."""

    invert: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.invert, bool):
            raise ValueError(f"invert: must be true or false, got {self.invert!r}")

    def probe(self, entry: Any) -> Probe:
        with self._errors():
            pixels = self._pixels(entry.uri)
        return Probe("x", *pixels.shape[:2], 1, "uint8")

    def read(self, frames: Any, rows: slice, cols: slice) -> Iterator[Tile | Unreadable]:
        for frame in frames:
            try:
                with self._errors():
                    yield self._tile(self._pixels(frame.uri), rows, cols)
            except CorruptInputError as error:
                yield Unreadable("corrupt", str(error))

    def _tile(self, pixels: Any, rows: slice, cols: slice) -> Tile:
        return Tile(pixels[rows, cols])

    def _pixels(self, uri: str) -> Any:
        data = Path(uri).read_bytes()
        height, width = data[3], data[4]
        if data[:3] != b"RAW" or len(data) != 5 + height * width:
            raise ValueError("is no whole RAW file")
        pixels = np.frombuffer(data[5:], np.uint8).reshape(height, width, 1)
        return 255 - pixels if self.invert else pixels

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError, IndexError) as error:
            raise CorruptInputError(str(error)) from error


class Kinded(Raw):
    """What a job names, so that its probe says its own kind."""

    def probe(self, entry: Any) -> Probe:
        return replace(super().probe(entry), kind=f"{__name__}:{type(self).__qualname__}")


class Whole(Kinded):
    """Gives the frame where a window is asked."""

    def _tile(self, pixels: Any, rows: slice, cols: slice) -> Tile:
        return Tile(pixels)


class Upside(Kinded):
    """Counts rows from below."""

    def _tile(self, pixels: Any, rows: slice, cols: slice) -> Tile:
        return Tile(pixels[::-1][rows, cols])


class Raises(Kinded):
    """Ends with the first bad frame."""

    def read(self, frames: Any, rows: slice, cols: slice) -> Iterator[Tile | Unreadable]:
        for frame in frames:
            yield self._tile(self._pixels(frame.uri), rows, cols)


class Liar(Kinded):
    """Its header says another dtype."""

    def probe(self, entry: Any) -> Probe:
        return replace(super().probe(entry), dtype="uint16")


def raws(kind: type, folder: Path) -> Any:
    frames = {}
    for i in range(2):
        pixels = picture(i, (30 + i, 41), 1)
        data = b"RAW" + bytes(pixels.shape[:2]) + pixels.tobytes()
        (folder / f"{i}.raw").write_bytes(data)
        frames[f"{i}.raw"] = pixels
    return {"kind": f"{__name__}:{kind.__qualname__}", "paths": [str(folder / "*.raw")]}, frames


def of_source(kind: type, **parts: Any) -> list[str]:
    return failures(SourceTests, lambda folder: raws(kind, folder), **parts)


def test_a_sound_source_passes() -> None:
    assert of_source(Kinded, refused={"invert": ["yes"]}) == []


@pytest.mark.parametrize(
    ("kind", "pattern"),
    [
        (Whole, r"Whole: .*: read gives \(3\d, 41, 1\) of uint8, and it is .*exactly the rows and"),
        (Upside, r"Upside: .*: read gives other pixels than make says"),
        (Raises, r"Raises\.read raised ValueError: is no whole RAW file; yield Unreadable"),
        (Liar, r"Liar probes 0\.raw as .*'uint16'\), and it is .*let probe say what read returns"),
    ],
)
def test_a_broken_source_is_told_what_is_wrong(kind: type, pattern: str) -> None:
    assert_says(of_source(kind), pattern)


# Metrics


class Count(NamedTuple):
    right: int = 0
    scored: int = 0


@dataclass(frozen=True)
class Right:
    """Share of pixels that are right."""

    classes: tuple[str, ...] = ("a", "b")
    truth_classes: tuple[str, ...] = ()

    def empty(self) -> Any:
        return Count()

    def update(self, state: Any, prediction: Prediction, truth: Any) -> Any:
        true = truth.labels if isinstance(truth, Truth) else truth
        known = true != 255
        right = int((prediction.labels == true)[known].sum())
        return self.merge(state, Count(right, int(known.sum())))

    def merge(self, a: Any, b: Any) -> Any:
        return Count(a.right + b.right, a.scored + b.scored)

    def compute(self, state: Any) -> Mapping[str, Any]:
        return {"right": state.right / state.scored if state.scored else None}


class Floats(Right):
    """Adds shares, whose sum depends on their order."""

    def empty(self) -> Any:
        return 0.0

    def update(self, state: Any, prediction: Prediction, truth: Any) -> Any:
        one = Right().update(Count(), prediction, truth)
        return state + one.right / max(1, one.scored)

    def merge(self, a: Any, b: Any) -> Any:
        return a + b

    def compute(self, state: Any) -> Mapping[str, Any]:
        return {"right": state}


class Counted(Right):
    """Counts windows as frames."""

    def update(self, state: Any, prediction: Prediction, truth: Any) -> Any:
        return self.merge(state, Count(len(prediction.labels), 1))


class Spending(Right):
    """Uses its state up."""

    def empty(self) -> Any:
        return [0, 0]

    def update(self, state: Any, prediction: Prediction, truth: Any) -> Any:
        return self.merge(state, Right().update(Count(), prediction, truth))

    def merge(self, a: Any, b: Any) -> Any:
        return [a[0] + b[0], a[1] + b[1]]

    def compute(self, state: Any) -> Mapping[str, Any]:
        state[1] += 1
        return {"right": state[0] / state[1]}


class Nan(Right):
    def compute(self, state: Any) -> Mapping[str, Any]:
        return {"right": float(np.float64(state.right) / state.scored if state.scored else np.nan)}


class Biased(Right):
    """Its empty state is not nothing."""

    def empty(self) -> Any:
        return Count(1, 1)


@dataclass(frozen=True)
class NoTruth:
    """Takes no classes of the truth."""

    classes: tuple[str, ...] = ("a", "b")
    empty, update, merge, compute = Right.empty, Right.update, Right.merge, Right.compute


def test_a_sound_metric_passes() -> None:
    assert failures(MetricTests, Right) == []


@pytest.mark.parametrize(
    ("made", "pattern"),
    [
        (Floats, r"Floats\.merge gives other states in another order or grouping; keep integers"),
        (Counted, r"Counted has another state when a frame is cut; say `whole = True`"),
        (Spending, r"Spending\.compute changes the state that it is given; work on a copy"),
        (Nan, r"writing Nan's figures as JSON raised ValueError: .*None in place of NaN"),
        (
            Biased,
            r"Biased\.merge with empty\(\) changes a state; let empty\(\) be what adds nothing",
        ),
        (NoTruth, r"NoTruth takes no truth_classes; the engine gives it both by name"),
    ],
)
def test_a_broken_metric_is_told_what_is_wrong(made: Any, pattern: str) -> None:
    assert_says(failures(MetricTests, made), pattern)


# Losses


@dataclass(frozen=True)
class Fold:
    """Mean of 1 - the probability of the true class, in 2^-20."""

    classes: tuple[str, ...]
    needs = ("probabilities", "truth")
    offset = 0.0

    def empty(self) -> Any:
        return 0, 0

    def update(self, state: Any, prediction: Prediction, truth: Any) -> Any:
        true = truth.labels if isinstance(truth, Truth) else truth
        p = prediction.probabilities
        assert p is not None
        known = (true < len(self.classes)) & ~np.isnan(p[..., 0])
        taken = np.take_along_axis(p[known], true[known][:, None].astype(int), -1)
        total = int(np.round((1 - taken.astype(np.float64)) * 2**20).sum())
        return self.merge(state, (total, int(known.sum())))

    def merge(self, a: Any, b: Any) -> Any:
        return a[0] + b[0], a[1] + b[1]

    def compute(self, state: Any) -> Mapping[str, Any]:
        return {"loss": state[0] / 2**20 / state[1] + self.offset if state[1] else None}


class Shifted(Fold):
    offset = 0.5


class Doubling(Fold):
    def merge(self, a: Any, b: Any) -> Any:
        return a[0] + 2 * b[0], a[1] + b[1]


@dataclass(frozen=True)
class Miss:
    """1 - the probability of the true class."""

    def statistic(self, classes: Sequence[str]) -> Any:
        return Fold(tuple(classes))

    def keras(self) -> Any:
        return lambda labels, p: np.mean(
            1 - np.take_along_axis(p, np.asarray(labels)[..., None].astype(int), -1)
        )


class Disagrees(Miss):
    def statistic(self, classes: Sequence[str]) -> Any:
        return Shifted(tuple(classes))


class Ordered(Miss):
    def statistic(self, classes: Sequence[str]) -> Any:
        return Doubling(tuple(classes))


class Logs(Miss):
    """Takes the logarithm of nothing."""

    def keras(self) -> Any:
        def loss(labels: Any, p: Any) -> Any:
            with np.errstate(divide="ignore"):
                return np.mean(-np.log(np.take_along_axis(p, labels[..., None].astype(int), -1)))

        return loss


class NoLoss:
    pass


def test_a_sound_loss_passes() -> None:
    assert failures(LossTests, Miss) == []


@pytest.mark.parametrize(
    ("made", "pattern"),
    [
        (Disagrees, r"Disagrees is 0\.\d+ in training and \d\.\d+ when it is measured; make them"),
        (Ordered, r"Doubling\.merge gives other states in another order or grouping"),
        (Logs, r"Logs\.keras\(\) is inf where predictions are wrong; clip what a logarithm"),
        (NoLoss, r"NoLoss is no loss; give it statistic\(classes\), keras\(\) or both"),
    ],
)
def test_a_broken_loss_is_told_what_is_wrong(made: Any, pattern: str) -> None:
    assert_says(failures(LossTests, made), pattern)


# Exports


def arrays(store_path: str, to: str, *, suffix: str = ".npy") -> list[str]:
    """Each mask as NumPy has it."""
    store, written = segengine.open_store(store_path), []
    for name, scene in store.scenes.items():
        path = Path(to) / f"{name}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            np.save(file, np.asarray(scene.mask))
        written.append(str(path))
    return written


def silent(store_path: str, to: str) -> list[str]:
    """Does not say all that it writes."""
    return arrays(store_path, to)[1:]


_times = itertools.count()


def dated(store_path: str, to: str) -> list[str]:
    """Writes what changes from one time to the next."""
    written = arrays(store_path, to)
    with open(written[0], "ab") as file:
        file.write(bytes([next(_times)]))
    return written


def littering(store_path: str, to: str) -> list[str]:
    """Leaves a file in the store."""
    Path(store_path, f"export-{next(_times)}.log").write_text("exported")
    return arrays(store_path, to)


def careless(store_path: str, to: str) -> list[str]:
    """Takes any folder for a store."""
    return arrays(store_path, to) if Path(store_path, "zarr.json").exists() else []


def test_a_sound_export_passes() -> None:
    assert failures(ExportTests, lambda: arrays) == []


@pytest.mark.parametrize(
    ("export", "pattern"),
    [
        (silent, r"silent writes .*north.*\.npy and does not name it; return all files"),
        (dated, r"dated writes other bytes to .*\.npy the second time; leave out times"),
        (littering, r"littering changes the store; write below `to`, and only read the store"),
        (careless, r"careless takes a folder that is no store without a word; open it with"),
    ],
)
def test_a_broken_export_is_told_what_is_wrong(export: Any, pattern: str) -> None:
    assert_says(failures(ExportTests, lambda: export), pattern)


# Clusters: those laws that need no worker to die, with pools in this process


class Dropping(InProcess):
    """Loses the last outcome."""

    def dispatch(self, works: Any, **limits: Any) -> Any:
        yield from list(super().dispatch(works, **limits))[:-1]


class Trusting(InProcess):
    """Takes a Retry for a value."""

    def dispatch(self, works: Any, **limits: Any) -> Any:
        return super().dispatch(works, **{**limits, "retries": 0})


class Hoarding(InProcess):
    """Holds all works."""

    def dispatch(self, works: Any, **limits: Any) -> Any:
        return super().dispatch(list(works), **limits)


def factory(kind: type, strict: bool = True) -> Any:
    @contextlib.contextmanager
    def cluster(spec: Any, tasks: int) -> Iterator[Any]:
        if strict and spec.options:
            raise JobError(f"cluster.options: {', '.join(spec.options)}: there are none")
        yield kind()

    return cluster


LAWS = [
    "test_every_work_ends_once",
    "test_a_transient_failure_is_tried_again",
    "test_a_lost_store_ends_the_run",
    "test_few_works_are_held_at_a_time",
    "test_an_unknown_option_is_refused",
]


def test_a_pool_in_this_process_passes_what_it_can() -> None:
    assert failures(ClusterTests, lambda: factory(InProcess), LAWS) == []
    only = ["test_what_was_started_is_ended"]
    said = failures(ClusterTests, lambda: factory(InProcess), only)
    assert_says(said, r"cluster works in the driver's own process; start workers that can crash")


@pytest.mark.parametrize(
    ("kind", "strict", "pattern"),
    [
        (Dropping, True, r"cluster gives 29 outcomes of 30 works; yield one for each, once"),
        (Trusting, True, r"cluster does not try again what fails once; run it as attempt 2"),
        (Hoarding, True, r"cluster takes all of 2000 works before the first one ends"),
        (
            InProcess,
            False,
            r"cluster takes options\.no_such_option=1 without a word; raise JobError",
        ),
    ],
)
def test_a_broken_cluster_is_told_what_is_wrong(kind: type, strict: bool, pattern: str) -> None:
    assert_says(failures(ClusterTests, lambda: factory(kind, strict), LAWS), pattern)


def test_a_suite_without_make_says_what_it_needs() -> None:
    for base in (SegmenterTests, SourceTests, ExportTests, ClusterTests):
        with pytest.raises(NotImplementedError, match=r"^make: this suite needs it; "):
            base().make(*([Path()] if base is SourceTests else []))
