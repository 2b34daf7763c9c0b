"""`traced`: a span for a function of the caller's own, of any of the four kinds.

A span is current while the function's body runs, and not while a generator's consumer does: it is made current at each
step and put back at its end, in the same frame. Spans that the body itself has opened stay current for the body.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, TypeVar, cast

from llmbridge import semconv
from llmbridge.tracing.current import NOTHING, Current, closing
from llmbridge.tracing.failure import fail_with
from llmbridge.tracing.harmless import harmless
from llmbridge.tracing.tracer import tracer


if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Span, Tracer

F = TypeVar("F", bound=Callable[..., Any])


def traced(name: str) -> Callable[[F], F]:
    """Have a function run in a span of this name: `@traced("answer_ticket")`.

    For def, async def, generators and async generators; what is decorated stays what it was. Calls of llmbridge made in
    it, and spans of anybody else, stand below its span. An exception marks the span and passes unchanged; a generator
    that is closed, left or collected has not failed. Without tracing the function runs as it is.
    """
    if not isinstance(name, str):
        raise TypeError('traced() takes the name of the span: @traced("answer_ticket")')

    def decorate(function: F) -> F:
        kinds = (inspect.isasyncgenfunction, inspect.isgeneratorfunction, inspect.iscoroutinefunction)
        wraps = (_async_generator, _generator, _coroutine)
        wrap = next((wrap for is_kind, wrap in zip(kinds, wraps, strict=True) if is_kind(function)), _function)
        return cast(F, wrap(function, name))

    return decorate


class _Body:
    """The span of one run of a function, and whose turn it is. Without tracing it does nothing."""

    def __init__(self, name: str, *, generator: bool = False) -> None:
        self.context: Context | None = None
        self._span: Span | None = None
        self._generator = generator
        using = tracer()
        if using is not None:
            self._start(using, name)

    @harmless(None)
    def _start(self, using: Tracer, name: str) -> None:
        from opentelemetry.trace import set_span_in_context

        self._span = using.start_span(name)
        self.context = set_span_in_context(self._span)

    def step(self) -> AbstractContextManager[None]:
        """The body runs in this block, until its next `yield` or its end."""
        return NOTHING if self.context is None else _Step(self)

    @harmless(None)
    def end(self, error: BaseException | None = None, outcome: str = "completed") -> None:
        """The body is over. Only the first time counts."""
        span, self._span = self._span, None
        if span is None:
            return
        if error is not None:
            fail_with(span, error)
            outcome = "error" if isinstance(error, Exception) else "cancelled"
        if self._generator:
            span.set_attribute(semconv.STREAM_OUTCOME, outcome)
        span.end()

    def __del__(self) -> None:
        # The frame is gone and nobody ran it to its end: a generator whose event loop was closed before.
        self.end(outcome="closed")


class _Step(Current):
    """One step of a body: it goes on in what it left current."""

    __slots__ = ("_body",)

    def __init__(self, body: _Body) -> None:
        assert body.context is not None
        super().__init__(body.context)
        self._body = body

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._body.context = self.left


def _function(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        body = _Body(name)
        try:
            with body.step():
                answer = function(*args, **kwargs)
        except BaseException as error:
            body.end(error)
            raise
        body.end()
        return answer

    return run


def _coroutine(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    @functools.wraps(function)
    async def run(*args: Any, **kwargs: Any) -> Any:
        body = _Body(name)
        try:
            with body.step():
                answer = await function(*args, **kwargs)
        except GeneratorExit:  # the collector has it
            body.end()
            raise
        except BaseException as error:
            body.end(error)
            raise
        body.end()
        return answer

    return run


def _generator(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        body = _Body(name, generator=True)
        steps = function(*args, **kwargs)
        advance: Callable[[], Any] = functools.partial(next, steps)
        try:
            while True:
                try:
                    with body.step():
                        item = advance()
                except StopIteration as end:
                    body.end()
                    return end.value
                try:
                    advance = functools.partial(steps.send, (yield item))
                except GeneratorExit:
                    with closing(), body.step():
                        steps.close()
                    raise
                except BaseException as error:
                    advance = functools.partial(steps.throw, error)
        except GeneratorExit:
            body.end(outcome="closed")
            raise
        except BaseException as error:
            body.end(error)
            raise
        finally:
            del advance  # it may hold an exception, whose traceback holds this frame

    return run


def _async_generator(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    @functools.wraps(function)
    async def run(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        body = _Body(name, generator=True)
        steps = function(*args, **kwargs)
        advance: Callable[[], Any] = functools.partial(anext, steps)
        try:
            while True:
                try:
                    with body.step():
                        item = await advance()
                except StopAsyncIteration:
                    body.end()
                    return
                try:
                    advance = functools.partial(steps.asend, (yield item))
                except GeneratorExit:
                    with closing(), body.step():
                        await steps.aclose()
                    raise
                except BaseException as error:
                    advance = functools.partial(steps.athrow, error)
        except GeneratorExit:
            body.end(outcome="closed")
            raise
        except BaseException as error:
            body.end(error)
            raise
        finally:
            del advance

    return run
