"""What a request asks to go on from, as the model is to see it."""

from collections.abc import Sequence

from primegpt.config import GenerateConfig
from primegpt.inference.conversation import fitted, room_for_prompt
from primegpt.inference.run import Run
from primegpt.serving.schema import ApiError, ChatRequest, CompletionRequest, WritingRequest


def laid_out(run: Run, asked: WritingRequest, settings: GenerateConfig) -> tuple[Sequence[str | list[int]], int]:
    """The prompts as the model is to see them: as they are, or in the layout that the run was trained on.

    Of a conversation that leaves no room for an answer whole turns are left out; how many comes after the prompts.
    """
    own = "text" if run.template is None else run.template.name
    if asked.template not in (None, "text", own):
        raise ApiError(400, f"this run was trained with the template {own!r}", param="template")
    labels = {"genre": asked.genre, "emotion": asked.emotion}
    labelled = any(label is not None for label in labels.values())
    if asked.template == "text" and labelled:
        raise ApiError(400, "a genre or an emotion has no place in plain text", param="template")
    if isinstance(asked, ChatRequest):
        messages = [message.said for message in asked.messages]
        conversation = run.conversation(messages, **labels)  # refuses what none is
        if asked.template == "text":
            return [messages[-1]["content"]], 0
        if not run.converses:
            return [conversation], 0
        room = room_for_prompt(run.config.model.block_size, settings.max_new_tokens)
        fitting, dropped = fitted(run, messages, room, **labels)
        return [fitting], dropped
    assert isinstance(asked, CompletionRequest)
    if asked.template in (None, "text") and not labelled:
        return asked.prompts, 0
    return [run.prompt(given, **labels) if isinstance(given, str) else given for given in asked.prompts], 0
