"""Which model next: what each kind of failure means for the candidates after it."""

from __future__ import annotations

from llmbridge.fallback.policy import Step, after


__all__ = ["Step", "after"]
