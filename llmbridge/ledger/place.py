"""Where the ledger's file lies: made if it is not there, and refused where it could not be trusted."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

from llmbridge.errors import LedgerError
from llmbridge.home import NETWORK, file_system


def prepare(path: Path) -> None:
    """Make the directory and an empty file, for the owner alone whatever the umask. Raises LedgerError, which says what
    is wrong with them."""
    try:
        for parent in reversed(path.parents):
            if not parent.exists():
                parent.mkdir(mode=0o700, exist_ok=True)
                sync_directory(parent.parent)
        if path.is_symlink():
            raise LedgerError(f"{path} is a symbolic link; give the ledger's real path")
        kind = file_system(path.parent)
        if kind in NETWORK:
            raise LedgerError(
                f"{path} is on a network file system ({kind}), where SQLite's locks do not hold; use a local disk"
            )
        with contextlib.suppress(FileExistsError):
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
            os.chmod(path, 0o600)  # noqa: PTH101  the umask may have taken the owner's bits away
        found = path.stat()
    except OSError as exc:
        raise LedgerError(
            f"{path} cannot be made or read: {exc.strerror}; give Ledger a path that can be written"
        ) from None
    if not stat.S_ISREG(found.st_mode):
        raise LedgerError(f"{path} is not a file")
    if hasattr(os, "geteuid") and os.geteuid() not in (0, found.st_uid):
        raise LedgerError(f"{path} belongs to another user (uid {found.st_uid})")


def require(path: Path) -> None:
    """Raise LedgerError if there is no file at *path*."""
    if not path.exists():
        raise LedgerError(f"there is no ledger at {path}; the first call that is recorded makes it")
    if not path.is_file():
        raise LedgerError(f"{path} is not a file")


def identity(path: Path) -> tuple[int, int] | None:
    """Device and inode of *path*; None if there is no such file."""
    try:
        found = os.stat(path)  # noqa: PTH116  a third of Path.stat's time
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def sync_directory(directory: Path) -> None:
    """Have the disk hold the names in *directory*, as far as the platform can."""
    if os.name == "posix":
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
