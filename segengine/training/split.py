"""Which frames train and which validate: by a hash of the frame's name, so that nothing leaks.

    hash(seed, group) in [0, 1)   0 |---- train ----|-- validation --|  unused  | 1

All frames of a file (video, pages), and all patches of a frame, share one group and so one part. A
group keeps its part when other frames come.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import xxhash

from segengine.errors import JobError


def unit(group: str, seed: int) -> float:
    """A number in [0, 1) that depends on the group's name and the seed alone."""
    name = f"{seed} {group}".encode("utf-8", "surrogateescape")
    return (xxhash.xxh3_64_intdigest(name) >> 11) / float(1 << 53)


def parts(
    groups: Sequence[str], train: float, validation: float, seed: int
) -> tuple[list[int], list[int]]:
    """Indices of the frames of both parts, given each frame's group.

    Where chance leaves a part empty, the group nearest to it joins it. Raises JobError for a single
    group, which cannot be split.
    """
    if len(set(groups)) < 2:
        raise JobError(
            f"split: {groups[0] if groups else 'nothing'} is all there is, and one file is never "
            "split; give more files, or file lists of patches cut beforehand"
        )
    place = {group: unit(group, seed) for group in groups}
    order = sorted(place, key=lambda group: (place[group], group))
    first = [g for g in order if place[g] < train] or order[:1]
    rest = [g for g in order if g not in set(first)]
    if not rest:  # all fell into train: the last of them validates
        first, rest = first[:-1], first[-1:]
    second = [g for g in rest if place[g] < train + validation] or rest[:1]
    chosen = set(first), set(second)
    return (
        [i for i, group in enumerate(groups) if group in chosen[0]],
        [i for i, group in enumerate(groups) if group in chosen[1]],
    )


def share(groups: Sequence[str], fraction: float, seed: int) -> list[int]:
    """Indices of the frames whose group is among a share of all; at least one."""
    place = {group: unit(group, seed) for group in groups}
    nearest = min(place, key=lambda group: (place[group], group), default="")
    return [i for i, g in enumerate(groups) if place[g] < fraction or g == nearest]


def listed(file: str, names: Sequence[str], key: str) -> list[int]:
    """Indices of the frames that a text file lists by name, name without suffix, or stem.

    Blank lines and lines that begin with # do not count. Raises JobError for a line that is no
    frame or more than one.
    """
    try:
        lines = Path(file).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise JobError(f"{key}: {file}: cannot be read: {error}") from None
    found: dict[str, list[int]] = {}
    for index, name in enumerate(names):
        path = PurePosixPath(name)
        for alias in {name, str(path.with_suffix("")), path.stem}:
            found.setdefault(alias, []).append(index)
    chosen: set[int] = set()
    for number, line in enumerate(lines, 1):
        wanted = line.strip()
        if not wanted or wanted.startswith("#"):
            continue
        match = found.get(wanted, [])
        if len(match) != 1:
            what = "is no frame of the source" if not match else f"is {len(match)} frames"
            raise JobError(f"{key}: {file}:{number}: {wanted} {what}")
        chosen.update(match)
    return sorted(chosen)
