"""Whether an API answers: slow is not gone, a few failures are bad luck, and the rest is gone."""

from .conftest import Start

SCRIPT = """
import os, threading, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

behaviour = {"delay": 0.0, "bad": lambda number: False}
asked = 0


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        global asked
        asked += 1
        assert self.path == "/api/ready"
        bad = behaviour["bad"](asked)
        time.sleep(behaviour["delay"])
        self.send_response(503 if bad else 200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        return


server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
server.daemon_threads = True
threading.Thread(target=server.serve_forever, daemon=True).start()
os.environ["PREFECT_API_URL"] = f"http://127.0.0.1:{server.server_port}/api"
from segengine_flows import guard

guard.EVERY = 0.05


def until(what, seconds=30):
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end
        time.sleep(0.01)


def holds(what, seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        assert what()
        time.sleep(0.01)


pulse = guard.Pulse()
behaviour["delay"] = 0.6
until(lambda: pulse._slowest >= 0.6)
holds(lambda: not pulse.is_gone(0.0, silence=0.2), 3)
print("slow", flush=True)
behaviour.update(delay=0.0, bad=lambda number: number % 3 > 0)
holds(lambda: not pulse.is_gone(0.0, silence=0.2), 2)
print("unlucky", flush=True)
behaviour["bad"] = lambda number: True
until(lambda: pulse.is_gone(0.0, silence=0.5))
assert time.monotonic() - pulse._heard > 0.5
assert not pulse.is_gone(time.monotonic(), silence=0.5)
print("failing", flush=True)
behaviour["bad"] = lambda number: False
until(lambda: not pulse.is_gone(0.0, silence=0.5))
print("back", flush=True)
behaviour["delay"] = 60
until(lambda: pulse.is_gone(0.0, silence=0.2))
assert time.monotonic() - pulse._heard > 1.8
print("silent", flush=True)
os._exit(0)
"""


def test_an_api_is_gone_where_its_calls_fail_and_not_where_they_take_long(launch: Start) -> None:
    process = launch("-P", "-c", SCRIPT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, out + err
    assert out.split() == ["slow", "unlucky", "failing", "back", "silent"]
