"""What a caller gets when nobody answered."""

from __future__ import annotations

from collections.abc import Sequence

from llmbridge.call.planning import Dropped
from llmbridge.errors import AllAttemptsFailed, DeadlineExceeded, LLMBridgeError, ProviderError
from llmbridge.record import AttemptRecord


def of(errors: Sequence[ProviderError], records: Sequence[AttemptRecord], dropped: Sequence[Dropped]) -> LLMBridgeError:
    """The one error there was, or all of them in one."""
    if len(errors) == 1:
        return errors[0]
    tried = "; ".join(record.line() for record in records)
    left_out = "".join(f"; passed over: {each}" for each in dropped)
    message = f"none of {len(errors)} attempts was answered: {tried}{left_out}. The last said: {errors[-1]}"
    return AllAttemptsFailed(message, errors=errors, attempts=records)


def out_of_time(deadline_s: float, records: Sequence[AttemptRecord]) -> DeadlineExceeded:
    """The call's own time is over."""
    tried = "; ".join(record.line() for record in records if record.error_type) or "nothing was sent"
    message = f"the call's {deadline_s:g} s are over: {tried}; raise deadline_s or ask a quicker model"
    return DeadlineExceeded(message, deadline_s=deadline_s, attempts=records)
