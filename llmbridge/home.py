"""Where state is kept when nobody says where."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs


def state_directory() -> Path:
    """`LLMBRIDGE_HOME` if it is set, else the platform's state directory for llmbridge."""
    home = os.environ.get("LLMBRIDGE_HOME")
    return Path(home) if home else platformdirs.user_state_path("llmbridge", appauthor=False)
