"""What an exception from LiteLLM means: one table, by HTTP status first, then by class; never by message text.

LiteLLM gives one status different classes by provider (a 403 is a PermissionDeniedError from Anthropic and a
BadRequestError from Gemini; a 502 an APIConnectionError there), so the status as it was on the wire decides. Only
where a status is ambiguous (400) or absent (no answer, or a 200 that could not be read) does the class speak.
Classes are known by name along the MRO, so that this module needs no import of LiteLLM.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

from llmbridge import errors
from llmbridge.exchange import Exchange
from llmbridge.provider.headers import exhausted_s, request_id, retry_after_s
from llmbridge.redaction import redact


log = logging.getLogger("llmbridge")

BY_STATUS: dict[int, type[errors.ProviderError]] = {
    400: errors.BadRequest,
    401: errors.AuthenticationFailed,
    402: errors.AuthenticationFailed,
    403: errors.AuthenticationFailed,
    404: errors.NotFound,
    408: errors.ProviderTimeout,
    429: errors.ProviderRateLimited,
    504: errors.ProviderTimeout,
    529: errors.ProviderRateLimited,
}

# Ours and LiteLLM's classes, for where there is no status; those in _SHARPER also say more than a 400.
BY_CLASS: dict[str, type[errors.ProviderError]] = {
    "MissingKey": errors.AuthenticationFailed,  # these two are of clients.py
    "UnknownModel": errors.BadRequest,
    "LeavesMachine": errors.BadRequest,  # of wire.py
    "ContextWindowExceededError": errors.ContextWindowExceeded,
    "ContentPolicyViolationError": errors.ContentFiltered,
    "AuthenticationError": errors.AuthenticationFailed,
    "PermissionDeniedError": errors.AuthenticationFailed,
    "PaymentRequiredError": errors.AuthenticationFailed,
    "NotFoundError": errors.NotFound,
    "RateLimitError": errors.ProviderRateLimited,
    "Timeout": errors.ProviderTimeout,
    "ServiceUnavailableError": errors.ProviderUnavailable,
    "MidStreamFallbackError": errors.ProviderUnavailable,
    "BadGatewayError": errors.ProviderUnavailable,
    "InternalServerError": errors.ProviderUnavailable,
    "JSONSchemaValidationError": errors.ProviderUnavailable,
    "APIResponseValidationError": errors.ProviderUnavailable,
    "APIConnectionError": errors.ProviderUnavailable,
    "UnsupportedParamsError": errors.BadRequest,
    "UnprocessableEntityError": errors.BadRequest,
    "RejectedRequestError": errors.BadRequest,
    "ImageFetchError": errors.BadRequest,
    "VectorStoreSearchError": errors.BadRequest,
    "LiteLLMUnknownProvider": errors.BadRequest,
    "InvalidRequestError": errors.BadRequest,
    "BadRequestError": errors.BadRequest,
    "MockException": errors.ProviderUnavailable,
    "OpenAIError": errors.ProviderUnavailable,
    "APIError": errors.ProviderUnavailable,
    # LiteLLM's own budgets and guardrails, which the application may have switched on for itself
    "BudgetExceededError": errors.BadRequest,
    "GuardrailRaisedException": errors.ContentFiltered,
    "BlockedPiiEntityError": errors.ContentFiltered,
    "SensitiveDataRouteException": errors.ContentFiltered,
    "ModifyResponseException": errors.ContentFiltered,
    "ModelNotMappedError": errors.BadRequest,
}
_SHARPER = ("ContextWindowExceededError", "ContentPolicyViolationError", "AuthenticationError")

# httpx, by name: nothing reached the provider / it went silent / the connection broke.
NOT_SENT = frozenset(
    {
        "ConnectError",
        "ConnectTimeout",
        "PoolTimeout",
        "UnsupportedProtocol",
        "InvalidURL",
        "ProxyError",
        "LocalProtocolError",
        "LeavesMachine",  # ours
    }
)
SILENT = frozenset({"ReadTimeout", "WriteTimeout", "ConnectTimeout", "PoolTimeout", "APITimeoutError", "TimeoutError"})


Translated = errors.ProviderError | errors.CassetteMiss


def translate(exc: BaseException, exchange: Exchange, *, model: str) -> Translated:
    """The error of our tree for *exc*, redacted, with no trace of the objects inside *exc*."""
    for link in _chain(exc):
        if isinstance(link, errors.CassetteMiss):
            exchange.requests = 0  # counted before the transport refused to send it
            return errors.CassetteMiss(str(link))  # a new one: that one's traceback holds the request, with the key
    names = _class_names(exc)
    status = exchange.status if exchange.watched else _claimed_status(exc)
    # Below 400 there is a redirect, a 200 with an error inside, or a 200 that nobody can read: the class speaks.
    kind = _by_status(status, names) if status is not None and status >= 400 else _by_class(names, exchange)
    sent = exchange.sent and not (exchange.response is None and names & NOT_SENT)
    if not exchange.watched and kind is errors.BadRequest and not _heard_back(exc):
        sent = False
    wait_s = retry_after_s(exchange.headers)
    if wait_s is None and kind is errors.ProviderRateLimited:
        wait_s = exhausted_s(exchange.headers)
    log.debug("%s failed: %s", model, redact(f"{type(exc).__module__}.{type(exc).__qualname__}: {exc}"))
    return kind(
        _sentence(kind, exc, exchange, model, sent),
        model=model,
        provider=exchange.provider,
        status=status,
        retry_after_s=wait_s,
        request_id=redact(request_id(exchange.headers) or "") or None,
        sent=sent,
    )


def _claimed_status(exc: BaseException) -> int | None:
    """The status that LiteLLM tells, where it used a client of its own; its 500s are mostly invented."""
    status = getattr(exc, "status_code", None)
    return status if isinstance(status, int) and status >= 400 and status != 500 else None


def _heard_back(exc: BaseException) -> bool:
    """Whether anything says that LiteLLM, with a client of its own, had an answer."""
    modules = {type(link).__module__.partition(".")[0] for link in _chain(exc)}
    return bool(getattr(exc, "litellm_response_headers", None) or modules & {"httpx", "httpcore", "aiohttp"})


def _by_status(status: int, names: frozenset[str]) -> type[errors.ProviderError]:
    if status in (400, 413, 422):
        for name in _SHARPER:
            if name in names:
                return BY_CLASS[name]
    if status in BY_STATUS:
        return BY_STATUS[status]
    return errors.BadRequest if status < 500 else errors.ProviderUnavailable


def _by_class(names: frozenset[str], exchange: Exchange) -> type[errors.ProviderError]:
    if names & SILENT:
        return errors.ProviderTimeout
    kind = next((kind for name, kind in BY_CLASS.items() if name in names), errors.ProviderUnavailable)
    if exchange.response is not None and kind is errors.BadRequest:
        return errors.ProviderUnavailable  # after a 200 that is LiteLLM's word for an answer that it cannot read
    if not exchange.sent and kind is errors.ProviderUnavailable:
        return errors.BadRequest  # nothing was sent: LiteLLM itself failed on the request
    return kind


def _class_names(exc: BaseException) -> frozenset[str]:
    return frozenset(cls.__name__ for link in _chain(exc) for cls in type(link).__mro__)


def _chain(exc: BaseException) -> Iterator[BaseException]:
    """*exc* and all that it was raised from or during. LiteLLM's translated errors leave `__cause__` empty."""
    seen: set[int] = set()
    links: list[BaseException | None] = [exc]
    while links:
        link = links.pop()
        if isinstance(link, BaseException) and id(link) not in seen:
            seen.add(id(link))
            yield link
            links += [link.__cause__, link.__context__, getattr(link, "original_exception", None)]


def _sentence(kind: type[errors.ProviderError], exc: BaseException, exchange: Exchange, model: str, sent: bool) -> str:
    # LiteLLM puts whole tracebacks, with this machine's paths, into its messages. Where nothing was sent, the reason is
    # further down: what stands on top may be the second try that was refused.
    reason = exc if sent else next((link for link in _chain(exc) if type(link).__name__ in NOT_SENT), exc)
    words = redact(str(reason).partition("Traceback (most recent call last)")[0]).strip() or type(reason).__name__
    if exchange.response is not None and exchange.response.has_redirect_location:
        what = (
            f"answered with a redirect (HTTP {exchange.status}), which is never followed: it would carry the key away"
        )
        return f"{model} {what}; set api_base to the final address"
    if kind is errors.AuthenticationFailed and not sent:
        return f"{model} was not asked, there is no key: {words}"
    if kind is errors.AuthenticationFailed:
        return f"{model} refused the key (HTTP {exchange.status or 'none'}): {words}"
    if not exchange.sent:
        return f"{model} was not asked: {words}"
    if not sent:
        return f"{model} could not be reached at {exchange.host or 'its host'}, nothing was sent: {words}"
    if kind is errors.ProviderTimeout:
        return f"{model} did not answer in time: {words}"
    if type(exc).__name__ == "BrokenOff":
        return f"{model} broke off: {words}"
    if exchange.status is not None and exchange.status < 400:
        return f"{model} answered HTTP {exchange.status} with something that is not an answer: {words}"
    return f"{model} answered HTTP {exchange.status}: {words}" if exchange.status else f"{model} broke off: {words}"
