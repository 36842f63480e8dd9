"""A web server on this machine that sends images, and misbehaves on some paths."""

import contextlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PAUSE = 0.05  # seconds between the bytes of a slow answer


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.server.paths.append(self.path)
        path = self.path.partition("?")[0]
        with contextlib.suppress(OSError):  # the client gave up
            if path in self.server.files:
                self._send(self.server.files[path])
            elif path.startswith("/to/"):
                self.send_response(302)
                self.send_header("Location", path.removeprefix("/to/"))
                self.send_header("Content-Length", "0")
                self.end_headers()
            elif path in ("/endless", "/slow", "/slow-headers", "/silent"):
                getattr(self, f"_send_{path[1:].replace('-', '_')}")()
            elif path == "/forbidden":
                self.send_error(403)
            elif path == "/cut-off":
                self._send(b"x" * 10, length=1000)
            else:
                self.send_error(404)

    def _send(self, content, length=None):
        self.send_response(200)
        self.send_header("Content-Length", str(length or len(content)))
        self.end_headers()
        self.wfile.write(content)
        if length:
            self.close_connection = True

    def _start_stream(self):
        self.send_response(200)
        self.send_header("Connection", "close")
        self.end_headers()

    def _send_endless(self):
        self._start_stream()
        while not self.server.stopped.is_set():
            self.wfile.write(b"\0" * 65_536)

    def _send_slow(self):
        self._start_stream()
        while not self.server.stopped.wait(PAUSE):
            self.wfile.write(b"\0")

    def _send_slow_headers(self):
        self.wfile.write(b"HTTP/1.1 200 OK\r\nX-A: ")
        while not self.server.stopped.wait(PAUSE):
            self.wfile.write(b"a")

    def _send_silent(self):
        self.server.stopped.wait(20)

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def web_server(files: dict[str, bytes]) -> Iterator[tuple[str, list[str]]]:
    """Serve files by path; yield the server's address, and the paths that are requested."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.files, server.paths, server.stopped = files, [], threading.Event()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", server.paths
    finally:
        server.stopped.set()
        server.shutdown()
        thread.join()
        server.server_close()
