"""A provider on loopback that answers at once, in a process of its own: python -m tests.benchmarks.server

As OpenAI answers: chat completions, streams of them, embeddings. Sockets and a thread a connection, since any HTTP
server there is takes longer to answer than some of the clients to ask.
"""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
import sys
import threading
from pathlib import Path


CHUNKS = 500  # of a stream, with the word that each brings
MODEL = "gpt-4o-mini-2024-07-18"
USAGE = {
    "prompt_tokens": 9,
    "completion_tokens": 3,
    "total_tokens": 12,
    "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
    "completion_tokens_details": {
        "reasoning_tokens": 0,
        "audio_tokens": 0,
        "accepted_prediction_tokens": 0,
        "rejected_prediction_tokens": 0,
    },
}
HEAD = {"id": "chatcmpl-1", "created": 1_700_000_000, "model": MODEL, "service_tier": "default"}
COMPLETION = {
    **HEAD,
    "object": "chat.completion",
    "system_fingerprint": "fp_1",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Trout.", "refusal": None},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ],
    "usage": USAGE,
}
EMBEDDINGS = {
    "object": "list",
    "model": "text-embedding-3-small",
    "data": [{"object": "embedding", "index": 0, "embedding": [0.5] * 256}],
    "usage": {"prompt_tokens": 9, "total_tokens": 9},
}


class Server:
    """The process, for as long as the block lasts."""

    def __enter__(self) -> Server:
        command = [sys.executable, "-m", __name__]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2], env={}
        )
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())
        self.api_base = f"http://127.0.0.1:{self.port}/v1"
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()

    def requests(self) -> int:
        """How many it has answered, this question not among them."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port)
        connection.request("GET", "/requests")
        count = int(connection.getresponse().read())
        connection.close()
        return count


def whole(body: bytes) -> bytes:
    """An answer of one piece."""
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)


def piece(event: object) -> bytes:
    """One event of a stream, in a chunk of its own."""
    text = b"data: " + (event if isinstance(event, bytes) else json.dumps(event, separators=(",", ":")).encode())
    return b"%x\r\n%b\n\n\r\n" % (len(text) + 2, text)


def event(delta: dict[str, str], finish_reason: str | None = None) -> dict[str, object]:
    """A chunk as OpenAI writes it."""
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
    return {**HEAD, "object": "chat.completion.chunk", "system_fingerprint": "fp_1", "choices": [choice]}


ANSWER, VECTORS = (whole(json.dumps(each).encode()) for each in (COMPLETION, EMBEDDINGS))
STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
FIRST = STREAM_HEAD + piece(event({"role": "assistant", "content": "Trout "}))
NEXT = [piece(event({"content": f"trout{number} "})) for number in range(1, CHUNKS)]  # a model that repeats is stopped
LAST = piece(event({}, "stop"))
COST = piece({**event({}), "choices": [], "usage": {**USAGE, "completion_tokens": CHUNKS, "total_tokens": CHUNKS + 9}})
END = piece(b"[DONE]") + b"0\r\n\r\n"
answered: list[None] = []  # not a number, which threads would have to take turns to raise


def reply(connection: socket.socket, head: bytes, body: bytes) -> None:
    """Answer one request."""
    if head.startswith(b"GET"):
        return connection.sendall(whole(b"%d" % len(answered)))
    answered.append(None)
    if b"/embeddings " in head[:100]:
        return connection.sendall(VECTORS)
    if b'"stream":true' not in body and b'"stream": true' not in body:
        return connection.sendall(ANSWER)
    for each in (FIRST, *NEXT, LAST, *[COST] * (b'"include_usage"' in body), END):
        connection.sendall(each)
    return None


def serve(connection: socket.socket) -> None:
    """Answer what comes, until the other side hangs up."""
    waiting = b""
    with connection:
        while True:
            head, ended, rest = waiting.partition(b"\r\n\r\n")
            length = next(
                (int(line[15:]) for line in head.split(b"\r\n") if line[:15].lower() == b"content-length:"), 0
            )
            if ended and len(rest) >= length:
                waiting = rest[length:]
                try:
                    reply(connection, head, rest[:length])
                except OSError:
                    return
                continue
            try:
                came = connection.recv(65536)
            except OSError:
                return
            if not came:
                return
            waiting += came


def main() -> None:
    """Say the port, and serve until killed."""
    threading.stack_size(256 * 1024)  # there may be a thousand
    listening = socket.create_server(("127.0.0.1", 0), backlog=1024)
    print(listening.getsockname()[1], flush=True)
    while True:
        connection, _ = listening.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=serve, args=(connection,), daemon=True).start()


if __name__ == "__main__":
    main()
