"""A checkpoint is whole or not there."""

from pathlib import Path

import numpy as np
import pytest

from segengine.errors import SegengineError
from segengine.training import checkpoints
from segengine.training.checkpoints import FILE, State


class _Variable:
    def __init__(self, value: object) -> None:
        self.value = np.asarray(value)
        self.shape = self.value.shape

    def __array__(self, dtype: object = None, copy: object = None) -> np.ndarray:
        return self.value

    def assign(self, value: np.ndarray) -> None:
        self.value = value


STATE = State("abc", 3, {"loss": [3.0, 2.0, 1.5]}, 3)


def test_what_is_saved_is_restored_bit_for_bit(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    variables = [_Variable(rng.normal(size=(3, 4)).astype(np.float32)), _Variable(np.int64(7))]
    checkpoints.save(tmp_path, FILE, STATE, variables)
    found = checkpoints.load(tmp_path, FILE)
    assert found is not None
    assert found[0] == STATE
    others = [_Variable(np.zeros((3, 4), np.float32)), _Variable(np.int64(0))]
    checkpoints.restore(tmp_path / FILE, others, found[1])
    for a, b in zip(variables, others, strict=True):
        assert a.value.tobytes() == b.value.tobytes()
    assert [p.name for p in tmp_path.iterdir()] == [FILE]


def test_there_is_none(tmp_path: Path) -> None:
    assert checkpoints.load(tmp_path, FILE) is None


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_a_damaged_one_is_one_line(tmp_path: Path, share: float) -> None:
    checkpoints.save(tmp_path, FILE, STATE, [_Variable(np.arange(50.0))])
    file = tmp_path / FILE
    file.write_bytes(file.read_bytes()[: int(file.stat().st_size * share)])
    with pytest.raises(SegengineError, match="is no checkpoint: ") as error:
        checkpoints.load(tmp_path, FILE)
    assert "\n" not in str(error.value)


def test_a_write_that_fails_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints.save(tmp_path, FILE, STATE, [_Variable(1.0)])
    before = (tmp_path / FILE).read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        checkpoints.save(tmp_path, FILE, STATE, [_Variable(2.0)])
    assert (tmp_path / FILE).read_bytes() == before


def test_variables_of_another_network_are_refused(tmp_path: Path) -> None:
    checkpoints.save(tmp_path, FILE, STATE, [_Variable(np.zeros(3))])
    found = checkpoints.load(tmp_path, FILE)
    assert found is not None
    with pytest.raises(SegengineError, match="other variables"):
        checkpoints.restore(tmp_path / FILE, [_Variable(np.zeros(4))], found[1])
