"""A report's page as a test looks at it."""

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
from PIL import Image

import segengine

URI = re.compile(r"data:image/(png|jpeg);base64,([A-Za-z0-9+/=]+)")
VOID_TAGS = {"meta", "img", "br", "link", "input"}


class Page(HTMLParser):
    """A page's tags, attributes and text; fails where tags do not close in order."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.open: list[str] = []
        with open(path, encoding="utf-8") as file:
            self.source = file.read()
        self.feed(self.source)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID_TAGS:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            self.text.append(data.strip())

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).split())

    def pictures(self) -> list[np.ndarray]:
        sources = [a["src"] for tag, a in self.tags if tag == "img"]
        return [_opened(base64.b64decode(URI.fullmatch(s)[2])) for s in sources]


def _opened(data: bytes) -> np.ndarray:
    """(y, x, 3), or (y, x, 4) of what is clear somewhere."""
    rgba = np.asarray(Image.open(io.BytesIO(data)).convert("RGBA"))
    return rgba if (rgba[..., 3] < 255).any() else rgba[..., :3]


def run(folder, segmenter, **job):
    path = str(folder / "masks.zarr")
    source = {"paths": [str(folder / "in")]}
    segengine.run({"source": source, "segmenter": segmenter, "store": {"path": path}, **job})
    return path
