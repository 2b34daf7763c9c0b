"""What went over the wire in one attempt, as the hooks of `wire` saw it. Imports no HTTP library.

A blocking stream is closed by whoever reads it, never by the garbage collector: httpcore's pool takes a lock to give a
connection back, and the collector may run inside that very lock, in the thread that holds it, which would then wait for
itself for ever. (Our own connections have none, but know no proxy, and LiteLLM has clients of its own.) So a stream
that is open is held here (`under_way`), its generators with it; and one that a finalizer closes while its thread is
asking something else waits in `left` for the next call.
"""

from __future__ import annotations

import contextlib
import ipaddress
import re
import socket
import time
from collections import deque
from collections.abc import Generator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple


if TYPE_CHECKING:
    from httpx import Response

TAIL_BYTES = 65_536
_REASON = re.compile(rb'"(?:finish|stop|done|completion|block)_?reason"\s*:\s*"[^"]', re.IGNORECASE)


class Guards(NamedTuple):
    """What a stream has to keep to, in seconds: to the first content, between two chunks; and how many chunks with
    content are held back until it is sure that they come at a pace of so many a second."""

    first_chunk_s: float | None = None
    chunk_gap_s: float | None = None
    commit_chunks: int = 1
    min_chunks_per_s: float | None = None


def is_loopback(host: str) -> bool:
    """Whether *host* is this machine, by what is written there: no name is looked up but that of localhost."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@dataclass(slots=True)
class Exchange:
    """What went over the wire in one attempt.

    Attributes:
        deadline: time.monotonic() after which nothing of the answer is waited for, or None.
        guard_at: the same for the next piece of a stream, moved on as the pieces come.
        timeout_s: the longest wait for any one thing, as the caller gave it.
        watched: LiteLLM was given a client of ours, so `requests` is the truth; else LiteLLM used its own.
        provider: LiteLLM's name of the provider, once it is known.
        requests: how many were sent, 0 or 1; a second one is refused.
        response: the answer, from its headers on.
        reading: the connection, while a thread waits for bytes of it.
        propagated: headers that carry the caller's trace on to the provider.
        local_only: nothing may be sent to another machine.
        streaming: a stream was asked for; `tail` holds the end of what came of it, some 64 KB.
        complete: the whole answer of a stream has come, though maybe not the end of its body.
        unwatched: what LiteLLM reads a stream from that came through a client of its own.
    """

    deadline: float | None = None
    guard_at: float | None = None
    timeout_s: float | None = None
    watched: bool = True
    provider: str = ""
    requests: int = 0
    received_bytes: int = 0
    host: str | None = None
    port: int | None = None
    response: Response | None = None
    propagated: Mapping[str, str] = field(default_factory=dict)
    reading: Any = field(default=None, repr=False)
    local_only: bool = False
    streaming: bool = False
    complete: bool = False
    unwatched: Any = field(default=None, repr=False)
    tail: deque[bytes] = field(default_factory=deque, repr=False)  # a provider may echo the key
    _tail_bytes: int = 0

    @property
    def status(self) -> int | None:
        return self.response.status_code if self.response is not None else None

    @property
    def headers(self) -> Mapping[str, str]:
        return self.response.headers if self.response is not None else {}

    @property
    def sent(self) -> bool:
        """False if surely nothing was sent."""
        return self.requests > 0 or not self.watched

    def left_s(self, limit_s: float | None = None, *, guarded: bool = True) -> float | None:
        """How long to wait for the next thing: *limit_s* or less, never below a millisecond; None without any bound.

        Not *guarded*: for any later thing, for which the guard will have moved on.
        """
        ends = [at - time.monotonic() for at in (self.deadline, self.guard_at if guarded else None) if at is not None]
        limits = [limit for limit in (limit_s, self.timeout_s) if limit is not None]
        return max(min([*ends, *limits]), 0.001) if ends or limits else None

    def late(self) -> bool:
        """Whether the deadline or the guard has passed."""
        return any(at is not None and time.monotonic() >= at for at in (self.deadline, self.guard_at))

    def keep(self, piece: bytes) -> None:
        """Add *piece* to the tail, and let go of what is further back."""
        self.tail.append(piece)
        self._tail_bytes += len(piece)
        while self._tail_bytes - len(self.tail[0]) > TAIL_BYTES:
            self._tail_bytes -= len(self.tail.popleft())

    def ends_soon(self, limit_s: float) -> bool:
        """Whether the whole answer of a stream has come, or the mark that stands behind it; then what is left of its
        body is waited for no longer than *limit_s*."""
        if not (self.complete or b"".join(self.tail).rstrip().endswith(b"[DONE]")):
            return False
        self.guard_at = time.monotonic() + limit_s
        return True

    def names_its_end(self) -> bool:
        """Whether the end of the answer's body gives a reason for ending, under any of the names in use for one."""
        return _REASON.search(b"".join(self.tail)) is not None

    def reads(self, wrapper: Any) -> None:
        """A stream that came through a client of LiteLLM's own is read by its *wrapper*."""
        self.unwatched = wrapper
        under_way[id(self)] = self

    def close(self) -> None:
        """Give the connection back or hang up. Safe to call twice, and from a finalizer."""
        if is_asking_another(self):
            left.append(self)
            return
        token = current.set(self)
        try:
            if self.response is not None and hasattr(self.response.stream, "close"):
                with contextlib.suppress(Exception):
                    self.response.close()
            if self.unwatched is not None:
                # LiteLLM closes these in the async colour alone.
                body = getattr(self.unwatched.completion_stream, "streaming_response", self.unwatched.completion_stream)
                if isinstance(body, Generator):
                    with contextlib.suppress(Exception):
                        body.close()
        finally:
            current.reset(token)
            under_way.pop(id(self), None)

    async def aclose(self) -> None:
        """Same as close(), for an async exchange. Goes on to its end when the task is cancelled (again)."""
        import asyncio

        if self.response is not None and hasattr(self.response.stream, "aclose"):
            with contextlib.suppress(Exception):
                await asyncio.shield(self.response.aclose())
        if self.unwatched is not None:
            with contextlib.suppress(Exception):
                await asyncio.shield(self.unwatched.aclose())
        under_way.pop(id(self), None)

    def hang_up(self) -> None:
        """Break the connection, from any thread and without an event loop: for a stream that was simply dropped, and
        for an answer that another thread waits for."""
        stream = self.reading
        if stream is None and self.response is not None and not self.response.is_closed:
            stream = self.response.extensions.get("network_stream")
        sock = stream.get_extra_info("socket") if stream is not None else None
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)


current: ContextVar[Exchange | None] = ContextVar("llmbridge_exchange", default=None)
under_way: dict[int, Exchange] = {}
left: deque[Any] = deque()


def is_asking_another(exchange: Exchange) -> bool:
    """Whether this thread may be inside the connection pool, for something else than *exchange*."""
    other = current.get()
    return other is not None and other is not exchange


def close_left() -> None:
    """Close what a finalizer could not. Not to be called inside the connection pool."""
    if not left:
        return
    token = current.set(None)
    try:
        with contextlib.suppress(IndexError):  # another thread had the last one
            while True:
                left.popleft().close()
    finally:
        current.reset(token)
