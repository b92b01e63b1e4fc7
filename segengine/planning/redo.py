"""What a run would do again that is done, and why: told before it begins."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from segengine.fingerprint import changes

if TYPE_CHECKING:
    from segengine.planning.plan import Plan


LAID_OUT = "frames are laid out anew"


class Redo(NamedTuple):
    """Shards that are done, and will be done again."""

    shards: int
    reason: str


def redone(plan: Plan, old: Mapping[str, Any] | None, laid_out: int) -> tuple[Redo, ...]:
    """What of a store will be done again, most first; each shard counts once.

    `old`: the store's attributes; `laid_out`: shards that no longer lie where they did.
    """
    before = (old or {}).get("fingerprints", {})
    words = _words(changes(before.get("keys", {}), plan.keys))
    found: Counter[str] = Counter()
    for state in plan.states.values():
        for causes, count in state.causes.items():
            found["; ".join(words[cause] for cause in causes)] += count
    found[f"{LAID_OUT}: {words['layout']}"] += laid_out
    return tuple(Redo(count, reason) for reason, count in found.most_common() if count)


def lines(redo: Iterable[Redo]) -> Iterator[str]:
    """Text for a terminal: each reason with its shards, where another notice does not say as much."""
    found = list(redo)
    if len(found) > 1 or any(reason.startswith(LAID_OUT) for _, reason in found):
        for shards, reason in found:
            yield f"  {counted(shards)} again: {reason}"


def _words(changed: list[str]) -> dict[str, str]:
    """Causes in words; those of options as the job has them."""
    source = [line for line in changed if line.startswith("source.")]
    return {
        "job": "; ".join(changed) or "the job's options changed before the last run",
        "weights": "the weights changed",
        "inputs": "inputs changed",
        "fit": "the fit is made again",
        "broken": "stored bytes are not those of their record",
        "linked": "objects are linked again over all shards of a frame",
        "layout": "; ".join(source) or "source changed",
    }


def counted(count: int) -> str:
    """Shards in words.

    >>> counted(1), counted(1200)
    ('1 shard', '1,200 shards')
    """
    return f"{count:,} shard{'s' if count != 1 else ''}"


def release_notice(redo: Iterable[Redo], release: str, last: str) -> Iterator[str]:
    """Where another release has worked on the store: which, and what becomes of its masks."""
    if last and last != release:
        shards = sum(each.shards for each in redo)
        outcome = f"{counted(shards)} of it again, as told" if shards else "its masks stay"
        yield f"the last run was of segengine {last}, this is {release}: {outcome}"
