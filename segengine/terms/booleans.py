"""Blocks that take no boolean for a number or a text: Python's true is 1, and YAML's `no` is false."""

from __future__ import annotations

from typing import Any, get_args

from pydantic import BaseModel, ValidationInfo, field_validator


class NoBooleans(BaseModel):
    """A block whose booleans are those that a key asks for."""

    @field_validator("*", mode="before")
    @classmethod
    def _no_boolean_is_meant(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, bool | list | tuple | dict):
            kinds = _leaves(cls.model_fields[str(info.field_name)].annotation)
            if not any(kind in (bool, Any) or kind is True for kind in kinds):
                _require_none(value, kinds)
        return value


def _leaves(kind: Any) -> list[Any]:
    """The types of a key's values, and of what they hold; of a literal its values."""
    inner = get_args(kind)
    return [leaf for each in inner for leaf in _leaves(each)] if inner else [kind]


def _require_none(value: Any, kinds: list[Any]) -> None:
    """Raise ValueError where a value is a boolean, or holds one."""
    if isinstance(value, bool):
        numbers = [kind for kind in kinds if isinstance(kind, int) or kind in (int, float)]
        if numbers:
            choices = [f"{kind}" for kind in numbers if isinstance(kind, int)]
            said = f"{', '.join(choices[:-1])} or {choices[-1]}" if choices else "a number"
            raise ValueError(f"must be {said}, got {value}")
        if str in kinds:
            raise ValueError(
                f"must be text, got {value}: YAML reads yes, no, on and off so; put it in quotes"
            )
    elif any(isinstance(kind, type) and issubclass(kind, BaseModel) for kind in kinds):
        return  # a block looks at its own
    elif isinstance(value, list | tuple):
        for each in value:
            _require_none(each, kinds)
    elif isinstance(value, dict):
        for each in value.values():
            _require_none(each, kinds)
