"""A batch: many questions in a file, asked within limits; their answers in another one, each paid once.

A line of the answers is written after the answer is in the cache (a verb returns after that), in one write at the end
of the file. So whatever ends the process, an answer is in the file, or in the cache, or was still under way; and what
was half written is cut off and comes from the cache.
"""

from __future__ import annotations

from llmbridge.batch.answers import Answers, errors_path
from llmbridge.batch.batch import Batch, Tally
from llmbridge.batch.questions import Arguments, Line, read_lines


__all__ = ["Answers", "Arguments", "Batch", "Line", "Tally", "errors_path", "read_lines"]
