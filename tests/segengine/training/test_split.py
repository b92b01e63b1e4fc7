"""Split by name: nothing leaks, nothing moves when other frames come."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segengine.errors import JobError
from segengine.training import split

NAMES = st.lists(st.text(min_size=1, max_size=6), min_size=2, max_size=40, unique=True)


@given(NAMES, st.integers(0, 9), st.floats(0.05, 0.95))
def test_parts_are_disjoint_filled_and_cover_all_where_their_shares_do(
    names: list[str], seed: int, share: float
) -> None:
    train, validation = split.parts(names, share, 1 - share, seed)
    assert train
    assert validation
    assert sorted(train + validation) == list(range(len(names)))


@given(NAMES, st.integers(0, 3), st.integers(2, 5))
def test_frames_of_one_file_stay_together(names: list[str], seed: int, copies: int) -> None:
    groups = names * copies
    train, validation = split.parts(groups, 0.6, 0.4, seed)
    assert not {groups[i] for i in train} & {groups[i] for i in validation}


@given(st.sets(st.integers(0, 10_000), min_size=60, max_size=80), st.integers(0, 99))
def test_a_frame_keeps_its_part_when_others_come(numbers: set[int], seed: int) -> None:
    names = [f"{n}.png" for n in sorted(numbers)]
    before = split.parts(names[:40], 0.5, 0.5, seed)
    after = split.parts(names, 0.5, 0.5, seed)
    assert set(before[0]) <= set(after[0])
    assert set(before[1]) <= set(after[1])


def test_shares_are_near_what_was_asked_and_the_seed_matters() -> None:
    names = [f"{i}.jpg" for i in range(4000)]
    train, validation = split.parts(names, 0.7, 0.1, 0)
    assert abs(len(train) / 4000 - 0.7) < 0.03
    assert abs(len(validation) / 4000 - 0.1) < 0.02
    assert split.parts(names, 0.7, 0.1, 1)[0] != train
    assert abs(len(split.share(names, 0.2, 3)) / 4000 - 0.2) < 0.03


def test_a_single_file_is_never_split() -> None:
    with pytest.raises(JobError, match=r"^split: scene\.tif is all there is"):
        split.parts(["scene.tif"] * 9, 0.8, 0.2, 0)


def test_a_share_is_never_empty() -> None:
    assert split.share(["a", "b"], 1e-9, 0)


def test_a_list_names_frames_by_name_path_or_stem(tmp_path: Path) -> None:
    names = ["a/1.png", "a/2.png", "b/2.png"]
    file = tmp_path / "list.txt"
    file.write_text("# ours\nb/2\n\n1\n")
    assert split.listed(str(file), names, "split.train.files") == [0, 2]
    file.write_text("1\n2\n")
    with pytest.raises(JobError, match=r"^split\.train\.files: .*list\.txt:2: 2 is 2 frames"):
        split.listed(str(file), names, "split.train.files")
    file.write_text("3.png\n")
    with pytest.raises(JobError, match=r"3\.png is no frame"):
        split.listed(str(file), names, "split.train.files")
    with pytest.raises(JobError, match="cannot be read"):
        split.listed(str(tmp_path), names, "split.train.files")
