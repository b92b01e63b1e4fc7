"""The review page's server, as a program speaks to it: who is let in, what is saved, what is refused."""

from __future__ import annotations

import json
import threading
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.client import HTTPConnection, HTTPResponse
from typing import Any, NamedTuple

import av
import cv2
import numpy as np
import pytest
import rasterio

from segengine import corrections
from segengine.commands.review import review
from segengine.commands.verify import verify
from segengine.errors import JobError
from segengine.review.server import Server


class Answer(NamedTuple):
    status: int
    headers: Any
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Client:
    """What a page does, and what it never would."""

    def __init__(self, server: Server) -> None:
        self.server = server

    def ask(
        self, path: str, method: str = "GET", body: bytes = b"", token: str | None = None, **headers
    ) -> Answer:
        token = self.server.token if token is None else token
        given = {"X-Token": token} if token else {}
        given |= {name.replace("_", "-"): value for name, value in headers.items()}
        connection = HTTPConnection("127.0.0.1", self.server.server_port, timeout=30)
        connection.request(method, path, body or None, given)
        answer: HTTPResponse = connection.getresponse()
        found = Answer(answer.status, answer.headers, answer.read())
        connection.close()
        return found

    def correction(self, number: int, shape: tuple[int, int], window: int = 0) -> Any:
        found = self.ask(f"/api/frame/{number}/correction?window={window}")
        labels = np.frombuffer(zlib.decompress(found.body), np.uint8).reshape(shape)
        return labels, found.headers["ETag"]

    def put(self, number: int, labels: np.ndarray, tag: str, **headers) -> Answer:
        path = f"/api/frame/{number}/correction?window=0"
        return self.ask(path, "PUT", zlib.compress(labels.tobytes()), If_Match=tag, **headers)


@contextmanager
def serving(path, **options) -> Iterator[Client]:
    server = review(str(path), **options)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield Client(server)
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def store(bench):
    image = np.full((40, 60, 3), 20, np.uint8)
    image[10:30, 10:30] = 220
    bench.put("sub/a b.png", image)
    bench.put("b.png", image[:33])
    bench.run({"kind": "threshold", "method": "otsu", "instances": "components"})
    return bench


def test_a_correction_is_a_label_image_beside_the_masks(store) -> None:
    with serving(store.store, who="Ada") as client:
        listed = client.ask("/api/frames").json
        names = [row["name"] for row in listed["frames"]]
        assert names == ["b.png", "sub/a b.png"]
        labels, tag = client.correction(0, (33, 60))
        assert tag == '"none"'
        assert (labels == 255).all()
        drawn = labels.copy()
        drawn[2:5, 3:9] = 1
        saved = client.put(0, drawn, tag).json
        again, now = client.correction(0, (33, 60))
        assert now == f'"{saved["tag"]}"'
        np.testing.assert_array_equal(again, drawn)
        assert client.ask("/api/frames").json["frames"][0]["corrected"]
    (path,) = store.store.glob("review/*/*.png")
    row = next(r for r in store.open().frames.to_pylist() if r["name"] == "b.png")
    assert path.relative_to(store.store / "review").parts == (row["scene"], f"{row['frame']}.png")
    np.testing.assert_array_equal(cv2.imread(str(path), cv2.IMREAD_UNCHANGED), drawn)
    about = json.loads(path.with_suffix(".json").read_text())
    assert (about["name"], about["classes"]) == ("b.png", ["background", "object"])
    assert about["saves"][-1] == {"who": "Ada", "when": saved["when"], "tag": saved["tag"]}


def test_nothing_below_scenes_changes_and_the_store_goes_on(store) -> None:
    before = store.tree()
    with serving(store.store) as client:
        assert client.put(1, np.ones((40, 60), np.uint8), '"none"').status == 200
    assert store.tree() == before
    assert verify(str(store.store), sample=2, seed=0).exit_code == 0
    assert (
        store.run({"kind": "threshold", "method": "otsu", "instances": "components"}).computed == 0
    )
    assert store.tree() == before
    assert list(store.store.glob("review/*/*.png"))


def test_the_second_of_two_is_told(store) -> None:
    with serving(store.store, who="Ada") as client:
        first, second = np.zeros((33, 60), np.uint8), np.ones((33, 60), np.uint8)
        saved = client.put(0, first, '"none"').json
        refused = client.put(0, second, '"none"')
        assert refused.status == 409
        assert refused.json["save"]["who"] == "Ada"
        assert refused.json["tag"] == saved["tag"]
        np.testing.assert_array_equal(client.correction(0, (33, 60))[0], first)
        assert client.put(0, second, f'"{saved["tag"]}"').status == 200


def test_of_many_saves_at_once_one_wins(store) -> None:
    with serving(store.store) as client:
        codes: list[int] = []

        def save(value: int) -> None:
            codes.append(client.put(0, np.full((33, 60), value, np.uint8), '"none"').status)

        threads = [threading.Thread(target=save, args=(i % 2,)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(codes) == [200] + [409] * 7


@pytest.mark.parametrize(
    ("headers", "token"),
    [
        ({}, ""),
        ({}, "wrong"),
        ({"Host": "evil.example"}, None),
        ({"Host": "localhost:1"}, None),
        ({"Origin": "http://evil.example"}, None),
        ({"Origin": "null"}, None),
    ],
)
def test_strangers_are_refused(store, headers, token) -> None:
    with serving(store.store) as client:
        for path in ("/", "/api/desk", "/api/frame/0/correction"):
            assert client.ask(path, token=token, **headers).status == 403
        body = zlib.compress(bytes(33 * 60))
        path = "/api/frame/0/correction"
        assert client.ask(path, "PUT", body, token, If_Match='"none"', **headers).status == 403
        # a form or a picture of another site could know the address, never the header
        query = f"{path}?token={client.server.token}"
        assert client.ask(query, "PUT", body, "", If_Match='"none"').status == 403
    assert not (store.store / "review").exists()


def test_the_page_asks_nobody_else(store) -> None:
    with serving(store.store) as client:
        page = client.ask(f"/?token={client.server.token}", token="")
        assert page.status == 200
        policy = page.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert page.headers["Referrer-Policy"] == "no-referrer"
        for word in (b"http://", b"https://", b"src=", b"@import", b"{{"):
            assert word not in page.body
        assert client.server.server_address[0] == "127.0.0.1"


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"no zlib", 400),
        (zlib.compress(bytes(33 * 60 - 1)), 400),
        (zlib.compress(bytes(33 * 60 + 1)), 400),
        (zlib.compress(bytes(33 * 60))[:-3], 400),
        (zlib.compress(bytes(10**8)), 413),
        (zlib.compress(bytes(10**5)), 400),
        (zlib.compress(bytes([7]) * (33 * 60)), 400),
    ],
)
def test_a_strange_body_is_refused_in_one_line(store, body, status) -> None:
    with serving(store.store) as client:
        path = "/api/frame/0/correction?window=0"
        answer = client.ask(path, "PUT", body, If_Match='"none"')
        assert answer.status == status
        assert "\n" not in answer.json["error"]
    assert not (store.store / "review").exists()


@pytest.mark.parametrize(
    "path",
    [
        "/api/frame/99",
        "/api/frame/-1",
        "/api/frame/0?window=1",
        "/api/frame/../../etc/passwd",
        "/api/frame/0/other",
        "/etc/passwd",
        "/api/frame/0/superpixels?y=999&x=0",
        "/api/frames?start=x",
        "/api/frame/0/mask?window=9",
    ],
)
def test_what_is_not_there_is_said(store, path) -> None:
    with serving(store.store) as client:
        assert client.ask(path).status in (400, 404)


def test_ten_thousand_frames_come_by_the_page(store) -> None:
    with serving(store.store) as client:
        desk = client.server.desk
        items = [desk.items[0]] * 10_000
        object.__setattr__(desk, "items", items)
        found = client.ask("/api/frames?start=9990&count=5000").json
        assert (found["total"], len(found["frames"])) == (10_000, 10)
        assert len(client.ask("/api/frames?count=5000").json["frames"]) == 200


class Far:
    """A store's objects as those of one behind a network, which counts what it is asked for."""

    root = "s3://bucket/masks.zarr"

    def __init__(self, objects: Any) -> None:
        self.objects, self.asked = objects, Counter[str]()

    def __getattr__(self, name: str) -> Any:
        self.asked[name] += 1
        return getattr(self.objects, name)


@pytest.mark.parametrize("done", [0, 1])
def test_a_page_of_the_list_asks_a_far_store_once(store, done) -> None:
    with serving(store.store) as client:
        drawn, tag = client.correction(1, (40, 60))
        for _ in range(done):
            client.put(1, drawn, tag)
        desk = client.server.desk
        far = Far(desk.objects)
        client.server.desk = replace(desk, items=[*desk.items] * 90, objects=far)
        rows = client.ask("/api/frames?count=180").json["frames"]
        assert [row["corrected"] for row in rows] == [False, bool(done)] * 90
        assert far.asked == {"keys": 1}
        far.asked.clear()
        assert client.ask("/api/frame/1?window=0").json["corrected"] == bool(done)
        assert "exists" not in far.asked


def test_the_worst_and_the_least_sure_come_first(bench) -> None:
    for i, name in enumerate("cab"):
        image = np.full((32, 32), 10, np.uint8)
        image[:16] = 250
        bench.put(f"{name}.png", image)
        truth = (image > 100).astype(np.uint8)
        truth[: 8 * i] = 0
        (bench.root / "truth").mkdir(exist_ok=True)
        cv2.imwrite(str(bench.root / "truth" / f"{name}.png"), truth)
    truth = {"paths": [str(bench.root / "truth/{stem}.png")]}
    bench.run({"kind": "threshold", "method": "otsu"}, truth=truth)
    with serving(bench.store) as client:
        rows = client.ask("/api/frames").json["frames"]
    assert [row["name"] for row in rows] == ["b.png", "a.png", "c.png"]
    assert rows[0]["note"].startswith("mean IoU 0.")
    assert rows[2]["note"] == "mean IoU 1.00"


def test_a_damaged_correction_is_said_and_corrected_again(store) -> None:
    """As verify says; no run brings it back, so that says nothing of `--repair`."""
    drawn = np.ones((33, 60), np.uint8)
    with serving(store.store) as client:
        client.put(0, drawn, '"none"')
        (path,) = store.store.glob("review/*/*.png")
        data = bytearray(path.read_bytes())
        data[-20] ^= 1
        path.write_bytes(data)
        report = verify(str(store.store), sample=0)
        (problem,) = report.problems
        assert problem.object == str(path.relative_to(store.store))
        assert problem.what.endswith("correct it again in `segengine review`, or delete the file")
        assert report.exit_code == 4
        assert "--repair" not in "\n".join(report.lines())
        assert "damaged PNG" in client.ask("/api/frame/0").json["damaged"]
        shown, tag = client.correction(0, drawn.shape)
        assert (shown == 255).all()
        assert client.put(0, drawn, '"none"').status == 409  # by who has not seen that
        assert client.put(0, drawn, tag).status == 200
        assert client.ask("/api/frame/0").json["damaged"] == ""
    assert verify(str(store.store), sample=0).exit_code == 0


def test_a_label_that_is_no_class_is_shown_as_untouched(store) -> None:
    with serving(store.store) as client:
        client.put(0, np.ones((33, 60), np.uint8), '"none"')
        (path,) = store.store.glob("review/*/*.png")
        strange = np.ones((33, 60), np.uint8)
        strange[4] = 7
        path.write_bytes(corrections.encoded(strange))
        assert "label 7" in client.ask("/api/frame/0").json["damaged"]
        shown, tag = client.correction(0, strange.shape)
        np.testing.assert_array_equal(shown, np.where(strange == 7, 255, strange))
        assert client.put(0, shown, tag).status == 200


def test_objects_are_split_and_kept_with_their_classes(store) -> None:
    with serving(store.store) as client:
        path = "/api/frame/1/objects?window=0"
        answer = client.ask(path)
        ids = np.frombuffer(zlib.decompress(answer.body), np.uint32).reshape(40, 60)
        assert set(np.unique(ids)) == {0, 1}
        ids = np.where((ids == 1) & (np.arange(60) >= 20), np.uint32(70), ids)
        labels = (ids > 0).astype(np.uint8)
        body = zlib.compress(ids.tobytes() + labels.tobytes())
        assert client.ask(path, "PUT", body, If_Match=answer.headers["ETag"]).status == 200
        again = client.ask(path)
        found = np.frombuffer(zlib.decompress(again.body), np.uint32).reshape(40, 60)
        assert set(np.unique(found)) == {0, 1, 2}
    (image,) = store.store.glob("review/*/instances/*.png")
    np.testing.assert_array_equal(cv2.imread(str(image), cv2.IMREAD_UNCHANGED), found)
    about = json.loads((image.parents[1] / f"{image.stem}.json").read_text())
    assert about["objects"] == {"1": 1, "2": 1}


def test_a_folder_without_masks_becomes_label_images(bench) -> None:
    bench.put("sub/a.png", np.zeros((20, 30, 3), np.uint8))
    bench.put("b.png", np.zeros((25, 30, 3), np.uint8))
    with pytest.raises(JobError, match="--classes"):
        review(str(bench.inputs))
    with serving(bench.inputs, classes=["ground", "tree"]) as client:
        labels, tag = client.correction(1, (20, 30))
        labels = labels.copy()
        labels[:5] = 1
        assert client.put(1, labels, tag).status == 200
    made = bench.root / "in-labels" / "sub" / "a.png"
    np.testing.assert_array_equal(cv2.imread(str(made), cv2.IMREAD_UNCHANGED), labels)
    with serving(bench.inputs) as client:  # the classes are known now
        assert client.ask("/api/desk").json["classes"] == ["ground", "tree"]
        np.testing.assert_array_equal(client.correction(1, (20, 30))[0], labels)
    with pytest.raises(JobError, match="name these first"):
        review(str(bench.inputs), classes=["tree", "ground"])
    with pytest.raises(JobError, match="lies in"):
        review(str(bench.inputs), classes=["a"], labels=str(bench.inputs / "labels"))


def test_a_port_that_is_taken_is_said(store) -> None:
    with serving(store.store) as client, pytest.raises(JobError, match="--port"):
        review(str(store.store), client.server.server_port)


def test_a_large_frame_is_edited_in_windows(bench) -> None:
    image = np.zeros((40, 5000), np.uint8)
    image[:, 4800:] = 255
    bench.put("wide.png", image)
    bench.run({"kind": "threshold", "method": "otsu"})
    with serving(bench.store) as client:
        about = client.ask("/api/frame/0?window=1").json
        assert (about["windows"], about["left"], about["width"]) == (2, 2500, 2500)
        drawn = np.full((40, 2500), 255, np.uint8)
        drawn[:, :10] = 1
        path = "/api/frame/0/correction?window=1"
        body = zlib.compress(drawn.tobytes())
        assert client.ask(path, "PUT", body, If_Match='"none"').status == 200
    (made,) = bench.store.glob("review/*/*.png")
    whole = cv2.imread(str(made), cv2.IMREAD_UNCHANGED)
    assert whole.shape == (40, 5000)
    assert (whole[:, 2500:2510] == 1).all()
    assert (np.delete(whole, range(2500, 2510), axis=1) == 255).all()


def test_mistakes_on_the_command_line_are_one_line(bench, capsys) -> None:
    from segengine_flows.cli import main

    bench.put("a.png", np.zeros((20, 30), np.uint8))
    for words, said in (
        (["review", str(bench.inputs)], "--classes"),
        (["review", str(bench.root / "nowhere")], "no segengine store is there"),
        (["review", str(bench.inputs), "--classes", "a,a"], "a name of its own"),
        (["review", str(bench.inputs), "--classes", "a,b", "--port", "99999"], "--port"),
    ):
        assert main(words) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert said in line


def test_frames_of_a_video_and_bands_of_a_raster_are_edited_alike(bench) -> None:
    rng = np.random.default_rng(0)
    movie = rng.integers(0, 255, (4, 48, 64, 3)).astype(np.uint8)
    bench.inputs.mkdir(parents=True)
    with av.open(str(bench.inputs / "v.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=25, width=64, height=48, pix_fmt="bgr0")
        for image in movie:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, "rgb24")))
        container.mux(stream.encode())
    bands = rng.integers(0, 4000, (4, 70, 45)).astype(np.uint16)
    about = {"driver": "GTiff", "height": 70, "width": 45, "count": 4, "dtype": "uint16"}
    where = {"crs": "EPSG:32633", "transform": rasterio.Affine(10, 0, 5e5, 0, -10, 5e6)}
    with rasterio.open(bench.inputs / "s.tif", "w", **about, **where) as file:
        file.write(bands)
    bench.run({"kind": "threshold", "method": "otsu"})
    with serving(bench.store) as client:
        rows = client.ask("/api/frames").json["frames"]
        assert [row["name"] for row in rows] == ["s.tif", *(f"v.mkv#{i}" for i in range(4))]
        picture = client.ask("/api/frame/3/picture?window=0").body
        seen = cv2.imdecode(np.frombuffer(picture, np.uint8), cv2.IMREAD_COLOR)
        np.testing.assert_array_equal(seen[..., ::-1], movie[2])
        for number, size in ((0, (70, 45)), (3, (48, 64))):
            assert client.ask(f"/api/frame/{number}/picture").status == 200
            assert client.put(number, np.ones(size, np.uint8), '"none"').status == 200
    found = {
        path.relative_to(bench.store / "review").as_posix()
        for path in bench.store.glob("review/*/*.png")
    }
    assert found == {"s/0.png", "v/2.png"}


def test_a_frame_that_is_too_large_is_refused_in_a_line(store, monkeypatch) -> None:
    monkeypatch.setattr("segengine.corrections.LARGEST", 2000)
    with serving(store.store) as client:
        about = client.ask("/api/frame/1").json
        assert about["name"] == "sub/a b.png"
        assert "40 x 60 pixels are more than can be corrected (2,000)" in about["refused"]
        assert client.ask("/api/frame/1/mask").status == 404
        assert client.put(1, np.ones((40, 60), np.uint8), '"none"').status == 404


def test_the_least_sure_come_first_where_there_is_no_truth(bench, toys) -> None:
    for name, value in (("a.png", 200), ("b.png", 0)):
        bench.put(name, np.full((32, 32), value, np.uint8))
    segmenter = {"kind": f"{toys}:Unsure"}
    bench.run(segmenter, store={"confidence": True})
    with serving(bench.store, trust=True) as client:
        rows = client.ask("/api/frames").json["frames"]
    assert [row["name"] for row in rows] == ["b.png", "a.png"]
    assert [row["note"] for row in rows] == ["confidence 0.55", "confidence 0.95"]
