"""An item that was planned, looked for again: where it lies by itself, else as the plan found it.

    its own document, or the list that it is of -> the search, asked for its id -> the paths of the job

An API need not say where an item lies, and what it says need not answer: the plan did not ask there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from segengine.errors import CorruptInputError, TransientInputError
from segengine.sources import _stac_parquet
from segengine.sources._stac_documents import read_again, remembered
from segengine.sources._stac_items import Item, full_name, read_item
from segengine.sources._stac_links import Reach
from segengine.sources._stac_search import Search
from segengine.sources._stac_walk import Walk, read_one
from segengine.sources.listing import Unlisted

Found = Iterator[Item | Unlisted]


@dataclass(frozen=True, slots=True)
class Again:
    """Where the items of a job may be found."""

    search: Search | None
    assets: Sequence[str] | None
    paths: Sequence[str] = ()
    """Gone through where all else fails; none: not at all."""
    trust: bool = False
    """Pages and catalogs may lead anywhere."""

    def items(self, uri: str, name: str) -> Iterator[Item]:
        """The item that was planned under a name at `uri`, as each place has it now.

        Raises CorruptInputError, TransientInputError where no place has it.
        """
        why: CorruptInputError | TransientInputError | None = None
        some = False
        looks: tuple[Callable[[str, str], Found], ...] = (self._own, self._asked, self._walked)
        for look in looks:
            try:
                for item in look(uri, name):
                    if isinstance(item, Item) and name in (item.name, full_name(item)):
                        some = True
                        yield item
            except (CorruptInputError, TransientInputError) as error:
                why = why or error
            except ValueError as error:  # as of a path of the job
                why = why or TransientInputError(str(error))
        if not some:
            raise why or TransientInputError("is gone")

    @property
    def _read(self) -> partial[Item]:
        # What it links to is compared with what was planned, and nothing else of it is opened.
        return partial(read_item, assets=self.assets, reach=Reach(trust=True))

    def _own(self, uri: str, name: str) -> Found:
        if self.search is not None and uri == self.search.bare:
            return  # the API's: the item says no place of its own
        if _stac_parquet.is_parquet(uri):
            yield from _stac_parquet.read_items(uri, self._read)
            return
        said = read_again(uri)
        if said.get("type") != "FeatureCollection":
            yield self._read(said, uri)
            return
        features = said.get("features")
        for each in features if isinstance(features, list) else ():
            yield read_one(each, uri, self._read)

    def _asked(self, uri: str, name: str) -> Found:
        if self.search is not None:
            one = self.search.of_item(name)
            key = f"{self.search.url} {name}"
            yield from remembered(key, lambda: list(one.run(self._read, self.trust)))

    def _walked(self, uri: str, name: str) -> Found:
        if self.search is None and self.paths:
            yield from Walk(Reach.of(self.paths, self.trust), self._read).run(self.paths)
