"""Where state is kept when nobody says where."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import platformdirs


# Kinds of file systems on which other machines write, where SQLite's locks and its shared memory do not hold.
NETWORK = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "fuse.sshfs", "glusterfs", "lustre"})
_elsewhere: list[Path] = []
_replays = 0


def state_directory() -> Path:
    """`LLMBRIDGE_HOME` if it is set, else the platform's state directory for llmbridge."""
    if _elsewhere:
        return _elsewhere[-1]
    home = os.environ.get("LLMBRIDGE_HOME")
    return _path(home) if home else _platform_directory()


def ledger_path() -> Path:
    """The ledger of whoever names none."""
    return _ledger_in(state_directory())


@functools.lru_cache(maxsize=8)
def breakers_path(ledger: Path) -> Path:
    """Where the processes that share a ledger tell each other which models fail."""
    return ledger.with_name(ledger.name + "-breakers")


def cache_path() -> Path:
    """The directory of whoever's cache has none of its own."""
    return _cache_in(state_directory())


def config_directory() -> Path:
    """Where a user's configuration for all applications is looked for."""
    return platformdirs.user_config_path("llmbridge", appauthor=False)


@contextmanager
def elsewhere(directory: Path) -> Iterator[None]:
    """Keep state in *directory* inside the block, in the whole process."""
    _elsewhere.append(directory)
    try:
        yield
    finally:
        _elsewhere.remove(directory)


@contextmanager
def replaying() -> Iterator[None]:
    """HTTP is played or recorded inside the block, in the whole process: the default cache would answer before it."""
    global _replays
    _replays += 1
    try:
        yield
    finally:
        _replays -= 1


def in_replay() -> bool:
    """Whether a replay is under way."""
    return _replays > 0


@functools.cache  # asked at every call
def _path(home: str) -> Path:
    return Path(home)


@functools.lru_cache(maxsize=8)
def _ledger_in(directory: Path) -> Path:
    return directory / "ledger.db"


@functools.lru_cache(maxsize=8)
def _cache_in(directory: Path) -> Path:
    return directory / "cache"


@functools.cache
def _platform_directory() -> Path:
    return platformdirs.user_state_path("llmbridge", appauthor=False)


def file_system(directory: Path) -> str:
    """The kind of file system that *directory* is on, as Linux names it; empty where that cannot be told."""
    try:
        mounts = Path("/proc/self/mounts").read_text(errors="replace").splitlines()
    except OSError:
        return ""
    resolved, best, kind = str(directory.resolve()), "", ""
    for line in mounts:
        _, point, name, *_ = line.split(" ")
        point = point.replace("\\040", " ").rstrip("/") + "/"
        if (resolved + "/").startswith(point) and len(point) >= len(best):
            best, kind = point, name
    return kind
