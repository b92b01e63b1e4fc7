"""Every key of a store, and every folder of them: nobody else spells one.

    zarr.json  run.lock  metrics.json  report/index.html  tables/<name>.parquet
    scenes/<scene>/<array>/c/<place>       arrays: mask/0, mask/1 .., instances/0, probabilities/0,
                                           confidence/0, colors
    records/<scene>.parquet                a finished scene's records; before, one object a shard:
    records/<scene>/<kind>/<place>.json
    records/+<what>                        what is of no one shard: layouts, fits, seals, copies, ...
    work/..                                what a later stage or the next call takes up, or nobody
    review/<scene>/<frame>.png, .json      corrections: segengine/corrections.py says what is in them
    misplaced/..                           what lay in the place of an object and was none

A scene's name never begins with `+` and never ends like a pack or like metadata.
"""

from __future__ import annotations

import re
from typing import Any

from segengine.types import Place

METADATA = "zarr.json"
"""Name of a Zarr node's metadata."""
PACKED = ".parquet"
"""How the name of a finished scene's records ends."""
ROOT = METADATA
LOCK = "run.lock"
METRICS = "metrics.json"

REPORTS = "report"
REPORT = f"{REPORTS}/index.html"
TABLES = "tables"
SCENES = "scenes"
SCENES_METADATA = f"{SCENES}/{METADATA}"
ASIDE = "misplaced"
"""Where `Writer.clears` puts what lay in the place of an object or a folder."""

REVIEW = "review"
"""Masks put right by hand, `<scene>/<frame's number>` each."""

RECORDS = "records"
LAYOUTS = f"{RECORDS}/+layouts"
UNPLACED = f"{RECORDS}/+unplaced"
RELAYING = f"{RECORDS}/+relaying"
"""There while scenes are laid out anew: the layouts may be of other source options than the root's."""
PRUNED = f"{RECORDS}/+pruned"
"""Which names a run leaves out, told by nothing but salted hashes of them."""
UNSEEN = f"{RECORDS}/+unseen"
"""Since when no run has seen the inputs of frames that are gone."""
SEALS = f"{RECORDS}/+seals"
COPIES = f"{RECORDS}/+copies"
SEALS_COPY = f"{COPIES}/seals/+seals"
FITS = f"{RECORDS}/+fits"
SURVEYS = f"{RECORDS}/+survey"
ROWS = "rows"
"""What a record calls a shard's rows of instances among its stored objects."""
INSTANCE_ROWS = f"{RECORDS}/+instances"
CUT_INSTANCES = f"{RECORDS}/+cut"
"""Where it is noted which instances are cut at a border of shards, until the next publish."""

WORK = "work"
TMP = f"{WORK}/tmp"
GUARD = f"{WORK}/lock.guard"

MASK = "mask/0"
INSTANCES = "instances/0"
PROBABILITIES = "probabilities/0"
CONFIDENCE = "confidence/0"
COLORS = "colors"
MAPS = (MASK, INSTANCES, PROBABILITIES, CONFIDENCE)
"""Arrays of a scene that segmenting writes."""

FOLDERS = (
    TMP, RECORDS, LAYOUTS, COPIES, FITS, SURVEYS, INSTANCE_ROWS, SCENES, TABLES, REPORTS,
)  # fmt: skip
"""Where objects lie in every store, but for those of a scene."""
OWN = frozenset((LOCK, WORK, RECORDS, SCENES))
"""What may lie in a store before it has a root."""


def table_key(name: str) -> str:
    """Key of a table."""
    return f"{TABLES}/{name}.parquet"


INSTANCE_TABLE = table_key("instances")
RUNS = table_key("runs")
TRACK_TABLE = table_key("tracks")
SOLID_TABLE = table_key("solids")
COUNTS = f"{TABLES}/counts.csv"
"""What crosses lines and stands in zones."""

# ------------------------------------------------------------------------------------------ scenes


def scene_folder(scene: str) -> str:
    """Where a scene's arrays lie."""
    return f"{SCENES}/{scene}"


def array_folder(scene: str, path: str) -> str:
    """Where an array of a scene lies."""
    return f"{SCENES}/{scene}/{path}"


def metadata_key(scene: str, path: str = "") -> str:
    """Key of the metadata of a scene, or of a node below it."""
    return f"{SCENES}/{scene}/{node_metadata(path)}"


def node_metadata(path: str = "") -> str:
    """The same below the scene."""
    return f"{path}/{METADATA}" if path else METADATA


def shards_folder(array: str) -> str:
    """Where the shards of an array lie, by its own folder."""
    return f"{array}/c"


def shard_key(scene: str, path: str, place: tuple[int, ...]) -> str:
    """Key of a shard of an array; that of probabilities holds all classes of its place.

    >>> shard_key("a", MASK, (0, 1, 2)), shard_key("a", PROBABILITIES, (0, 1, 2))
    ('scenes/a/mask/0/c/0/1/2', 'scenes/a/probabilities/0/c/0/0/1/2')
    """
    if path == PROBABILITIES and len(place) == 3:
        place = (place[0], 0, *place[1:])
    return f"{shards_folder(array_folder(scene, path))}/{'/'.join(map(str, place))}"


def level_path(level: int) -> str:
    """A level of a mask's pyramid, below the scene.

    >>> level_path(0) == MASK
    True
    """
    return f"mask/{level}"


def is_coarser(path: str) -> bool:
    """True for a level of the mask's pyramid above 0.

    >>> is_coarser("mask/0"), is_coarser("mask/1"), is_coarser("instances/0")
    (False, True, False)
    """
    return path.startswith("mask/") and path != MASK


def corrections_folder(scene: str | None = None) -> str:
    """Where the corrections of a scene lie, or (None) of all."""
    return REVIEW if scene is None else f"{REVIEW}/{scene}"


def correction_key(scene: str, frame: int, kind: str) -> str:
    """Key of a frame's correction: `png` its labels, `json` what is known of them."""
    return f"{REVIEW}/{scene}/{frame}.{kind}"


def object_correction_key(scene: str, frame: int) -> str:
    """Key of a frame's corrected ids of objects."""
    return f"{REVIEW}/{scene}/instances/{frame}.png"


# ----------------------------------------------------------------------------------------- records


def pack_key(scene: str) -> str:
    """Key of a finished scene's packed records."""
    return f"{RECORDS}/{scene}{PACKED}"


def is_pack(key: str) -> bool:
    """True for packed records.

    >>> is_pack("records/a.parquet"), is_pack("records/a/mask/0.0.0.json"), is_pack("tables/a.parquet")
    (True, False, False)
    """
    return key.startswith(f"{RECORDS}/") and key.count("/") == 1 and key.endswith(PACKED)


def records_folder(scene: str) -> str:
    """Where the single records of a scene lie."""
    return f"{RECORDS}/{scene}"


def single_key(kind: str, scene: str, shard: Place) -> str:
    """Key of a shard's single record."""
    return f"{RECORDS}/{scene}/{kind}/{_dotted(shard)}.json"


def single_of(key: str) -> tuple[Any, Place] | None:
    """Kind and shard of a single record, by its key.

    >>> single_of("records/a/mask/0.1.2.json"), single_of("records/a/mask/notes")
    (('mask', (0, 1, 2)), None)
    """
    *_, kind, name = key.split("/")
    found = re.fullmatch(r"(\d+)\.(\d+)\.(\d+)\.json", name)
    return None if found is None else (kind, (int(found[1]), int(found[2]), int(found[3])))


def layout_key(scene: str) -> str:
    """Key of a scene's layout."""
    return f"{LAYOUTS}/{scene}"


def copies_key(name: str) -> str:
    """Key of an object of second copies."""
    return f"{COPIES}/{name}"


def fit_key(group: str) -> str:
    """Key of the fit that labels a group of frames."""
    return f"{FITS}/{group}"


def surveys_folder(group: str) -> str:
    """Where the survey states of a group lie until it is fitted."""
    return f"{SURVEYS}/{group}"


def rows_key(scene: str, place: Place) -> str:
    """Key of the rows of a shard's instances."""
    return f"{INSTANCE_ROWS}/{scene}/{_dotted(place)}"


# -------------------------------------------------------------------------------------------- work


def work_folder(scene: str) -> str:
    """Where what is provisional of a scene lies."""
    return f"{WORK}/{scene}"


def draft_key(scene: str, place: Place) -> str:
    """Key of a shard's provisional map."""
    return f"{WORK}/{scene}/draft/{_dotted(place)}"


def parts_key(scene: str, place: Place) -> str:
    """Key of a shard's provisional components."""
    return f"{WORK}/{scene}/parts/{_dotted(place)}"


def split_key(scene: str, owner: Place, place: Place) -> str:
    """Key of what the components that a shard answers for were split into, in one of their shards."""
    return f"{split_folder(scene, owner)}/{_dotted(place)}"


def split_folder(scene: str, owner: Place) -> str:
    """Where that lies of all shards that a component of one reaches into."""
    return f"{WORK}/{scene}/split/{_dotted(owner)}"


def kept_key(scene: str, place: Place) -> str:
    """Key of what a shard's vanished frames keep, while it is written again."""
    return f"{WORK}/{scene}/gone/{_dotted(place)}"


def correction_of(key: str) -> int | None:
    """The frame's number of what lies below `review/<scene>/`; None: it is of no one frame.

    >>> correction_of("review/a/17.png"), correction_of("review/a/instances/3.png")
    (17, 3)
    >>> correction_of("review/a/notes.txt")
    """
    stem = key.rpartition("/")[2].partition(".")[0]
    return int(stem) if stem.isdecimal() else None


def is_correction(key: str) -> bool:
    """True for what a person drew, which no run makes again.

    >>> is_correction("review/a/17.png"), is_correction("scenes/a/mask/0")
    (True, False)
    """
    return key.partition("/")[0] == REVIEW


def is_provisional(key: str) -> bool:
    """True for what nothing believes without a record.

    >>> is_provisional("work/a/draft/0.0.0"), is_provisional("work"), is_provisional("workers")
    (True, True, False)
    """
    return key.partition("/")[0] == WORK


def _dotted(place: Place) -> str:
    f, y, x = place
    return f"{f}.{y}.{x}"
