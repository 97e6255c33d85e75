"""A web server on this machine that misbehaves as asked, for tests of downloading."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Served:
    """One file, and how it is served.

    Attributes:
        content: its bytes.
        break_after: bytes after which each connection is cut; 0 never.
        stated_length: what Content-Length says instead of the truth; 0 the truth.
        etag: validator; empty gives none, so that nothing can be resumed.
        statuses: answered first, one a request, before the file is.
        redirect: address to send the caller to.
        honours_ranges: whether a range is answered as one.
    """

    content: bytes
    break_after: int = 0
    stated_length: int = 0
    etag: str = '"one"'
    statuses: list[int] = field(default_factory=list)
    redirect: str = ""
    honours_ranges: bool = True
    requests: list[str] = field(default_factory=list)


@contextmanager
def serving(files: dict[str, Served]) -> Iterator[str]:
    """Serve files by path on loopback; gives the address of the root, without a slash."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            served = files.get(self.path.lstrip("/"))
            if served is None:
                self.send_error(404)
                return
            wish = self.headers.get("Range", "")
            served.requests.append(wish)
            if served.statuses:
                self.send_error(served.statuses.pop(0))
                return
            if served.redirect:
                self.send_response(302)
                self.send_header("Location", served.redirect)
                self.end_headers()
                return
            self._send(served, wish)

        def _send(self, served: Served, wish: str) -> None:
            same = self.headers.get("If-Range", "") == served.etag
            start = int(wish[6:-1]) if wish and same and served.honours_ranges else 0
            if start >= len(served.content) > 0 and start:
                self.send_error(416)
                return
            body = served.content[start:]
            self.send_response(206 if start else 200)
            if start:
                self.send_header(
                    "Content-Range", f"bytes {start}-{len(served.content) - 1}/{len(served.content)}"
                )
            self.send_header("Content-Length", str(served.stated_length or len(body)))
            if served.etag:
                self.send_header("ETag", served.etag)
            self.end_headers()
            self.wfile.write(body[: served.break_after or None])
            self.close_connection = True

        def log_message(self, *words: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
