"""The review page in a browser, as people use it: drawing, going back, saving, with and without a mouse."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import cv2
import numpy as np
import pytest

from tests.conftest import Bench

pytestmark = [pytest.mark.system, pytest.mark.browser]
SEGMENTER = {"kind": "threshold", "method": "fixed", "levels": 100, "instances": "components"}
RATE = 30.0
"""Drawn frames a second that a large frame must have."""


class Review:
    """The command, in a process of its own."""

    def __init__(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "segengine_flows.start", "review", *arguments]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().strip()
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/\?token=[\w-]+", self.url), self.url

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture
def command() -> Iterator[Callable[..., Review]]:
    started: list[Review] = []

    def start(*arguments: Any) -> Review:
        started.append(Review(*map(str, arguments)))
        return started[-1]

    yield start
    for one in started:
        one.kill()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        found = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        yield found
        found.close()


@pytest.fixture
def opened(browser: Any) -> Iterator[Callable[[str], Any]]:
    """A page that has its first frame; nothing may go wrong in it, and it asks nobody else."""
    contexts, wrong = [], []

    def open_(url: str) -> Any:
        context = browser.new_context(viewport={"width": 1280, "height": 800})
        contexts.append(context)
        page = context.new_page()
        host = urlsplit(url).netloc
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on(
            "request",
            lambda r: wrong.append(r.url) if r.url.startswith("http") and host not in r.url else 0,
        )
        page.goto(url)
        ready(page)
        return page

    yield open_
    for context in contexts:
        context.close()
    assert wrong == []


def until(page: Any, condition: str) -> None:
    """Wait for it; the page's policy forbids `wait_for_function`, which evaluates in the page."""
    end = time.monotonic() + 180
    while not page.evaluate(condition):
        assert time.monotonic() < end, condition
        page.wait_for_timeout(50)


def ready(page: Any, frame: str = "a.png") -> None:
    until(page, "maps.corr !== null && document.body.dataset.frame !== undefined")
    assert page.get_by_role("list", name="Frames").get_by_text(frame).count() == 1


@pytest.fixture
def store(bench: Bench) -> Bench:
    image = np.full((100, 160, 3), 20, np.uint8)
    image[20:60, 20:60] = 220
    bench.put("a.png", image)
    bench.put("b.png", image[:, ::-1].copy())
    bench.run(SEGMENTER)
    return bench


def at(page: Any, x: float, y: float) -> tuple[float, float]:
    """Where a pixel of the frame is on the screen."""
    return tuple(
        page.evaluate(
            "([x, y]) => { const b = canvas.getBoundingClientRect(), r = canvas.width / b.width;"
            "return [b.left + (x - view.x) * view.scale / r, b.top + (y - view.y) * view.scale / r]; }",
            [x, y],
        )
    )


def stroke(page: Any, *points: tuple[float, float]) -> None:
    page.mouse.move(*at(page, *points[0]))
    page.mouse.down()
    for point in points[1:]:
        page.mouse.move(*at(page, *point), steps=5)
    page.mouse.up()


def click(page: Any, x: float, y: float) -> None:
    page.mouse.click(*at(page, x, y))


def button(page: Any, name: str) -> Any:
    return page.get_by_role("button", name=name, exact=True)


def save(page: Any) -> None:
    button(page, "Save").click()
    page.get_by_role("status").get_by_text("Saved by").wait_for()


def drawn(page: Any) -> np.ndarray:
    height, width, values = page.evaluate("[frame.height, frame.width, Array.from(maps.corr)]")
    return np.array(values, np.uint8).reshape(height, width)


def saved(bench: Bench, frame: int = 0) -> np.ndarray:
    (path,) = bench.store.glob(f"review/*/{frame}.png")
    return np.asarray(cv2.imread(str(path), cv2.IMREAD_UNCHANGED))


def test_draw_undo_save_reload(store: Bench, command: Any, opened: Any) -> None:
    page = opened(command(store.store).url)
    page.get_by_role("group", name="Class").get_by_role("radio", name="object").check()
    stroke(page, (100, 20), (130, 20))
    first = drawn(page)
    # within half a size, 15 pixels, of the line: a capsule
    y, x = np.mgrid[:100, :160] + 0.5
    near = np.hypot(np.maximum(np.maximum(100 - x, x - 130), 0), y - 20) <= 7.5
    assert (first != 255).sum() == pytest.approx(near.sum(), abs=12)
    assert set(np.unique(first)) == {1, 255}
    stroke(page, (100, 80), (130, 80))
    second = drawn(page)
    button(page, "Undo").click()
    np.testing.assert_array_equal(drawn(page), first)
    button(page, "Redo").click()
    np.testing.assert_array_equal(drawn(page), second)
    button(page, "Undo").click()
    save(page)
    np.testing.assert_array_equal(saved(store), first)
    page.reload()
    ready(page)
    np.testing.assert_array_equal(drawn(page), first)
    assert page.get_by_role("list", name="Frames").get_by_text("corrected").count() == 1


def test_polygon_fill_erase_and_superpixel(store: Bench, command: Any, opened: Any) -> None:
    page = opened(command(store.store).url)
    page.get_by_role("radio", name="background").check()
    button(page, "Fill").click()
    click(page, 30, 30)
    found = drawn(page)
    assert (found[20:60, 20:60] == 0).all()
    assert (found != 255).sum() == 1600
    button(page, "Polygon").click()
    page.get_by_role("radio", name="object").check()
    for corner in ((100, 10), (140, 10), (140, 50)):
        click(page, *corner)
    page.keyboard.press("Enter")
    triangle = np.zeros((100, 160), np.uint8)
    cv2.fillPoly(triangle, [np.array([(100, 10), (140, 10), (140, 50)])], 1)
    assert abs(int((drawn(page) == 1).sum()) - int(triangle.sum())) <= 80  # its border
    button(page, "Erase").click()
    stroke(page, (30, 25), (30, 55))
    assert drawn(page)[40, 30] == 255
    assert drawn(page)[40, 58] == 0
    before = drawn(page)
    button(page, "Superpixel").click()
    click(page, 50, 80)
    until(page, "maps.corr[80 * 160 + 50] === 1")
    assert 20 < (drawn(page) != before).sum() < 4000


def test_objects_are_split_merged_and_deleted(store: Bench, command: Any, opened: Any) -> None:
    page = opened(command(store.store).url)
    button(page, "Split").click()
    click(page, 40, 10)
    click(page, 40, 70)
    ids = "new Set(maps.ids).size"
    assert page.evaluate(ids) == 3
    assert page.evaluate("maps.ids[30 * 160 + 25] !== maps.ids[30 * 160 + 55]")
    button(page, "Merge").click()
    click(page, 25, 30)
    click(page, 55, 30)
    assert page.evaluate(ids) == 2
    button(page, "Undo").click()
    button(page, "Delete").click()
    click(page, 25, 30)
    assert page.evaluate(ids) == 2
    save(page)
    (path,) = store.store.glob("review/*/instances/0.png")
    found = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert set(np.unique(found)) == {0, 1}
    assert (found[20:60, 41:60] == 1).all()
    assert (saved(store)[20:60, 20:39] == 0).all()


def test_the_second_of_two_tabs_is_told(store: Bench, command: Any, opened: Any) -> None:
    url = command(store.store, "--who", "Ada").url
    one, two = opened(url), opened(url)
    stroke(one, (100, 20), (130, 20))
    stroke(two, (100, 80), (130, 80))
    first, second = drawn(one), drawn(two)
    save(one)
    button(two, "Save").click()
    alert = two.get_by_role("alert")
    alert.get_by_text("Not saved: this frame was saved by Ada").wait_for()
    np.testing.assert_array_equal(saved(store), first)
    button(two, "Keep mine").click()
    two.get_by_role("status").get_by_text("Saved by").wait_for()
    assert not alert.is_visible()
    np.testing.assert_array_equal(saved(store), second)
    stroke(one, (20, 80), (60, 80))
    button(one, "Save").click()
    button(one, "Take theirs").click()
    tag = two.evaluate("frame.tag")
    until(one, f"frame.tag === {tag!r} && maps.corr")
    np.testing.assert_array_equal(drawn(one), second)


def test_the_keyboard_alone_is_enough(store: Bench, command: Any, opened: Any) -> None:
    page = opened(command(store.store).url)
    press = page.keyboard.press
    for _ in range(60):  # to the canvas, past the list and the buttons
        press("Tab")
        if page.evaluate("document.activeElement.getAttribute('aria-label')") == "Mask":
            break
    else:
        pytest.fail("Tab does not lead to the canvas")
    press("2")
    for _ in range(4):
        press("Shift+ArrowRight")
    press("Space")
    assert drawn(page)[50, 120] == 1
    press("d")
    for _ in range(3):
        press("Shift+ArrowDown")
    press("d")
    assert drawn(page)[80, 120] == 1
    press("u")
    assert drawn(page)[80, 120] == 255
    press("r")
    press("1")
    press("f")
    for _ in range(7):
        press("Shift+ArrowLeft")
    for _ in range(4):
        press("Shift+ArrowUp")
    press("Enter")
    found = drawn(page)
    assert (found[20:60, 20:60] == 0).all()
    press("+")
    press("-")
    press("Control+s")
    page.get_by_role("status").get_by_text("Saved by").wait_for()
    np.testing.assert_array_equal(saved(store), found)
    press("?")
    dialog = page.get_by_role("dialog")
    assert dialog.get_by_text("Undo").count() == 1
    press("Escape")
    press("n")
    until(page, "document.body.dataset.frame === '1'")
    press("N")
    until(page, "document.body.dataset.frame === '0' && maps.corr")
    np.testing.assert_array_equal(drawn(page), found)


def test_names_are_those_of_the_contract(store: Bench, command: Any, opened: Any) -> None:
    page = opened(command(store.store).url)
    for name in (
        *("Brush", "Polygon", "Fill", "Erase", "Undo", "Redo", "Save", "Zoom in", "Zoom out"),
    ):
        assert page.get_by_role("button", name=name).count() == 1, name
    assert page.get_by_label("Mask").count() == 1
    assert page.locator("canvas[aria-label=Mask]").count() == 1
    assert page.get_by_role("slider", name="Opacity").count() == 1
    radios = page.get_by_role("group", name="Class").get_by_role("radio")
    assert [r.get_attribute("aria-label") for r in radios.all()] == ["background", "object"]
    assert page.get_by_role("listitem", name="b.png").count() == 1
    page.get_by_role("button", name="b.png").click()
    until(page, "document.body.dataset.frame === '1'")
    page.get_by_role("slider", name="Opacity").fill("80")
    assert page.evaluate("view.opacity") == 0.8
    before = page.evaluate("view.scale")
    button(page, "Zoom in").click()
    assert page.evaluate("view.scale") > before


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(store: Bench, command: Any, opened: Any, scheme: str) -> None:
    from axe_playwright_python.sync_playwright import Axe

    page = opened(command(store.store).url)
    page.emulate_media(color_scheme=scheme)
    for keys in ("", "?"):
        if keys:
            page.keyboard.press(keys)
        found = Axe().run(page).response["violations"]
        serious = [v["id"] for v in found if v["impact"] in ("serious", "critical")]
        assert serious == []


def test_a_large_frame_is_drawn_quickly(bench: Bench, command: Any, opened: Any) -> None:
    rng = np.random.default_rng(0)
    bench.put("a.png", rng.integers(0, 255, (4096, 4096)).astype(np.uint8))
    bench.run({"kind": "threshold", "method": "otsu"})
    page = opened(command(bench.store).url)
    assert page.evaluate("[frame.width, frame.height, frame.windows]") == [4096, 4096, 1]
    rates = {}
    for zoomed in ("whole", "close"):
        if zoomed == "close":
            page.evaluate("zoom(8)")
        page.evaluate("document.getElementById('size').value = 60; tool.size = 60")
        x, y, w, h = (
            page.locator("#canvas").bounding_box()[k] for k in ("x", "y", "width", "height")
        )
        page.mouse.move(x + w / 2, y + h / 2)
        page.mouse.down()
        page.evaluate("view.drawn = 0; view.from = performance.now()")
        for i in range(240):
            angle = i / 12
            page.mouse.move(x + w / 2 + 150 * np.cos(angle), y + h / 2 + 150 * np.sin(angle))
        rates[zoomed] = page.evaluate("view.drawn / (performance.now() - view.from) * 1000")
        page.mouse.up()
    sys.stdout.write(f"drawn frames a second at 4096 x 4096: {rates}\n")
    save(page)
    assert saved(bench).shape == (4096, 4096)
    if os.environ.get("REQUIRE_TOOLS") or os.getloadavg()[0] < 3:  # a busy machine tells nothing
        assert min(rates.values()) >= RATE


def test_a_server_killed_while_it_saves_leaves_the_old_or_the_new(
    bench: Bench, command: Any
) -> None:
    size = (1500, 1500)
    bench.put("a.png", np.zeros(size, np.uint8))
    bench.run({"kind": "threshold", "method": "fixed", "levels": 100})
    rng = np.random.default_rng(0)
    kinds = [rng.integers(0, 2, size).astype(np.uint8) for _ in range(2)]
    bodies = [zlib.compress(kind.tobytes(), 1) for kind in kinds]
    for attempt in range(6):
        review = command(bench.store)
        parts = urlsplit(review.url)
        token = parse_qs(parts.query)["token"][0]
        stop, first = threading.Event(), threading.Event()

        def saves(parts=parts, token=token, stop=stop, first=first) -> None:
            tag = _tag(parts.netloc, token)
            for i in range(1000):
                if stop.is_set():
                    return
                try:
                    tag = _put(parts.netloc, token, bodies[i % 2], tag)
                except OSError:
                    return
                first.set()

        thread = threading.Thread(target=saves)
        thread.start()
        assert first.wait(60)
        time.sleep(attempt * 0.07)
        review.kill()
        stop.set()
        thread.join()
        (path,) = bench.store.glob("review/*/*.png")
        found = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        assert any(np.array_equal(found, kind) for kind in kinds)
        assert not list(Path(bench.store).glob("review/**/*.tmp"))
    from segengine.commands.verify import verify

    assert verify(str(bench.store), sample=0).exit_code == 0


def _tag(host: str, token: str) -> str:
    connection = HTTPConnection(host, timeout=30)
    connection.request("GET", "/api/frame/0/correction", headers={"X-Token": token})
    answer = connection.getresponse()
    answer.read()
    connection.close()
    return str(answer.headers["ETag"])


def _put(host: str, token: str, body: bytes, tag: str) -> str:
    import json

    connection = HTTPConnection(host, timeout=30)
    headers = {"X-Token": token, "If-Match": tag}
    connection.request("PUT", "/api/frame/0/correction", body, headers)
    try:
        found = json.loads(connection.getresponse().read())
    except ValueError as error:
        raise OSError("cut off") from error
    finally:
        connection.close()
    return f'"{found["tag"]}"'


def test_truth_is_drawn_over_a_folder_of_images(bench: Bench, command: Any, opened: Any) -> None:
    bench.put("a.png", np.zeros((50, 80, 3), np.uint8))
    page = opened(command(bench.inputs, "--classes", "ground,tree").url)
    page.get_by_role("radio", name="tree").check()
    button(page, "Fill").click()
    click(page, 40, 25)
    save(page)
    found = cv2.imread(str(bench.root / "in-labels" / "a.png"), cv2.IMREAD_UNCHANGED)
    assert (found == 1).all()
