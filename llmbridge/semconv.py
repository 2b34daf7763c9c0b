"""Every span, attribute, event and metric name that llmbridge emits, in one table.

`gen_ai.*` and what stands beside it are OpenTelemetry's conventions for generative AI, all at status Development: the
repository open-telemetry/semantic-conventions-genai, model/gen-ai/{registry,spans,metrics,events}.yaml, as it stood in
November 2026; compared with registry.yaml at e8fc5751506258db1459d1bde47994e01dee922e, since when
`usage.cache_creation` became `usage.cache_write`, `top_k` an int, and the providers' list grew. The constants that
OpenTelemetry publishes for Python are deprecated and incomplete. `llmbridge.*` is ours: there is no convention for
cost, caches, budgets, retries or fallbacks.
"""

from __future__ import annotations

from typing import Final


SCOPE: Final = "llmbridge"

OPERATION: Final = "gen_ai.operation.name"
PROVIDER: Final = "gen_ai.provider.name"
REQUEST_MODEL: Final = "gen_ai.request.model"
STREAM: Final = "gen_ai.request.stream"
CHOICE_COUNT: Final = "gen_ai.request.choice.count"
STOP_SEQUENCES: Final = "gen_ai.request.stop_sequences"
OUTPUT_TYPE: Final = "gen_ai.output.type"
CONVERSATION: Final = "gen_ai.conversation.id"
RESPONSE_ID: Final = "gen_ai.response.id"
RESPONSE_MODEL: Final = "gen_ai.response.model"
FINISH_REASONS: Final = "gen_ai.response.finish_reasons"
FIRST_CHUNK_S: Final = "gen_ai.response.time_to_first_chunk"
INPUT_TOKENS: Final = "gen_ai.usage.input_tokens"
OUTPUT_TOKENS: Final = "gen_ai.usage.output_tokens"
CACHE_READ_TOKENS: Final = "gen_ai.usage.cache_read.input_tokens"
CACHE_WRITE_TOKENS: Final = "gen_ai.usage.cache_write.input_tokens"
REASONING_TOKENS: Final = "gen_ai.usage.reasoning.output_tokens"
INPUT_MESSAGES: Final = "gen_ai.input.messages"
OUTPUT_MESSAGES: Final = "gen_ai.output.messages"
SYSTEM_INSTRUCTIONS: Final = "gen_ai.system_instructions"
TOOL_DEFINITIONS: Final = "gen_ai.tool.definitions"
TOKEN_TYPE: Final = "gen_ai.token.type"

SERVER_ADDRESS: Final = "server.address"
SERVER_PORT: Final = "server.port"
HTTP_STATUS: Final = "http.response.status_code"
ERROR_TYPE: Final = "error.type"
EXCEPTION: Final = "exception"  # an event
EXCEPTION_TYPE: Final = "exception.type"
EXCEPTION_MESSAGE: Final = "exception.message"
EXCEPTION_STACKTRACE: Final = "exception.stacktrace"

CALL_ID: Final = "llmbridge.call.id"
ATTEMPT_COUNT: Final = "llmbridge.attempt.count"
FALLBACK_USED: Final = "llmbridge.fallback.used"
CACHE_HIT: Final = "llmbridge.cache.hit"
CACHE_AGE_S: Final = "llmbridge.cache.age_s"
CACHE_STALE: Final = "llmbridge.cache.stale"
CACHE_RESULT: Final = "llmbridge.cache.result"
BUDGET: Final = "llmbridge.budget.name"
COST_USD: Final = "llmbridge.cost.usd"
COST_SOURCE: Final = "llmbridge.cost.source"
COST_UNCERTAIN: Final = "llmbridge.cost.uncertain"
SAVED_USD: Final = "llmbridge.cost.saved_usd"
USAGE_ESTIMATED: Final = "llmbridge.usage.estimated"
STREAM_OUTCOME: Final = "llmbridge.stream.outcome"
CHUNK_COUNT: Final = "llmbridge.stream.chunk_count"
TAG: Final = "llmbridge.tag."  # and the tag's name

ATTEMPT_NUMBER: Final = "llmbridge.attempt.number"
ATTEMPT_REASON: Final = "llmbridge.attempt.reason"
ATTEMPT_PROVIDER: Final = "llmbridge.attempt.provider"
ATTEMPT_MODEL: Final = "llmbridge.attempt.model"
ATTEMPT_OUTCOME: Final = "llmbridge.attempt.outcome"
ATTEMPT_COST_USD: Final = "llmbridge.attempt.cost_usd"
ATTEMPT_REQUEST_ID: Final = "llmbridge.attempt.request_id"

# What a request's parameters are called on the span, and the type that they have there.
REQUEST_PARAMS: Final[dict[str, tuple[str, type]]] = {
    "temperature": ("gen_ai.request.temperature", float),
    "top_p": ("gen_ai.request.top_p", float),
    "top_k": ("gen_ai.request.top_k", int),
    "max_tokens": ("gen_ai.request.max_tokens", int),
    "max_completion_tokens": ("gen_ai.request.max_tokens", int),
    "seed": ("gen_ai.request.seed", int),
    "frequency_penalty": ("gen_ai.request.frequency_penalty", float),
    "presence_penalty": ("gen_ai.request.presence_penalty", float),
}

# The attributes of the span of a call, each with its type.
CALL: Final[dict[str, type]] = {
    OPERATION: str,
    PROVIDER: str,
    REQUEST_MODEL: str,
    STREAM: bool,
    CHOICE_COUNT: int,
    STOP_SEQUENCES: tuple,
    OUTPUT_TYPE: str,
    CONVERSATION: str,
    RESPONSE_ID: str,
    RESPONSE_MODEL: str,
    FINISH_REASONS: tuple,
    FIRST_CHUNK_S: float,
    INPUT_TOKENS: int,
    OUTPUT_TOKENS: int,
    CACHE_READ_TOKENS: int,
    CACHE_WRITE_TOKENS: int,
    REASONING_TOKENS: int,
    INPUT_MESSAGES: str,
    OUTPUT_MESSAGES: str,
    SYSTEM_INSTRUCTIONS: str,
    TOOL_DEFINITIONS: str,
    SERVER_ADDRESS: str,
    SERVER_PORT: int,
    ERROR_TYPE: str,
    CALL_ID: str,
    ATTEMPT_COUNT: int,
    FALLBACK_USED: bool,
    CACHE_HIT: bool,
    CACHE_AGE_S: float,
    CACHE_STALE: bool,
    BUDGET: str,
    COST_USD: float,
    COST_SOURCE: str,
    COST_UNCERTAIN: bool,
    SAVED_USD: float,
    USAGE_ESTIMATED: bool,
    STREAM_OUTCOME: str,
    CHUNK_COUNT: int,
    **dict(REQUEST_PARAMS.values()),
}

# The attributes of the span of an attempt: nothing of gen_ai, or tokens would be counted twice.
ATTEMPT: Final[dict[str, type]] = {
    ATTEMPT_NUMBER: int,
    ATTEMPT_REASON: str,
    ATTEMPT_PROVIDER: str,
    ATTEMPT_MODEL: str,
    ATTEMPT_OUTCOME: str,
    ATTEMPT_COST_USD: float,
    ATTEMPT_REQUEST_ID: str,
    SERVER_ADDRESS: str,
    SERVER_PORT: int,
    HTTP_STATUS: int,
    ERROR_TYPE: str,
}

# The events, each with the arguments that `event()` takes for it and the attributes that those become.
EVENTS: Final[dict[str, dict[str, str]]] = {
    "llmbridge.cache.miss": {},
    "llmbridge.cache.hit": {"age_s": CACHE_AGE_S, "stale": CACHE_STALE},
    "llmbridge.budget.reserved": {
        "budget": BUDGET,
        "reserved_usd": "llmbridge.budget.reserved_usd",
        "remaining_usd": "llmbridge.budget.remaining_usd",
        "wait_s": "llmbridge.budget.wait_s",
    },
    "llmbridge.budget.settled": {"budget": BUDGET, "actual_usd": "llmbridge.budget.actual_usd"},
    "llmbridge.budget.alert": {
        "budget": BUDGET,
        "share": "llmbridge.budget.share",
        "passed": "llmbridge.budget.passed",
        "message": "llmbridge.budget.message",
    },
    "llmbridge.retry": {
        "number": ATTEMPT_NUMBER,
        "error_type": ERROR_TYPE,
        "delay_s": "llmbridge.retry.delay_s",
        "retry_after_s": "llmbridge.retry.retry_after_s",
    },
    "llmbridge.hedge": {"number": ATTEMPT_NUMBER, "after_s": "llmbridge.hedge.after_s"},
    "llmbridge.fallback": {
        "source": "llmbridge.fallback.from",
        "target": "llmbridge.fallback.to",
        "reason": "llmbridge.fallback.reason",
    },
    "llmbridge.skipped": {"model": ATTEMPT_MODEL, "reason": "llmbridge.skipped.reason"},
    "llmbridge.first_chunk": {},
}
CONTENT_EVENT: Final = "gen_ai.client.inference.operation.details"  # through the logs API

DURATION: Final = "gen_ai.client.operation.duration"
TOKEN_USAGE: Final = "gen_ai.client.token.usage"
TIME_TO_FIRST_CHUNK: Final = "gen_ai.client.operation.time_to_first_chunk"
TIME_PER_CHUNK: Final = "gen_ai.client.operation.time_per_output_chunk"
OVERHEAD: Final = "llmbridge.overhead"
ATTEMPTS: Final = "llmbridge.attempts"
LOOKUPS: Final = "llmbridge.cache.lookups"
COST: Final = "llmbridge.cost"
REJECTIONS: Final = "llmbridge.budget.rejections"

SECONDS: Final = tuple(round(0.01 * 2**power, 2) for power in range(14))  # 0.01 to 81.92
TOKENS: Final = tuple(4**power for power in range(14))  # 1 to 67,108,864
OVERHEAD_SECONDS: Final = tuple(round(0.0001 * 2**power, 4) for power in range(14))  # ours: 0.1 ms to 0.8 s

_PROVIDERS: Final = {
    "text-completion-openai": "openai",
    "azure": "azure.ai.openai",
    "azure_ai": "azure.ai.inference",
    "bedrock": "aws.bedrock",
    "bedrock_converse": "aws.bedrock",
    "vertex_ai": "gcp.vertex_ai",
    "vertex_ai_beta": "gcp.vertex_ai",
    "gemini": "gcp.gemini",
    "cohere_chat": "cohere",
    "mistral": "mistral_ai",
    "xai": "x_ai",
    "watsonx": "ibm.watsonx.ai",
    "moonshot": "moonshot_ai",
}


def provider_name(provider: str) -> str:
    """The convention's name of a provider, from LiteLLM's; where it has none, LiteLLM's."""
    return _PROVIDERS.get(provider, provider)


def model_name(model: str, provider: str) -> str:
    """A candidate's name without its provider: "gpt-4o" of "openai/gpt-4o"."""
    return model.removeprefix(f"{provider}/") if provider else model
