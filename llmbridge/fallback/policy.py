"""What comes after a failure: the table by kind that every verb follows."""

from __future__ import annotations

from typing import Literal

from llmbridge.errors import InvalidOutput, ProviderError


Step = Literal["next", "repair", "stop"]

# kind -> whether another model may do better. A request that is wrong for one provider is wrong for all, a refusal is
# an answer, and what the reader has already seen cannot be unseen.
ANOTHER_MODEL = {
    "dead key": True,
    "throttled": True,
    "sick upstream": True,
    "too long": True,
    "not found": True,
    "bad answer": True,
    "refused": False,
    "bad request": False,
    "interrupted": False,
}


def after(error: ProviderError, *, repaired: bool) -> Step:
    """What to do after *error*: ask the next candidate, show the same one its wrong answer (once), or stop."""
    if isinstance(error, InvalidOutput) and not repaired:
        return "repair"
    return "next" if ANOTHER_MODEL[error.kind] else "stop"
