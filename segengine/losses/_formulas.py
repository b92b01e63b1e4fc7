"""What a fold and a Keras loss ask of the loss that they compute: its options and its formula."""

from __future__ import annotations

from typing import Any, Protocol

from segengine.losses.scored import Array, Scored


class Formula(Protocol):
    """A loss with a formula of its own."""

    @property
    def name(self) -> str:
        """As it is registered."""

    @property
    def elementwise(self) -> bool:
        """Each channel is a yes-or-no question of its own."""

    @property
    def jit(self) -> bool:
        """XLA can compile it."""

    @property
    def from_logits(self) -> bool:
        """Predictions are logits."""

    @property
    def label_smoothing(self) -> float:
        """Share of the truth that is spread over all classes."""

    @property
    def reduction(self) -> str | None:
        """As in Keras."""

    @property
    def ignore(self) -> int | None:
        """Label of truth that is not scored."""

    def options(self) -> dict[str, Any]:
        """Every option with its value."""

    def check_channels(self, channels: int) -> None:
        """Raise ValueError where the options do not fit so many channels."""

    def values(self, scored: Scored) -> tuple[Array, Array]:
        """Values, and what is scored."""


class OfPixels(Formula, Protocol):
    """A formula of single pixels."""

    @property
    def summed(self) -> bool:
        """A pixel's value is the sum over classes, else the mean."""

    def weighted(self, scored: Scored) -> Array:
        """(n, y, x, class) terms times class weights."""


class OfRegions(Formula, Protocol):
    """A ratio of sums over areas."""

    def counts(self, scored: Scored) -> tuple[Array, ...]:
        """What is summed over the pixels of an image."""

    def figure(self, xp: Any, sums: tuple[Array, ...]) -> Array:
        """The loss, from the sums of those maps."""

    def mean_over_classes(self, figures: Array) -> Array:
        """(n, class) -> (n,)"""


class Part(Protocol):
    """One loss of a weighted sum."""

    @property
    def weight(self) -> float:
        """What it is multiplied by."""

    @property
    def loss(self) -> Any:
        """The loss: `keras()` gives what trains with it."""


class Sum(Protocol):
    """A weighted sum of losses."""

    @property
    def name(self) -> str:
        """As it is registered."""

    @property
    def reduction(self) -> str | None:
        """As in Keras."""

    @property
    def parts(self) -> tuple[Part, ...]:
        """The losses, built."""

    def options(self) -> dict[str, Any]:
        """Every option with its value."""
