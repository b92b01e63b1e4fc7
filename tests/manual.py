"""The parts of the manual that are made from the code: keys of job files, options, tables' columns.

python -m tests.manual        writes each into its chapter, between its markers

    <!-- made from the code: job keys -->
    ...
    <!-- end -->
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import annotated_types
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from segengine import registry
from segengine.job import HIDDEN, Job
from segengine.registry import options
from segengine.training.job import TrainJob

ROOT = Path(__file__).parents[1]
MARKED = re.compile(
    r"(?P<begin><!-- made from the code: (?P<name>[a-z ]+) -->\n)(?P<text>.*?)(?P<end><!-- end -->\n)",
    re.DOTALL,
)
FOLDERS = ("segengine", "flows", "tasks", "tests", "deployments")
ELSEWHERE = ("source", "truth")
"""Blocks of TRAIN.yaml that are told with the job file's keys."""
CLASSES = ("classes", "truth_classes")
"""What the engine gives to every metric."""
COMMON = {"from_logits", "label_smoothing", "reduction", "class_weights", "ignore"}
"""Options of every loss."""
WORDS = {str: "text", int: "whole number", float: "number", bool: "true or false"}

# ------------------------------------------------------------------------------------------- chapters


def chapters() -> list[Path]:
    """Every chapter of the manual: the READMEs of folders, and the two files beside the first."""
    found = [file for top in FOLDERS for file in (ROOT / top).rglob("README.md")]
    cards = ROOT / "segengine/data"  # of the bundles that ship
    chapters = [file for file in found if cards not in file.parents]
    return [ROOT / "README.md", *sorted(chapters), ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]


def made(text: str) -> str:
    """A chapter with all that is made from the code in its place."""

    def fill(match: re.Match[str]) -> str:
        return f"{match['begin']}\n{PARTS[match['name']]()}\n{match['end']}"

    return MARKED.sub(fill, text)


# ----------------------------------------------------------------------------------------------- keys


def job_keys() -> str:
    """Every key of a job file."""
    return _table(("key", "value", "default", "what it means"), _keys(Job))


def train_keys() -> str:
    """Every key of a TRAIN.yaml, but those of the blocks that a job has too."""
    return _table(("key", "value", "default", "what it means"), _keys(TrainJob, skip=ELSEWHERE))


def _keys(
    model: type[BaseModel], before: str = "", skip: Sequence[str] = ()
) -> Iterator[tuple[str, str, str, str]]:
    """A row a key; a block's own row comes before those of its keys."""
    for name, field in model.model_fields.items():
        key = f"{before}{field.alias or name}"
        block = next(iter(_models(field.annotation)), None)
        said = field.description or (_first_words(block) if block is not None else "")
        yield f"`{key}`", shown(field.annotation, field.metadata), _default(field), said
        if block is not None and key not in skip:
            yield from _keys(block, f"{key}.")
    if not before:
        return
    if model.model_config.get("extra") == "allow":
        yield f"`{before}OPTION`", "", "", "The options of that kind: see its chapter"


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in typing.get_args(annotation):
        yield from _models(part)


def _first_words(thing: Any) -> str:
    """The first paragraph of a docstring, on one line."""
    return " ".join((inspect.getdoc(thing) or "").partition("\n\n")[0].split()).rstrip(".")


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "needed"
    value = field.get_default(call_default_factory=True)
    return "" if isinstance(value, BaseModel) else _value(value)


def _value(value: Any) -> str:
    if value is None:
        return "-"
    if callable(value):
        return "-"
    return f"`{json.dumps(value if not isinstance(value, tuple) else list(value)).strip(chr(34))}`"


def shown(annotation: Any, limits: Sequence[Any] = ()) -> str:
    """What a key takes, in words.

    >>> shown(int, [annotated_types.Ge(1)])
    'whole number of at least 1'
    >>> shown(list[str] | Literal["auto"] | None)
    'list of text, or `auto`'
    """
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        inner = [m for part in parts[1:] for m in getattr(part, "metadata", [part])]
        return shown(parts[0], [*inner, *limits])
    if origin in (typing.Union, types.UnionType):
        return ", or ".join(shown(part, limits) for part in parts if part is not type(None))
    if origin is Literal:
        return " \\| ".join(_value(part) for part in parts)
    if origin is list:
        several = re.sub("(number|block)", r"\1s", shown(parts[0]))
        return f"list of {several}"
    if origin is tuple:
        return f"[{', '.join(shown(part) for part in parts)}]"
    if origin is dict or (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
        return "block"
    return f"{WORDS[annotation]}{_limits(limits)}"


def _limits(limits: Sequence[Any]) -> str:
    """The bounds of a number, in words."""
    least = next((m.ge for m in limits if isinstance(m, annotated_types.Ge)), None)
    above = next((m.gt for m in limits if isinstance(m, annotated_types.Gt)), None)
    most = next((m.le for m in limits if isinstance(m, annotated_types.Le)), None)
    below = next((m.lt for m in limits if isinstance(m, annotated_types.Lt)), None)
    if least is not None and most is not None:
        return f", {least} to {most}"
    said = [
        f"{words} {bound}"
        for words, bound in (
            ("of at least", least),
            ("above", above),
            ("of at most", most),
            ("below", below),
        )
        if bound is not None
    ]
    return f" {' and '.join(said)}" if said else ""


# -------------------------------------------------------------------------------------------- plug-ins


def ours(group: str) -> list[str]:
    """Plug-ins of a group that are segengine's own: others may be installed beside it."""
    names = registry.names(group)
    return [name for name in names if registry.module(group, name).startswith("segengine.")]


def segmenters() -> str:
    """Every option of every segmenter; those of one signature stand together."""
    alike: dict[tuple[Any, ...], list[str]] = {}
    for name in ours("segmenters"):
        alike.setdefault(tuple(options_of("segmenters", name)), []).append(name)
    parts = []
    for names in alike.values():
        rows = [
            (f"`{o.name}`", o.values, o.default, o.meaning)
            for o in options_of("segmenters", names[0])
        ]
        title = ", ".join(f"`{name}`" for name in names)
        parts.append(
            f"### {title}\n\n{_table(('option', 'value', 'default', 'what it means'), rows)}"
        )
    return "\n".join(parts)


def listed(group: str, without: Sequence[str] = ()) -> str:
    """Every plug-in of a group: its name, what it says of itself, its options."""
    rows = []
    for name in ours(group):
        taken = [o for o in options_of(group, name) if o.name not in without]
        said = "; ".join(o.line for o in taken)
        rows.append((f"`{name}`", registry.summary(group, name).rstrip("."), said))
    return _table(("name", "what it is", "options and their defaults"), rows)


@dataclasses.dataclass(frozen=True, slots=True)
class Option:
    """One option of a plug-in, in words."""

    name: str
    values: str
    default: str
    meaning: str

    @property
    def line(self) -> str:
        """Name, default, and the choice where there is one."""
        choice = f" ({self.values})" if "\\|" in self.values else ""
        return f"`{self.name}`: {self.default}{choice}"


def options_of(group: str, name: str) -> list[Option]:
    """The options of a plug-in, as its signature and its docstring have them."""
    return [
        Option(
            option.name,
            _plain(option.annotation),
            "needed" if option.needed else _value(option.default),
            option.meaning,
        )
        for option in options.options_of(group, name)
    ]


def _plain(annotation: Any) -> str:
    """What an option takes; a choice is spelt out, other things by a word."""
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        words = [_plain(part) for part in parts if part is not type(None)]
        return ", or ".join(dict.fromkeys(filter(None, words)))
    if origin is Literal:
        return " \\| ".join(_value(part) for part in parts)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return "block"
    if isinstance(origin, type) and issubclass(origin, Sequence):
        return "list"
    return WORDS.get(annotation, "")


# ---------------------------------------------------------------------------------------------- tables


def tables() -> str:
    """Columns of the parquet tables."""
    from segengine.instances.rows import TABLE_SCHEMA
    from segengine.stages.solids import SOLIDS_SCHEMA
    from segengine.stages.tables import FRAMES_SCHEMA, SHARDS_SCHEMA
    from segengine.stages.tracks import TRACKS_SCHEMA
    from segengine.store.runs import RUNS_SCHEMA

    schemas = {
        "frames": FRAMES_SCHEMA,
        "shards": SHARDS_SCHEMA,
        "instances": TABLE_SCHEMA,
        "tracks": TRACKS_SCHEMA,
        "solids": SOLIDS_SCHEMA,
        "runs": RUNS_SCHEMA,
    }
    rows_of = (
        "a frame", "a shard", "an instance", "an instance and frame of a video",
        "an object of a volume", "a run",
    )  # fmt: skip
    rows = [
        (
            f"`tables/{name}.parquet`",
            f"one row {row}",
            ", ".join(f"{f.name} {f.type}" for f in schema),
        )
        for (name, schema), row in zip(schemas.items(), rows_of, strict=True)
    ]
    return _table(("table", "holds", "columns"), rows)


def _table(head: Sequence[str], rows: Any) -> str:
    return "".join(_line(cells) for cells in (head, ["---"] * len(head), *rows))


def _line(cells: Sequence[str]) -> str:
    """A row; a bare `|` in a cell would end it."""
    escaped = (re.sub(r"(?<!\\)\|", r"\\|", cell) for cell in cells)
    return "|" + "".join(f" {cell} |" if cell else " |" for cell in escaped) + "\n"


PARTS: dict[str, Callable[[], str]] = {
    "job keys": job_keys,
    "train keys": train_keys,
    "segmenters": segmenters,
    "sources": lambda: listed("sources", ("paths", *HIDDEN)),
    "metrics": lambda: listed("metrics", CLASSES),
    "losses": lambda: listed("losses", tuple(COMMON)),
    "models": lambda: listed("models", ("bands", "classes", "size", "weights")),
    "exports": lambda: listed("exports", ("store_path", "to", "overwrite", "say")),
    "tables": tables,
}


def main() -> None:
    """Write what has changed."""
    for path in chapters():
        if not path.exists():
            continue
        text = path.read_text(encoding="utf-8")
        if (new := made(text)) != text:
            path.write_text(new, encoding="utf-8")


if __name__ == "__main__":
    main()
