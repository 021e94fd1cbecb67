"""What OpenAI's clients send, as far as it can be done here. Parameters that would change nothing are taken as they
are; any other value of them is refused, so that nobody believes it was obeyed.

Source: OpenAI's API reference for chat completions and completions.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from tunesmith.service.schemas import NAME_PATTERN, Strict, Subject

ModelName = Annotated[str, StringConstraints(pattern=NAME_PATTERN)]
StopText = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"^[^|]*$")]
Zero = Annotated[float, Field(ge=0, le=0)]


class StreamOptions(Strict):
    """What a stream tells besides its text."""

    include_usage: bool = False


class TextFormat(Strict):
    """The form of an answer: plain text."""

    type: Literal["text"] = "text"


class Shared(Strict):
    """What both routes take."""

    model: ModelName
    max_tokens: int | None = Field(default=None, ge=1, le=100_000)
    temperature: float | None = Field(default=None, ge=0, le=2, description="0 takes the likeliest token each time")
    top_p: float | None = Field(default=None, gt=0, le=1)
    stop: StopText | Annotated[list[StopText], Field(max_length=4)] | None = None
    seed: int | None = Field(default=None, ge=-(2**63), le=2**63 - 1)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: Subject | None = Field(default=None, description="kept as the subject of feedback")
    n: Annotated[int, Field(ge=1, le=1)] | None = None
    frequency_penalty: Zero | None = None
    presence_penalty: Zero | None = None
    logit_bias: Annotated[dict[str, Any], Field(max_length=0)] | None = None


class TextPart(Strict):
    """A part of a message."""

    type: Literal["text"]
    text: str


class Message(Strict):
    """One turn of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | Annotated[list[TextPart], Field(min_length=1)]
    name: str | None = None

    @property
    def text(self) -> str:
        """What was said."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class ChatRequest(Shared):
    """A conversation to go on with."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=1000)]
    max_completion_tokens: int | None = Field(default=None, ge=1, le=100_000)
    logprobs: Literal[False] | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=0)] | None = None
    tools: Annotated[list[Any], Field(max_length=0)] | None = None
    tool_choice: Literal["none", "auto"] | None = None
    response_format: TextFormat | None = None
    store: Literal[False] | None = None


class CompletionRequest(Shared):
    """A text to go on with."""

    prompt: str | Annotated[list[str], Field(min_length=1, max_length=256)]
    best_of: Annotated[int, Field(ge=1, le=1)] | None = None
    echo: Literal[False] | None = None
    logprobs: Annotated[int, Field(ge=0, le=0)] | None = None
    suffix: Literal[""] | None = None
