"""Networks learn eight pictures by heart; the larger ones do in `tests.benchmarks.overfit`."""

from tests.benchmarks.overfit import ENOUGH, PIXELWISE, Trial, by_heart


def test_a_unet_knows_its_eight_pictures() -> None:
    (trial,) = (trial for trial in PIXELWISE if trial.name == "unet")
    learned = by_heart(trial)
    assert learned.iou > ENOUGH
    assert learned.steps < trial.most


def test_a_normalised_unet_needs_its_statistics_anew() -> None:
    """In so few steps the running averages are of a network that is long gone."""
    options = {"start_neurons": 8, "depth": 2, "dropout": False, "batch_norm": True}
    learned = by_heart(Trial("unet", 1e-2, 100, options), side=32)
    assert learned.iou > ENOUGH
    assert learned.running < 0.6
