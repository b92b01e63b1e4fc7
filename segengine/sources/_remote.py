"""Inputs in object stores and on web servers."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

from segengine.guards.schemes import filesystem
from segengine.sources import _beside, _buckets
from segengine.sources._buckets import About
from segengine.sources._files import is_web, open_failure
from segengine.sources._found import Found, fingerprint_of
from segengine.sources._patterns import ESCAPED, Pattern, literal, path_matches
from segengine.sources._suffixes import KNOWN, RASTER, STORE, ZARR, ZARR_METADATA
from segengine.sources._volumes import suffix_of as _suffix
from segengine.urls import public


def remote_inputs(url: str, kind: str, options: Mapping[str, Any]) -> Iterator[Found]:
    """What a URL finds: an object, an array, or those below a prefix that a pattern matches."""
    scheme = url.partition("://")[0]
    web = is_web(url)
    # In a web address `?` starts the query: it goes with a file, and never with a glob.
    path, mark, query = url.partition("?") if web else (url, "", "")
    parts = path.split("/")
    first = next(
        (i for i, part in enumerate(parts) if i > 2 and literal(part) is None),
        len(parts),
    )
    fixed = "/".join(ESCAPED.sub(r"\1", part) for part in parts[:first]).rstrip("/")
    pattern = Pattern(tuple(part for part in parts[first:] if part), kind)
    if pattern.parts and mark:
        raise ValueError(f"source.paths: {url}: a glob takes no query; name the files themselves")
    fixed += mark + query
    try:
        system, root = filesystem(fixed, **options)
    except (ValueError, ImportError) as error:
        raise ValueError(f"source.paths: {scheme}:// cannot be read: {error}") from error
    except Exception as error:
        raise open_failure(fixed, error) from error
    try:
        system.invalidate_cache()
        if not pattern.parts:
            single = _remote_file(system, root, fixed)
            if single is not None:
                yield single
                return
        depth = None if pattern.deep else len(pattern.parts)
        details = _buckets.listed(system, root.rstrip("/"), depth)
        if details is None:
            there = system.find(root, maxdepth=depth, withdirs=True, detail=True)
            details = {
                path: None if info["type"] == "directory" else about_of(info)
                for path, info in there.items()
            }
    except FileNotFoundError:
        return
    except Exception as error:
        raise open_failure(fixed, error) from error
    yield from _tree(system, root.rstrip("/"), fixed, pattern, details)


def _remote_file(system: Any, root: str, url: str) -> Found | None:
    """A URL that names an object; None: a prefix, or nothing."""
    name = public(url).rstrip("/").rpartition("/")[2]
    try:
        info = system.info(root)
    except FileNotFoundError:
        return None
    if info["type"] == "directory":
        # A bucket of a million objects is listed once, and not to learn that it is no array.
        if _suffix(name) in ZARR or any(_info(system, f"{root}/{m}") for m in ZARR_METADATA):
            found = system.find(root, detail=True)
            return Found(name, url, _remote_zarr_fingerprint(root, found), zarr=True)
        return None
    return _remote_found(name, url, about_of(info), root, lambda path: _about_of(system, path))


def _about_of(system: Any, path: str) -> About | None:
    info = _info(system, path)
    return None if info is None else about_of(info)


def _info(system: Any, path: str) -> Mapping[str, Any] | None:
    try:
        found: Mapping[str, Any] = system.info(path)
    except FileNotFoundError:
        return None
    return found


def _remote_found(
    name: str,
    url: str,
    about: About,
    path: str,
    find: Callable[[str], About | None],
) -> Found:
    """An input, with the marks of all that it is made of; `find`: an object by its path, or None."""
    queried = is_web(url) and "?" in url
    # A query may be a signature, which opens this object and no other.
    wanted = _beside.remote_companions(path) if not queried and _suffix(name) in RASTER else []
    found = {each: told for each in wanted if (told := find(each)) is not None}
    if not found:
        return Found(name, url, remote_mark(about))
    stem = url.removesuffix(path.rpartition("/")[2])
    beside = tuple(stem + each.rpartition("/")[2] for each in found)
    marks = [(each.rpartition("/")[2], remote_mark(told)) for each, told in found.items()]
    return Found(name, url, remote_mark(about, *marks), beside=beside)


def _tree(
    system: Any, root: str, url: str, pattern: Pattern, details: dict[str, About | None]
) -> Iterator[Found]:
    """The entries among everything below a prefix, of which `details` loses them; folders (None) may be
    among it."""
    arrays = {
        path.rpartition("/")[0] for path in details if path.rpartition("/")[2] in ZARR_METADATA
    }
    arrays |= {path.rstrip("/") for path in details if _suffix(path) in ZARR}
    arrays |= {path for path in _folders(root, details) if _suffix(path) in ZARR}
    web = is_web(url)
    seen = set[str]()
    for path in list(details):
        # An input lies beside no other: of a million, what is told of each is held once.
        known = _suffix(path) in KNOWN
        about = details.pop(path) if known else details[path]
        name, mark, query = path[len(root) :].strip("/"), "", ""
        if web:  # a page may link to what its query opens
            name, mark, query = name.partition("?")
        if not name:
            continue
        array = _inside(root, name, arrays) if arrays else None
        inner = name if array is None else array[len(root) + 1 :]
        if inner in seen or not path_matches(pattern, inner):
            continue
        if array is not None:
            if pattern.parts or pattern.kind in ("auto", "zarr"):
                seen.add(inner)
                inside = system.find(array, detail=True)
                if _is_store(array, inside):
                    continue
                mark = _remote_zarr_fingerprint(array, inside)
                yield Found(inner, f"{url}/{inner}", mark, zarr=True)
        elif about is not None:
            uri = f"{url}/{name}{mark}{query}"
            if pattern.wants(name.rpartition("/")[2]):
                yield _remote_found(name, uri, about, path, details.get)
            else:
                yield Found(name, uri, "", skipped=True)


def _folders(root: str, paths: Iterable[str]) -> set[str]:
    """All folders below a root that something lies in."""
    found = set[str]()
    for path in paths:
        folder = path.rpartition("/")[0]
        while folder not in found and len(folder) > len(root):
            found.add(folder)
            folder = folder.rpartition("/")[0]
    return found


def _inside(root: str, name: str, arrays: Collection[str]) -> str | None:
    """The outermost array that a name below a root is, or lies in."""
    parts = name.split("/")
    parents = (f"{root}/{'/'.join(parts[: i + 1])}" for i in range(len(parts)))
    return next((parent for parent in parents if parent in arrays), None)


def _is_store(root: str, found: Collection[str]) -> bool:
    return any(f"{path}/".startswith(f"{root}/{mark}/") for path in found for mark in STORE)


def remote_mark(about: About, *more: object) -> str:
    """Digest of size and ETag, or of the time of change where there is no ETag."""
    return fingerprint_of(about.size, about.changed, *more)


def about_of(info: Mapping[str, Any]) -> About:
    """What fsspec says of an object."""
    keys = {key.lower(): value for key, value in info.items()}
    mark = keys.get("etag") or keys.get("last-modified") or keys.get("lastmodified")
    changed = str(mark or keys.get("mtime") or keys.get("updated"))
    return About(keys.get("size"), changed)


def _remote_zarr_fingerprint(root: str, found: Mapping[str, Mapping[str, Any]]) -> str:
    marks = [
        (path[len(root) :], remote_mark(about_of(info))) for path, info in sorted(found.items())
    ]
    return fingerprint_of(*marks)
