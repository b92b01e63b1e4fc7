"""What the engine relies on in a segmenter, and in a surveyor and what it fits."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import reduce
from itertools import permutations
from typing import Any, ClassVar, get_args

import numpy as np
from numpy.typing import NDArray

from segengine import asked, tiling
from segengine.errors import JobError
from segengine.instances.merging import merge, parcels_of
from segengine.instances.pieces import find_pieces
from segengine.instances.rows import SCHEMA
from segengine.store.values import decode, encode
from segengine.testing._followed import require_followed
from segengine.testing._laws import PluginTests, expected, name_of, require, sent
from segengine.testing._pictures import picture
from segengine.types import (
    ChecksPixels,
    Connected,
    LabelsAlone,
    LabelsFrames,
    Linker,
    Merger,
    Pixels,
    Prediction,
    Scope,
    Segmenter,
)


class _Labelling(PluginTests):
    """Laws of what labels: a segmenter, or what a surveyor fitted."""

    size: ClassVar[tuple[int, int]] = (61, 83)
    """Of the pictures tried, in pixels; those of a network must hold several of its windows."""
    bands: ClassVar[int] = 3
    dtype: ClassVar[str] = "uint8"
    tolerance: ClassVar[float] = 0.0
    """By how much probabilities may depend on the cut: 1e-5 for networks."""
    sides: ClassVar[tuple[int, ...]] = (13, 32)
    """Of the windows that a frame is cut into, in pixels."""
    sent: ClassVar[bool] = True
    """False for what holds a model: no pickle, but its `options` travel, and it is made of them anew."""

    def pixels(self) -> Pixels:
        """Two frames (2, y, x, band) to try it on."""
        shape = self.size, self.bands, self.dtype
        return np.stack([picture(seed, *shape) for seed in (1, 2)])

    def _segmenter(self) -> Segmenter:
        raise NotImplementedError

    def test_its_parts_are_what_the_protocol_says(self) -> None:
        """Classes, halo, stride and the optional parts have the right kind."""
        segmenter = self._segmenter()
        name = name_of(segmenter)
        try:
            asked.check(segmenter, name)
        except JobError as error:
            raise AssertionError(f"{str(error).partition(': ')[2]}; see segengine.types") from None
        _require_classes(segmenter.classes, name)
        halo: object = segmenter.halo
        stride: object = segmenter.stride
        require(
            halo is None or (isinstance(halo, int) and halo >= 0),
            f"{name}.halo is {halo!r}; give the pixels of context that it needs, None for whole frames",
        )
        require(
            isinstance(stride, int) and stride >= 1,
            f"{name}.stride is {stride!r}; give the pixels its windows are aligned to, 1 for any",
        )
        _require_parts(segmenter, name)

    def test_it_predicts_what_it_says(self) -> None:
        """Shapes, dtypes and values of all maps."""
        segmenter, pixels = self._segmenter(), self.pixels()
        name, before = name_of(segmenter), pixels.copy()
        if isinstance(segmenter, ChecksPixels):
            with expected(
                f"{name}.check_pixels", "set `bands` and `dtype` of this suite to what it takes"
            ):
                segmenter.check_pixels(pixels.shape[-1], str(pixels.dtype))
        found = _labelled(segmenter, pixels)
        require(
            np.array_equal(pixels, before, equal_nan=pixels.dtype.kind == "f"),
            f"{name}.segment changes the pixels that it is given; work on a copy",
        )
        _require_maps(segmenter, found, pixels.shape[:3])
        outputs = asked.outputs(segmenter)
        there = asked.probed_outputs(found)
        require(
            outputs is None or set(outputs) == set(there),
            f"{name}.outputs says {_listed(outputs or ())}, and segment gives "
            f"{_listed(there)}; make them agree",
        )

    def test_the_same_pixels_give_the_same_labels(self) -> None:
        """Whether it is asked again, made again or asked for frames one by one."""
        segmenter, pixels = self._segmenter(), self.pixels()
        name, first = name_of(segmenter), _labelled(segmenter, pixels)
        again = _labelled(segmenter, pixels)
        require(
            self._same(first, again),
            f"{name}.segment gives other labels when it is asked again; seed what is random, and "
            "keep nothing of one call for the next",
        )
        require(
            self._same(first, _labelled(self._segmenter(), pixels)),
            f"{name} made again gives other labels; take all that decides from its options",
        )
        if asked.follows(segmenter) is not None:
            return
        for i in range(len(pixels)):
            alone = _labelled(segmenter, pixels[i : i + 1])
            require(
                self._same(first.crop((slice(i, i + 1), slice(None), slice(None))), alone),
                f"{name}.segment labels a frame otherwise when others share its call; frames of one "
                "call have nothing to do with each other",
            )

    def test_tiled_equals_whole(self) -> None:
        """Labels do not depend on where a frame is cut, given halo and stride.

        Windows are labelled by another object than the whole, as another worker does.
        """
        segmenter, other, pixels = self._segmenter(), self._segmenter(), self.pixels()
        if isinstance(segmenter, Linker):
            _require_linked(segmenter, pixels, self.sides)
        elif isinstance(segmenter, Merger):
            _require_merged(segmenter, pixels, self.sides)
            _require_merged(segmenter, pixels[:, :7, :5], self.sides)
        elif segmenter.halo is not None:
            frames = pixels, pixels[:, :7, :5]
            for frame in frames:
                whole = _labelled(segmenter, frame)
                for side in self.sides:
                    self._require_tiled(other, frame, whole, side)

    def test_a_video_is_labelled_alike_wherever_it_is_begun(self) -> None:
        """Where it labels a frame by those before it: by its segment's and the warm-up's, and no others."""
        segmenter = self._segmenter()
        follows = asked.follows(segmenter)
        if follows is not None:
            require_followed(segmenter, follows, self.pixels())

    def test_the_ends_of_the_range_are_labelled(self) -> None:
        """Frames of nothing but the least, the greatest, or both of the values that pixels have."""
        segmenter = self._segmenter()
        for frame in _ends(self.pixels()):
            _require_maps(segmenter, _labelled(segmenter, frame[None]), (1, *frame.shape[:2]))

    def test_labels_alone_are_the_labels(self) -> None:
        """Where it has `label`, that gives what `segment` does."""
        segmenter, pixels = self._segmenter(), self.pixels()
        if isinstance(segmenter, LabelsAlone):
            pixels = tiling.pad_to(pixels, segmenter.stride)
            require(
                np.array_equal(segmenter.label(pixels).labels, segmenter.segment(pixels).labels),
                f"{name_of(segmenter)}.label gives other labels than segment; make them agree",
            )

    def test_it_labels_alike_on_a_worker(self) -> None:
        """What arrives there gives the same labels."""
        segmenter, pixels = self._segmenter(), self.pixels()
        name = name_of(segmenter)
        if self.sent:
            again, how = sent(segmenter, name), "after pickling"
        else:
            with expected(
                f"making {name} from options that travelled as JSON",
                "let this suite's `options` be all that a job gives, as plain values",
            ):
                again = self._made_anew(json.loads(json.dumps(dict(self.options))))
            how = "made from its options"
        with expected(f"{name} {how}", "let it hold what `segment` needs"):
            alike = self._same(_labelled(segmenter, pixels), _labelled(again, pixels))
        require(alike, f"{name} gives other labels {how}; let it hold what decides")

    def _made_anew(self, options: dict[str, Any]) -> Segmenter:
        """As a worker makes it."""
        made: Segmenter = self._build(options)
        return made

    def _same(self, a: Prediction, b: Prediction) -> bool:
        """Equal maps, up to the tolerance."""
        if a.probabilities is not None and b.probabilities is not None:
            off = np.abs(a.probabilities - b.probabilities)
            if bool((off > self.tolerance).any()):
                return False
        return self._same_labels(a, b)

    def _same_labels(self, a: Prediction, b: Prediction) -> bool:
        differ = a.labels != b.labels
        if not self.tolerance or a.probabilities is None:
            return not bool(differ.any())
        best = np.sort(a.probabilities[differ], axis=-1)  # a tie may go either way
        return bool((best[..., -1] - best[..., -2] <= 2 * self.tolerance).all())

    def _require_tiled(
        self, segmenter: Segmenter, pixels: Pixels, whole: Prediction, side: int
    ) -> None:
        __tracebackhide__ = True
        name = name_of(segmenter)
        for rows, cols in _cut(pixels.shape[1:3], side):
            window, inside, corner = _window(segmenter, pixels, rows, cols)
            with expected(
                f"{name}.segment of {window.shape[1:3]} pixels", "it has to take any window"
            ):
                own = asked.placed(segmenter, corner, pixels.shape[1:3])
                found = asked.as_prediction(own.segment(window), segmenter, window.shape[:3])
            require(
                self._same(found.crop(inside), whole.crop((slice(None), rows, cols))),
                f"{name} labels rows {rows.start} to {rows.stop}, columns {cols.start} to {cols.stop} "
                f"otherwise when a frame is cut there; its halo {segmenter.halo} or stride "
                f"{segmenter.stride} is too small, or it uses arithmetic that depends on the cut",
            )


class SegmenterTests(_Labelling):
    """The suite of a segmenter: `make` returns one."""

    def _segmenter(self) -> Segmenter:
        made: Segmenter = self.make()
        require(
            not asked.surveys(made),
            f"{name_of(made)} surveys before it labels; subclass SurveyorTests",
        )
        return made


class SurveyorTests(_Labelling):
    """The suite of a surveyor: `make` returns one. What it fits has the laws of a segmenter."""

    def _segmenter(self) -> Segmenter:
        surveyor, pixels = self.make(), self.pixels()
        fitted: Segmenter = surveyor.fit(surveyor.survey(pixels, _all(pixels)))
        return fitted

    def _made_anew(self, options: dict[str, Any]) -> Segmenter:
        surveyor, pixels = self._build(options), self.pixels()
        fitted: Segmenter = surveyor.fit(surveyor.survey(pixels, _all(pixels)))
        return fitted

    def test_it_is_a_surveyor(self) -> None:
        """It has the parts of one, and names what it fits where that matters."""
        surveyor = self.make()
        name = name_of(surveyor)
        require(
            asked.surveys(surveyor), f"{name} has no survey; subclass SegmenterTests, or write one"
        )
        try:
            asked.check(surveyor, name)
        except JobError as error:
            raise AssertionError(f"{str(error).partition(': ')[2]}; see segengine.types") from None
        _require_classes(surveyor.classes, name)
        require(
            surveyor.scope in get_args(Scope),
            f"{name}.scope is {surveyor.scope!r}; it is one of {_listed(get_args(Scope))}",
        )
        _require_parts(surveyor, name)
        fitted = self._segmenter()
        require(
            tuple(fitted.classes) == tuple(surveyor.classes),
            f"{name} has the classes {_listed(surveyor.classes)}, and fits {_listed(fitted.classes)}; "
            "classes are known before anything is seen",
        )
        said = asked.labeller(surveyor)
        named = said is not surveyor
        require(
            named or not (fitted.halo is None or isinstance(fitted, Linker)),
            f"{name} fits what needs whole frames or links pieces, and does not say so; give it "
            "`segmenter`, what fit completes",
        )
        require(
            not named or asked.whole_frames(surveyor) == (fitted.halo is None),
            f"{name}.segmenter has another halo than what fit gives; make them agree",
        )

    def test_states_merge_in_any_order_and_grouping(self) -> None:
        """Merging is associative and commutative, and changes neither state."""
        surveyor = self.make()
        name, states = name_of(surveyor), list(self._states())
        before = [_bytes(state, name) for state in states[:2]]
        surveyor.merge(*states[:2])
        require(
            before == [_bytes(state, name) for state in states[:2]],
            f"{name}.merge changes a state that it is given; return a new one",
        )
        merged = {
            _bytes(reduce(surveyor.merge, [states[i] for i in order]), name)
            for order in permutations(range(3))
        }
        a, b, c = states[:3]
        merged.add(_bytes(surveyor.merge(a, surveyor.merge(b, c)), name))
        require(
            len(merged) == 1,
            f"{name}.merge gives other states in another order or grouping; add integers, or keep "
            "exact sums: float sums depend on their order",
        )

    def test_a_survey_does_not_depend_on_the_cut(self) -> None:
        """What is fitted on merged windows labels as what is fitted on the whole."""
        surveyor, pixels = self.make(), self.pixels()
        whole = self._segmenter()
        fitted = surveyor.fit(reduce(surveyor.merge, self._states()))
        require(
            self._same(_labelled(whole, pixels), _labelled(fitted, pixels)),
            f"{name_of(surveyor)} fits otherwise when a frame is surveyed in windows; let a state "
            "hold sums or counts of pixels, nothing of where they lie",
        )

    def test_nodata_is_not_seen(self) -> None:
        """Pixels that are not valid change nothing."""
        surveyor, pixels = self.make(), self.pixels()
        name, valid = name_of(surveyor), _all(pixels)
        valid[:, : pixels.shape[1] // 3] = False
        other = pixels.copy()
        other[~valid] = 0 if pixels.dtype.kind != "f" else np.nan
        states = [_bytes(surveyor.survey(p, valid), name) for p in (pixels, other)]
        require(
            states[0] == states[1],
            f"{name}.survey looks at pixels where `valid` is False; take pixels[valid]",
        )
        nothing = surveyor.survey(pixels, np.zeros_like(valid))
        state = surveyor.survey(pixels, valid)
        with expected(f"{name}.merge with a window of nodata", "its state must be one that merges"):
            both = surveyor.merge(nothing, state)
        require(
            _bytes(both, name) == states[0],
            f"{name}.merge with a window of nodata alone changes the state; let its survey count nothing",
        )
        with expected(f"{name}.fit of nodata alone", "give any segmenter: all of it becomes void"):
            _labelled(surveyor.fit(nothing), pixels)

    def test_the_ends_of_the_range_are_labelled(self) -> None:
        """Also where nothing else is surveyed."""
        super().test_the_ends_of_the_range_are_labelled()
        surveyor = self.make()
        for frame in _ends(self.pixels()):
            with expected(
                f"{name_of(surveyor)}.fit of a frame from {frame.min()} to {frame.max()}",
                "let it fit what has one value, and the greatest there is",
            ):
                fitted = surveyor.fit(surveyor.survey(frame[None], _all(frame[None])))
            _labelled(fitted, frame[None])

    def test_a_frame_is_labelled_at_once_as_step_by_step(self) -> None:
        """Where it has `label_frame`, that gives what `survey`, `fit` and `segment` do."""
        surveyor = self.make()
        name, surveyed = name_of(surveyor), self.pixels()
        valid = _all(surveyed)
        valid[:, : surveyed.shape[1] // 3] = False
        fitted = surveyor.fit(surveyor.survey(surveyed, valid))
        if not isinstance(surveyor, LabelsFrames):
            return
        found, prediction = surveyor.label_frame(surveyed, valid)
        require(
            np.array_equal(prediction.labels, _labelled(fitted, surveyed).labels)
            and np.array_equal(prediction.labels, _labelled(found, surveyed).labels),
            f"{name}.label_frame gives other labels than survey, fit and segment; make them agree",
        )

    def test_states_and_fits_can_be_committed(self) -> None:
        """Both are kept in the store as plain values, and label alike when read back."""
        surveyor, pixels = self.make(), self.pixels()
        name = name_of(surveyor)
        trusted = (type(surveyor).__module__.partition(".")[0],)
        state = surveyor.survey(pixels, _all(pixels))
        with expected(f"reading {name}'s state back", "build it of plain values and dataclasses"):
            again = decode(_bytes(state, name), trusted)
        labels = _labelled(surveyor.fit(state), pixels)
        require(
            self._same(labels, _labelled(surveyor.fit(again), pixels)),
            f"{name} fits otherwise from a state that was stored; let the state hold all of it",
        )
        fitted = surveyor.fit(state)
        try:
            stored = encode(fitted)
        except TypeError:
            return  # kept as its state
        with expected(f"reading what {name} fitted back", "make it a dataclass of its module"):
            fit = decode(stored, trusted)
        require(
            self._same(labels, _labelled(fit, pixels)),
            f"{name}: what it fitted gives other labels once stored; make all that decides a field",
        )

    def _states(self) -> Iterator[Any]:
        """Of the windows of all frames."""
        surveyor, pixels = self.make(), self.pixels()
        for frame in range(len(pixels)):
            for rows, cols in _cut(pixels.shape[1:3], self.sides[-1]):
                window = pixels[frame : frame + 1, rows, cols]
                yield surveyor.survey(window, _all(window))


def _ends(pixels: Pixels) -> Pixels:
    """Three frames like these: of zeros, of the greatest value (1 of floats), and half of each."""
    low, high = np.zeros_like(pixels[0]), np.ones_like(pixels[0])
    if pixels.dtype.kind != "f":
        high *= np.iinfo(pixels.dtype).max
    both = low.copy()
    both[len(both) // 2 :] = high[len(both) // 2 :]
    return np.stack([low, high, both])


def _all(pixels: Pixels) -> NDArray[np.bool_]:
    return np.ones(pixels.shape[:3], np.bool_)


def _cut(size: tuple[int, ...], side: int) -> Iterator[tuple[slice, slice]]:
    height, width = size
    for y in range(0, height, side):
        for x in range(0, width, side):
            yield slice(y, min(y + side, height)), slice(x, min(x + side, width))


def _window(
    segmenter: Segmenter, pixels: Pixels, rows: slice, cols: slice
) -> tuple[Pixels, tuple[slice, slice, slice], tuple[int, int]]:
    """What the engine gives for a window, where the window lies in it, and it in the frame."""
    return _around(pixels, rows, cols, segmenter.halo, segmenter.stride)


def _around(
    pixels: Pixels, rows: slice, cols: slice, halo: int | None, stride: int
) -> tuple[Pixels, tuple[slice, slice, slice], tuple[int, int]]:
    y, x = (
        tiling.span(part.start, part.stop, size, halo, stride)
        for part, size in zip((rows, cols), pixels.shape[1:3], strict=True)
    )
    window = pixels[:, y.start : y.stop, x.start : x.stop]
    if y.pad or x.pad:
        window = np.pad(window, ((0, 0), (0, y.pad), (0, x.pad), (0, 0)), mode="reflect")
    inside = slice(None), y.inside(rows.start, rows.stop), x.inside(cols.start, cols.stop)
    return np.ascontiguousarray(window), inside, (y.start, x.start)


def _labelled(segmenter: Segmenter, pixels: Pixels) -> Prediction:
    """Whole frames, padded to the stride as the engine does."""
    __tracebackhide__ = True
    padded = tiling.pad_to(pixels, segmenter.stride)
    what = f"{name_of(segmenter)}.segment of {padded.shape[1:3]} pixels"
    with expected(what, "return a Prediction whose labels are unsigned and below its classes"):
        own = asked.placed(segmenter, (0, 0), pixels.shape[1:3])
        found = asked.as_prediction(own.segment(padded), segmenter, padded.shape[:3])
    return found.crop((slice(None), slice(0, pixels.shape[1]), slice(0, pixels.shape[2])))


def _require_linked(segmenter: Linker, pixels: Pixels, sides: tuple[int, ...]) -> None:
    """Drafts do not depend on the cut, and their pieces, joined and kept, are the labels."""
    __tracebackhide__ = True
    name, whole = name_of(segmenter), segmenter.draft(pixels)
    for side in sides:
        for rows, cols in _cut(pixels.shape[1:3], side):
            window, inside, _ = _window(segmenter, pixels, rows, cols)
            require(
                np.array_equal(segmenter.draft(window)[inside], whole[:, rows, cols]),
                f"{name}.draft differs when a frame is cut; its halo {segmenter.halo} is too small",
            )
    labels = _labelled(segmenter, pixels).labels
    for draft, wanted in zip(whole, labels, strict=True):
        pieces, numbers = find_pieces(np.asarray(draft, np.uint8))
        kept = (pieces.strength[numbers] >= segmenter.keep) & (numbers > 0)
        require(
            np.array_equal(kept, wanted == 1),
            f"{name}.segment gives other labels than the pieces of its draft that reach keep; make "
            "them agree",
        )


def _require_merged(segmenter: Merger, pixels: Pixels, sides: tuple[int, ...]) -> None:
    """What windows connect, joined and merged, are the regions of the whole."""
    __tracebackhide__ = True
    name, valid = name_of(segmenter), _all(pixels)
    require(
        segmenter.stride == 1 and (segmenter.halo or 0) > 0,
        f"{name}.stride is {segmenter.stride} and its halo {segmenter.halo}; what merges regions has "
        "stride 1, and sees a pixel beyond its shard",
    )
    whole = _labelled(segmenter, pixels)
    size = pixels.shape[1:3]
    for side in sides:
        for i, wanted in enumerate(whole.instances if whole.instances is not None else ()):
            windows, numbers = {}, {}
            for rows, cols in _cut(size, side):
                window, (_, *inner), corner = _window(segmenter, pixels[i : i + 1], rows, cols)
                own = asked.merger(asked.placed(segmenter, corner, size))
                require(
                    own is not None, f"{name}.at gives what connects nothing; return a copy of it"
                )
                assert own is not None
                found = own.connect(window, valid[i : i + 1, : window.shape[1], : window.shape[2]])
                cell = rows.start // side, cols.start // side
                windows[cell], numbers[cell] = parcels_of(
                    Connected(found.links, found.values),
                    _all(window)[0],
                    (inner[0], inner[1]),
                    (rows.start, cols.start),
                    size[1],
                    segmenter.least,
                )
            merged = merge(windows, segmenter.least, segmenter.drops)
            for rows, cols in _cut(size, side):
                cell = rows.start // side, cols.start // side
                require(
                    np.array_equal(merged[cell].ids[numbers[cell]], wanted[rows, cols]),
                    f"{name} finds other regions when a frame is cut; its halo {segmenter.halo} is too "
                    "small, or segment gives others than what it connects, merged",
                )


def _require_classes(classes: Any, name: str) -> None:
    __tracebackhide__ = True
    good = isinstance(classes, tuple) and classes and all(isinstance(c, str) for c in classes)
    require(good, f"{name}.classes is {classes!r}; give a tuple of names, one a label")
    require(
        len(set(classes)) == len(classes),
        f"{name}.classes has a name twice: {_listed(classes)}; each class needs its own",
    )


def _require_parts(plugin: Any, name: str) -> None:
    """The optional parts that it has are of the right kind."""
    __tracebackhide__ = True
    with expected(f"{name}.version", "give a number of at least 1"):
        require(asked.version(plugin) >= 1, f"{name}.version is below 1; count from 1")
    outputs = asked.outputs(plugin)
    require(
        not outputs or ("labels" in outputs and set(outputs) <= set(asked.OUTPUTS)),
        f"{name}.outputs is {outputs!r}; name labels, and what else it gives of {_listed(asked.OUTPUTS)}",
    )
    colors = asked.colors(plugin)
    require(
        all(0 <= value <= 255 for color in colors for value in color),
        f"{name}.colors is {colors!r}; give red, green and blue of each class, 0 to 255",
    )


def _require_maps(segmenter: Segmenter, found: Prediction, shape: tuple[int, ...]) -> None:
    __tracebackhide__ = True
    name, p, ids = name_of(segmenter), found.probabilities, found.instances
    if p is not None:
        wanted = (*shape, len(segmenter.classes))
        require(
            p.shape == wanted and p.dtype == np.float32,
            f"{name} gives probabilities {p.shape} of {p.dtype}; they are {wanted} of float32",
        )
        with expected(f"{name}'s probabilities", "give values of 0 to 1"):
            asked.as_probabilities(p)
    if ids is not None:
        require(
            ids.shape == shape and ids.dtype == np.uint32,
            f"{name} gives instances {ids.shape} of {ids.dtype}; they are {shape} of uint32",
        )
    if found.objects is not None:
        lacking = [column for column in SCHEMA.names if column not in found.objects.column_names]
        require(
            not lacking and ids is not None,
            f"{name} gives objects without {_listed(lacking) or 'instances'}; one row an id has "
            f"{_listed(SCHEMA.names)}",
        )


def _bytes(state: Any, name: str) -> bytes:
    __tracebackhide__ = True
    with expected(
        f"storing {name}'s state", "build it of numbers, strings, arrays and dataclasses"
    ):
        return encode(state)


def _listed(words: Any) -> str:
    return ", ".join(map(str, words))
