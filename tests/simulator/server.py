"""The simulator: a server in a thread of its own, a script, and a record of what it was asked."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from types import TracebackType

from .connection import Connection
from .plays import Play, play
from .steps import TROUT, Step
from .wire import Seen, understand


class Simulator:
    """Answer on loopback like OpenAI, Anthropic, Gemini, Vertex AI, Ollama, Cohere, Replicate and Bedrock, as scripted.

    Every request that a format knows takes the next step of the script, in order of arrival; the last
    step repeats; without a script all get Reply(). Unknown paths take no step; nor do Ollama's /api/show
    requests, which LiteLLM sends unasked, some from a background thread after the call has returned, nor looks
    at a prediction of Replicate's: they are kept apart in `lookups`.
    All methods may be called from any thread; the waiting ones block it, so async tests use
    `await asyncio.to_thread(sim.wait_for_requests, 1)`.
    """

    url: str

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._script: Sequence[Step] = (TROUT,)
        self._taken = 0
        self._requests: list[Seen] = []
        self._lookups: list[Seen] = []
        self._disconnects = 0
        self._round = 0
        self._connections: set[Connection] = set()

    def __enter__(self) -> Simulator:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="simulator", daemon=True)
        self._thread.start()
        opening = asyncio.run_coroutine_threadsafe(self._open(), self._loop)
        self._server = opening.result()
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def api_base(self, provider: str) -> str:
        """What LiteLLM wants as api_base= for a model named "provider/..."."""
        if provider in ("anthropic", "ollama", "ollama_chat"):
            return self.url
        if provider == "gemini":
            return f"{self.url}/v1beta"
        return f"{self.url}/v1"

    def script(self, *steps: Step) -> None:
        """Replace the script."""
        with self._changed:
            self._script, self._taken = steps or (TROUT,), 0

    def reset(self) -> None:
        """Forget script, requests and disconnects, including those of requests still being answered."""
        with self._changed:
            self._script, self._taken = (TROUT,), 0
            self._requests, self._lookups, self._disconnects = [], [], 0
            self._round += 1

    @property
    def requests(self) -> list[Seen]:
        """All requests so far but for look-ups, in order of arrival (a copy)."""
        with self._changed:
            return list(self._requests)

    @property
    def lookups(self) -> list[Seen]:
        """All requests so far for what a model is, in order of arrival (a copy)."""
        with self._changed:
            return list(self._lookups)

    @property
    def disconnects(self) -> int:
        """How many clients left while they were being answered.

        A client that leaves after the kernel took the last byte has been answered, so scripts that
        count on being left pause (`gap_s`, `Fault.hang`, `Fault.drip`).
        """
        with self._changed:
            return self._disconnects

    def wait_for_requests(self, n: int, timeout_s: float = 5) -> bool:
        """Wait until *n* requests have arrived; False if they haven't in time."""
        with self._changed:
            return self._changed.wait_for(lambda: len(self._requests) >= n, timeout_s)

    def wait_for_disconnects(self, n: int, timeout_s: float = 5) -> bool:
        """Wait until *n* clients have left while they were being answered; False if not in time."""
        with self._changed:
            return self._changed.wait_for(lambda: self._disconnects >= n, timeout_s)

    def _arrived(self, seen: Seen) -> tuple[Play, Callable[[], None]]:
        asked = understand(seen)
        looking = asked is not None and asked.verb in ("show", "poll")
        with self._changed:
            (self._lookups if looking else self._requests).append(seen)
            # Who looks at a prediction gets the step that was taken when it was started.
            step = self._script[min(max(self._taken - looking, 0), len(self._script) - 1)]
            self._taken += asked is not None and not looking
            round = self._round
            self._changed.notify_all()
        return play(asked, seen, step), lambda: self._left(round)

    def _left(self, round: int) -> None:
        with self._changed:
            self._disconnects += round == self._round
            self._changed.notify_all()

    async def _open(self) -> asyncio.Server:
        def connect() -> Connection:
            return Connection(self._arrived, self._connections)

        return await self._loop.create_server(connect, "127.0.0.1", 0, backlog=1024)

    async def _close(self) -> None:
        self._server.close()
        # Twice: somebody may have been coming in while the others were turned out.
        for _ in range(2):
            dropped = list(self._connections)
            for connection in dropped:
                connection.drop()
            others = asyncio.all_tasks() - {asyncio.current_task()}
            await asyncio.gather(*others, return_exceptions=True)
            for connection in dropped:
                await connection.lost.wait()
