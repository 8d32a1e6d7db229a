"""Prompts: what a model's card puts around a query or a document. Pure.

Templates hold ``{text}`` and perhaps ``{task}``; both are replaced and never formatted, since texts hold
braces. A text that already carries the prompt is left as it is: some clients write it themselves.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from llamafile_mgr.catalog import Model
from llamafile_mgr.embedding.requests import InputType
from llamafile_mgr.errors import RequestError
from llamafile_mgr.planner.plans import Plan

#: The end-of-sequence token as text: the tokenizers of the Mistral family read it as the token itself.
_END_OF_SEQUENCE = "</s>"
_TEXT, _TASK = "{text}", "{task}"


@dataclass(frozen=True, slots=True)
class PromptedText:
    """A text with what stands around it; cuts are made to ``body`` alone, which begins at the character
    ``start`` of the caller's text."""

    before: str
    body: str
    after: str
    start: int = 0

    @property
    def text(self) -> str:
        """Return what the engine reads."""
        return self.before + self.body + self.after

    def with_body(self, body: str) -> PromptedText:
        """Return the same prompt around another body."""
        return replace(self, body=body)


@dataclass(frozen=True, slots=True)
class Prompt:
    """The prompt of one kind of text. ``end``: what must stand last, empty for nothing.

    ``own_before``: matches a beginning that is this prompt already, with whatever task. ``own_end``: an end
    that some clients write and that is put there once, by us or by the engine.
    """

    before: str = ""
    after: str = ""
    end: str = ""
    own_before: re.Pattern[str] | None = None
    own_end: str = ""

    def apply(self, text: str) -> PromptedText:
        """Return ``text`` with the prompt around it, exactly once."""
        while self.own_end and text.endswith(self.own_end):
            text = text.removesuffix(self.own_end)
        before, body, after, start = self.before, text, self.after, 0
        own = self.own_before.match(text) if self.own_before is not None else None
        if own is not None and text.endswith(after, own.end()):
            start = own.end()
            before, body = own.group(), text[start : len(text) - len(after)]
        return PromptedText(before, body, after + self.end, start)


def make_prompt(model: Model | None, input_type: InputType, task: str | None, end: str = "") -> Prompt:
    """Return the prompt of ``model`` for texts of this kind; nothing where its card names none.

    ``task``: None takes the model's own. ``end``: see ``end_text``.

    Raises:
        RequestError: a task of several lines, or an empty one, which no template means.
    """
    template = None
    own_end = _END_OF_SEQUENCE if model is not None and model.append_eos else ""
    if model is not None and input_type is not InputType.NONE:
        template = model.query_prompt if input_type is InputType.QUERY else model.document_prompt
    if model is None or template is None:
        return Prompt(end=end, own_end=own_end)
    chosen = task if task is not None else model.task or ""
    if _TASK in template and (not chosen.strip() or "\n" in chosen):
        raise RequestError("the task must be one line of text", hint="leave it out to get the model's own")
    before, _, after = template.partition(_TEXT)
    pattern = re.escape(before).replace(re.escape(_TASK), r"[^\n]+")
    return Prompt(
        before=before.replace(_TASK, chosen),
        after=after.replace(_TASK, chosen),
        end=end,
        own_before=re.compile(pattern) if before else None,
        own_end=own_end,
    )


def end_text(plan: Plan) -> str:
    """Return what must end every text: the end-of-sequence text where the plan says that the model wants the
    token and the engine does not put it there. Otherwise nothing."""
    return _END_OF_SEQUENCE if plan.append_eos else ""
