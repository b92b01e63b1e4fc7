"""A bucket of S3 through obstore, which takes an eighth of a processor's time a request that s3fs takes.

Who asks, where and in which region is what botocore finds, as for s3fs: environment, `~/.aws/config`
and its profiles, SSO, containers, roles of instances. botocore makes one request, which is caught
before it is sent: its URL and its signature tell bucket, style of address, endpoint and region.

s3fs is used (`open_bucket` gives None) for what obstore is not told here: fsspec's own settings
(`FSSPEC_S3_*`, `fsspec.config.conf["s3"]`), `AWS_CA_BUNDLE` and `ca_bundle` with TLS, which obstore
would believe beside all others, other signatures than version 4, access points, S3 Express, keys with
empty parts; and in a process that was forked from one that has used obstore, whose threads are not
there.

    main thread --- call ---> a thread of ours: waits for the answer
         ^ Ctrl-C ends the wait
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import threading
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import Future
from datetime import UTC, datetime, timedelta
from functools import partial
from queue import SimpleQueue
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlsplit

CONNECT = timedelta(seconds=10)
SILENCE = timedelta(seconds=60)
"""Without a byte from the store."""
WHOLE = timedelta(minutes=10)
"""For one request, and each part of a large object."""
KEPT = timedelta(minutes=10)
"""For which credentials are believed; botocore renews them earlier than that before their end."""
LARGE = 64 * 2**20
"""Bytes above which an object is sent in parts."""
PART = 16 * 2**20
PAGE = 1000
"""Keys in one answer or deletion."""
_T = TypeVar("_T")
_KEY = "k"
_SIGNED = re.compile(r"AWS4-HMAC-SHA256 Credential=[^/]+/\d+/([^/]+)/s3/")
_STATUS = re.compile(r"Server returned non-2xx status code: (\d{3}) ?([^:\n]*)")
_CODE = re.compile(r"<Code>([^<]*)</Code>")
_MESSAGE = re.compile(r"<Message>([^<]*)</Message>")
_WHY = re.compile(r'(?:message|error): "((?:[^"\\]|\\.)*)"')
_MOVED = ("PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException")
_BARE = "Received redirect without LOCATION"
_REFUSED = ("ExpiredToken", "TokenRefreshRequired", "NotSignedUp", "AccountProblem")
"""Codes of credentials that have another status than 401 and 403."""
_FULL = ("QuotaExceeded", "StorageFull")
_NOT_MET = ("", "PreconditionFailed", "ConditionalRequestConflict")
"""Codes of a condition that does not hold, or of another write under way; without a body, none."""
_NUMBERS = {
    301: errno.EREMCHG, 307: errno.EREMCHG, 405: errno.EPERM, 409: errno.EBUSY, 501: errno.ENOSYS,
    507: errno.ENOSPC,
}  # fmt: skip
_home: list[int] = []
"""The process whose obstore has threads."""


def open_bucket(url: str) -> Bucket | None:
    """The bucket of a URL, or None where s3fs is to be used.

    Raises what botocore does where there are no credentials, or none that can be had.
    """
    if _home and _home[0] != os.getpid():
        return None
    name, _, prefix = url.partition("://")[2].partition("/")
    if name.startswith("arn:") or name.endswith("--x-s3") or not is_plain(prefix):
        return None
    import fsspec.config

    if any(fsspec.config.conf.get(scheme) for scheme in ("s3", "s3a")):
        return None
    place = _Place(name)
    if not place.look():
        return None
    _home[:] = [os.getpid()]
    return Bucket(place, prefix)


def is_plain(prefix: str) -> bool:
    """Whether obstore takes a key as it is."""
    parts = prefix.split("/") if prefix else []
    return not any(part in ("", ".", "..") or not part.isprintable() for part in parts)


class _Caught:
    """The answer to the request that is not sent."""

    def stream(self, *_: object, **__: object) -> Iterator[bytes]:
        return iter(())


class _Place:
    """Where botocore finds a bucket, and as whom."""

    def __init__(self, bucket: str) -> None:
        import botocore.config
        import botocore.session

        self.bucket = bucket
        self.session = botocore.session.Session()
        config = botocore.config.Config(connect_timeout=10, read_timeout=60)
        self.client = self.session.create_client("s3", config=config)
        self.url = self.region = ""
        self.failure: Exception | None = None
        """Why credentials could not be renewed."""

    def look(self) -> bool:
        """Find URL and region; False where obstore cannot be told them."""
        from botocore.awsrequest import AWSResponse

        caught: list[Any] = []

        def catch(request: Any, **_: object) -> AWSResponse:
            caught.append(request)
            return AWSResponse(request.url, 200, {}, _Caught())

        events = self.client.meta.events
        events.register_first("before-send.s3.HeadObject", catch)
        try:
            self.client.head_object(Bucket=self.bucket, Key=_KEY)
        finally:
            events.unregister("before-send.s3.HeadObject", catch)
        (request,) = caught
        signed = request.headers.get("Authorization", "")
        found = _SIGNED.match(signed.decode() if isinstance(signed, bytes) else signed)
        url = urlsplit(request.url)
        if found is None or url.query:
            return False
        if url.scheme == "https" and self.session.get_config_variable("ca_bundle"):
            return False
        self.url, self.region = request.url.removesuffix(f"/{_KEY}"), found[1]
        return True

    def moved(self) -> bool:
        """Whether the bucket is in another region, which botocore finds out and remembers."""
        from botocore.exceptions import ClientError

        before = self.url, self.region
        with contextlib.suppress(ClientError):
            self.client.head_bucket(Bucket=self.bucket)
        return self.look() and (self.url, self.region) != before

    def credentials(self) -> dict[str, Any]:
        """What obstore signs with until it asks again."""
        try:
            found = self.session.get_credentials().get_frozen_credentials()
        except Exception as error:
            self.failure = error
            raise
        self.failure = None
        return {
            "access_key_id": found.access_key,
            "secret_access_key": found.secret_key,
            "token": found.token,
            "expires_at": datetime.now(UTC) + KEPT,
        }

    def store(self, many: bool) -> Any:
        """The bucket for obstore; `many`: that deletes many objects in a request."""
        from obstore.store import S3Store

        ask: Any = self.credentials
        return S3Store(
            self.bucket,
            endpoint=self.url,
            virtual_hosted_style_request=True,  # the URL is the bucket's, of whatever style
            region=self.region,
            credential_provider=ask,
            conditional_put="etag",
            skip_signature=False,
            client_options={
                "allow_http": self.url.startswith("http://"),
                "connect_timeout": CONNECT,
                "read_timeout": SILENCE,
                "timeout": WHOLE,
            },
            retry_config={"max_retries": 0, "retry_timeout": timedelta()},
            disable_bulk_delete=not many,
        )


class Part(NamedTuple):
    """Some of an object's bytes."""

    data: bytes
    size: int
    """Of all of it."""
    tag: str


def _described(page: Iterable[Any]) -> list[tuple[str, int | None, str]]:
    return [
        (item["path"], item["size"], item["e_tag"] or str(item["last_modified"])) for item in page
    ]


class Bucket:
    """Objects below a prefix of a bucket. Every method raises OSError, or what botocore does."""

    def __init__(self, place: _Place, prefix: str) -> None:
        self._place, self._prefix = place, prefix
        self._open()

    def _open(self) -> None:
        self._many = self._place.store(many=True)
        # One object is deleted as it always was: not every store has deletions in bulk.
        self._one = self._place.store(many=False)

    def get(self, key: str) -> bytes | None:
        """An object, or None."""
        found = self.tagged(key)
        return None if found is None else found[0]

    def tagged(self, key: str) -> tuple[bytes, str] | None:
        """An object and its tag, in one request, or None."""

        def ask() -> tuple[bytes, str]:
            found = self._one.get(self._at(key))
            return bytes(found.bytes()), found.meta["e_tag"] or ""

        try:
            return self._call(ask)
        except FileNotFoundError:
            return None

    def part(self, key: str, start: int, stop: int, tag: str = "") -> Part:
        """Bytes [start, stop) of an object, or as many as there are; `tag`: of no other state of it.

        Raises OSError, FileNotFoundError, and EBUSY where it has another tag now.
        """
        options: dict[str, Any] = {"range": (start, stop)}
        if tag:
            options["if_match"] = tag

        def ask() -> Part:
            found = self._one.get(self._at(key), options=options)
            return Part(bytes(found.bytes()), found.meta["size"], found.meta["e_tag"] or "")

        try:
            return self._call(ask)
        except _NotMetError as error:
            raise OSError(errno.EBUSY, "it has changed while it was read") from error

    def told(self, key: str) -> tuple[int, str]:
        """An object's size and tag. Raises FileNotFoundError."""
        found = self._call(lambda: self._one.head(self._at(key)))
        return found["size"], found["e_tag"] or ""

    def pages(self, prefix: str, *, deep: bool) -> Iterator[list[tuple[str, int | None, str]]]:
        """(key, size, tag or time) of all objects below a prefix, page by page; not `deep`: of those
        right below it, and of folders their names alone. Raises FileNotFoundError."""
        at = self._at(prefix) or None
        if not deep:
            found = self._call(lambda: self._many.list_with_delimiter(at))
            yield [(str(name).rstrip("/"), None, "") for name in found["common_prefixes"]]
            yield _described(found["objects"])
            return

        def begin() -> tuple[Iterator[Any], Any]:
            pages = iter(self._many.list(at, chunk_size=PAGE))
            return pages, next(pages, None)

        pages, page = self._call(begin)
        while page is not None:
            yield _described(page)
            page = self._call(partial(next, pages, None))

    def exists(self, key: str) -> bool:
        """True where there is such an object."""
        try:
            self._call(lambda: self._one.head(self._at(key)))
        except FileNotFoundError:
            return False
        return True

    def put(self, key: str, data: bytes) -> None:
        """Write or replace; what is large in parts."""
        large = len(data) > LARGE
        self._call(
            lambda: self._one.put(
                self._at(key), data, use_multipart=large, chunk_size=PART, max_concurrency=4
            )
        )

    def create(self, key: str, data: bytes) -> bool:
        """Write where there is nothing; False where there is."""
        return self._put_if(key, data, "create")

    def replace(self, key: str, data: bytes, tag: str) -> bool:
        """Write over an object that still has its tag; False where it has not."""
        try:
            return self._put_if(key, data, {"e_tag": tag})
        except FileNotFoundError:
            return False

    def _put_if(self, key: str, data: bytes, mode: Any) -> bool:
        try:
            self._call(lambda: self._one.put(self._at(key), data, mode=mode, use_multipart=False))
        except _NotMetError:
            return False
        return True

    def delete(self, key: str) -> None:
        """Delete an object if it is there."""
        with contextlib.suppress(FileNotFoundError):
            self._call(lambda: self._one.delete(self._at(key)))

    def delete_tree(self, prefix: str) -> None:
        """Delete all objects below a prefix, many in a request."""
        self._delete(self._below(prefix))

    def delete_many(self, keys: Collection[str]) -> None:
        """Delete those of the objects that are there, many in a request."""
        self._delete([self._at(key) for key in keys])

    def _delete(self, paths: list[str]) -> None:
        for start in range(0, len(paths), PAGE):
            self._call(partial(self._many.delete, paths[start : start + PAGE]))

    def keys(self, prefix: str) -> list[str]:
        """Keys of all objects below a prefix."""
        cut = len(f"{self._prefix}/") if self._prefix else 0
        return [path[cut:] for path in self._below(prefix)]

    def _below(self, prefix: str) -> list[str]:
        def ask() -> list[str]:
            pages = self._many.list(self._at(prefix) or None, chunk_size=PAGE)
            return [item["path"] for page in pages for item in page]

        with contextlib.suppress(FileNotFoundError):  # no bucket: whoever writes is told
            return self._call(ask)
        return []

    def children(self, prefix: str) -> tuple[list[str], list[str]]:
        """Names (folders, objects) right below a prefix."""
        path = self._at(prefix)
        try:
            found = self._call(lambda: self._many.list_with_delimiter(path or None))
        except FileNotFoundError:
            return [], []
        folders = [str(name).rstrip("/") for name in found["common_prefixes"]]
        objects = [str(item["path"]) for item in found["objects"]]
        return (
            [name.rpartition("/")[2] for name in folders],
            [name.rpartition("/")[2] for name in objects if name not in folders and name != path],
        )

    def _at(self, key: str) -> str:
        return f"{self._prefix}/{key}".strip("/")

    def _call(self, ask: Callable[[], _T]) -> _T:
        try:
            return self._asked(ask)
        except _MovedError as moved:
            if not beside(self._place.moved):
                raise moved.error from moved
            self._open()
        try:
            return self._asked(ask)
        except _MovedError as moved:
            raise moved.error from moved

    def _asked(self, ask: Callable[[], _T]) -> _T:
        from obstore.exceptions import BaseError

        try:
            return beside(ask)
        except (BaseError, FileNotFoundError) as error:
            if self._place.failure is not None:
                raise self._place.failure from error
            raise failure(error) from error


# ------------------------------------------------------------------------------------------- errors


class _NotMetError(OSError):
    """A condition does not hold, or another write is under way."""


class _MovedError(Exception):
    """The bucket is elsewhere."""

    def __init__(self, error: OSError) -> None:
        super().__init__(str(error))
        self.error = error


def failure(error: Exception) -> Exception:
    """What obstore raised, as an OSError of the kind that `access_error` tells apart.

    Its text has the server's answer in it, and after that a tree of what led to it.
    """
    from obstore.exceptions import AlreadyExistsError, NotFoundError, PreconditionError

    said, _, tree = str(error).partition("\n\nDebug source:")
    code, message = _CODE.search(said), _MESSAGE.search(said)
    status = _STATUS.search(said)
    name = code[1] if code else ""
    if isinstance(error, AlreadyExistsError | PreconditionError) and name in _NOT_MET:
        return _NotMetError(errno.EINVAL, f"{name}: another has written it meanwhile")
    words = f"{name}: {message[1]}" if code and message else name
    if status is None and not isinstance(error, NotFoundError | FileNotFoundError):
        if said.find(_BARE) >= 0:
            return _MovedError(OSError(errno.EREMCHG, "PermanentRedirect: it is in another region"))
        return _unheard(said, tree)
    number = int(status[1]) if status else 404
    words = words or f"{number} {status[2] if status else 'Not Found'}".strip()
    if name in _MOVED or (number == 400 and not name):  # to HEAD, a wrong region is but 400
        return _MovedError(OSError(errno.EINVAL, words))
    if number == 404:
        return FileNotFoundError(errno.ENOENT, words)
    if any(part in name for part in _FULL):
        return OSError(errno.ENOSPC, words)
    if number in (401, 403) or name in _REFUSED:
        return PermissionError(errno.EACCES, words)
    if name == "RequestTimeout":
        return TimeoutError(errno.ETIMEDOUT, words)
    if number in _NUMBERS:
        return OSError(_NUMBERS[number], words)
    return OSError(errno.EINVAL if 400 <= number < 500 and number != 429 else errno.EIO, words)


def _unheard(said: str, tree: str) -> OSError:
    """There was no answer."""
    if "kind: Timeout" in tree or "TimedOut" in tree:
        return TimeoutError(errno.ETIMEDOUT, "nothing was heard in time")
    if "IncompleteMessage" in tree:
        return ConnectionResetError(errno.ECONNRESET, "the connection was closed without an answer")
    why = _WHY.findall(tree)
    words = why[-1] if why else said.splitlines()[0] if said else "no answer"
    return OSError(errno.EIO, words)


# --------------------------------------------------------------------------------------- the thread


class _Thread:
    """Does calls, one after another, until the process ends."""

    def __init__(self) -> None:
        self._calls: SimpleQueue[tuple[Future[Any], Callable[[], Any]]] = SimpleQueue()
        threading.Thread(target=self._serve, name="segengine-s3", daemon=True).start()

    def _serve(self) -> None:
        while True:
            future, call = self._calls.get()
            try:
                future.set_result(call())
            except BaseException as error:  # noqa: BLE001 whoever waits raises it
                future.set_exception(error)
            del future, call

    def answer(self, call: Callable[[], Any]) -> Any:
        future: Future[Any] = Future()
        self._calls.put((future, call))
        return future.result()


_threads: list[_Thread] = []
"""One, with nothing under way; none while it has."""


def beside(call: Callable[[], _T]) -> _T:
    """What a call gives that no signal interrupts: for the main thread, another one waits for it.

    Where a signal's handler raises, the call goes on with nobody to hear it, and the next has a
    thread of its own.
    """
    if threading.current_thread() is not threading.main_thread():
        return call()
    thread = _threads.pop() if _threads else _Thread()
    try:
        value: _T = thread.answer(call)
    except Exception:
        _threads.append(thread)
        raise
    _threads.append(thread)
    return value
