"""What Ultralytics writes into the metadata of an ONNX file: class names, size, task.

names   {0: 'person', 1: 'bicycle'}      as Python prints it, which is read here and never run
imgsz   [640, 640]
task    segment
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from segengine.types import Trained

_LONGEST, _MOST = 200, 4096
_NAME = r"""(\d{1,5}): ('(?:[^'\\\n]|\\.)*'|"(?:[^"\\\n]|\\.)*")"""
_NAMES = re.compile(rf"\{{{_NAME}(?:, {_NAME})*\}}")
_ONE = re.compile(_NAME)
_SIDES = re.compile(r"\[(\d{1,5}), (\d{1,5})\]")


def of_metadata(pairs: Mapping[str, str]) -> Trained | None:
    """What the metadata of an ONNX file says; None: it is none of Ultralytics'."""
    if not {"task", "stride", "names"} <= pairs.keys():
        return None
    sides = _SIDES.fullmatch(pairs.get("imgsz", ""))
    side = int(sides[1]) if sides is not None and sides[1] == sides[2] else 0
    return Trained(
        by="its metadata",
        scale={"divide": 255},
        classes=_classes(pairs["names"]),
        window=side or None,
    )


def _classes(text: str) -> tuple[str, ...]:
    """Different printable names of 0, 1, 2 ...; none where they are not.

    >>> _classes("{0: 'a car', 1: \\"driver's seat\\"}"), _classes("{1: 'car'}"), _classes("open('x')")
    (('a car', "driver's seat"), (), ())
    """
    if _NAMES.fullmatch(text) is None:
        return ()
    pairs = [
        (int(number), re.sub(r"\\(.)", r"\1", name[1:-1])) for number, name in _ONE.findall(text)
    ]
    names = tuple(name for _, name in pairs)
    good = [number for number, _ in pairs] == list(range(len(pairs))) and len(pairs) <= _MOST
    good = good and len(set(names)) == len(names)
    shown = all(name.strip() and name.isprintable() and len(name) <= _LONGEST for name in names)
    return names if good and shown else ()
