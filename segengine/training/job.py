"""The training job: TRAIN.yaml, a flow's parameter or keyword arguments, checked as a job is."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from segengine import registry
from segengine.errors import JobError
from segengine.guards.trust import refuse_forbidden
from segengine.job import (
    ANNOTATIONS,
    Model,
    SourceSpec,
    TruthSpec,
    _absolute,
    _explain,
    _read,
    _where,
)
from segengine.overrides import Lines, override
from segengine.terms.booleans import NoBooleans
from segengine.urls import public_values

WEIGHT_FILES = ("weights", "trunk")
"""Options of an architecture that may be paths."""
_FREE = ("optimizer", "loss", "class_weights", "metrics")
DECIDED = {
    "mask-rcnn": (*_FREE, "input.scale", "input.balance"),
    "deepmask": (*_FREE, "input.size", "input.resize", "input.scale"),
    "sharpmask": (*_FREE, "input.size", "input.resize", "input.scale"),
}
"""Keys whose defaults are not those of an architecture, which decides where they are left out."""
Fraction = Annotated[float, Field(gt=0, le=1)]


class PartSpec(Model):
    """A part of the data that is named: an official split, or a list of frames."""

    split: str | None = Field(None, description="A split of the data set's own")
    files: str | None = Field(None, description="Text file: a frame's name or stem on each line")
    fraction: Fraction | None = Field(None, description="Of it, this share of the frames")

    @model_validator(mode="after")
    def _one_name(self) -> PartSpec:
        if (self.split is None) == (self.files is None):
            raise ValueError("split: name a split of the data set, or files, not both")
        return self


class SplitSpec(Model):
    """Which frames are learned from, and which are only looked at.

    Both parts are shares of all frames, or both are named. A frame's part depends on its name and
    the seed alone: it keeps it when other frames come.
    """

    train: Fraction | PartSpec = Field(0.8, description="What is learned from")
    validation: Fraction | PartSpec = Field(0.2, description="What is only looked at")
    seed: int = Field(0, ge=0, description="Other parts for another seed")

    @field_validator("train", "validation", mode="before")
    @classmethod
    def _name_is_a_split(cls, value: Any) -> Any:
        return {"split": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _parts_are_of_one_kind(self) -> SplitSpec:
        if isinstance(self.train, PartSpec) != isinstance(self.validation, PartSpec):
            raise ValueError("validation: give both parts as shares of all frames, or name both")
        if not isinstance(self.train, PartSpec) and not isinstance(self.validation, PartSpec):
            whole = self.train + self.validation
            if whole > 1 + 1e-9:  # 0.7 + 0.3 may be a rounding above
                raise ValueError("train: its share and that of validation are more than 1")
        return self


class ArchitectureSpec(NoBooleans):
    """A network's name and its options; the name alone will do."""

    model_config = ConfigDict(extra="allow", frozen=True)
    name: str = Field(description="One of segengine.models.names()")

    @field_validator("name")
    @classmethod
    def _is_installed(cls, value: str) -> str:
        return _installed("models", value)

    @property
    def options(self) -> dict[str, Any]:
        """Everything but `name`."""
        return dict(self.model_extra or {})


class ScaleSpec(Model):
    """How pixel values become the network's input: `(x / divide - mean) / std`, or lo..hi to 0..1."""

    divide: float | None = Field(None, gt=0, description="What values are divided by first")
    mean: list[float] | None = Field(None, min_length=1, description="One a band, or one for all")
    std: list[Annotated[float, Field(gt=0)]] | None = Field(
        None, min_length=1, description="Goes with mean"
    )
    range: tuple[float, float] | None = Field(
        None, description="Values that become 0 and 1; in place of the others"
    )

    @model_validator(mode="after")
    def _one_way(self) -> ScaleSpec:
        if (self.mean is None) != (self.std is None):
            raise ValueError("mean: goes with std")
        if self.range is not None:
            if self.divide is not None or self.mean is not None:
                raise ValueError("range: goes neither with divide nor with mean and std")
            if self.range[0] >= self.range[1]:
                raise ValueError("range: the first value must be below the second")
        return self


class InputSpec(Model):
    """What the network sees: whole frames made small, or patches at full resolution."""

    size: tuple[Annotated[int, Field(ge=8)], Annotated[int, Field(ge=8)]] = Field(
        (128, 128), description="Height and width in pixels"
    )
    resize: Literal[True, "patches"] = Field(
        True, description="true: frames resized to size; patches: windows of size cut from them"
    )
    scale: ScaleSpec = ScaleSpec(divide=255.0)
    bands: int | None = Field(None, ge=1, description="Bands that every input must have")
    patches: int | None = Field(
        None, ge=1, description="Patches an epoch; omitted = as many as tile the frames"
    )
    balance: bool = Field(True, description="Patches: each class is drawn equally often")

    @field_validator("size", mode="before")
    @classmethod
    def _two_sides(cls, value: Any) -> Any:
        if not isinstance(value, list | tuple) or len(value) != 2:
            raise ValueError("write a height and a width in pixels, such as [128, 128]")
        return value


class AugmentSpec(Model):
    """Random changes of each training sample: geometry on image and mask together."""

    flip: Literal["none", "horizontal", "vertical", "both"] = Field(
        "none", description="Mirrored at random, half of the time"
    )
    rotate: float = Field(0, ge=0, le=180, description="Greatest angle, in degrees")
    crop: float = Field(1, gt=0, le=1, description="Least share of each side that is kept")
    scale: float = Field(1, ge=1, le=4, description="Greatest zoom, in and out")
    color: float = Field(0, ge=0, le=1, description="Brightness and contrast, in spreads")
    noise: float = Field(0, ge=0, le=1, description="Sigma of the noise, in spreads")


class OptimizerSpec(Model):
    """How weights change."""

    name: Literal["adam", "adamw", "sgd"] = Field("adam", description="Which method")
    learning_rate: float = Field(1e-3, gt=0, description="At the start")
    schedule: Literal["constant", "cosine", "exponential", "step"] = Field(
        "constant", description="cosine: to 0 at the end; exponential, step: times decay in `every`"
    )
    decay: float = Field(0.1, gt=0, lt=1, description="Factor of exponential and step")
    every: int = Field(10, ge=1, description="Epochs between two decays")
    momentum: float = Field(0.9, ge=0, lt=1, description="Of sgd")
    weight_decay: float = Field(4e-3, ge=0, description="Of adamw")


class EarlyStoppingSpec(Model):
    """End when the validation loss has not fallen for some epochs, and keep the best weights."""

    patience: int = Field(ge=1, description="Epochs without a lower validation loss")


class TrainJob(Model):
    """One training: images with truth in, a bundle out."""

    model_config = ConfigDict(populate_by_name=True)

    name: str = Field("segengine", description="Shown on the model card and by Prefect")
    source: SourceSpec
    truth: TruthSpec | None = Field(None, description="Omitted: the data set's own")
    split: SplitSpec = SplitSpec()
    architecture: ArchitectureSpec
    input: InputSpec = InputSpec()
    augment: AugmentSpec = AugmentSpec()
    loss: str | dict[str, Any] | list[dict[str, Any]] = Field(
        "sparse_categorical_ce",
        description="A name of `segengine losses`, {loss: NAME, ...options}, or a list of such with weight",
    )
    class_weights: Literal["auto", "none"] | list[Annotated[float, Field(ge=0)]] = Field(
        "none", description="One a class; auto: by how rare each is"
    )
    optimizer: OptimizerSpec = OptimizerSpec()
    batch: int = Field(16, ge=1, description="Samples a step")
    shuffle: bool | Annotated[int, Field(ge=1)] = Field(
        True, description="true: all samples; a number: among so many at a time"
    )
    epochs: int = Field(20, ge=1, description="Most epochs")
    early_stopping: EarlyStoppingSpec | None = None
    metrics: list[Literal["accuracy", "mean_iou", "mean_dice"]] = Field(
        ["accuracy", "mean_iou"], description="Of the validation part too, after each epoch"
    )
    seed: int = Field(0, ge=0, lt=2**31, description="Of weights, order and augmentation")
    out: str = Field(min_length=1, description="Folder of checkpoints, pictures and the bundle")
    from_: str | None = Field(None, alias="from", description="Bundle whose weights to start from")

    @field_validator("architecture", mode="before")
    @classmethod
    def _name_alone(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @field_validator("loss")
    @classmethod
    def _loss_is_installed(cls, value: Any) -> Any:
        for part in value if isinstance(value, list) else [value]:
            name = part if isinstance(part, str) else part.get("loss")
            if not isinstance(name, str):
                raise ValueError("write NAME, {loss: NAME, ...options} or a list of such")
            _installed("losses", name)
        return value

    @property
    def window(self) -> int:
        """Samples among which the order is drawn; 1: as listed, 0: all."""
        if self.shuffle is True:
            return 0
        return 1 if self.shuffle is False else self.shuffle

    @model_validator(mode="before")
    @classmethod
    def _code_is_allowed(cls, given: Any) -> Any:
        refuse_forbidden(given)
        return given

    def absolute(self, base: Path | None) -> TrainJob:
        """The same job with absolute paths, taken against `base`; None: relative ones are errors."""
        source: dict[str, Any] = {
            "paths": [_absolute(p, base, "source.paths") for p in self.source.paths]
        }
        place = getattr(self.source, ANNOTATIONS, None)
        if isinstance(place, str):
            source[ANNOTATIONS] = _absolute(place, base, f"source.{ANNOTATIONS}")
        updates: dict[str, Any] = {
            "source": self.source.model_copy(update=source),
            "out": _absolute(self.out, base, "out"),
        }
        if self.truth is not None:
            paths = [_absolute(p, base, "truth.paths") for p in self.truth.paths]
            updates["truth"] = self.truth.model_copy(update={"paths": paths})
        given = self.architecture.options
        weights = {
            name: str(base / value)
            for name in WEIGHT_FILES
            if base is not None
            and isinstance(value := given.get(name), str)
            and (base / value).is_file()  # it may be a name, such as imagenet
        }
        if weights:
            updates["architecture"] = self.architecture.model_copy(update=weights)
        if self.from_ is not None:
            updates["from_"] = _absolute(self.from_, base, "from")
        parts = {}
        for key in ("train", "validation"):
            part = getattr(self.split, key)
            if isinstance(part, PartSpec) and part.files is not None:
                files = _absolute(part.files, base, f"split.{key}.files")
                parts[key] = part.model_copy(update={"files": files})
        if parts:
            updates["split"] = self.split.model_copy(update=parts)
        return self.model_copy(update=updates)

    def as_json(self) -> dict[str, Any]:
        """The job as a JSON object, without credentials that a URL may carry.

        Defaults are in it but for those that the architecture decides.
        """
        data = self.model_dump(mode="json", exclude_none=True, by_alias=True)
        for key in DECIDED.get(self.architecture.name, ()):
            outer, _, inner = key.rpartition(".")
            given, shown = (getattr(self, outer), data[outer]) if outer else (self, data)
            if inner not in given.model_fields_set:
                shown.pop(inner, None)
        cleared: dict[str, Any] = public_values(data)
        return cleared


def load_train_job(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> TrainJob:
    """Read a TRAIN.yaml, apply `a.b=c` overrides, check what can be checked without its data.

    Raises JobError with one line: file, line, key, what is wrong.
    """
    file = Path(path)
    data, lines = _read(file)
    for given in overrides:
        override(data, lines, given)
    return _checked(data, base=file.absolute().parent, file=str(file), lines=lines)


def parse_train_job(data: Mapping[str, Any] | TrainJob, base: Path | None = None) -> TrainJob:
    """A training job from keyword data. Relative paths are taken against `base`."""
    if isinstance(data, TrainJob):
        return data.absolute(base)
    return _checked(dict(data), base=base, file="train job", lines={})


def _checked(data: dict[str, Any], *, base: Path | None, file: str, lines: Lines) -> TrainJob:
    try:
        return TrainJob.model_validate(data).absolute(base)
    except ValidationError as error:
        key, message = _explain(error)
        if message.partition(": ")[2].startswith("unknown key"):
            message = f"{'.'.join(key)}: unknown key{_suggest(key)}"
        raise JobError(f"{_where(file, lines, key)}: {message}") from None
    except JobError as error:
        key = tuple(str(error).partition(":")[0].split("."))
        raise JobError(f"{_where(file, lines, key)}: {error}") from None


def _suggest(key: tuple[str, ...]) -> str:
    model: Any = TrainJob
    for part in key[:-1]:
        field = model.model_fields.get(part)
        kinds = [field.annotation, *getattr(field.annotation, "__args__", ())] if field else []
        model = next((k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel)), model)
    known = [field.alias or name for name, field in model.model_fields.items()]
    close = difflib.get_close_matches(key[-1], known, n=1)
    return f"; did you mean {close[0]}?" if close else f"; known here: {', '.join(known)}"


def _installed(group: str, name: str) -> str:
    if ":" not in name and name not in registry.names(group):
        close = difflib.get_close_matches(name, registry.names(group), n=1)
        hint = f"did you mean {close[0]}?" if close else ", ".join(registry.names(group))
        raise ValueError(f"{name!r} is not one of the {group} installed; {hint}")
    return name
