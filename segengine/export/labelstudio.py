"""Label Studio's JSON: `tasks.json`, with polygons, or brushes where one ring is no outline

`interface.xml` is the labelling interface that takes them: paste it into the project's settings, then
import the tasks. `prefix` goes before each frame's name, for Label Studio to find the pictures
(`--prefix "/data/local-files/?d="`, `s3://bucket/`).
"""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

from segengine import asked
from segengine.datasets.annotations.labelstudio import interface, task
from segengine.export._drawn import pictures
from segengine.export._instances import stamp
from segengine.export._targets import targets
from segengine.outputs import claimed
from segengine.reader import Store, open_store

VERSION = 1


def export(store_path: str, to: str, *, prefix: str = "", overwrite: bool = False) -> list[str]:
    """Write `tasks.json` and `interface.xml` in the folder `to`; the files written.

    `prefix`: what goes before each frame's name. `overwrite`: also files that no export wrote. Raises
    JobError, StoreError.
    """
    store = open_store(store_path)
    stamp(store, VERSION, prefix)
    tasks, about = Path(to, "tasks.json"), Path(to, "interface.xml")
    output = claimed(store, to, [tasks, about], overwrite=overwrite)
    with output.replacing(tasks) as partial, partial.open("wb") as file:
        between = b"[\n"
        for one in pictures(store, list(targets(store, to, ""))):
            url = f"{prefix}{quote(one.name) if prefix else one.name}"
            file.write(between + task(one.place, url, one.size, one.found))
            between = b",\n"
        file.write(b"\n]\n" if between == b",\n" else b"[]\n")
    with output.replacing(about) as partial:
        partial.write_bytes(interface(_classes(store)))
    output.close()
    return [str(tasks), str(about)]


def _classes(store: Store) -> list[tuple[str, list[int]]]:
    """The classes that are objects, with their colours."""
    first = next(iter(store.scenes.values()))
    colors = first.colors().tolist()
    without = asked.background(store.classes)
    return [(name, colors[i]) for i, name in enumerate(store.classes) if i not in without]
