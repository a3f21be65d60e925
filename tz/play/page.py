"""Serves the board as a web page to browsers on this machine, with the standard library alone."""

import collections
import contextlib
import json
import pathlib
import secrets
import threading
import traceback
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tz.play.session import Session, said

FRONT_END = pathlib.Path(__file__).with_name("board.js")
_MOST_BYTES = 1 << 16
_MOST_GAMES = 64
_DEFAULT_PORT = 80  # browsers leave it out of the headers
_GONE = "play: found a game that is no longer kept here, so a new one has begun."
_HTML = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>tz: %s</title><link rel="icon" href="data:,">
<style>body { margin: 0; background: #f4f6f8; } main { max-width: 1120px; margin: 0 auto; }</style></head>
<body><main id="board"></main><script type="module" src="/start.js"></script></body></html>
"""
_START = 'import { page } from "/board.js";\npage(document.getElementById("board"));\n'
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'unsafe-inline'; img-src data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class PageServer:
    """Serves games to browsers on this machine; each tab has its own game.

    The server listens on the loopback address and answers no requests from pages of other sites. It keeps 64 games; a
    further one replaces the game that has been idle for the longest time.

    **Arguments:**

    - `new_session`: a function that makes the [`tz.play.Session`][] of a new game from the number of the game.
    - `title`: the title of the page.
    - `port`: the port to listen on; 0, the default, for any free one.

    **Attributes:** `url`, the address to open in a browser; `port`, the port in use.

    **Raises:** `ValueError` if the port is in use, or if there is no port of that number.
    """

    def __init__(self, new_session: Callable[[int], Session], *, title: str = "game", port: int = 0):
        self._new_session, self._title = new_session, title
        self._sessions: collections.OrderedDict[str, Session] = collections.OrderedDict()
        self._num_games, self._lock = 0, threading.Lock()
        try:
            self._server = ThreadingHTTPServer(("127.0.0.1", port), _handler(self))
        except (OSError, OverflowError) as error:
            raise ValueError(
                f"PageServer: found port {port}, which cannot be used ({error}), expected a free one; leave it out "
                "to get any free port, or stop the program that uses this one."
            ) from error
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}/"

    def serve_forever(self) -> None:
        """Answers requests until another thread calls `close`, or until Ctrl-C."""
        self._server.serve_forever(poll_interval=0.1)

    def close(self) -> None:
        """Stops `serve_forever`, which has to run in another thread, and frees the port."""
        self._server.shutdown()
        self.free()

    def free(self) -> None:
        """Frees the port of a server that has stopped; [`tz.play.PageServer.close`][] stops it and frees the port."""
        self._server.server_close()

    def page(self) -> str:
        """Returns the HTML of the page."""
        title = "".join(c for c in self._title if c.isalnum() or c in " _-.")
        return _HTML % title

    def is_from_here(self, host: str | None, origin: str | None) -> bool:
        """Returns True if a request was sent to this server by its own page, or by no page at all.

        **Arguments:** `host` and `origin`, the headers of the request, None if missing. `Host` shows whether a foreign
            name was resolved to this machine, and `Origin` whether the page of another site made the browser send the
            request.
        """
        names = ("127.0.0.1", "localhost")
        hosts = {f"{name}:{self.port}" for name in names} | ({*names} if self.port == _DEFAULT_PORT else set())
        return host in hosts and (origin is None or origin in {f"http://{name}" for name in hosts})

    def answer(self, body: bytes) -> tuple[int, dict[str, Any]]:
        """Answers a request of a page.

        **Arguments:** `body`, JSON with `session`, the name of a game (None for a new one), and `message`, for
            [`tz.play.Session.ask`][].

        **Returns:** the HTTP status, and the data to send back. If the server no longer keeps the game, this is a new
        game with an error, and the message is not carried out.
        """
        try:
            asked = json.loads(body)
        except (ValueError, RecursionError):
            return 400, {"error": "play: found no JSON, expected an object with `session` and `message`."}
        if not isinstance(asked, dict) or not isinstance(asked.get("session"), str | None):
            return 400, {"error": "play: found other JSON, expected an object with `session` and `message`."}
        old = asked.get("session")
        try:
            name, session = self._session(old)
            if name == old or old is None:
                view = session.ask(asked.get("message"))
            else:  # its move was for another position
                view = session.ask({"do": "view"}) | {"error": _GONE}
        except Exception as error:  # such as one of the user's own game, agent or board
            traceback.print_exc()
            return 500, {"error": said(error)}
        return 200, {"session": name, "view": view}

    def _session(self, name: str | None) -> tuple[str, Session]:
        """Returns a game and its name; a new one with another name if there is no game of this name."""
        with self._lock:
            session = self._sessions.get(name) if name is not None else None
            if name is None or session is None:
                name, session = secrets.token_urlsafe(16), self._new_session(self._num_games)
                self._num_games += 1
                self._sessions[name] = session
                if len(self._sessions) > _MOST_GAMES:
                    self._sessions.popitem(last=False)
            self._sessions.move_to_end(name)
            return name, session


def _handler(pages: PageServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = 60  # seconds for a request to arrive
        server_version, sys_version = "tz", ""

        def do_GET(self) -> None:
            files = {
                "/": ("text/html", pages.page),
                "/start.js": ("text/javascript", lambda: _START),
                "/board.js": ("text/javascript", lambda: FRONT_END.read_text("utf-8")),
            }
            if not pages.is_from_here(self.headers.get("Host"), self.headers.get("Origin")):
                self._send(403, "text/plain", "tz: this page is only for the machine that serves it.")
            elif self.path not in files:
                self._send(404, "text/plain", "tz: there is no such page.")
            else:
                kind, text = files[self.path]
                self._send(200, kind, text())

        def do_POST(self) -> None:
            length = self.headers.get("Content-Length", "")
            kind = self.headers.get("Content-Type", "").split(";")[0].strip().lower()
            if not pages.is_from_here(self.headers.get("Host"), self.headers.get("Origin")):
                self._fail(403, "play: found a request from elsewhere, expected one from this page.")
            elif self.path != "/ask":
                self._fail(404, "play: there is no such page.")
            elif kind != "application/json":
                self._fail(415, f"play: found {kind[:40]!r}, expected application/json.")
            elif not (length.isascii() and length.isdigit() and len(length) < 10):
                self._fail(411, "play: found no length of the request, expected a number in Content-Length.")
            elif int(length) > _MOST_BYTES:
                self._fail(413, f"play: found {length} bytes, expected at most {_MOST_BYTES}.")
            else:
                status, answer = pages.answer(self.rfile.read(int(length)))
                self._send(status, "application/json", json.dumps(answer))

        def _fail(self, status: int, error: str) -> None:
            self._send(status, "application/json", json.dumps({"error": error}))

        def _send(self, status: int, kind: str, text: str) -> None:
            data = text.encode()
            self.send_response(status)
            self.send_header("Content-Type", f"{kind}; charset=utf-8")
            self.send_header("Content-Length", str(len(data)))
            self.send_header("Content-Security-Policy", _POLICY)
            self.send_header("X-Content-Type-Options", "nosniff")
            self.send_header("Referrer-Policy", "no-referrer")
            self.send_header("Cache-Control", "no-store")
            with contextlib.suppress(ConnectionError):  # the tab was closed or loaded again during the answer
                self.end_headers()
                self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            del format, args

    return Handler
