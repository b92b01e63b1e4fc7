"""What `help()` shows of the public interface: every name, with shapes, units and errors."""

from __future__ import annotations

import ast
import inspect
import pydoc
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import segengine
from segengine import losses, metrics, models, types

ARRAYS = re.compile(r"\b(ArrayLike|NDArray|Pixels|Labels|Bool|Prediction|Truth|Tile)\b")
"""Annotations of what has axes."""
SHAPE = re.compile(r"\(?\b(y, x|frame,|slices along n, y, x)")
NUMBERS = re.compile(r"\b(height|width|times?|seconds|halo|stride|shape|start|stop|bbox|area)\b")
UNIT = re.compile(r"\b(pixels?|seconds|frames?)\b")
RAISING = ("create_segmenter", "load_job", "open_store", "predict", "run", "segment", "Job")


def public() -> Iterator[tuple[str, Any]]:
    """Every public name, by the path that a user types."""
    for name in segengine.__all__:
        yield f"segengine.{name}", getattr(segengine, name)
    for module in (losses, metrics, models):
        for name, found in inspect.getmembers(module, inspect.isfunction):
            if found.__module__ == module.__name__:
                yield f"{module.__name__}.{name}", found
    for name, found in inspect.getmembers(types, inspect.isclass):
        if found.__module__ == types.__name__:
            yield f"segengine.types.{name}", found


def members() -> Iterator[tuple[str, Any]]:
    """Every public method and property of the nouns, and the functions."""
    for name, found in public():
        if inspect.isfunction(found):
            yield name, found
        elif inspect.isclass(found) and found.__module__ == types.__name__:
            for inner, value in vars(found).items():
                if not inner.startswith("_") and isinstance(value, property):
                    yield f"{name}.{inner}", value.fget
                elif not inner.startswith("_") and inspect.isfunction(value):
                    yield f"{name}.{inner}", value


PUBLIC = dict(public())
MEMBERS = dict(members())


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_renders_in_help(name: str) -> None:
    said = inspect.getdoc(PUBLIC[name]) or ""
    assert said.strip(), name
    assert not said.startswith(("Usage docs:", f"{name.rpartition('.')[2]}(")), (
        "a base's, or made up"
    )
    shown = pydoc.render_doc(PUBLIC[name], renderer=pydoc.plaintext)
    assert said.splitlines()[0] in shown


@pytest.mark.parametrize("name", MEMBERS)
def test_every_member_says_what_it_does_and_the_shapes_of_its_arrays(name: str) -> None:
    function = MEMBERS[name]
    said = inspect.getdoc(function) or ""
    assert said.strip(), name
    hints = " ".join(str(hint) for hint in function.__annotations__.values())
    if ARRAYS.search(hints) and not name.endswith((".join", ".close")):
        assert SHAPE.search(said), f"{name}: say the shapes"


def fields() -> Iterator[tuple[str, str, str]]:
    """Each field of the nouns: class and field, its annotation, and all that is said of it."""
    tree = ast.parse(Path(types.__file__).read_text(encoding="utf-8"))
    for node in tree.body:
        if not isinstance(node, ast.ClassDef) or not node.decorator_list:
            continue
        whole = ast.get_docstring(node) or ""
        for field, after in zip(node.body, [*node.body[1:], None], strict=True):
            if isinstance(field, ast.AnnAssign):
                own = after.value if isinstance(after, ast.Expr) else None
                below = str(own.value) if isinstance(own, ast.Constant) else ""
                yield (
                    f"{node.name}.{ast.unparse(field.target)}",
                    ast.unparse(field.annotation),
                    (f"{whole}\n{below}"),
                )


@pytest.mark.parametrize(("name", "annotation", "said"), list(fields()), ids=lambda part: part[:30])
def test_every_array_has_its_shape_and_every_number_its_unit(
    name: str, annotation: str, said: str
) -> None:
    if ARRAYS.search(annotation):
        noun = getattr(types, name.partition(".")[0])
        assert SHAPE.search(inspect.getdoc(noun) or ""), f"{name}: help() shows no shape"
    if NUMBERS.search(name.partition(".")[2]):
        assert UNIT.search(said), f"{name}: say its unit"


@pytest.mark.parametrize("name", RAISING)
def test_what_may_be_raised_is_said(name: str) -> None:
    said = inspect.getdoc(getattr(segengine, name)) or ""
    assert re.search("[Rr]ais(es|ing)\\b", said), name
    assert re.search(r"\b\w+Error\b", said), name


@pytest.mark.parametrize("function", [losses.create, metrics.create, models.build])
def test_what_is_made_by_name_says_its_errors(function: Any) -> None:
    assert "JobError" in (inspect.getdoc(function) or "")


def test_help_of_segment_shows_shapes_and_errors() -> None:
    shown = pydoc.render_doc(segengine.segment, renderer=pydoc.plaintext)
    for words in ("(y, x, band)", "(n, y, x)", "ValueError", "JobError", "void"):
        assert words in shown
