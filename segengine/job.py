"""The job: what a user types, as a YAML file, a flow parameter or keyword arguments.

Frozen pydantic models; unknown keys are errors, and an error names the file, the line and the key.
"""

from __future__ import annotations

import difflib
import glob
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from segengine import registry
from segengine.errors import JobError, UntrustedError
from segengine.guards import schemes, yamlfile
from segengine.guards.trust import refuse_forbidden
from segengine.overrides import Lines, override
from segengine.registry.options import are_outlined, kinds, one_of
from segengine.terms import Terms
from segengine.terms.booleans import NoBooleans
from segengine.terms.nights import AlertSpec, BudgetSpec
from segengine.terms.quantities import Duration, metres_of, seconds_of
from segengine.urls import public, public_values

if TYPE_CHECKING:
    from segengine.types import Plugin

URL = re.compile(r"^[a-z][a-z0-9+.-]*://", re.IGNORECASE)
ANNOTATIONS = "annotations"
"""The one option of a data set that is a path."""
ALWAYS = ("kind", "paths", "skip")
"""Keys of a `source` block that every kind has."""
HIDDEN = ("trust", "area_mark")
"""Options of a source that are not of its block: what the rest of the job, or a file, says."""
FILES = ("path", "weights", "encoder", "decoder", "prompts")
"""Options of a segmenter that may name a file."""
MEMBERS = "members"
"""Option of a segmenter whose values are segmenters' blocks."""
TRUTH_FIELDS = ("name", "stem", "path", "parent", "scene", "frame", "index")
"""What `truth.paths` may name in braces: the frame's."""
TRIED = re.compile(r"int|float|str|constrained-\w+")
"""How pydantic calls the type that it tried, where a key takes one of several."""
TRIED_BLOCK = re.compile(r"[A-Z]\w*Spec|(?:list|dict|tuple|literal|function-\w+)\[.*\]")
"""The same of what is no plain value: no key is written so."""
OTHER = re.compile(r"\w+_type|\w+_parsing|int_from_float|literal_error")
"""Kinds of errors of a value that was never meant to be of the type that was tried."""
TRUTH_FIELD = re.compile(r"\{([^{}]*)\}|(\{\{)|(\}\})")
"""A field, or a brace that stands for itself."""
DRAWN = (".json", ".geojson", ".xml")
"""Suffixes of files in which objects were drawn."""
MOST_CORNERS = 10_000
"""Of a zone."""
_COLOR = re.compile("#[0-9a-fA-F]{6}")


class Model(NoBooleans):
    """Strict and immutable: an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class SkipSpec(Model):
    """What is not worked on."""

    empty: bool = Field(
        True,
        description="Shards of a cut frame without a valid pixel: void, and no segmenter is asked",
    )
    still: float | None = Field(
        None,
        ge=0,
        le=255,
        description="Video: frames that differ from the last that moved by no more grey levels, in any "
        "block of 16 x 16 pixels on average, keep its mask; 0: equal frames only",
    )


class SourceSpec(NoBooleans):
    """Where the images come from. Data sets have options of their own, as `split`."""

    model_config = ConfigDict(extra="allow", frozen=True)
    kind: str = Field(
        "auto", description="auto, one of `segengine sources`, or package.module:Class"
    )
    paths: list[str] = Field(
        json_schema_extra={"minItems": 1},
        description="Folders, files, globs or URLs; relative ones are taken against the job file",
    )
    bands: list[Annotated[int, Field(ge=1)] | Annotated[str, Field(min_length=1)]] | None = Field(
        None,
        description="Raster and Zarr: 1-based bands to read; with {band} in a path their names; "
        "omitted = all",
        min_length=1,
    )
    color: Literal["gray", "rgb"] | None = Field(
        None, description="Images and video: force one; omitted = as they are"
    )
    every: int = Field(1, ge=1, description="Video: keep every n-th frame")
    area: str | list[float] | None = Field(
        None,
        description="Raster: a file of polygons (GeoJSON, GeoParquet, GeoPackage, FlatGeobuf or "
        "Shapefile), or [west, south, east, north] in degrees; outside is void and never read",
    )
    resolution: Annotated[float, Field(gt=0)] | str | None = Field(
        None,
        description="Raster: side of a pixel, in units of crs, or in metres as 10 m where crs has metres; "
        "omitted = what the model says, else that of the finest band",
    )
    crs: str | None = Field(
        None, description="Raster: CRS of the mask, as EPSG:32633; omitted = the scene's"
    )
    resampling: Literal["nearest", "bilinear", "cubic", "average"] | None = Field(
        None,
        description="Raster: how bands are brought to the grid of the mask; omitted = nearest",
    )
    mosaic: Literal["newest", "oldest", "cloud", "path"] | None = Field(
        None,
        description="Raster and STAC: overlapping scenes are one map, and which of them is on top; "
        "omitted = each its own",
    )
    skip: SkipSpec | None = Field(None, description="What is not worked on")

    @field_validator("kind")
    @classmethod
    def _kind_is_installed(cls, value: str) -> str:
        if value != "auto" and ":" not in value and value not in registry.names("sources"):
            kinds = ", ".join(("auto", *registry.names("sources")))
            raise ValueError(f"{value!r} is not installed; choose from {kinds}")
        return value

    @field_validator("paths", mode="before")
    @classmethod
    def _one_path_is_a_list(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @field_validator("resolution", mode="before")
    @classmethod
    def _metres_are_told(cls, value: Any) -> Any:
        if isinstance(value, str) and metres_of(value) is None:
            raise ValueError(f"{value[:40]!r} is no resolution; write a number, or metres as 10 m")
        return value

    @model_validator(mode="before")
    @classmethod
    def _options_are_the_kinds(cls, given: Any) -> Any:
        kind = given.get("kind", "auto") if isinstance(given, dict) else None
        if kind == "auto":
            known = set(cls.model_fields)
        elif isinstance(kind, str) and (":" in kind or kind in registry.names("sources")):
            try:
                # What a source is told of the rest of the job is not for its block to say.
                known = {*ALWAYS, *registry.parameters("sources", kind)} - {*HIDDEN}
            except UntrustedError:
                raise
            except JobError as error:
                raise ValueError(f"kind: {error}") from error
        else:
            return given
        for name in sorted(str(n) for n in given if n not in known and given[n] is not None):
            if kind != "auto" and given[name] == getattr(cls.model_fields.get(name), "default", ""):
                continue  # as a stored job spells it out
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]}?" if close else f"known here: {_listed(known)}"
            outer = OUTER if name in Job.model_fields else f"; {hint}"
            raise ValueError(f"{name}: unknown key{outer}")
        if kind == "stac" and given.get("search") is not None:
            if given.get("paths"):
                raise ValueError("search: stands in place of paths; leave one of the two out")
            return {**given, "paths": []}
        return given

    @model_validator(mode="after")
    def _something_is_named(self) -> SourceSpec:
        if not self.paths and not (self.model_extra or {}).get("search"):
            raise ValueError("paths: is empty; name a file, a folder or a glob")
        return self


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))


class TruthSpec(Model):
    """What to measure against. Omitted: a data set's own truth, or none."""

    paths: list[str] = Field(
        default_factory=list,
        description="Label images, or files in which objects were drawn (COCO, Label Studio, CVAT, "
        "labelme, QuPath); {stem}, {name}, {path}, {parent}, {scene}, {frame} and {index} are the frame's",
    )
    instances: str | None = Field(
        None,
        description="Images of one number an object, 0 where there is none, beside the labels or, of "
        "objects of one class, in their place; fields as in paths",
    )
    classes: list[str] | None = Field(
        None, description="Class names, in order of their pixel values; omitted = the segmenter's"
    )
    values: list[int | str] | None = Field(
        None,
        description='Pixel value or colour ("#ff0000") of each class; omitted = 0, 1, 2 ...; beside '
        "colours a number is that level of gray",
    )
    void: int | str | None = Field(
        255, description="Pixel value that is not scored; with colours: none, unless it is given"
    )

    @model_validator(mode="before")
    @classmethod
    def _white_is_a_colour(cls, block: Any) -> Any:
        if isinstance(block, dict) and "void" not in block:
            values = block.get("values")
            if isinstance(values, (list, tuple)) and any(isinstance(v, str) for v in values):
                return {**block, "void": None}
        return block

    @field_validator("values", "void", mode="before")
    @classmethod
    def _colours_are_written_in_full(cls, value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return [_color(item) for item in value]
        return value if value is None else _color(value)

    @field_validator("paths", mode="before")
    @classmethod
    def _one_path_is_a_list(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @field_validator("paths", "instances")
    @classmethod
    def _fields_are_known(cls, value: list[str] | str | None) -> list[str] | str | None:
        for path in [value] if isinstance(value, str) else value or ():
            for match in TRUTH_FIELD.finditer(path):
                if match[1] is not None and match[1] not in TRUTH_FIELDS:
                    known = ", ".join(f"{{{field}}}" for field in TRUTH_FIELDS)
                    raise ValueError(f"{{{match[1]}}} is unknown; use {known}")
        return value

    @model_validator(mode="after")
    def _files_go_together(self) -> TruthSpec:
        if not self.paths and self.instances is None:
            raise ValueError("paths: name at least one, or images of objects in instances")
        if self.paths and not self.drawn and any(map(is_drawn, self.paths)):
            raise ValueError("paths: are label images, or files of drawn objects; not some of both")
        if self.drawn and self.instances is not None:
            raise ValueError("instances: leave it out; the files of paths tell objects apart")
        if self.drawn and self.values is not None:
            raise ValueError("values: leave it out; the files of paths name their classes")
        return self

    @model_validator(mode="after")
    def _values_match_classes(self) -> TruthSpec:
        if self.values is not None:
            if self.classes is None or len(self.values) != len(self.classes):
                raise ValueError("values: give one pixel value for each of classes")
            if self.colors and any(not 0 <= v <= 255 for v in self.values if isinstance(v, int)):
                raise ValueError("values: beside colours a number is a level of gray, 0 to 255")
            if len(set(self.codes or ())) != len(self.values):
                raise ValueError("values: each class needs a pixel value of its own")
        if isinstance(self.void, str) and not self.colors:
            raise ValueError("void: is a colour, and values holds none")
        return self

    @property
    def drawn(self) -> bool:
        """Whether paths are files in which objects were drawn, not label images."""
        return bool(self.paths) and all(map(is_drawn, self.paths))

    @property
    def colors(self) -> bool:
        """Whether classes are told by colours, each one number: red x 65536 + green x 256 + blue."""
        return any(isinstance(value, str) for value in self.values or ())

    @property
    def codes(self) -> list[int] | None:
        """The number that stands for each class; None: 0, 1, 2 ..."""
        return None if self.values is None else [self._code(value) for value in self.values]

    @property
    def void_code(self) -> int | None:
        """The number that is not scored."""
        return None if self.void is None else self._code(self.void)

    def _code(self, value: int | str) -> int:
        if isinstance(value, str):
            return int(value[1:], 16)
        return value * 0x010101 if self.colors else value


def is_drawn(path: str) -> bool:
    """Whether truth lies in a file in which objects were drawn, by its suffix."""
    return public(path).lower().endswith(DRAWN)


def _color(value: Any) -> Any:
    """A pixel value as it is given, or a colour in small letters."""
    if value is None:
        raise ValueError('quote colours, as in ["#ff0000"]: YAML takes a bare # for a comment')
    if isinstance(value, str) and not value.lstrip("-").isdigit():
        if not _COLOR.fullmatch(value):
            raise ValueError(f'{value!r} is no pixel value and no colour, as "#ff0000" is')
        return value.lower()
    return value if not isinstance(value, str) else int(value)


class ComponentsSpec(Model):
    """Connected regions of each class, made clean"""

    kind: Literal["components"] = Field(description="Connected regions of each class are instances")
    classes: list[str] | None = Field(
        None,
        min_length=1,
        description="Of these classes only; omitted = of all but the background",
    )
    connectivity: Literal[1, 2] = Field(
        1, description="1: pixels that share an edge are connected; 2: a corner too"
    )
    smooth: float = Field(
        0.0,
        ge=0,
        le=64,
        description="Sigma in pixels of a Gaussian on each class's mask, cut at one half; 0 = none",
    )
    holes: int = Field(0, ge=0, description="Holes of up to so many pixels are filled")
    min_area: int = Field(0, ge=0, description="Objects of fewer pixels are dropped")
    split: Literal["watershed", "distance", "hmaxima"] | None = Field(
        None,
        description="Take objects apart that touch: watershed of the distance to the background, the "
        "nearest of its maxima, or watershed from maxima that rise by h; omitted = not",
    )
    min_distance: int = Field(
        5, ge=1, le=1000, description="Pixels between maxima; of watershed and distance"
    )
    h: float = Field(1.0, gt=0, le=1000, description="Pixels by which a maximum rises; of hmaxima")

    @model_validator(mode="after")
    def _options_have_an_effect(self) -> ComponentsSpec:
        # a stored job spells the defaults out
        if self.split != "hmaxima" and self.h != 1:
            raise ValueError("h: is of split: hmaxima")
        if self.split not in ("watershed", "distance") and self.min_distance != 5:
            raise ValueError("min_distance: is of split: watershed or distance")
        return self


class SegmenterSpec(NoBooleans):
    """A segmenter's name and its options."""

    model_config = ConfigDict(extra="allow", frozen=True)
    kind: str = Field(description="One of `segengine segmenters`, or package.module:Class")
    instances: Literal["components"] | ComponentsSpec | None = Field(
        None,
        description="components: the connected regions of each class are instances; a block with kind: "
        "components makes them clean and splits those that touch",
    )

    @field_validator("instances", mode="before")
    @classmethod
    def _instances_are_explained(cls, value: Any) -> Any:
        return value if isinstance(value, ComponentsSpec) else _components(value)

    def as_instances(self) -> str | dict[str, Any] | None:
        """`instances` without what is as it is anyway."""
        if not isinstance(self.instances, ComponentsSpec):
            return self.instances
        return {"kind": "components", **self.instances.model_dump(exclude_defaults=True)}

    @property
    def options(self) -> dict[str, Any]:
        """What the segmenter itself takes."""
        return dict(self.model_extra or {})


def _components(value: Any) -> ComponentsSpec | Literal["components"] | None:
    """The value of `instances`. Raises ValueError with one line, that begins with an option of a block."""
    if value is None or value == "components":
        return value  # type: ignore[no-any-return] # what it is equal to
    if not isinstance(value, dict):
        raise ValueError(f"must be components, or a block with kind: components, not {value!r}")
    try:
        return ComponentsSpec.model_validate(value)
    except ValidationError as error:
        _, message = _explain(error, ComponentsSpec)
        raise ValueError(message) from None


def instances_of(value: Any) -> ComponentsSpec | Literal["components"] | None:
    """The value of `segmenter.instances`. Raises JobError."""
    try:
        return _components(value)
    except ValueError as error:
        dot = ": " if str(error).startswith("must be") else "."
        raise JobError(f"segmenter.instances{dot}{error}") from None


class StoreSpec(Model):
    """Where the masks go, and how they are cut."""

    path: str = Field(
        description="Folder or s3:// URL of the store; made where it is not there", min_length=1
    )
    chunk: int = Field(512, ge=16, le=16384, description="Side of a chunk, in pixels")
    shard: int = Field(
        2048, ge=16, le=65536, description="Side of a shard, in pixels; a multiple of chunk"
    )
    frames: int | None = Field(
        None,
        ge=1,
        description="Frames in a shard; omitted = as many as fill its pixels, of video up to the "
        "key-frame distance",
    )
    probabilities: bool = Field(
        False, description="Store class probabilities too, where the segmenter gives them"
    )
    confidence: bool = Field(
        False, description="Store how probable each label is, in a byte a pixel; networks can tell"
    )

    @model_validator(mode="after")
    def _shard_is_whole_chunks(self) -> StoreSpec:
        if self.shard % self.chunk:
            raise ValueError(
                f"shard: {self.shard} is no multiple of store.chunk {self.chunk}; "
                f"try {-(-self.shard // self.chunk) * self.chunk}"
            )
        return self


_Point = tuple[
    Annotated[float, Field(allow_inf_nan=False)], Annotated[float, Field(allow_inf_nan=False)]
]


class TracksSpec(Model):
    """Video with instances: ids through time. Omitted: none"""

    iou: float = Field(
        0.3, gt=0, le=1, description="Least overlap of an object with where it should be by now"
    )
    gap: int = Field(10, ge=0, le=100_000, description="Frames for which an object may be hidden")
    lines: dict[str, list[_Point]] = Field(
        default_factory=dict,
        description="Names with two points [x, y] each: what crosses them is counted",
    )
    zones: dict[str, list[_Point]] = Field(
        default_factory=dict,
        description="Names with the corners of a polygon each: what is inside is counted",
    )
    period: Duration = Field("1m", description="Counts are a row a period of the video")

    @model_validator(mode="after")
    def _shapes_are_shapes(self) -> TracksSpec:
        for name, points in self.lines.items():
            if len(points) != 2 or points[0] == points[1]:
                raise ValueError(f"lines: {name} needs two points, as [[0, 100], [640, 100]]")
        for name, points in self.zones.items():
            if not 3 <= len(set(points)) <= MOST_CORNERS:
                raise ValueError(f"zones: {name} needs 3 to {MOST_CORNERS} corners, each [x, y]")
        both = sorted({*self.lines} & {*self.zones})
        if both:
            raise ValueError(f"zones: {both[0]} is the name of a line")
        if self.seconds <= 0:
            raise ValueError("period: must be more than nothing")
        return self

    @property
    def seconds(self) -> float:
        """The period."""
        return seconds_of(self.period)


class SolidsSpec(Model):
    """Volumes with instances: objects through their slices. Omitted: none"""

    connectivity: Literal[1, 2, 3] = Field(
        1,
        description="An object goes on in the next slice where voxels share a face; 2: an edge too; 3: "
        "a corner too",
    )


class Sources:
    """The JSON schema of a `source` block: one of the kinds, each with its own options.

    In the place of a reference: Prefect's form has choices for what it finds there, and there only.
    """

    def __get_pydantic_json_schema__(self, core: Any, handler: Any) -> Any:
        found = handler.resolve_ref_schema(handler(core))
        if are_outlined():
            return found
        keys = found["properties"]
        always = {key: keys[key] for key in ALWAYS}
        choices = kinds("sources", always, hidden=HIDDEN, known=keys)
        for choice in choices:
            if "search" in choice["properties"]:
                # In place of the paths, which a stored job then has empty.
                paths = {k: v for k, v in keys["paths"].items() if k != "minItems"}
                choice["properties"] = {**choice["properties"], "paths": paths}
                choice["required"] = [key for key in choice["required"] if key != "paths"]
                choice["anyOf"] = [{"required": ["paths"]}, {"required": ["search"]}]
            # A stored job spells out what its kind has no use for.
            rest = {
                key: keys[key].get("default") for key in keys if key not in choice["properties"]
            }
            choice["patternProperties"] = {f"^{key}$": {"const": rest[key]} for key in sorted(rest)}
        auto = {**found, "title": "auto", "additionalProperties": False}
        auto["properties"] = {**keys, "kind": {**keys["kind"], "const": "auto"}}
        files = [auto, *(c for c in choices if not c["properties"].keys() - keys.keys())]
        return one_of("Source", found, [auto, *choices], together={"files": files})


class Segmenters:
    """The same of a `segmenter` block."""

    def __get_pydantic_json_schema__(self, core: Any, handler: Any) -> Any:
        found = handler.resolve_ref_schema(handler(core))
        if are_outlined():
            return found
        return one_of("Segmenter", found, kinds("segmenters", found["properties"]))


class EvaluateSpec(Model):
    """What is measured at the end."""

    metrics: list[str | dict[str, Any]] = Field(
        ["confusion"],
        description="Names of `segengine metrics`, or {metric: NAME, ...options}; [all] for all",
    )
    losses: list[str | dict[str, Any]] = Field(
        [],
        description="Names of `segengine losses`, {loss: NAME, ...options} or {compound: [...]}; need "
        "store.probabilities",
    )

    @field_validator("metrics", "losses", mode="before")
    @classmethod
    def _one_is_a_list(cls, value: Any) -> Any:
        return [value] if isinstance(value, str | dict) else value

    @field_validator("metrics", "losses")
    @classmethod
    def _numbers_are_some(cls, value: Any) -> Any:
        # JSON has no others: they would be told as None.
        for item in value:
            _require_finite("", item)
        return value


def _require_finite(option: str, value: Any) -> None:
    """Raise ValueError where a value, or one inside it, is a number and not a finite one."""
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{option}: must be a finite number, not {value}")
    if isinstance(value, dict):
        for name, inner in value.items():
            _require_finite(str(name), inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            _require_finite(option, inner)


def checked_evaluate(block: Mapping[str, Any]) -> dict[str, Any]:
    """An `evaluate` block that is given beside a store, as it is. Raises JobError as a job's would."""
    given = dict(block)
    try:
        yamlfile.require_shallow(given)
        EvaluateSpec.model_validate(given)
    except yamlfile.YamlError as error:
        raise JobError(f"evaluate: {error}") from None
    except ValidationError as error:
        raise JobError(f"evaluate.{_explain(error, EvaluateSpec)[1]}") from None
    return given


class WorkersSpec(Model):
    """Workers that come and go with the work there is"""

    min: int = Field(0, ge=0, description="So many stay")
    max: int = Field(ge=1, description="Never more")

    @field_validator("min", "max", mode="before")
    @classmethod
    def _is_a_number(cls, value: Any) -> Any:
        if isinstance(value, bool):
            raise ValueError("must be a number")
        return value

    @model_validator(mode="after")
    def _in_order(self) -> WorkersSpec:
        if self.min > self.max:
            raise ValueError(f"min: {self.min} is more than max, {self.max}")
        return self


class ClusterSpec(Model):
    """Where shards are worked on."""

    kind: str = Field(
        "local",
        description="local, address, jobqueue, gateway, kubernetes, or a kind that another package adds",
    )
    workers: int | Literal["auto"] | WorkersSpec = Field(
        "auto",
        description="Worker processes, one thread each; auto: as many as there are cores here; "
        "where they are started elsewhere: a number, or the least and the most",
    )
    address: str | None = Field(
        None,
        description="address: scheduler of a running cluster, tcp://... or tls://...; gateway: http://...",
    )
    options: dict[str, Any] = Field(
        default_factory=dict,
        description="What the kind takes beyond these",
    )

    @field_validator("workers", mode="before")
    @classmethod
    def _workers_are_a_number(cls, value: Any) -> Any:
        numeric = isinstance(value, int | float) or (isinstance(value, str) and value.isdecimal())
        whole = numeric and not isinstance(value, bool) and float(value).is_integer()
        if not whole and value != "auto" and not isinstance(value, Mapping | WorkersSpec):
            raise ValueError("must be a whole number, auto or {min: 2, max: 50}")
        return value

    @model_validator(mode="after")
    def _is_what_its_kind_takes(self) -> ClusterSpec:
        if self.kind not in registry.names("clusters"):
            kinds = ", ".join(registry.names("clusters"))
            raise ValueError(f"kind: {self.kind!r} is not installed; choose from {kinds}")
        if isinstance(self.workers, int) and self.workers < 1:
            raise ValueError(f"workers: must be at least 1, got {self.workers}")
        kind = self._terms()
        if kind is not None:
            try:
                refusal = kind.of(self.options).refusal(self.workers, self.address)
            except ValueError as error:
                raise ValueError(f"options: {error}") from None
            if refusal:
                raise ValueError(refusal)
        return self

    def _terms(self) -> type[Terms] | None:
        """What the kind says of itself; None: nothing, and it looks at its options when opened."""
        if self.kind not in registry.names("terms"):
            return None
        return registry.load("terms", self.kind)  # type: ignore[return-value] # what is registered

    @property
    def worker_bytes(self) -> int | None:
        """Memory of a worker; None: not known before it is there."""
        terms = self._terms()
        return terms.of(self.options).worker_bytes if terms else None

    @property
    def files(self) -> Mapping[str, str]:
        """Options that name files."""
        terms = self._terms()
        named = {name: self.options.get(name) for name in (terms.files if terms else ())}
        return {name: value for name, value in named.items() if isinstance(value, str)}

    def bounds(self, tasks: int) -> tuple[int, int]:
        """The least and the most workers for so many tasks, of a kind that starts them elsewhere."""
        if self.workers == "auto":
            raise JobError(f"cluster.workers: {self.kind} needs a number, or {{min: 2, max: 50}}")
        workers = self.workers
        if isinstance(workers, int):
            workers = WorkersSpec(min=workers, max=workers)
        least, most = workers.min, workers.max
        return min(least, tasks), max(1, min(most, tasks))

    def most(self, cores: int) -> int:
        """Workers there may be at a time; `cores`: of this machine."""
        if isinstance(self.workers, WorkersSpec):
            return self.workers.max
        return cores if self.workers == "auto" else self.workers


class FaultsSpec(Model):
    """What is tried before a shard is given up."""

    retries: int = Field(2, ge=0, description="Tries of a shard after the first")
    deadline: float = Field(
        600, gt=0, description="Seconds a shard may take before its worker is started anew"
    )
    max_quarantined: float = Field(
        0.01,
        ge=0,
        le=1,
        description="Share of the planned frames, never below 5 frames, above which the run stops",
    )
    fsync: bool = Field(
        True,
        description="Flush what is stored to disk before it counts as done; false: not safe from a "
        "power cut",
    )


class Job(Model):
    """One job: images in, masks out. Unknown keys are errors; `load_job` reads one from a file.

    - `source`: where the images come from. `paths`, `kind`, `bands`, `color`, `every`.
    - `truth`: label images to measure against; optional.
    - `segmenter`: `kind`, and the options of that kind.
    - `store`: `path`; sides of chunks and shards in pixels.
    - `tracks`: ids of a video's objects through time; `solids`: a volume's objects through its slices.
    - `evaluate`: metrics and losses; `cluster`: workers; `faults`: retries, seconds, shares.
    - `budget`: hours that a run keeps; `alerts`: figures that it tells of.

    Every key with its type and default: deployments/jobs/README.md. Building one raises pydantic's
    ValidationError, `load_job` and `segengine.run` one line as JobError.
    """

    name: str = Field("segengine", description="Shown in reports and by Prefect")
    source: Annotated[SourceSpec, Sources()]
    truth: TruthSpec | None = None
    segmenter: Annotated[SegmenterSpec, Segmenters()]
    store: StoreSpec
    tracks: TracksSpec | None = None
    solids: SolidsSpec | None = None
    evaluate: EvaluateSpec = EvaluateSpec()
    cluster: ClusterSpec = ClusterSpec()
    budget: BudgetSpec | None = None
    alerts: list[AlertSpec] | None = Field(
        None, description="Figures that are told of where they pass a limit or shift"
    )
    faults: FaultsSpec = FaultsSpec()
    trust: bool = Field(
        False,
        description="Code and files that the inputs or a foreign store name may be used",
    )

    @model_validator(mode="before")
    @classmethod
    def _code_is_allowed(cls, given: Any) -> Any:
        refuse_forbidden(given)
        return given

    @cached_property
    def plugin(self) -> Plugin:
        """The configured segmenter or surveyor. Raises JobError naming the option."""
        try:
            plugin: Plugin = registry.create(
                "segmenters", self.segmenter.kind, self.segmenter.options
            )
        except JobError as error:
            raise JobError(f"segmenter.{error}") from error
        return plugin

    def absolute(self, base: Path | None) -> Job:
        """The same job with absolute paths, taken against `base`; None: relative ones are errors."""
        source: dict[str, Any] = {
            "paths": [_absolute(p, base, "source.paths") for p in self.source.paths]
        }
        if isinstance(getattr(self.source, ANNOTATIONS, None), str):
            place = getattr(self.source, ANNOTATIONS)
            if not _is_below(place, source["paths"]):
                source[ANNOTATIONS] = _absolute(place, base, f"source.{ANNOTATIONS}")
        if isinstance(self.source.area, str):
            source["area"] = _absolute(self.source.area, base, "source.area")
        updates: dict[str, Any] = {
            "source": self.source.model_copy(update=source),
            "store": self.store.model_copy(
                update={"path": _absolute(self.store.path, base, "store.path")}
            ),
        }
        files = _files(self.segmenter.options, base, "segmenter")
        if files:
            updates["segmenter"] = self.segmenter.model_copy(update=files)
        shown = {
            name: _absolute(value, base, f"cluster.options.{name}")
            for name, value in self.cluster.files.items()
        }
        if shown:
            options = {"options": {**self.cluster.options, **shown}}
            updates["cluster"] = self.cluster.model_copy(update=options)
        if self.truth is not None:
            truth: dict[str, Any] = {
                "paths": [_absolute(p, base, "truth.paths") for p in self.truth.paths]
            }
            if self.truth.instances is not None:
                truth["instances"] = _absolute(self.truth.instances, base, "truth.instances")
            updates["truth"] = self.truth.model_copy(update=truth)
        return self.model_copy(update=updates)

    @property
    def still(self) -> float | None:
        """Grey levels by which frames that keep a mask may differ; None: each has its own."""
        return None if self.source.skip is None else self.source.skip.still

    def with_trained(self) -> Job:
        """The same job with what it leaves out of its source, as its model says: resolution, bands."""
        from segengine.types import Learned  # loads NumPy, which a mistake in the file needs not

        trained = self.plugin.trained if isinstance(self.plugin, Learned) else None
        kind = self.source.kind
        if trained is None or ":" in kind:
            return self
        taken = {"resolution"} if kind == "auto" else set(registry.parameters("sources", kind))
        told: dict[str, Any] = {}
        if "resolution" in taken and self.source.resolution is None and trained.resolution:
            told["resolution"] = f"{Decimal(repr(round(trained.resolution, 9))).normalize():f} m"
        if "assets" in taken and not getattr(self.source, "assets", None) and trained.bands:
            told["assets"] = list(trained.common or trained.bands)
        by_name = any("{band}" in path for path in self.source.paths)
        if by_name and self.source.bands is None and trained.bands:
            told["bands"] = list(trained.bands)
        if not told:
            return self
        return self.model_copy(update={"source": self.source.model_copy(update=told)})

    def source_options(self) -> dict[str, Any]:
        """The `source` block as readers take it: with what the rest of the job says of it."""
        return source_options(self.model_dump(mode="json"), self.trust)

    def as_json(self) -> dict[str, Any]:
        """The job as a JSON object, without credentials that a URL may carry."""
        shown: dict[str, Any] = public_values(self.model_dump(mode="json", exclude_none=True))
        if not self.store.confidence:  # as a store of a release that did not know it has it
            del shown["store"]["confidence"]
        return shown


def source_options(job: Mapping[str, Any], trust: bool = False) -> dict[str, Any]:
    """The `source` block of a job as JSON, as readers take it.

    `trust` is not what the job says where that comes with a store: a stranger may have written it.
    """
    return {**job["source"], "trust": True} if trust else dict(job["source"])


def load_job(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> Job:
    """Read a job file, apply `a.b=c` overrides, and check all that can be checked without its data.

    Raises JobError with one line: file, line, key, what is wrong.
    """
    schemes.require_path(os.fspath(path), "job file")
    file = Path(path)
    data, lines = _read(file)
    for given in overrides:
        override(data, lines, given)
    return _checked(data, base=file.absolute().parent, file=str(file), lines=lines)


def is_train_job(path: str | os.PathLike[str]) -> bool:
    """True where a YAML file is a training job: it names an architecture, and no store."""
    try:
        data, _ = yamlfile.parse(yamlfile.read_text(path))
    except (OSError, ValueError):
        return False
    return isinstance(data, dict) and "architecture" in data and "store" not in data


def located(
    path: str | os.PathLike[str], error: JobError, overrides: Sequence[str] = ()
) -> JobError:
    """The same error with its place in front, where it begins with a key of the job file: file and
    line, or the override that said it.

    For what only the data can tell, long after the file was read: paths that name no input.
    """
    try:
        data, lines = _read(Path(path))
        for given in overrides:
            override(data, lines, given)
    except JobError:
        return error
    where = _where(str(path), lines, tuple(str(error).partition(":")[0].split(".")))
    return error if where == str(path) else JobError(f"{where}: {error}")


def _read(file: Path) -> tuple[dict[str, Any], Lines]:
    """A job file's keys, and the line of each."""
    try:
        text = yamlfile.read_text(file)
    except FileNotFoundError:
        raise JobError(f"{file}: no such job file") from None
    except yamlfile.YamlError as error:
        raise JobError(f"{file}: {error}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise JobError(f"{file}: cannot be read: {error}") from None
    try:
        data, lines = yamlfile.parse(text)
    except yamlfile.YamlError as error:
        where = f":{error.line}" if error.line is not None else ""
        raise JobError(f"{file}{where}: {error}") from None
    if not isinstance(data, dict):
        raise JobError(
            f"{file}: a job file is a mapping with keys such as source, segmenter, store"
        )
    return data, dict(lines)


def parse_job(data: Mapping[str, Any] | Job, base: Path | None = None) -> Job:
    """A job from keyword data (Python, a flow parameter). Relative paths are taken against `base`."""
    if isinstance(data, str | os.PathLike):
        raise JobError(f"job: {data!r} is no mapping of keys; a file is read by load_job")
    if isinstance(data, Job):
        data.plugin  # noqa: B018 - checks the segmenter's options
        return data.absolute(base).with_trained()
    return _checked(dict(data), base=base, file="job", lines={})


def _checked(data: dict[str, Any], *, base: Path | None, file: str, lines: Lines) -> Job:
    try:
        yamlfile.require_shallow(data)
    except yamlfile.YamlError as error:
        raise JobError(f"{file}: {error}") from None
    try:
        job = Job.model_validate(data).absolute(base).with_trained()
    except ValidationError as error:
        key, message = _explain(error)
        message += _outdented(data, lines, key) + _inside(data, lines, key)
        raise JobError(f"{_where(file, lines, key)}: {message}") from None
    except JobError as error:
        key = tuple(str(error).partition(":")[0].split("."))
        message = str(error)
        if key[0] == "segmenter":
            known = [
                o for o in data["segmenter"] if re.search(rf"\b{re.escape(str(o))}\b", message)
            ]
            if key not in lines and key[-1] not in data["segmenter"]:
                option = key[-1] if _takes(data["segmenter"], key[-1]) else ""
                key = ("segmenter", str(known[0]) if known and not option else "kind")
                if option:
                    pass  # it names the key that is missing
                elif not known:
                    message = "segmenter.kind: " + message.removeprefix("segmenter.")
                elif not message.removeprefix("segmenter.").startswith(key[1]):
                    message = f"segmenter.{key[1]}: {message.removeprefix('segmenter.')}"
        raise JobError(f"{_where(file, lines, key)}: {message}") from None
    return job


def _takes(segmenter: Mapping[str, Any], option: str) -> bool:
    """Whether the kind of a block has an option."""
    try:
        return option in registry.parameters("segmenters", segmenter["kind"])
    except (JobError, KeyError):
        return False


def _where(file: str, lines: Mapping[tuple[str, ...], int | str], key: tuple[str, ...]) -> str:
    """File and line of a key, or of the nearest block around it; or the `--set` that said it."""
    for length in range(len(key), 0, -1):
        if key[:length] in lines:
            said = lines[key[:length]]
            return said if isinstance(said, str) else f"{file}:{said}"
    return file


def _explain(error: ValidationError, top: Any = None) -> tuple[tuple[str, ...], str]:
    """The key that is wrong, below `top` (a job), and one line that begins with it."""
    found = error.errors(include_url=False)
    meant = [e for e in found if not _is_beside(e)] or found
    # A key that is missing is often there, misspelt: the unknown one is the one to name.
    first = next((e for e in meant if e["type"] == "extra_forbidden"), meant[0])
    key = tuple(str(part) for part in first["loc"] if not TRIED_BLOCK.fullmatch(str(part)))
    key = key[:-1] if len(key) > 1 and TRIED.fullmatch(key[-1]) else key
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "value_error" and re.match(r"^[a-z_]+: ", message):
        option, _, message = message.partition(": ")
        key = (*key, option)
    elif first["type"] == "extra_forbidden":
        message = f"unknown key{_suggest(key, top or Job)}"
    elif first["type"] == "missing":
        message = "this key is needed"
    elif first["type"] in ("model_type", "dict_type"):
        kind = "kind" in _known(key, top or Job) and isinstance(first["input"], str)
        like = f", as {key[-1]}: {{kind: {first['input']}}}" if kind and key else ""
        message = f"must be a block of keys{like}, got {repr(first['input'])[:200]}"
    elif first["type"] == "list_type":
        message = (
            f"must be a list, as [...] or lines that begin with -, got {repr(first['input'])[:200]}"
        )
    elif not isinstance(first["input"], dict) and repr(first["input"]) not in message:
        message = f"{message}, got {repr(first['input'])[:200]}"
    return key, f"{'.'.join(key)}: {message}"


def _is_beside(error: Any) -> bool:
    """Whether a key takes one of several types, and the value was not meant to be the one that was tried,
    which pydantic puts at the end of the place.
    """
    tried = str(error["loc"][-1]) if error["loc"] else ""
    named = TRIED.fullmatch(tried) or TRIED_BLOCK.fullmatch(tried)
    return named is not None and OTHER.fullmatch(error["type"]) is not None


OUTER = "; it is a key of the job itself: take the blanks before it away"
"""What is said of such a key inside a block."""


def _known(key: tuple[str, ...], top: Any) -> list[str]:
    """Keys of the block at a key."""
    model = top
    for part in key:
        field = model.model_fields.get(part)
        kinds = [field.annotation, *getattr(field.annotation, "__args__", ())] if field else []
        model = next((k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel)), top)
    return list(model.model_fields)


def _suggest(key: tuple[str, ...], top: Any) -> str:
    known = _known(key[:-1], top)
    if top is Job and len(key) > 1 and key[-1] in Job.model_fields and key[-1] not in known:
        return OUTER
    if glued := re.match(r"(\w+):[{\[]", key[-1]):
        return f"; write a blank after the colon of {glued[1]}:"
    close = difflib.get_close_matches(key[-1], known, n=1)
    return f"; did you mean {close[0]}?" if close else f"; known here: {', '.join(known)}"


def _outdented(
    data: Mapping[str, Any], said: Mapping[tuple[str, ...], int | str], key: tuple[str, ...]
) -> str:
    """A hint, where an unknown key stands below the block that it belongs to, and not inside."""
    lines = {place: line for place, line in said.items() if isinstance(line, int)}
    if len(key) != 1 or key[0] in Job.model_fields or key not in lines:
        return ""
    above = max(
        ((line, place[0]) for place, line in lines.items() if line < lines[key]), default=(0, "")
    )
    line, block = above
    if not block or data.get(block) is not None:
        return ""
    return f"; if it belongs to {block} (line {line}), indent it by two blanks"


def _inside(
    data: Mapping[str, Any], said: Mapping[tuple[str, ...], int | str], key: tuple[str, ...]
) -> str:
    """A hint, where a block that is missing stands inside another."""
    if len(key) != 1 or key[0] in data:
        return ""
    held = (name for name, block in data.items() if isinstance(block, Mapping) and key[0] in block)
    return "".join(
        f"; on line {said[name, key[0]]} it stands inside {name}: take the blanks before it away"
        for name in held
        if isinstance(said.get((name, key[0])), int)
    )


def _absolute(path: str, base: Path | None, key: str) -> str:
    schemes.require_served(path, key, schemes.WRITTEN if key == "store.path" else None)
    if URL.match(path):
        return path
    expanded = os.path.expanduser(path)
    if os.path.isabs(expanded):
        return os.path.normpath(expanded)
    if base is None:
        raise JobError(f"{key}: {path}: a job given as a flow parameter needs absolute paths")
    folder = glob.escape(str(base)) if key == "source.paths" else str(base)
    if key.startswith("truth."):
        folder = folder.replace("{", "{{").replace("}", "}}")
    return os.path.normpath(os.path.join(folder, expanded))


def _files(options: Mapping[str, Any], base: Path | None, key: str) -> dict[str, Any]:
    """The options of a segmenter that name files, or have members that do, with absolute paths."""
    found: dict[str, Any] = {
        name: _absolute(value, base, f"{key}.{name}")
        for name, value in options.items()
        if name in FILES and isinstance(value, str) and _is_file(value)
    }
    members = options.get(MEMBERS)
    if isinstance(members, list) and all(isinstance(one, dict) for one in members):
        found[MEMBERS] = [
            {**one, **_files(one, base, f"{key}.{MEMBERS}[{i}]")} for i, one in enumerate(members)
        ]
    return found


def _is_below(name: str, roots: list[str]) -> bool:
    """Whether a file is told by its path below a data set's root."""
    if os.path.isabs(name) or URL.match(name) or name.startswith("~"):
        return False
    return any(URL.match(root) or os.path.exists(os.path.join(root, name)) for root in roots)


def _is_file(value: str) -> bool:
    """True for a path; names such as `coco` stand for weights that are fetched."""
    return "/" in value or os.sep in value or "." in value
