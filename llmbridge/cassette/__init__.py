"""Record HTTP to a YAML file and answer from it: `with replay("fish.yaml"): ...`.

vcrpy stands between the HTTP libraries and the network, and its file format is kept; what is answered, what is written
and what a miss says is decided here. Secrets, and headers that are not on a short list, never reach the file.
"""

from __future__ import annotations

from llmbridge.cassette.cached import from_cache
from llmbridge.cassette.entry import Entry, Recording
from llmbridge.cassette.file import leaks, read, write
from llmbridge.cassette.replaying import Cassette, Record, offline, replay
from llmbridge.cassette.scrubbing import scrubbed


__all__ = [
    "Cassette",
    "Entry",
    "Record",
    "Recording",
    "from_cache",
    "leaks",
    "offline",
    "read",
    "replay",
    "scrubbed",
    "write",
]
