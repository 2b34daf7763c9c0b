"""LiteLLM, imported late and quietly."""

from __future__ import annotations

import functools
import inspect
import logging
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from llmbridge.exchange import current
from llmbridge.redaction import RedactingFilter


# Read by LiteLLM when it is imported. Without them it fetches its price table from the network (5 s when there is
# none), loads ./.env into the environment (API bases included: key theft from a cloned repository) and fetches
# Anthropic's beta headers at the first call.
_QUIET = {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LITELLM_LOCAL_ANTHROPIC_BETA_HEADERS": "True",
    "LITELLM_MODE": "PRODUCTION",
}
_lock = threading.Lock()


@functools.cache
def litellm() -> ModuleType:
    """LiteLLM, imported at the first real request: 2 to 3 seconds and 160 MB.

    Some of its settings are global. Tokenizer downloads from a model hub are switched off (without a network they
    block a call for up to two minutes), so are its hints on stdout, and its habit of breaking off a stream that says
    one word a hundred times; and for our streams alone, the logging of each chunk. The bundled price table and beta
    headers are used, unless the application has imported LiteLLM before. The environment and the application's logging
    afterwards are as they were; what LiteLLM says during our calls goes to the application's handlers, and not to
    stdout and stderr through the one that it brings along.
    """
    with _lock, _environment(_QUIET), _levels():
        import litellm
        from litellm import anthropic_beta_headers_manager

        anthropic_beta_headers_manager.get_unsupported_headers("anthropic")  # reads the bundled table, once
        litellm.disable_hf_tokenizer_download = True
        litellm.suppress_debug_info = True
        if litellm.disable_streaming_logging is False:
            litellm.disable_streaming_logging = _OfOurs()  # type: ignore[assignment]
        _hush()
        if "REPEATED_STREAMING_CHUNK_LIMIT" not in os.environ:
            litellm.REPEATED_STREAMING_CHUNK_LIMIT = sys.maxsize  # type: ignore[attr-defined]
        from llmbridge.provider import mocks

        mocks.register(litellm)
    return litellm


class _OfOurs:
    """True while one of our exchanges is read. LiteLLM hands each chunk of a blocking stream to a thread that makes an
    event loop for it, half of a chunk's time, only to find that `no-log` was asked for. Its switch against that is
    global, and the application's own streams may be logged."""

    def __bool__(self) -> bool:
        return current.get() is not None


def loaded() -> ModuleType | None:
    """LiteLLM, if it is imported; None while nobody needed it."""
    return litellm() if "litellm" in sys.modules else None


def _hush() -> None:
    from litellm._logging import handler

    handler.addFilter(_is_not_ours)
    logging.getLogger("litellm").addHandler(logging.NullHandler())  # some of its modules log under their own names
    # Its own redaction goes by pattern alone, and at DEBUG it logs answers that echo keys.
    logging.getLogger("LiteLLM").addFilter(RedactingFilter())


def _is_not_ours(record: logging.LogRecord) -> bool:
    """Whether LiteLLM says *record* to somebody else. Its prices are asked in many places and its requests end in other
    threads: the stack knows of the ones, the context of the others."""
    here = inspect.currentframe()
    frame = None if here is None else here.f_back
    package = __name__.removesuffix("loading")
    while frame is not None and not str(frame.f_globals.get("__name__")).startswith(package):
        frame = frame.f_back
    return frame is None and current.get() is None


@contextmanager
def _levels() -> Iterator[None]:
    """LiteLLM turns other loggers (httpx's) down as it is imported: those with a level of their own get it back."""
    known = [each for each in logging.root.manager.loggerDict.values() if isinstance(each, logging.Logger)]
    levels = {each: each.level for each in known if each.level}
    try:
        yield
    finally:
        for logger, level in levels.items():
            logger.setLevel(level)


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    added = {name: value for name, value in values.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)
