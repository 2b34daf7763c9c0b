"""What the processes know of one breaker: that it is open, in a small file, and who probes, as a lock on it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import threading
import weakref
from dataclasses import asdict, dataclass
from pathlib import Path

from llmbridge.redaction import is_credential


try:
    import fcntl
except ImportError:  # Windows: each process probes for itself
    fcntl = None  # type: ignore[assignment]


LONGEST_OPEN_S = 300.0


@dataclass(frozen=True, slots=True)
class Opening:
    """Why and until when a breaker is open.

    Attributes:
        at_s: time.monotonic() when it opened: the same for all processes until the machine restarts.
        for_s: how long, before somebody may probe.
        times: how many openings in a row.
        kind: "sick upstream" or "dead key".
        why: for people.
        key: of a dead key, what tells the environment that it was found in from another; see key_of().
    """

    at_s: float
    for_s: float
    times: int
    kind: str
    why: str
    key: str = ""

    def left_s(self, now_s: float) -> float:
        """Until somebody may probe. Of an opening from before a restart, nothing is left."""
        return self.at_s + self.for_s - now_s if now_s >= self.at_s else 0.0

    @property
    def is_of_another_key(self) -> bool:
        """Whether it is of a dead key, and the environment has another one now."""
        return self.kind == "dead key" and self.key != key_of()


def key_of() -> str:
    """What tells the environment's credentials from others, without saying them: a key that is put right there must not
    wait until the wrong one's time is over. Those that are given to a Model have an endpoint of their own."""
    found = sorted((name, value) for name, value in os.environ.items() if is_credential(name))
    return hashlib.sha256(json.dumps(found).encode()).hexdigest()[:32]


class Shared:
    """One breaker's file, with an Opening in it or nothing. Without a path, it is this process's alone."""

    def __init__(self, path: Path | None) -> None:
        self._path = None if path is None else str(path)
        self._file: int | None = None
        self._seen: object = None
        self._opening: Opening | None = None
        self._prober: int | None = None  # a process; a fork's parent's is none of the child's
        self._lock = threading.Lock()

    def read(self) -> Opening | None:
        """The opening, or None for closed; also if the file cannot be read: a breaker breaks no call."""
        if self._path is not None:
            seen = _look(self._path)
            if seen is None:
                return self._opening if self._seen is None else None
            if seen != self._seen:
                with self._lock:
                    self._opening, self._seen = self._parsed(), seen
        return self._opening

    def write(self, opening: Opening | None) -> None:
        """Say to all that it is open, or closed; if the file cannot be written, to this process."""
        with self._lock:
            self._opening = opening
            if self._path is None:
                return
            text = b"" if opening is None else json.dumps(asdict(opening)).encode()
            with contextlib.suppress(OSError):
                file = self._opened()
                os.pwrite(file, text, 0)  # in place: the lock is on this very file
                os.ftruncate(file, len(text))
            self._seen = _look(self._path)

    def is_probed(self) -> bool:
        """Whether this process probes."""
        return self._prober == os.getpid()

    def probe(self) -> bool:
        """Become the one that probes; False if there is one."""
        with self._lock:
            if self.is_probed():
                return False
            if self._path is not None and fcntl is not None:
                try:
                    fcntl.lockf(self._opened(), fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    return False
                except OSError:
                    pass
            self._prober = os.getpid()
            return True

    def end_probe(self) -> None:
        """Let somebody else probe. Takes no lock: it may run in the garbage collector."""
        if self._file is not None and fcntl is not None:
            with contextlib.suppress(OSError):
                fcntl.lockf(self._file, fcntl.LOCK_UN)
        self._prober = None

    def after_fork(self) -> None:
        """In a child: another thread of the parent may have had the lock."""
        self._lock = threading.Lock()

    def _parsed(self) -> Opening | None:
        try:
            # by the one descriptor: closing another one of the same file would give the lock away
            return _read(os.pread(self._opened(), 4096, 0))
        except OSError:
            return None

    def __del__(self) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):
                os.close(self._file)

    def _opened(self) -> int:
        """The file. Only under the lock: another thread may close it, and its number be another file's at once."""
        assert self._path is not None
        if self._file is not None and not self.is_probed() and not _is_at(self._file, self._path):
            os.close(self._file)
            self._file = None
        if self._file is None:
            Path(self._path).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o600)
        return self._file


def _read(text: bytes) -> Opening | None:
    """What a file says; None also for what was never written by us, and would keep a breaker open or break it."""
    try:
        opening = Opening(**json.loads(text or b"null"))
        numbers = (opening.at_s, opening.for_s, opening.times)
        sound = (
            all(type(each) in (int, float) and math.isfinite(each) for each in numbers)
            and 0 < opening.for_s <= LONGEST_OPEN_S
            and opening.times >= 1
            and all(isinstance(each, str) for each in (opening.kind, opening.why, opening.key))
        )
    except (ValueError, TypeError, ArithmeticError, RecursionError):
        return None
    return opening if sound else None


def _look(path: str) -> tuple[int, int, int] | None:
    """What changes with the content of the file; None if there is none."""
    try:
        about = os.stat(path)  # noqa: PTH116 (a Path costs as much as the look)
    except OSError:
        return None
    return (about.st_mtime_ns, about.st_size, about.st_ino)


def _is_at(file: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(file), Path(path).stat())
    except OSError:
        return False


# One a path: a process that closes any descriptor of a file loses its lock on it.
_known: weakref.WeakValueDictionary[Path, Shared] = weakref.WeakValueDictionary()
_knowing = threading.Lock()


def shared_at(path: Path | None) -> Shared:
    """That of *path*; without one, a new one."""
    if path is None:
        return Shared(None)
    with _knowing:
        shared = _known.get(path)
        if shared is None:
            _known[path] = shared = Shared(path)
        return shared


def _after_fork() -> None:
    global _knowing
    _knowing = threading.Lock()
    for shared in list(_known.values()):
        shared.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
