"""What requests may hold and what answers look like: the source of the OpenAPI document. Nothing else is let in."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

NAME_PATTERN = r"^[^/:\x00-\x1f]{1,64}$"
Text = Annotated[str, StringConstraints(max_length=2000)]
Subject = Annotated[str, StringConstraints(max_length=200)]
PredictionId = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]
Fields = Annotated[dict[str, Any], Field(min_length=1, max_length=32)]
Input = str | Fields


class Strict(BaseModel):
    """Takes the entries that it names, of the kinds that it names, and nothing else."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class AnswerOptions(Strict):
    """How an answer in words is written, for this request alone; models that answer with labels have no options."""

    max_new_tokens: int | None = Field(default=None, ge=1, le=100_000, description="most tokens of the answer")
    num_beams: int | None = Field(default=None, ge=1, le=8)
    do_sample: bool | None = None
    temperature: float | None = Field(default=None, ge=0.01, le=100.0)
    top_k: int | None = Field(default=None, ge=0, le=100_000)
    top_p: float | None = Field(default=None, gt=0.0, le=1.0)
    repetition_penalty: float | None = Field(default=None, ge=0.1, le=10.0)
    stop: Text | None = Field(default=None, description="the answer ends before the first of these texts, divided by |")
    speculate: int | None = Field(default=None, ge=0, le=100)
    draw: int | None = Field(
        default=None, ge=0, le=2**31, description="another number draws another answer, if do_sample"
    )


class PredictRequest(Strict):
    """One input or many."""

    inputs: Annotated[list[Input], Field(min_length=1)] | Input = Field(
        description="a text, an object with the task's fields, or a list of them"
    )
    options: AnswerOptions | None = None
    alternatives: int = Field(
        default=5, ge=0, le=1000, description="labels with their scores beside each answer, best first"
    )
    subject: Subject = Field(default="", description="whom the inputs are about: their rows can be deleted by it")
    stream: bool = Field(
        default=False, description="send the answer piece by piece as server-sent events; for one input"
    )


class PredictionShape(BaseModel):
    """One answer."""

    id: str = Field(description="names this answer in feedback")
    value: Any = Field(description="as the task answers: a label, labels, entities, a number, a text; null: not sure")
    confidence: float | None = Field(description="0..1, calibrated on the validation rows")
    alternatives: dict[str, float]
    seconds: float = Field(description="that answering took, of its share of the batch")


class PredictReply(BaseModel):
    """Answers in the order of the inputs."""

    predictions: list[PredictionShape]
    model: str
    version: int = Field(description="in the registry; 0 where the run was named by its folder")
    bundle: str = Field(description="id of the bundle that answered")


class ModelShape(BaseModel):
    """A served model."""

    id: str
    object: Literal["model"] = "model"
    created: int = 0
    owned_by: str = "tunesmith"
    task: str
    labels: list[str]
    inputs: list[str]
    bundle: str
    version: int
    state: Literal["loading", "ready", "failed"]
    reason: str = Field(description="why it failed; told to admins")
    engine: str
    base: str = Field(description="hash of the base model that several adapters share; empty where it is whole")
    can_stream: bool
    is_causal: bool


class ModelList(BaseModel):
    """Every served model."""

    object: Literal["list"] = "list"
    data: list[ModelShape]


class FeedbackRequest(Strict):
    """What a person says of an answer: right or wrong, what it should be, a comment; at least one of them."""

    prediction: PredictionId
    is_correct: bool | None = None
    corrected: Any = Field(default=None, description="as in a labelled file: a label, labels, entities, a text")
    comment: Text = ""
    subject: Subject = Field(default="", description="whom the row is about; else as it was told when it was asked")


class FeedbackReply(BaseModel):
    """It is on the disk."""

    feedback: str
    prediction: str
    model: str


class RowToLabel(BaseModel):
    """An answered row that a label would teach the model something about."""

    prediction: str
    fields: dict[str, Any]
    value: Any
    confidence: float | None
    at: float


class RowsToLabel(BaseModel):
    """The rows most worth labelling; the answers go to POST /v1/feedback."""

    model: str
    labels: list[str]
    rows: list[RowToLabel]


class CleanedVersion(BaseModel):
    """A version whose bundle kept rows that were removed."""

    model: str
    version: int
    rows: int


class DeletionReply(BaseModel):
    """What was removed, and what it leaves behind."""

    answers: int
    feedback: int
    bundles: dict[str, int] = Field(description="bundles that were trained on removed rows, and should be trained anew")
    backups: int
    is_overwritten: bool
    remark: str
    versions: list[CleanedVersion] = Field(description="whose kept rows were removed too")
    other_runs: int = Field(description="runs that are no version, whose kept rows were removed too")
    not_reached: int = Field(description="runs that could not be looked through: their folders want mending")


class LoadRequest(Strict):
    """Serve one more run, or another one under a name that is there."""

    name: str = Field(pattern=NAME_PATTERN)
    run: Annotated[str, StringConstraints(max_length=128)] = Field(
        default="", description="a folder's name in the runs folder"
    )
    version: int = Field(default=0, ge=0, le=10**6, description="or a version of this name in the registry")


class VersionRequest(Strict):
    """A version of a model in the registry."""

    version: int = Field(ge=1, le=10**6)


class CanaryRequest(VersionRequest):
    """A version that answers a share of the requests."""

    share: float = Field(gt=0.0, le=1.0)


class DrainRequest(Strict):
    """Whether load balancers should send nothing more."""

    draining: bool = True


class Traffic(BaseModel):
    """Who answers under a name."""

    model: str
    live: int | None
    canary: int | None
    canary_share: float
    shadow: int | None


class Status(BaseModel):
    """One word on how it is."""

    status: str


class ErrorParts(BaseModel):
    """Why a request was refused."""

    code: str = Field(description="stable: programs may rely on it")
    message: str
    do: str
    where: str
    request_id: str
    type: str | None = None
    param: str | None = None


class ErrorReply(BaseModel):
    """Every refusal has this body."""

    error: ErrorParts
