"""What tells of a frame beside its masks and their records, and is made to tell no more."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any

from segengine.commands._prunable import Going, Prunable
from segengine.sources.listing import names_itself
from segengine.store.blobs import Objects
from segengine.store.keys import (
    ASIDE,
    FITS,
    REVIEW,
    ROOT,
    SURVEYS,
    TMP,
    UNPLACED,
    UNSEEN,
    correction_of,
    fit_key,
    surveys_folder,
)
from segengine.store.layouts import commit_unplaced, load_outside, load_unplaced
from segengine.store.root import root_documents
from segengine.store.seals import SealedObjects
from segengine.store.unseen import read_unseen, write_unseen
from segengine.store.values import decode, encode
from segengine.types import Entry

SEALED = (UNPLACED, UNSEEN, ROOT)
"""What is sealed of what is written here, beside the fits."""


def groups_of(going: Going) -> tuple[str, ...]:
    """Fits that are of nothing but what goes of a scene."""
    scene = going.layout.scene
    if going.whole:
        frames = range(going.layout.shape[0])
        return (f"scene-{scene}", *(f"frame-{scene}-{frame}" for frame in frames))
    return tuple(f"frame-{scene}-{frame}" for frame in sorted(going.places))


def clear_traces(objects: SealedObjects, found: Prunable) -> None:
    """Leave nothing that names what goes: fits, surveys, lists of inputs, corrections, the job."""
    _clear_fits(objects, found)
    _clear_surveys(objects, found)
    left_out = (*load_unplaced(objects), *load_outside(objects))
    commit_unplaced(objects, [each for each in left_out if each.name not in found.names])
    _clear_notes(objects, found)
    _clear_corrections(objects, found)
    _clear_job(objects, found.names)
    for folder in (ASIDE, TMP):  # nobody knows of what that was
        objects.delete_tree(folder)


def _clear_fits(objects: SealedObjects, found: Prunable) -> None:
    own = {name for going in found.scenes for name in groups_of(going)}
    for group in objects.children(FITS)[1]:
        key = fit_key(group)
        if group in own:
            objects.delete(key)
            continue
        data = objects.get(key)
        try:
            fit: Any = None if data is None else decode(data)
            seen = fit["about"]["inputs"]
        except (ValueError, KeyError, TypeError):
            continue  # damaged: it is made again
        left = {name: mark for name, mark in seen.items() if not is_named(name, found.names)}
        if left != seen:
            about = {**fit["about"], "inputs": left}
            objects.put(key, encode({**fit, "about": about}))


def is_named(name: str, names: Collection[str]) -> bool:
    """Whether a frame is one of those named, or lies in a file that is."""
    return name in names or name.rpartition("#")[0] in names


def _clear_surveys(objects: SealedObjects, found: Prunable) -> None:
    """States that were to be fitted; those that saw anything of it are surveyed again."""
    places = {
        (going.layout.scene, place)
        for going in found.scenes
        for place in (range(going.layout.shape[0]) if going.whole else going.places)
    }
    mapped = {going.layout.scene for going in found.scenes if going.members}
    for group in objects.children(SURVEYS)[0]:
        for key in list(objects.keys(surveys_folder(group))):
            data = objects.get(key)
            try:
                state: Any = None if data is None else decode(data)["found"]
                seen = {tuple(item.split("\n")) for item in state.seen}
                failed = {(scene, failure.frame) for scene, failure in state.failures}
            except (ValueError, KeyError, TypeError, AttributeError):
                objects.delete(key)  # of a class that is not here, or damaged
                continue
            every = {(scene, int(frame)) for scene, frame in seen} | failed
            if not every.isdisjoint(places) or any(scene in mapped for scene, _ in every):
                objects.delete(key)


def _clear_notes(objects: SealedObjects, found: Prunable) -> None:
    notes = read_unseen(objects)
    for going in found.scenes:
        scene = going.layout.scene
        left = {p: n for p, n in notes.get(scene, {}).items() if p not in going.places}
        notes[scene] = {} if going.whole else left
    write_unseen(objects, notes)


def _clear_corrections(objects: Objects, found: Prunable) -> None:
    """Masks put right by hand: those of a map are of all of its scenes."""
    for going in found.scenes:
        folder = f"{REVIEW}/{going.layout.scene}"
        if going.whole or going.members:
            objects.delete_tree(folder)
            continue
        for key in list(objects.keys(folder)):
            if correction_of(key) in going.places:
                objects.delete(key)


def _clear_job(objects: SealedObjects, names: Collection[str]) -> None:
    """Paths of the stored job that name an input itself; what else they reach stays reached."""
    data = objects.get(ROOT)
    if data is None:
        return
    attributes: dict[str, Any] = json.loads(data)["attributes"]["segengine"]
    changed = False
    for block in ("source", "truth"):
        paths = (attributes["job"].get(block) or {}).get("paths") or []
        left = [path for path in paths if not _names_one(path, names)]
        if left != paths:
            folders = dict.fromkeys(f"{path.rpartition('/')[0]}/*" for path in paths)
            attributes["job"][block]["paths"] = left or list(folders)
            changed = True
    if changed:
        objects.put(ROOT, root_documents(attributes)[ROOT])


def _names_one(path: str, names: Collection[str]) -> bool:
    name = path.rstrip("/").rpartition("/")[2]
    uri = path.removeprefix("file://").rstrip("/")
    return name in names and names_itself(path, Entry(name, uri, ""))
