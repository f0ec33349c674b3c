"""A loopback server with enough of OpenAI's chat API to be asked, and to fail in every way."""

import json
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

# What a handler may return instead of a text: (status, body); a body in <> is sent as HTML.
Broken = tuple[int, bytes]


class Loopback:
    """The running server: its address, its requests, and how many were at work at once."""

    def __init__(self, reply: Callable[[dict, int], str | Broken], delay: float):
        self.reply, self.delay = reply, delay
        self.requests: list[dict] = []
        self.at_once = self.most_at_once = 0
        self.lock = threading.Lock()
        self.url = ""

    def handle(self, body: dict) -> str | Broken:
        with self.lock:
            self.requests.append(body)
            number = len(self.requests) - 1
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            time.sleep(self.delay)
            return self.reply(body, number)
        finally:
            with self.lock:
                self.at_once -= 1


def completion(text: str) -> bytes:
    choice = {"index": 0, "finish_reason": "stop",
              "message": {"role": "assistant", "content": text}}  # fmt: skip
    usage = {"prompt_tokens": 100, "completion_tokens": 4, "total_tokens": 104}
    return json.dumps(
        {"id": "x", "object": "chat.completion", "created": 0, "model": "loopback",
         "choices": [choice], "usage": usage}
    ).encode()  # fmt: skip


def events(text: str) -> bytes:
    """A reply in chunks, a word each, as servers stream it."""
    chunks = []
    for word in text.split(" "):
        choice = {"index": 0, "finish_reason": None, "delta": {"content": f"{word} "}}
        chunk = {"id": "x", "object": "chat.completion.chunk", "created": 0, "model": "loopback",
                 "choices": [choice]}  # fmt: skip
        chunks.append(f"data: {json.dumps(chunk)}\n\n")
    return "".join([*chunks, "data: [DONE]\n\n"]).encode()


@contextmanager
def serving(
    reply: Callable[[dict, int], str | Broken],
    *,
    delay: float = 0.0,
    models: Sequence[str] | None = None,
):
    """Serve on a free loopback port; `reply(body, number)` gives a text or (status, body).

    `models` are the names that the server lists; without them it has no list.
    """
    state = Loopback(reply, delay)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            result = state.handle(body)
            kind, made = "application/json", completion
            if body.get("stream"):
                kind, made = "text/event-stream", events
            status, content = (200, made(result)) if isinstance(result, str) else result
            self.answer(status, content, "text/html" if content.startswith(b"<") else kind)

        def do_GET(self):
            rows = [{"id": name, "object": "model", "created": 0, "owned_by": "x"}
                    for name in models or ()]  # fmt: skip
            content = json.dumps({"object": "list", "data": rows}).encode()
            self.answer(404 if models is None else 200, content, "application/json")

        def answer(self, status, content, kind):
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *args):
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads, request_queue_size = True, 128  # connections waiting to be accepted

        def handle_error(self, request, client_address):
            pass  # a client that was killed

    server = Server(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{server.server_port}/v1"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
