"""The end of Web Mercator, the square that maps on the web are tiles of: what lies beyond is on none.

Sources: EPSG:3857, and the tiles of OpenStreetMap; https://github.com/protomaps/PMTiles (version 3).
"""

from __future__ import annotations

import gzip
import json
import math
import struct
from typing import TYPE_CHECKING

from segengine.export._holes import polygons_of
from segengine.export._table import well_known_binary
from segengine.instances.polygons import oriented

if TYPE_CHECKING:
    import pyarrow as pa

END = math.degrees(math.atan(math.sinh(math.pi)))
"""Latitude, north and south."""
_HEADER = struct.Struct("<7sB11Q6B4iB2i")
_GZIP, _VECTORS = 2, 1


class Clip:
    """Cuts polygons of longitude and latitude at the end, and counts them."""

    def __init__(self) -> None:
        self.left_out, self.cut = 0, 0

    def of(self, table: pa.Table) -> pa.Table:
        """A table of MultiPolygons without what lies beyond."""
        import pyarrow as pa
        import shapely

        place = table.schema.get_field_index("geometry")
        bodies = table.column("geometry").to_pylist()
        shapes = shapely.from_wkb(bodies)
        _, south, _, north = shapely.bounds(shapes).T
        square, kept = shapely.box(-180, -END, 180, END), [True] * len(bodies)
        for i in ((north > END) | (south < -END)).nonzero()[0].tolist():
            left = polygons_of(shapely.intersection(shapes[i], square))
            kept[i] = bool(left)
            bodies[i] = well_known_binary(list(map(oriented, left)), multi=True)
            self.cut += kept[i]
            self.left_out += not kept[i]
        cut = table.set_column(place, table.schema.field(place), pa.array(bodies, pa.binary()))
        return cut.filter(pa.array(kept, pa.bool_()))

    @property
    def line(self) -> str:
        """What there is to say of it; empty: nothing."""
        found = [
            f"{count:,} {'polygon' if count == 1 else 'polygons'} {words[count != 1]}"
            for count, words in (
                (
                    self.left_out,
                    ("lies beyond it and is left out", "lie beyond it and are left out"),
                ),
                (
                    self.cut,
                    ("reaches beyond it and is cut there", "reach beyond it and are cut there"),
                ),
            )
            if count
        ]
        ends = f"Web Mercator ends at {END:.2f} degrees north and south"
        return f"{ends}: {', '.join(found)}" if found else ""


def without_tiles(layer: str) -> bytes:
    """A PMTiles file of a layer of which nothing is on the map."""
    directory = gzip.compress(b"\0", mtime=0)  # of no entries
    about = {"name": layer, "vector_layers": [{"id": layer, "fields": {}}]}
    more = gzip.compress(json.dumps(about).encode(), mtime=0)
    first = _HEADER.size
    end = first + len(directory) + len(more)
    places = (first, len(directory), first + len(directory), len(more), end, 0, end, 0)
    kinds = (1, _GZIP, _GZIP, _VECTORS)  # clustered, the compressions inside and of tiles
    degrees = (-180.0, -END, 180.0, END)
    box = [round(each * 1e7) for each in degrees]
    header = _HEADER.pack(b"PMTiles", 3, *places, 0, 0, 0, *kinds, 0, 0, *box, 0, 0, 0)
    return header + directory + more
