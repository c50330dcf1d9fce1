"""What a request may say, and how it is refused: the fields of the OpenAI API and our own, each with its bounds.

Nothing is converted, and no number may be NaN. What asks for nothing is let pass, since clients send it unasked: null
for every field, and what NEUTRAL lists. A setting that is misspelt, or that asks for what is not here, is refused.
"""

import json
import secrets
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, create_model, model_validator
from pydantic_core import PydanticCustomError
from starlette.responses import JSONResponse

from primegpt.config import SAMPLING, GenerateConfig
from primegpt.errors import nearest


class ApiError(Exception):
    """A request that is answered with `status` and one line that says what is wrong, as clients of OpenAI expect it."""

    def __init__(
        self, status: int, message: str, *, param: str | None = None, code: str | None = None, last: bool = False
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.last = last  # of its connection

    def response(self) -> JSONResponse:
        headers = {429: {"Retry-After": "1"}, 401: {"WWW-Authenticate": "Bearer"}}.get(self.status, {})
        return JSONResponse(self.body(), self.status, headers | ({"Connection": "close"} if self.last else {}))

    def body(self) -> Mapping[str, Mapping[str, str | None]]:
        """The error as JSON, which also stands inside a stream that has begun."""
        kind = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}.get(self.status)
        kind = kind or ("server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


MAX_TEXTS = 32  # that one request may have written: prompts x n
MAX_TOKENS = 8192  # of one text
LONGEST = 2**20  # characters; the body has that many bytes at the most

Text = Annotated[str, Field(max_length=LONGEST)]
Id = Annotated[int, Field(ge=0, lt=2**31)]
Ids = Annotated[list[Id], Field(min_length=1, max_length=2**16)]
Stop = Annotated[str, Field(min_length=1, max_length=256)]
Label = Annotated[str, Field(min_length=1, max_length=64)]


ANY = object()  # instead of values: the field has no bearing on what is written
NEUTRAL: Mapping[str, Any] = {
    # Fields that both endpoints let pass, each with the values, besides null, that ask for nothing.
    "audio": (),
    "best_of": (1,),
    "echo": (False,),
    "frequency_penalty": (0, 0.0),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "logit_bias": ({},),
    "logprobs": (False,),
    "metadata": ANY,
    "modalities": (["text"],),
    "moderation": (),
    "parallel_tool_calls": ANY,
    "prediction": ANY,  # a guess of the answer, to have it sooner
    "presence_penalty": (0, 0.0),
    "prompt_cache_key": ANY,
    "prompt_cache_options": ANY,
    "prompt_cache_retention": ANY,
    "reasoning_effort": ("none",),
    "response_format": ({"type": "text"},),
    "safety_identifier": ANY,
    "service_tier": ANY,
    "stop": ("", []),
    "store": ANY,
    "stream_options": ({}, {"include_usage": False}),
    "suffix": ("",),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "top_logprobs": (0,),
    "user": ANY,
    "verbosity": ("medium",),
    "web_search_options": (),
}
TOOLS = {"tools": "tool_choice", "functions": "function_call"}  # what is offered, and the choice "none" of it
# A message may carry whatever its client keeps in it, but nothing that was said in another way than by its content.
NEUTRAL_IN_MESSAGES: Mapping[str, Any] = {"audio": (), "function_call": (), "refusal": ("",), "tool_calls": ([],)}


def listed(value: object) -> object:
    """A single string as a list of one."""
    return [value] if isinstance(value, str) else value


def joined(content: object) -> object:
    """The parts of a message's content as one text."""
    if not isinstance(content, list):
        return content
    for part in content:
        if not isinstance(part, dict) or not isinstance(kind := part.get("type"), str):
            raise PydanticCustomError("part", "each part of the content must be an object with a type")
        if kind != "text":
            told = {"type": repr(kind[:64])}
            raise PydanticCustomError("part", "parts of the type {type} are not supported here, only 'text'", told)
        if not isinstance(part.get("text"), str):
            raise PydanticCustomError("part", "a part of the type 'text' must have a text")
    return "".join(part["text"] for part in content)


class Body(BaseModel):
    """Base of everything that a request consists of."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, protected_namespaces=())
    neutral: ClassVar[Mapping[str, Any]] = {}

    @model_validator(mode="before")
    @classmethod
    def leave_out_what_asks_for_nothing(cls, given: object) -> object:
        return cls.what_is_asked(given) if isinstance(given, dict) else given

    @classmethod
    def what_is_asked(cls, given: dict[str, Any]) -> dict[str, Any]:
        """`given` without the fields whose values ask for nothing."""
        unused = {name for name, choice in TOOLS.items() if given.get(choice) == "none"}
        given = {name: value for name, value in given.items() if name not in unused}
        return {name: value for name, value in given.items() if not is_neutral(value, cls.neutral.get(name, ()))}


def is_neutral(value: object, values: Any) -> bool:
    """Whether `value` is null or one of `values`; 0 and false are two things here."""
    return value is None or values is ANY or any(type(value) is type(one) and value == one for one in values)


class StreamOptions(Body):
    include_usage: bool = False
    include_obfuscation: bool = False
    """Accepted, and without effect: nothing is padded here."""


def sampling_fields(names: Iterable[str], **bounds: Mapping[str, float]) -> dict[str, Any]:
    """Settings of generation as fields of a request: null unless given, with the bounds that they have everywhere.

    `bounds` name those for which a server has narrower ones.
    """
    fields: dict[str, Any] = {}
    for name in names:
        own = GenerateConfig.model_fields[name]
        kind: Any = own.annotation
        fields[name] = (Annotated[kind, *own.metadata, Field(**bounds.get(name, {}))] | None, None)
    return fields


SETTINGS = (*SAMPLING, "repetition_penalty", "seed")  # not of beam search, which holds up all others
Settings = create_model(
    "Settings",
    __base__=Body,
    **sampling_fields(SETTINGS, temperature={"le": 10}, top_k={"le": 2**20}, repetition_penalty={"ge": 0.1, "le": 10}),
)


class WritingRequest(Settings):
    """What both endpoints take. A setting that is not given, or null, is the run's own; the seed is drawn anew."""

    neutral = NEUTRAL
    model: Annotated[str, Field(max_length=256)] | None = None
    n: int = Field(1, ge=1, le=MAX_TEXTS)
    stop: Annotated[Annotated[list[Stop], Field(max_length=8)], BeforeValidator(listed)] | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None

    genre: Label | None = None
    emotion: Label | None = None
    template: Annotated[str, Field(max_length=64)] | None = None
    """"text": what is asked is the beginning of the text; or the name of the layout that the run was trained on."""

    @model_validator(mode="after")
    def options_need_a_stream(self) -> "WritingRequest":
        if self.stream_options is not None and self.stream_options.include_usage and not self.stream:
            raise ValueError("stream_options.include_usage is given without stream")
        return self

    @property
    def settings(self) -> dict[str, Any]:
        """What is asked for, as `Run.settings` takes it."""
        seed = {} if "seed" in self.model_fields_set else {"seed": secrets.randbits(63)}
        stop = None if self.stop is None else tuple(self.stop)
        own = {"max_new_tokens": self.max_new_tokens or None, "stop_strings": stop}
        return self.model_dump(include=set(SETTINGS)) | seed | own

    @property
    def max_new_tokens(self) -> int | None:
        raise NotImplementedError

    @property
    def alternatives(self) -> int | None:
        """How many other tokens to tell at each place; None for no log-probabilities at all."""
        raise NotImplementedError


class CompletionRequest(WritingRequest):
    """POST /v1/completions."""

    prompt: (
        Text
        | Ids
        | Annotated[list[Text], Field(min_length=1, max_length=MAX_TEXTS)]
        | Annotated[list[Ids], Field(min_length=1, max_length=MAX_TEXTS)]
    ) = ""
    max_tokens: int | None = Field(None, ge=0, le=MAX_TOKENS)
    logprobs: int | None = Field(None, ge=0, le=20)
    echo: bool = False

    @model_validator(mode="after")
    def texts_are_few(self) -> "CompletionRequest":
        if len(self.prompts) * self.n > MAX_TEXTS:
            raise ValueError(f"{len(self.prompts)} prompts with n={self.n} are more than {MAX_TEXTS} texts")
        if self.max_tokens == 0 and not self.echo:
            raise ValueError("max_tokens is 0 and echo is not set: there would be nothing to answer")
        return self

    @property
    def prompts(self) -> list[str | list[int]]:
        if isinstance(self.prompt, str):
            return [self.prompt]
        if isinstance(self.prompt[0], int):
            return [[id for id in self.prompt if isinstance(id, int)]]
        return [prompt for prompt in self.prompt if not isinstance(prompt, int)]

    @property
    def max_new_tokens(self) -> int | None:
        return self.max_tokens

    @property
    def alternatives(self) -> int | None:
        return self.logprobs


class Message(Body):
    """One turn. What a client keeps in it besides (ids, dates, annotations) has no effect."""

    neutral = NEUTRAL_IN_MESSAGES
    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[Text, BeforeValidator(joined)]

    @classmethod
    def what_is_asked(cls, given: dict[str, Any]) -> dict[str, Any]:
        empty = {"content": ""} if given.get("role") == "assistant" else {}  # an answer may be
        known = {name: value for name, value in given.items() if name in cls.model_fields or name in cls.neutral}
        return empty | super().what_is_asked(known)

    @property
    def said(self) -> dict[str, str]:
        """The message as the templates of the data have it."""
        return {"role": "system" if self.role == "developer" else self.role, "content": self.content}


class ChatRequest(WritingRequest):
    """POST /v1/chat/completions."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=1024)]
    max_tokens: int | None = Field(None, ge=1, le=MAX_TOKENS)
    max_completion_tokens: int | None = Field(None, ge=1, le=MAX_TOKENS)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)

    @model_validator(mode="after")
    def fields_agree(self) -> "ChatRequest":
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs is given without logprobs")
        if None not in (self.max_tokens, self.max_completion_tokens) and self.max_tokens != self.max_completion_tokens:
            raise ValueError("max_tokens and max_completion_tokens are the same; give one of them")
        return self

    @property
    def max_new_tokens(self) -> int | None:
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    @property
    def alternatives(self) -> int | None:
        return (self.top_logprobs or 0) if self.logprobs else None


PARTS = (CompletionRequest, ChatRequest, Message, StreamOptions)
NAMES = {name for kind in PARTS for name in (*kind.model_fields, *kind.neutral)}
Kind = TypeVar("Kind", bound=Body)


def parse(kind: type[Kind], body: bytes) -> Kind:
    """The request in `body`. Raises ApiError 400, which names the first field that is wrong."""
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    place, unknown = first["loc"], first["type"] == "extra_forbidden"
    known = NAMES | kind.model_fields.keys()
    named = [
        str(part)[:64] for part in place if isinstance(part, int) or part in known or (unknown and part == place[-1])
    ]
    param = ".".join(named) or None
    table = {1: NEUTRAL, 3: NEUTRAL_IN_MESSAGES}.get(len(place), {})  # a field of the request, of its n-th message
    if unknown and place[-1] in table:
        code, message = "unsupported_parameter", f"{param} is not supported here; {way_out(table[place[-1]])}"
    elif unknown:
        code, message = "unknown_parameter", f"the field {param} is not known here"
        if len(place) == 1:
            message += f"; {nearest(named[0], kind.model_fields)}"
    else:
        code, message = None, ": ".join([*([param] if param else []), first["msg"].removeprefix("Value error, ")])
    raise ApiError(400, message[:600], param=param, code=code)


def way_out(values: Sequence[object]) -> str:
    """What to give instead in a field that takes `values` alone."""
    return " or ".join(["leave it out", *(f"give {json.dumps(value)}" for value in values if value)])
