"""A server on this machine that speaks the chat API and fails on purpose, as its script says."""

import contextlib
import gzip
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from monkeylib.captions.composers import chat_model

COMPLETION = 20  # tokens that the server counts for an answer


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        """Answer what asks for the list of models."""
        self.counted = 0
        status = self.server.models
        text = (
            {"object": "list", "data": self.server.listed}
            if status == 200
            else {"error": {"message": self._echo()}}
        )
        self._send(json.dumps(text), status)

    def _echo(self):
        """An error that repeats what came, as some endpoints do."""
        return f"cannot accept {self.headers['Authorization']} at {self.path}"

    def do_POST(self):
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with server.guard:
            server.requests.append((self.path, self.headers["Authorization"], body))
            server.times.append(time.monotonic())
            server.running, self.counted = server.running + 1, 1
            server.most = max(server.most, server.running)
            how = server.script.pop(0) if server.script else server.otherwise

        try:
            self._answer(how, body)
        except (BrokenPipeError, ConnectionResetError):  # the client gave up
            pass
        finally:
            self._leave()

    def _leave(self):
        """No longer running: before an answer goes out, since the next request may come at once."""
        with self.server.guard:
            self.server.running, self.counted = self.server.running - self.counted, 0

    def _answer(self, how, body):
        if callable(how):
            how = how(body)
        if isinstance(how, tuple):
            status, headers, code = how
            message = self._echo() if code == "echo" else "on purpose"
            return self._send(json.dumps({"error": {"message": message, "code": code}}), status, headers)

        if how == "drip":
            return self._drip()
        if how == "drip headers":
            return self._drip_headers()
        if how == "endless":
            return self._endless()
        if how == "compressed":
            return self._compressed()
        if isinstance(how, str) and how.startswith("raw:"):
            return self._send(how.removeprefix("raw:"))
        if how == "hang":
            return self.server.woken.wait(60)
        if how == "garbage":
            return self._send("<html>busy</html>")
        if how == "no answer":
            return self._send(json.dumps({"choices": []}))
        time.sleep(self.server.pause)
        text = json.dumps(completion(body, how))  # ASCII: its length is that of its bytes
        self._send(text[: len(text) // 2] if how == "half" else text, length=len(text))

    def _drip(self):
        """Send a byte every tenth of a second, for a minute."""
        self.send_response(200)
        self.send_header("Content-Length", "600")
        self.end_headers()
        for _ in range(600):
            if self.server.woken.wait(0.1):
                break
            self.wfile.write(b" ")

        self.close_connection = True

    def _drip_headers(self):
        """Send a byte of a header every tenth of a second, for a minute."""
        self.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
        while not self.server.woken.wait(0.1):
            self.wfile.write(b"a")

        self.close_connection = True

    def _endless(self):
        """Send more than any answer has, until the client gives up."""
        self.send_response(200)
        self.end_headers()
        while not self.server.woken.is_set():
            self.wfile.write(b" " * (1 << 20))

    def _compressed(self):
        """Send megabytes in a few bytes, though nobody asked for compression."""
        body = gzip.compress(b" " * (16 << 20))
        self.send_response(200)
        self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _send(self, text, status=200, headers=(), length=None):
        content = text.encode("utf-8", "surrogatepass")
        self._leave()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **dict(headers)}.items():
            self.send_header(name, value)
        self.send_header(
            "Content-Length", str(len(text.encode("utf-8", "surrogatepass")) if length is None else length)
        )
        self.send_header("Connection", "close")  # or the client may reuse a connection that is being closed
        self.end_headers()
        self.wfile.write(content)
        self.close_connection = True

    def log_message(self, *_):
        pass


def completion(body: dict, how: str = "answer") -> dict:
    """What the server answers: the whole captions of the prompt, in capitals, or fields of a message."""
    prompt = body["messages"][0]["content"]
    if not isinstance(prompt, str):  # with an image
        prompt = prompt[0]["text"]
    caption = next((line for line in prompt.splitlines() if line.startswith("Whole picture")), "")
    message = how if isinstance(how, dict) else {}
    text = {"empty": "", "null": None}.get(str(how), f" {caption.partition(': ')[2].upper()}\n\n")
    usage = {"prompt_tokens": len(prompt) // 4, "completion_tokens": COMPLETION}
    return {
        "id": "1",
        "object": "chat.completion",
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": text, **message},
             "finish_reason": how if how in ("length", "content_filter") else "stop"}
        ],
        "usage": None if how == "uncounted" else usage,
    }  # fmt: skip


class Server(ThreadingHTTPServer):
    """What comes next is in `script` (then always `otherwise`), what came in `requests` and `times`."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.guard, self.woken = threading.Lock(), threading.Event()
        self.requests, self.times, self.script, self.otherwise = [], [], [], "answer"
        self.running, self.most, self.pause = 0, 0, 0.0
        self.models, self.listed = 200, []  # status of the list of models, and the list


@contextlib.contextmanager
def serving(monkeypatch, key="a key"):
    """A running server that the environment names."""
    served = Server()
    thread = threading.Thread(target=served.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    monkeypatch.setenv(chat_model.MODEL, "a-model")
    monkeypatch.setenv(chat_model.BASE_URL, f"http://127.0.0.1:{served.server_port}/v1")
    monkeypatch.setenv(chat_model.KEY, key)
    try:
        yield served
    finally:
        served.woken.set()
        served.shutdown()
        served.server_close()
        thread.join()
