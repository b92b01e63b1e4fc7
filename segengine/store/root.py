"""The root of a store, and the metadata below it: who may make it, what it says, when it is written."""

from __future__ import annotations

import json
import os
import tempfile
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from segengine.errors import (
    DamagedStoreError,
    JobError,
    StoreAccessError,
    StoreError,
)
from segengine.guards.trust import refuse_forbidden
from segengine.store.arrays import SceneArrays, group_metadata, says, scene_documents
from segengine.store.blobs import Objects
from segengine.store.keys import (
    COPIES,
    LAYOUTS,
    OWN,
    ROOT,
    SCENES_METADATA,
    SEALS,
    TMP,
    scene_folder,
)
from segengine.store.layouts import Layout
from segengine.store.local import LocalObjects
from segengine.store.seals import SealedObjects
from segengine.types import Color

VERSION = 1


def read_attributes(objects: Objects) -> dict[str, Any] | None:
    """The root's `segengine` attributes; None where there is no store.

    Raises StoreError, where the root is lost DamagedStoreError.
    """
    data = objects.get(ROOT)
    lost = ""
    if isinstance(objects, SealedObjects):
        if ROOT in objects.damaged:
            _refuse_other_release(objects.base, data)
        lost = objects.lost(ROOT)
    if data is None and not lost:
        return None
    try:
        attributes: dict[str, Any] = json.loads(data or b"")["attributes"]["segengine"]
        version = attributes.get("version")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        if lost:
            raise DamagedStoreError(f"{objects.root}/{ROOT}", lost) from None
        raise StoreError(
            f"{objects.root}: holds a zarr.json that is not segengine's; choose another store.path"
        ) from None
    refuse_forbidden(attributes.get("job"), f"{objects.root}: ")
    if version != VERSION:
        raise _other_release(objects.root, version)
    return attributes


def attributes_or_lost(objects: Objects) -> dict[str, Any] | None:
    """As `read_attributes`, for a run: empty where the root is lost, for its job makes it again."""
    try:
        return read_attributes(objects)
    except DamagedStoreError:
        return {}


def _other_release(root: str, version: Any) -> StoreError:
    return StoreError(
        f"{root}: store version {version}, this segengine reads {VERSION}; use the release that "
        "wrote it or choose another store.path"
    )


def _refuse_other_release(base: Objects, sealed: bytes | None) -> None:
    """Raise StoreError where the root was not damaged, but written by a release without our seals."""
    found = base.get(ROOT)
    if found is None or (sealed is not None and len(found) == len(sealed)):
        return  # a changed byte leaves the length
    try:
        version = json.loads(found)["attributes"]["segengine"]["version"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return
    if isinstance(version, int) and version != VERSION:
        raise _other_release(base.root, version)


def check_place(objects: Objects) -> None:
    """Raise JobError where no store can be made: a file, a folder of other files, below a file."""
    root = objects.root
    if not isinstance(objects, LocalObjects) or objects.get(SEALS) is not None:
        return
    if any(objects.children(key)[1] for key in (COPIES, LAYOUTS)):  # a store that lost its root
        return
    above = Path(root)
    while not above.exists() and above != above.parent:
        above = above.parent
    if not above.is_dir():
        raise JobError(f"store.path: {above} is a file; name a folder")
    if os.path.isdir(root) and not os.path.exists(os.path.join(root, ROOT)):
        names = set(os.listdir(root))
        if not names <= OWN:
            raise JobError(
                f"store.path: {root} holds other files and no store; name an empty folder"
            )


def require_writable(objects: Objects) -> None:
    """Raise JobError where a store, or the folder that it is to be made in, takes no files of this user.

    Nothing of the trial stays. Raises StoreAccessError where an object store does not answer.
    """
    if not isinstance(objects, LocalObjects):
        _require_writable_bucket(objects)
        return
    above = Path(objects.root)
    while not above.exists() and above != above.parent:
        above = above.parent
    try:
        with tempfile.TemporaryFile(dir=above):
            pass
    except OSError as error:
        why = error.strerror or type(error).__name__
        raise JobError(f"store.path: {above} cannot be written: {why}") from None


def _require_writable_bucket(objects: Objects) -> None:
    key = f"{TMP}/{uuid.uuid4().hex}"  # what a kill leaves there the next run removes
    try:
        objects.put(key, b"")
        objects.delete(key)
    except StoreAccessError as error:
        if not error.fatal:
            raise
        raise JobError(f"store.path: cannot be written: {error}") from None


def root_documents(attributes: Mapping[str, Any]) -> dict[str, bytes]:
    """The root and the `scenes` group, by key; with line breaks, for people look at them."""
    documents = {
        SCENES_METADATA: group_metadata({}),
        ROOT: group_metadata({"segengine": dict(attributes)}),
    }
    return {key: json.dumps(document, indent=1).encode() for key, document in documents.items()}


def write_root(objects: Objects, attributes: Mapping[str, Any]) -> None:
    """Write the root and the `scenes` group where they differ from what is there."""
    write_documents(objects, root_documents(attributes))


def write_scene(
    objects: Objects,
    layout: Layout,
    arrays: SceneArrays,
    classes: Sequence[str] = (),
    colors: Sequence[Color] = (),
) -> None:
    """Write a scene's metadata where it differs from what is there; the group itself last."""
    documents = scene_documents(layout, arrays, classes, colors)
    write_documents(objects, {f"{scene_folder(layout.scene)}/{k}": v for k, v in documents.items()})


def write_documents(objects: Objects, documents: Mapping[str, bytes]) -> None:
    """Write those objects that differ from what is there."""
    sealed = objects if isinstance(objects, SealedObjects) else SealedObjects(objects)
    for key, data in documents.items():
        if not is_said(sealed, key, data):
            sealed.put(key, data)
        elif sealed.is_unsealed(key):  # since a kill between its last write and the next commit
            sealed.adopt(key)


def is_said(objects: SealedObjects, key: str, document: bytes) -> bool:
    """Whether stored metadata say the same as `document`; asks the seal before the store."""
    return objects.vouches(key, document) or says(objects.get(key), document)
