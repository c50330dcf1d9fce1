"""What a request may say: the fields of the OpenAI API and our own, each with its bounds.

Nothing is converted, nothing unknown is let pass, and no number may be NaN: a misspelt or unsupported setting is
told, not ignored.
"""

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from primegpt.errors import nearest
from primegpt.serving.errors import ApiError

MAX_TEXTS = 32  # that one request may have written: prompts x n
MAX_TOKENS = 8192  # of one text
LONGEST = 2**20  # characters; the body has that many bytes at the most

Text = Annotated[str, Field(max_length=LONGEST)]
Id = Annotated[int, Field(ge=0, lt=2**31)]
Ids = Annotated[list[Id], Field(min_length=1, max_length=2**16)]
Stop = Annotated[str, Field(min_length=1, max_length=256)]
Label = Annotated[str, Field(min_length=1, max_length=64)]


def listed(value: Any) -> Any:
    """A single string as a list of one."""
    return [value] if isinstance(value, str) else value


class Body(BaseModel):
    """Base of everything that a request consists of."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, protected_namespaces=())


class StreamOptions(Body):
    include_usage: bool = False
    include_obfuscation: bool = False
    """Accepted, and without effect: nothing is padded here."""


class WritingRequest(Body):
    """What both endpoints take. A setting that is not given, or null, is the run's own."""

    model: Annotated[str, Field(max_length=256)] | None = None
    n: int = Field(1, ge=1, le=MAX_TEXTS)
    temperature: float | None = Field(None, ge=0, le=10)
    top_p: float | None = Field(None, gt=0, le=1)
    seed: int | None = Field(None, ge=0, lt=2**63)
    """Drawn anew for each request where it is not given."""
    stop: Annotated[Annotated[list[Stop], Field(max_length=8)], BeforeValidator(listed)] | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    user: Annotated[str, Field(max_length=256)] | None = None
    """Accepted, and without effect."""
    presence_penalty: float | None = Field(None, ge=0, le=0)
    """Not supported: 0 alone. `repetition_penalty` is."""
    frequency_penalty: float | None = Field(None, ge=0, le=0)
    """Likewise."""

    top_k: int | None = Field(None, ge=0, le=2**20)
    min_p: float | None = Field(None, ge=0, le=1)
    repetition_penalty: float | None = Field(None, ge=0.1, le=10)
    genre: Label | None = None
    emotion: Label | None = None
    template: Annotated[str, Field(max_length=64)] | None = None
    """"text": what is asked is the beginning of the text; or the name of the layout that the run was trained on."""

    @model_validator(mode="after")
    def options_need_a_stream(self) -> "WritingRequest":
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options is given without stream")
        return self

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


class TextPart(Body):
    type: Literal["text"]
    text: Text


class Message(Body):
    role: Literal["system", "developer", "user", "assistant"]
    content: Text | Annotated[list[TextPart], Field(min_length=1, max_length=64)]
    name: Annotated[str, Field(max_length=64)] | None = None
    """Accepted, and without effect."""

    @property
    def said(self) -> dict[str, str]:
        """The message as the templates of the data have it."""
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return {"role": "system" if self.role == "developer" else self.role, "content": text}


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
        if self.max_tokens is not None and self.max_completion_tokens is not None:
            raise ValueError("max_tokens and max_completion_tokens are the same; give one of them")
        return self

    @property
    def max_new_tokens(self) -> int | None:
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    @property
    def alternatives(self) -> int | None:
        return (self.top_logprobs or 0) if self.logprobs else None


PARTS = (CompletionRequest, ChatRequest, Message, TextPart, StreamOptions)
NAMES = {name for kind in PARTS for name in kind.model_fields}
Kind = TypeVar("Kind", bound=Body)


def parse(kind: type[Kind], body: bytes) -> Kind:
    """The request in `body`. Raises ApiError 400, which names the first field that is wrong."""
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    place, unknown = first["loc"], first["type"] == "extra_forbidden"
    named = [
        str(part)[:64] for part in place if isinstance(part, int) or part in NAMES or (unknown and part == place[-1])
    ]
    param = ".".join(named) or None
    if unknown:
        message = f"the field {param} is not known here"
        if len(place) == 1:
            message += f"; {nearest(named[0], kind.model_fields)}"
    else:
        message = ": ".join([*([param] if param else []), first["msg"].removeprefix("Value error, ")])
    raise ApiError(400, message[:600], param=param)
