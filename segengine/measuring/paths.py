"""Where a frame's truth may lie, by the fields of `truth.paths`."""

from __future__ import annotations

import os
import re
from pathlib import PurePosixPath

import xxhash

from segengine.guards.schemes import filesystem
from segengine.job import TRUTH_FIELD, TruthSpec
from segengine.sources._volumes import without_suffix
from segengine.types import FrameRef


def candidates(spec: TruthSpec, ref: FrameRef, scene: str) -> list[str]:
    """Paths where a frame's truth may lie, in the order of `truth.paths`."""
    path = PurePosixPath(ref.name.partition("#")[0] if "#" in ref.name else ref.name)
    if not ref.name.partition("#")[2].isdigit():
        path = PurePosixPath(ref.name)
    fields = {
        "name": path.name,
        "stem": without_suffix(path.name),
        "path": without_suffix(str(path)),
        "parent": str(path.parent) if str(path.parent) != "." else "",
        "scene": scene,
        "frame": str(ref.position),
        "index": str(ref.index),
    }

    def fill(match: re.Match[str]) -> str:
        if match[2] or match[3]:
            return "{" if match[2] else "}"
        return fields[match[1]]

    return [TRUTH_FIELD.sub(fill, template) for template in spec.paths]


def ids_of(spec: TruthSpec, ref: FrameRef, scene: str) -> list[str]:
    """The path of the image of a frame's objects; nothing where a job names none."""
    own = [] if spec.instances is None else [spec.instances]
    return candidates(spec.model_copy(update={"paths": own}), ref, scene)


def absent(spec: TruthSpec) -> dict[str, str]:
    """By the key of a job's `truth` that names nothing that is there: what is wrong with it.

    Of several paths one may be for some frames only; told is where none can be for any.
    """
    found = {}
    for key, named in (("paths", spec.paths), ("instances", [spec.instances])):
        wrong = [_wrong(path) for path in named if path]
        if wrong and all(wrong):
            found[key] = wrong[0]
    return found


def _wrong(template: str) -> str:
    """What is wrong with a path of files here, by the part of it that is the same for all frames."""
    if "://" in template:
        return ""
    field = next((f for f in TRUTH_FIELD.finditer(template) if f[1] is not None), None)
    fixed = template[: field.start() if field else None].replace("{{", "{").replace("}}", "}")
    folder = os.path.dirname(fixed) if field else fixed
    try:
        if field is None:
            os.stat(folder)  # a file of all frames, or an array of them
            return ""
        with os.scandir(folder or ".") as entries:
            return "" if next(entries, None) else f"{folder} is empty"
    except FileNotFoundError:
        return f"{folder} is not there"
    except NotADirectoryError:
        return f"{folder} is no folder"
    except OSError:
        return ""  # who reads it will say so


def stat(path: str) -> str | None:
    """Fingerprint of a file by its size and time; None: there is none."""
    if "://" not in path:
        try:
            info = os.stat(path)
        except (OSError, ValueError):
            return None
        return xxhash.xxh3_64_hexdigest(f"{info.st_size} {info.st_mtime_ns}".encode())
    try:
        system, inner = filesystem(path)
        about = system.info(inner)
    except (OSError, ValueError):
        return None
    mark = about.get("ETag") or about.get("LastModified") or about.get("mtime")
    return xxhash.xxh3_64_hexdigest(f"{about.get('size')} {mark}".encode())
