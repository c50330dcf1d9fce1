"""The run that is served, as the server sees it, and the name that it has there."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from primegpt.config import GenerateConfig
from primegpt.data.template import Template
from primegpt.generation.decoder import Decoder
from primegpt.run.folder import RunFolder
from primegpt.serving.errors import ApiError


class ServedRun(Protocol):
    """What the server asks of a run; `primegpt.Run` is one."""

    folder: RunFolder
    step: int

    @property
    def template(self) -> Template | None: ...
    def generator(self, precision: str | None = None) -> Decoder: ...
    def settings(self, **settings: Any) -> GenerateConfig: ...
    def prompt(self, text: str, genre: str | None = None, emotion: str | None = None) -> str | list[int]: ...
    def conversation(
        self, messages: Sequence[Mapping[str, str]], genre: str | None = None, emotion: str | None = None
    ) -> str | list[int]: ...


def model_id(run: ServedRun) -> str:
    """The name under which clients ask for the run: that of its folder."""
    return run.folder.path.name


def model_card(run: ServedRun) -> dict[str, object]:
    """The run as an element of `/v1/models`."""
    created = int(run.folder.config_path.stat().st_mtime)
    return {"id": model_id(run), "object": "model", "created": created, "owned_by": "primegpt"}


def check_model(run: ServedRun, name: str) -> None:
    """Raises ApiError unless `name` is the run that is served."""
    if name != model_id(run):
        message = f"there is no model of this name here, only {model_id(run)!r}"
        raise ApiError(404, message, param="model", code="model_not_found")
