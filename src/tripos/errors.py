"""Every error that Tripos raises on purpose, with its stable code and HTTP status class.

TriposError
├── InvalidRequest            400  the client's mistake; `param` names the JSON path
│   ├── ContextLengthExceeded 400
│   ├── SchemaProblem         400  a JSON Schema that is wrong, too large or not supported
│   ├── GrammarProblem        400  a grammar that does not parse, does not fit the vocabulary or costs too much
│   ├── TemplateRefused       400  the model's chat template takes no such messages
│   │   └── TemplateFailed    400  the model's chat template raised an error on these messages
│   ├── Unauthorized          401
│   ├── PermissionDenied      403
│   ├── NotFound              404  (model_not_found, not_found)
│   ├── MethodNotAllowed      405
│   ├── RequestTimeout        408  the client sends or reads too slowly
│   ├── Conflict              409  not in this state: a name that is taken, memory that is full
│   ├── LengthRequired        411
│   ├── RequestTooLarge       413
│   ├── UriTooLong            414
│   ├── UnsupportedMediaType  415
│   ├── MisdirectedHost       421  the Host header names another server
│   ├── HeadersTooLarge       431
│   └── HttpVersion           505
├── AnswerMismatch            422  the model's answer, or a call in it, breaks a rule that could only be seen at its end
├── RateLimited               429  this principal did it
├── RequestFailed             500  this one request failed inside (a bug in Tripos or a poisoned input)
├── NotImplementedHere        501  an endpoint or feature that other servers have
├── Overloaded                503  we cannot now; `retry_after_s` says when (server_overloaded, draining ...)
├── EngineFailed              503  the engine is restarting
├── DeadlineExceeded          504
├── RemoteError               exit 1: an error that another server answered with
├── ModelRefused              exit 4 / 400 on admin: a model file that lies or does not fit
├── ConfigError               exit 2: a flag, file or variable is wrong
└── EnvironmentProblem        exit 3: port, lock, permission, missing library
"""

from __future__ import annotations

import math
from decimal import Decimal


class TriposError(Exception):
    """Base of the tree. `message` names the cause and the next step; it never holds a prompt, path or secret
    that the caller did not send."""

    status: int = 500
    code: str = "internal_error"
    is_retryable: bool = False

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s
        if code is not None:
            self.code = code


class InvalidRequest(TriposError):
    status = 400
    code = "invalid_value"


class ContextLengthExceeded(InvalidRequest):
    code = "context_length_exceeded"


class SchemaProblem(InvalidRequest):
    code = "invalid_schema"


class GrammarProblem(InvalidRequest):
    """A grammar that does not parse, does not fit this vocabulary, or costs more than its limits."""

    code = "invalid_grammar"


class TemplateRefused(InvalidRequest):
    """The model's chat template takes no such messages."""


class TemplateFailed(TemplateRefused):
    """The model's chat template raised an error on these messages; another form of them may work."""


class Unauthorized(InvalidRequest):
    status = 401
    code = "invalid_api_key"


class PermissionDenied(InvalidRequest):
    status = 403
    code = "permission_denied"


class NotFound(InvalidRequest):
    status = 404
    code = "not_found"


class MethodNotAllowed(InvalidRequest):
    status = 405
    code = "method_not_allowed"


class RequestTimeout(InvalidRequest):
    status = 408
    code = "request_timeout"


class Conflict(InvalidRequest):
    status = 409
    code = "conflict"


class LengthRequired(InvalidRequest):
    status = 411
    code = "length_required"


class RequestTooLarge(InvalidRequest):
    status = 413
    code = "request_too_large"


class UriTooLong(InvalidRequest):
    status = 414
    code = "uri_too_long"


class UnsupportedMediaType(InvalidRequest):
    status = 415
    code = "unsupported_media_type"


class MisdirectedHost(InvalidRequest):
    status = 421
    code = "misdirected_host"


class HeadersTooLarge(InvalidRequest):
    status = 431
    code = "headers_too_large"


class HttpVersion(InvalidRequest):
    status = 505
    code = "http_version"


class AnswerMismatch(TriposError):
    """The request is valid: sent again with another seed, it may succeed."""

    status = 422
    code = "answer_mismatch"


class RateLimited(TriposError):
    status = 429
    code = "rate_limit_exceeded"
    is_retryable = True


class RequestFailed(TriposError):
    status = 500
    code = "request_failed"


class NotImplementedHere(TriposError):
    status = 501
    code = "not_implemented"


class Overloaded(TriposError):
    status = 503
    code = "server_overloaded"
    is_retryable = True


class EngineFailed(TriposError):
    status = 503
    code = "engine_restarting"
    is_retryable = True


class DeadlineExceeded(TriposError):
    status = 504
    code = "deadline_exceeded"


class RemoteError(TriposError):
    """An error that another server answered with; the message and the code are that server's."""


class ModelRefused(TriposError):
    """A model artifact that lies, is unsupported or does not fit. The message names the file and the field."""

    status = 400
    code = "model_refused"
    exit_status = 4


class ConfigError(TriposError):
    status = 400
    code = "invalid_config"
    exit_status = 2


class EnvironmentProblem(TriposError):
    status = 500
    code = "environment"
    exit_status = 3


def reraise_stop(problem: BaseException) -> None:
    """For the handlers of `except BaseException`, which the panics of Rust libraries need: a panic is no Exception.
    Raises `problem` again where it ends the process, the generator or the task on purpose; else returns."""
    is_stop = isinstance(problem, (KeyboardInterrupt, SystemExit, GeneratorExit))
    if is_stop or type(problem).__name__ == "CancelledError":  # asyncio's, which takes 12 ms to import
        raise problem


def plain(number: float) -> str:
    """A number for a message, in digits: 16777216 and 0.000001, never 1.67772e+07."""
    if not math.isfinite(number):
        return str(number)
    return str(int(number)) if number == int(number) else format(Decimal(f"{number:.7g}"), "f")


def shown(value: object) -> str:
    """A value for a message: as Python writes it, in ASCII and short."""
    if isinstance(value, str):
        return ascii(value if len(value) <= 64 else value[:61] + "...")
    text = ascii(value)
    return text if len(text) <= 64 else text[:61] + "..."
