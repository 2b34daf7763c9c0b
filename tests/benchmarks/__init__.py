"""Measured, never asserted: paired and interleaved, as ratios against plain LiteLLM. Not collected by pytest."""
