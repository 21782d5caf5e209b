"""The files of the page, read once: our own, and what the report has in common with it. Names are fixed here, so no
path that a browser sends is ever opened."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Final

from photon.protocol.canonical import sha256_hex

INDEX: Final = "index.html"
_SHARED: Final = ("palette.css", "uPlot.iife.min.js", "uPlot.min.css", "LICENSE.uPlot")
# Not the machine's: a mimetypes registry may call .js anything, and browsers refuse modules of another type.
_TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".uPlot": "text/plain; charset=utf-8",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Asset:
    """A file, its type, and a tag that changes with its content."""

    content: bytes
    media_type: str
    etag: str


def load() -> dict[str, Asset]:
    """All files of the page by name."""
    own = [item for item in files("photon_aggregator.http").joinpath("web").iterdir() if item.is_file()]
    shared = [files("photon").joinpath("web_assets", name) for name in _SHARED]
    return {item.name: _asset(item) for item in (*own, *shared)}


def _asset(item: Traversable) -> Asset:
    content = item.read_bytes()
    suffix = "." + item.name.rpartition(".")[2]
    return Asset(content=content, media_type=_TYPES[suffix], etag=f'"{sha256_hex(content)[:16]}"')
