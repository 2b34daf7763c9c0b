"""Every error that a call can raise; drawn here, so that `except` can be written from one page.

    LLMBridgeError
    |-- BudgetExceeded           the attempt was not sent: it could have passed a cap
    |-- UnknownPrice             a budget applies and what the model can cost is not known
    |-- RateLimited              our own limiter: waiting would take too long
    |-- CacheMiss                cache="only", and nothing kept
    |-- CassetteMiss             replay, and nothing recorded
    |-- DeadlineExceeded         the call's own time is over
    |-- ProviderError            one model said no
    |   |-- AuthenticationFailed     401, 402, 403: dead key
    |   |-- BadRequest               400, 409, 413, 422: the request itself is wrong
    |   |-- ContextWindowExceeded    too long for this model
    |   |-- ContentFiltered          refused by a content policy
    |   |-- NotFound                 404: no such model or endpoint
    |   |-- ProviderRateLimited      429, 529
    |   |-- ProviderUnavailable      5xx, no connection, an answer nobody can read
    |   |-- ProviderTimeout          408, 504, or silence
    |   |-- InvalidOutput            the answer does not fit response_model
    |   `-- StreamInterrupted        after the first content; .partial holds the text so far
    |-- AllAttemptsFailed        more than one attempt, none answered
    |-- ConfigError              .path .line .mistakes
    `-- LedgerError              the ledger cannot be used
        |-- LedgerBusy               others wrote for too long
        |-- LedgerCorrupt            the file is damaged, or no ledger
        `-- AlreadyResolved          a reservation is resolved once

A caller's mistakes (a wrong role, an unknown parameter) stay TypeError and ValueError. Every error pickles, and none
holds a request, a response or a key.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, ClassVar


if TYPE_CHECKING:
    from llmbridge.record import AttemptRecord


class LLMBridgeError(Exception):
    """Root of the tree. `call_id` is the id of the call's record, or None where no call was under way."""

    call_id: str | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        # The default rebuilds with cls(*args), which fails for keyword-only fields. The fields are in __dict__.
        return _rebuild, (type(self), self.args, self.__dict__)


def _rebuild(cls: type[LLMBridgeError], args: tuple[Any, ...], fields: dict[str, Any]) -> LLMBridgeError:
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(fields)
    return error


class BudgetExceeded(LLMBridgeError):
    """An attempt could have passed a cap, so it was not sent. What the call had sent before stands in `.attempts`.

    Attributes:
        budget: the budget's name.
        unit: what it counts: "nanousd", "tokens" or "requests". The four amounts are in it.
        limit, settled, reserved, needed: the cap; what was spent; what calls under way hold; the attempt's worst case.
        limit_usd, settled_usd, reserved_usd, needed_usd: the same as Decimal dollars; None for tokens and requests.
        resets_at: when there is room for it again as far as is known, as an aware datetime; None for never.
    """

    def __init__(
        self,
        message: str,
        *,
        budget: str,
        unit: str,
        limit: int,
        settled: int,
        reserved: int,
        needed: int,
        resets_at: datetime | None,
        attempts: Sequence[AttemptRecord] = (),
    ) -> None:
        super().__init__(message)
        self.budget = budget
        self.unit = unit
        self.limit = limit
        self.settled = settled
        self.reserved = reserved
        self.needed = needed
        self.resets_at = resets_at
        self.attempts = tuple(attempts)

    @property
    def limit_usd(self) -> Decimal | None:
        return self._usd(self.limit)

    @property
    def settled_usd(self) -> Decimal | None:
        return self._usd(self.settled)

    @property
    def reserved_usd(self) -> Decimal | None:
        return self._usd(self.reserved)

    @property
    def needed_usd(self) -> Decimal | None:
        return self._usd(self.needed)

    def _usd(self, amount: int) -> Decimal | None:
        return Decimal(amount).scaleb(-9) if self.unit == "nanousd" else None


class UnknownPrice(LLMBridgeError):
    """A budget applies, and what the model can cost at most is not known. The attempt was not sent; the message says
    which line would make it known."""


class RateLimited(LLMBridgeError):
    """A limit of our own (Model.rpm, tpm, concurrency, or a Limit) had no room in time. The attempt was not sent.

    `.retry_after_s`: when there is room, in seconds, or None if nobody can tell; `.attempts`: what was sent before.
    """

    def __init__(self, message: str, *, retry_after_s: float | None, attempts: Sequence[AttemptRecord] = ()) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        self.attempts = tuple(attempts)


class CacheMiss(LLMBridgeError):
    """`cache="only"` was asked for and no candidate's answer is kept. Nothing was sent."""


class CassetteMiss(LLMBridgeError):
    """A cassette is being replayed and it holds no answer to this request. Nothing was sent."""


class DeadlineExceeded(LLMBridgeError):
    """The call's `deadline_s` passed; what the attempts found out is in `.attempts`."""

    def __init__(self, message: str, *, deadline_s: float, attempts: Sequence[AttemptRecord] = ()) -> None:
        super().__init__(message)
        self.deadline_s = deadline_s
        self.attempts = tuple(attempts)


class ProviderError(LLMBridgeError):
    """One model said no.

    Attributes:
        kind: what the fallback policy decides by; the row of its table, such as "throttled".
        model: the candidate as it was asked, such as "openai/gpt-4o-mini".
        provider: LiteLLM's name of the provider.
        status: the HTTP status that came back, or None if no answer came.
        retry_after_s: how long the provider asked to wait, in seconds, or None.
        request_id: the provider's id of the request, for its support.
        sent: False if surely nothing reached the provider, so nothing can have been billed.
    """

    kind: ClassVar[str] = "sick upstream"

    def __init__(
        self,
        message: str,
        *,
        model: str,
        provider: str,
        status: int | None = None,
        retry_after_s: float | None = None,
        request_id: str | None = None,
        sent: bool = True,
    ) -> None:
        super().__init__(message)
        self.model = model
        self.provider = provider
        self.status = status
        self.retry_after_s = retry_after_s
        self.request_id = request_id
        self.sent = sent


class AuthenticationFailed(ProviderError):
    """The key is missing, wrong, not allowed, or has no credit: 401, 402, 403."""

    kind = "dead key"


class BadRequest(ProviderError):
    """The provider does not accept this request, and would not accept it again: 400, 409, 413, 422."""

    kind = "bad request"


class ContextWindowExceeded(ProviderError):
    """The request is too long for this model."""

    kind = "too long"


class ContentFiltered(ProviderError):
    """A content policy refused the request."""

    kind = "refused"


class NotFound(ProviderError):
    """No such model, deployment or endpoint: 404."""

    kind = "not found"


class ProviderRateLimited(ProviderError):
    """Too many requests or tokens, or the provider is overloaded: 429, 529. See `.retry_after_s`."""

    kind = "throttled"


class ProviderUnavailable(ProviderError):
    """5xx, no connection, or an answer that cannot be read as one."""


class ProviderTimeout(ProviderError):
    """The provider did not answer in time: 408, 504, or silence."""


class InvalidOutput(ProviderError):
    """The answer does not fit `response_model`, or Fallback(accept=) did not want it; `.output` is the text that came
    back. `.repairable`: the model may be shown what is wrong with it."""

    kind = "bad answer"

    def __init__(self, message: str, *, output: str, repairable: bool = True, **fields: Any) -> None:
        super().__init__(message, **fields)
        self.output = output
        self.repairable = repairable


class StreamInterrupted(ProviderError):
    """The stream broke off after content was shown; `.partial` is the text so far."""

    kind = "interrupted"

    def __init__(self, message: str, *, partial: str = "", **fields: Any) -> None:
        super().__init__(message, **fields)
        self.partial = partial


class AllAttemptsFailed(LLMBridgeError):
    """More than one attempt was made and none answered.

    `.attempts` are their records and `.errors` what each raised, in order; `.group` is the same as an ExceptionGroup,
    for `except*`.
    """

    def __init__(self, message: str, *, errors: Sequence[LLMBridgeError], attempts: Sequence[AttemptRecord]) -> None:
        super().__init__(message)
        self.errors = tuple(errors)
        self.attempts = tuple(attempts)

    @property
    def group(self) -> ExceptionGroup[LLMBridgeError]:
        return ExceptionGroup("attempts", self.errors)


@dataclass(frozen=True)
class Mistake:
    """One thing that is wrong in a configuration: the `line` of its file, or the `variable` of the environment, as far
    as known; the `key`, such as "models.primary.rpm"; and `what` about it, in words."""

    key: str
    what: str
    line: int | None = None
    variable: str | None = None

    def __str__(self) -> str:
        where = self.variable or (f"line {self.line}" if self.line else "")
        return ": ".join(part for part in (where, self.key, self.what) if part)


class ConfigError(LLMBridgeError):
    """A configuration or cassette file is wrong; `.path` and `.line` say where, as far as known, and `.mistakes` is all
    that was found in a configuration."""

    def __init__(
        self, message: str, *, path: str | None = None, line: int | None = None, mistakes: Sequence[Mistake] = ()
    ) -> None:
        super().__init__(message)
        self.path = path
        self.line = line
        self.mistakes = tuple(mistakes)


class LedgerError(LLMBridgeError):
    """The ledger cannot be used. Where a budget applies, nothing was sent."""


class LedgerBusy(LedgerError):
    """Others were writing for longer than this ledger waits."""


class LedgerCorrupt(LedgerError):
    """The ledger's file is damaged, or is no ledger. It is never replaced silently."""


class AlreadyResolved(LedgerError):
    """The reservation was settled, released or reconciled before; nothing was changed."""
