"""A page about what a ledger holds: the figures, drawn, in one file that needs no network and no script."""

from __future__ import annotations

from llmbridge.report.figures import Figures, gather


__all__ = ["Figures", "gather"]
