"""The fallback policy: which model is asked, in which order, when again, and what is left alone for a while."""

from __future__ import annotations

from llmbridge.fallback.endpoint import Endpoint, Endpoints
from llmbridge.fallback.limiter import Limit
from llmbridge.fallback.policy import Fallback, Situation, Step
from llmbridge.fallback.strategies import STRATEGIES, Candidate


__all__ = ["STRATEGIES", "Candidate", "Endpoint", "Endpoints", "Fallback", "Limit", "Situation", "Step"]
