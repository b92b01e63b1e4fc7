"""What the engine relies on in a metric, and in a loss and its statistic: folds that no cut changes."""

from __future__ import annotations

import inspect
import json
from collections.abc import Sequence
from functools import reduce
from itertools import permutations
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np

from segengine import asked
from segengine.guards.parts import Parts
from segengine.measuring.measures import WANTS, Fold
from segengine.store.values import decode, encode
from segengine.testing._laws import PluginTests, expected, name_of, require, sent
from segengine.testing._pictures import picture, scored, together
from segengine.types import Framed, Metric, Pixels, Prediction, ScoringLoss, TrainingLoss, Truth

_SIZE = (14, 17)
_CUTS = (slice(0, 5), slice(5, 6), slice(6, None))
"""Of both sides of a frame."""
_WORDS = ("labels", "confidence", *WANTS)


@runtime_checkable
class _Classed(Protocol):
    """A metric that tells what it was made with."""

    @property
    def classes(self) -> Sequence[str]: ...
    @property
    def truth_classes(self) -> Sequence[str]: ...


class _FoldTests(PluginTests):
    """Laws of what is measured: states merge exactly, whatever the cut, order or grouping."""

    classes: ClassVar[Sequence[str]] = ("sky", "tree", "car")
    """Of the predictions that it is tried on."""
    truth_classes: ClassVar[Sequence[str]] = ()
    """Of the truth; empty: as `classes`."""
    bands: ClassVar[int] = 3
    """Of the pictures, where it needs pixels."""

    def _metric(self) -> Metric[Any]:
        raise NotImplementedError

    def _sides(self) -> tuple[int, int]:
        return len(self.classes), len(self.truth_classes or self.classes)

    def _frames(self, count: int) -> list[tuple[Prediction, Truth]]:
        return [scored(seed, *self._sides(), _SIZE) for seed in range(count)]

    def _pixels(self, seed: int) -> Pixels:
        return picture(seed, _SIZE, self.bands)[None]

    def test_its_parts_are_what_the_protocol_says(self) -> None:
        """It has the four methods, and the optional parts that it has are of the right kind."""
        metric = self._metric()
        name = name_of(metric)
        missing = [n for n in Parts.of(Metric).methods if not hasattr(metric, n)]
        require(not missing, f"{name} has no {', '.join(missing)}; see segengine.types.Metric")
        unknown = [word for word in asked.uses(metric) if word not in _WORDS]
        require(
            not unknown,
            f"{name} needs {', '.join(unknown)}, which nothing gives; choose from {', '.join(WANTS)}",
        )
        with expected(f"{name}.version", "give a number of at least 1"):
            require(asked.version(metric) >= 1, f"{name}.version is below 1; count from 1")
        require(
            not asked.unmet(metric),
            f"{name} cannot be measured with this suite's classes: {asked.unmet(metric)}; set `classes`",
        )
        figures = self._figures(metric, self._states(1)[0])
        chosen = asked.headline(metric)
        require(
            chosen is None or chosen in figures,
            f"{name}.headline is {chosen!r}, and compute gives {', '.join(figures)}; name one of these",
        )

    def test_the_empty_state_changes_nothing(self) -> None:
        """`empty` is the identity of `merge`, from both sides."""
        metric = self._metric()
        name, (state,) = name_of(metric), self._states(1)
        for both in (metric.merge(metric.empty(), state), metric.merge(state, metric.empty())):
            require(
                self._bytes(both) == self._bytes(state),
                f"{name}.merge with empty() changes a state; let empty() be what adds nothing",
            )
        self._figures(metric, metric.empty())

    def test_any_order_and_grouping_gives_the_same_bits(self) -> None:
        """`merge` is associative and commutative, and changes neither state."""
        metric = self._metric()
        name, states = name_of(metric), self._states(4)
        before = [self._bytes(state) for state in states[:2]]
        metric.merge(*states[:2])
        require(
            before == [self._bytes(state) for state in states[:2]],
            f"{name}.merge changes a state that it is given; return a new one",
        )
        merged = {
            self._bytes(reduce(metric.merge, [states[i] for i in order]))
            for order in permutations(range(4))
        }
        a, b, c, d = states
        merged.add(self._bytes(metric.merge(metric.merge(a, b), metric.merge(c, d))))
        require(
            len(merged) == 1,
            f"{name}.merge gives other states in another order or grouping; keep integers, float "
            "terms as multiples of 2^-32 (segengine.fixed_point), and divide in compute",
        )

    def test_tiled_equals_whole(self) -> None:
        """The state of a frame does not depend on where it is cut."""
        metric = self._metric()
        fold, name = Fold(asked.base(metric)), name_of(metric)
        if fold.whole:
            return
        for seed, (prediction, truth) in enumerate(self._frames(2)):
            pixels = self._pixels(seed)
            whole = fold.close(fold.part(prediction, truth, pixels), "s", seed)
            parts = [
                fold.part(prediction.crop(cut), truth.crop(cut), pixels[cut])
                for cut in ((slice(None), rows, cols) for rows in _CUTS for cols in _CUTS)
            ]
            found = fold.close(reduce(fold.join, parts[::-1]), "s", seed)
            require(
                self._bytes(found) == self._bytes(whole),
                f"{name} has another state when a frame is cut; say `whole = True` where it must see "
                "whole frames, or give it part, join and close where it is a mean over frames",
            )

    def test_frames_of_one_call_are_frames_of_their_own(self) -> None:
        """`update` with n frames is n updates."""
        metric = self._metric()
        if "pixels" in asked.needs(metric) or asked.sees_volumes(metric):
            return  # the engine gives these a frame, or a volume, at a time
        name, frames = name_of(metric), self._frames(3)
        with expected(f"{name}.update with three frames", "take n windows in one call"):
            once = metric.update(metric.empty(), *together(frames))
        each = reduce(lambda state, frame: metric.update(state, *frame), frames, metric.empty())
        require(
            self._bytes(once) == self._bytes(each),
            f"{name}.update takes the windows of one call as one picture; treat each as a frame",
        )

    def test_a_part_is_what_update_adds(self) -> None:
        """Where it has part, join and close, a whole frame goes either way."""
        metric = self._metric()
        if isinstance(metric, Framed):
            frame = self._frames(1)[0]
            closed = metric.merge(metric.empty(), metric.close(metric.part(*frame)))
            require(
                self._bytes(closed) == self._bytes(metric.update(metric.empty(), *frame)),
                f"{name_of(metric)}.update adds something else than close(part(...)); make them agree",
            )

    def test_the_same_frames_give_the_same_figures(self) -> None:
        """Whether they are measured again or it is made again; and what it is given stays as it is."""
        metric = self._metric()
        name, (frame,) = name_of(metric), self._frames(1)
        before = frame[0].labels.copy(), frame[1].labels.copy()
        states = [self._states(1)[0], self._states(1)[0]]
        require(
            self._bytes(states[0]) == self._bytes(states[1]),
            f"{name} measures the same frame otherwise the second time; keep nothing in the metric, "
            "and seed what is random",
        )
        figures = [json.dumps(self._figures(metric, states[0]), sort_keys=True) for _ in range(2)]
        require(
            figures[0] == figures[1] and self._bytes(states[0]) == self._bytes(states[1]),
            f"{name}.compute changes the state that it is given; work on a copy",
        )
        metric.update(metric.empty(), *frame, *self._more(metric, 0))
        require(
            np.array_equal(before[0], frame[0].labels)
            and np.array_equal(before[1], frame[1].labels),
            f"{name}.update changes the maps that it is given; work on a copy",
        )

    def test_states_can_be_committed(self) -> None:
        """A state comes back from the store, or from a worker, as it was."""
        metric = self._metric()
        name, states = name_of(metric), self._states(2)
        trusted = (type(metric).__module__.partition(".")[0],)
        with expected(f"reading {name}'s states back", "build them of plain values"):
            again = [decode(self._bytes(state), trusted) for state in states]
            merged = metric.merge(again[0], again[1])
        require(
            self._bytes(merged) == self._bytes(metric.merge(*states)),
            f"{name} merges otherwise what was stored; let the state hold all of it",
        )

    def _more(self, metric: Metric[Any], seed: int) -> tuple[Pixels, ...]:
        return (self._pixels(seed),) if "pixels" in asked.needs(metric) else ()

    def _states(self, count: int) -> list[Any]:
        """Of single frames, as the engine makes them."""
        __tracebackhide__ = True
        metric = self._metric()
        fold = Fold(asked.base(metric))
        states = []
        for seed, (prediction, truth) in enumerate(self._frames(count)):
            with expected(
                f"{name_of(metric)}.update", "it has to take any labels, void among them"
            ):
                part = fold.part(prediction, truth, self._pixels(seed))
                states.append(fold.close(part, f"s{seed % 2}", seed))
        return states

    def _figures(self, metric: Metric[Any], state: Any) -> dict[str, Any]:
        """Computed, and such as JSON has."""
        __tracebackhide__ = True
        name = name_of(metric)
        with expected(f"{name}.compute", "give None where nothing was scored"):
            figures = asked.figures(metric, state, asked.matching(metric, state))
        with expected(
            f"writing {name}'s figures as JSON", "give plain numbers, and None in place of NaN"
        ):
            json.dumps(figures, allow_nan=False)
        return figures

    def _bytes(self, state: Any) -> bytes:
        __tracebackhide__ = True
        with expected(
            f"storing {name_of(self._metric())}'s state", "build it of numbers, strings and arrays"
        ):
            return encode(state)


class MetricTests(_FoldTests):
    """The suite of a metric: `make` returns one, of this suite's `classes` and `truth_classes`."""

    def _metric(self) -> Metric[Any]:
        metric: Metric[Any] = self.make()
        return metric

    def _sides(self) -> tuple[int, int]:
        """As many classes as the metric was made with."""
        metric, own = self._metric(), vars(type(self))
        ours, theirs = self.classes, self.truth_classes
        if isinstance(metric, _Classed) and "classes" not in own:
            ours, theirs = metric.classes, metric.truth_classes
        theirs = theirs or ours
        return len(ours), len(theirs)

    def test_it_takes_the_classes_of_both_sides(self) -> None:
        """The engine makes it with the keywords `classes` and `truth_classes`."""
        factory = self.factory()
        takes = inspect.signature(factory).parameters
        anything = any(p.kind is p.VAR_KEYWORD for p in takes.values())
        lacking = [name for name in ("classes", "truth_classes") if name not in takes]
        require(
            anything or not lacking,
            f"{name_of(factory)} takes no {', '.join(lacking)}; the engine gives it both by name",
        )

    def test_it_measures_alike_on_a_worker(self) -> None:
        """What arrives there measures the same."""
        metric = self._metric()
        if "pixels" in asked.needs(metric):
            return
        (frame,) = self._frames(1)
        again = sent(metric, name_of(metric))
        states = [m.update(m.empty(), *frame) for m in (metric, again)]
        require(
            self._bytes(states[0]) == self._bytes(states[1]),
            f"{name_of(metric)} measures otherwise after pickling; let it hold what decides",
        )

    def _build(self, options: dict[str, Any]) -> Any:
        classes = tuple(self.classes)
        sides = {"classes": classes, "truth_classes": tuple(self.truth_classes) or classes}
        return super()._build({**sides, **options})


class LossTests(_FoldTests):
    """The suite of a loss: `make` returns one, with `statistic`, `keras` or both."""

    tolerance: ClassVar[float] = 1e-4
    """By how much the value of training may differ from the figure, of its size."""

    def _metric(self) -> Metric[Any]:
        loss = self.make()
        if not isinstance(loss, ScoringLoss):
            return _Unmeasured()
        with expected(f"{name_of(loss)}.statistic", "it has to take any classes"):
            metric: Metric[Any] = loss.statistic(tuple(self.classes))
        return metric

    def test_it_is_a_loss(self) -> None:
        """It can be measured, or trained with."""
        loss = self.make()
        require(
            isinstance(loss, ScoringLoss | TrainingLoss),
            f"{name_of(loss)} is no loss; give it statistic(classes), keras() or both",
        )
        if isinstance(loss, ScoringLoss):
            figures = self._figures(self._metric(), self._states(1)[0])
            require(
                isinstance(figures.get("loss"), float),
                f"{name_of(loss)}'s statistic gives no figure `loss`; compute returns it as a float",
            )

    def test_training_makes_small_what_is_measured(self) -> None:
        """The Keras loss of a frame is its figure, and a number also where predictions are certain."""
        loss = self.make()
        if not isinstance(loss, TrainingLoss):
            return
        name, classes = name_of(loss), len(self.classes)
        prediction, truth = scored(3, classes, classes, _SIZE)
        labels = np.where(truth.labels == 255, 0, truth.labels)
        p = np.nan_to_num(np.asarray(prediction.probabilities), nan=1 / classes)
        certain = np.eye(classes, dtype=np.float32)[labels]
        keras = loss.keras()
        for what, given in (("random", p), ("right", certain), ("wrong", np.roll(certain, 1, -1))):
            with expected(
                f"{name}.keras() of {what} predictions", "it takes (labels, predictions)"
            ):
                value = float(np.mean(np.asarray(keras(labels, given))))
            require(
                np.isfinite(value),
                f"{name}.keras() is {value} where predictions are {what}; clip what a logarithm or "
                "a division gets",
            )
        if not isinstance(loss, ScoringLoss):
            return
        metric = self._metric()
        state = metric.update(metric.empty(), Prediction(prediction.labels, p), Truth(labels))
        figure, value = metric.compute(state)["loss"], float(np.mean(np.asarray(keras(labels, p))))
        require(
            abs(figure - value) <= self.tolerance * max(1.0, abs(value)),
            f"{name} is {value:.6g} in training and {figure:.6g} when it is measured; make them agree",
        )


class _Unmeasured:
    """The statistic of a loss that has none: nothing is measured, and all laws hold."""

    def empty(self) -> int:
        return 0

    def update(self, state: int, prediction: Prediction, truth: Any) -> int:
        return state

    def merge(self, a: int, b: int) -> int:
        return a + b

    def compute(self, state: int) -> dict[str, Any]:
        return {}
