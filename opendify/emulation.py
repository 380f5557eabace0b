"""Tools of the client and answers in JSON, for an app that knows neither: prompt -> prompt, events -> events.

One for each attempt of an answer. What the app is told and how its text is read stands in `client_tools/`; here is
what it means for a conversation, which is told the rules once, and for the run, which is repaired once.
"""

from collections.abc import Iterator, Sequence

from msgspec.structs import replace

from opendify.client_tools import texts, turns
from opendify.client_tools.answer import Piece, ToolAnswer
from opendify.client_tools.formats import FormatAnswer
from opendify.client_tools.scanner import MAX_BLOCK
from opendify.client_tools.tags import Tags, new_salt
from opendify.conversation import Conversation, Rules
from opendify.dialogue import (
    Cited,
    Event,
    Finished,
    Progress,
    Prompt,
    ReasoningDelta,
    TextDelta,
    TextReplaced,
    ToolCall,
    ToolChoice,
    Tools,
    Turn,
)
from opendify.dify.apps import App
from opendify.dify.requests import Told
from opendify.users import digest_key

NO_TOOLS = Tools((), ToolChoice("none"))
# What a silent run has no business to tell: it was told by the first one, or is no part of the answer.
SILENT = (Cited, Progress, ReasoningDelta)


def emulation(prompt: Prompt, conversation: Conversation, app: App, secret: str) -> "Emulation | None":
    """What stands between this prompt and the app, None where that is nothing. `secret` keys digests."""
    tools = prompt.tools or NO_TOOLS
    if conversation.salt is None and tools.callable:
        conversation.salt = new_salt()
    tags = Tags.of(digest_key(secret, app), conversation.salt) if conversation.salt else None
    if tags is None and not prompt.format and not conversation.lacks("form", ""):
        return None
    return Emulation(prompt, conversation, app, tools, tags)


class Emulation:
    """Call `tell` first, `feed` it the run's events. With a `repair` the end is withheld until it is fed another run's.

    `tags` are None in a conversation without tools.
    """

    def __init__(self, prompt: Prompt, conversation: Conversation, app: App, tools: Tools, tags: Tags | None) -> None:
        self._prompt = prompt
        self._conversation = conversation
        self._app = app
        self._tools = tools
        self._tags = tags
        self._answer = ToolAnswer(tools, tags) if tags else None
        self._form = FormatAnswer(prompt.format) if prompt.format and prompt.format.checked else None
        self._held: list[str] = []  # of an answer that is told once it is known to fit
        self._raw: list[str] = []
        self._room = 0 if app.converses else MAX_BLOCK
        self._withheld: Finished | None = None
        self.repair: str | None = None

    # -- what the app is told

    def tell(self, told: Told) -> tuple[Prompt, Told]:
        """The prompt in words that any app understands, and how much of it goes to Dify."""
        prompt = self._prompt
        dialogue = prompt.turns
        if self._tags:
            again = bool(self._tools.callable)
            dialogue = turns.told(dialogue, self._tags, note=texts.note(self._tools), again=again)
        news = "\n\n".join(self._news())
        if not news:
            self._prompt = replace(prompt, turns=dialogue)
            return self._prompt, told
        if self._app.system_input in prompt.variables:  # which the client fills in itself
            dialogue = turns.noted(dialogue, news)
        else:
            others = dialogue if told.instructions or self._app.system_input else _without_instructions(dialogue)
            dialogue = (Turn(role="system", text=news), *others)
            told = replace(told, instructions=True)
        self._prompt = replace(prompt, turns=dialogue)
        return self._prompt, told

    def _news(self) -> Iterator[str]:
        """What has to be said of tools and of the form of the answer: what Dify's history does not hold already."""
        rules = texts.rules(self._tools, self._tags) if self._tags and self._tools.callable else ""
        if rules and self._is_news("rules", rules):
            yield rules
        form = texts.form(self._prompt.format) if self._prompt.format else ""
        if self._is_news("form", form):
            yield form or texts.ANY_FORM

    def _is_news(self, kind: Rules, text: str) -> bool:
        if self._app.system_input:  # which is sent with every turn
            return bool(text)
        if not self._conversation.lacks(kind, text):
            return False
        self._conversation.tell(kind, text)
        return True

    def mend(self) -> tuple[Prompt, Told]:
        """What the app is told in the silent run."""
        prompt = self._prompt
        ask = Turn(role="user", text=self.repair or "")
        if self._app.converses:
            dialogue = (*(turn for turn in prompt.turns if turn.role == "system"), ask)
        else:
            dialogue = (*prompt.turns, Turn(role="assistant", text="".join(self._raw)), ask)
        return replace(prompt, turns=dialogue), Told(is_known=self._app.converses, instructions=False)

    # -- what the client is told

    def feed(self, events: Sequence[Event]) -> Sequence[Event]:
        """The events as the client gets them."""
        return [shown for event in events for shown in self._shown(event)]

    def close(self) -> Sequence[Event]:
        """The withheld end, where no other run came to one: what that said so far is not told."""
        if self._withheld is None:
            return ()
        if self._answer:
            self._answer.forget()
        self._held.clear()
        return list(self._ended(self._withheld))

    def _shown(self, event: Event) -> Iterator[Event]:
        match event:
            case TextDelta(text=text):
                self._remember(text)
                yield from self._said(self._answer.feed(text) if self._answer else [text])
            case TextReplaced():  # by moderation: no calls are read out of that
                self._answer = self._form = None
                yield event
            case Finished() if first := self._withheld:
                self._withheld = None
                yield from self._ended(replace(event, usage=first.usage + event.usage))
            case Finished():
                yield from self._over(event)
            case _ if self._withheld and isinstance(event, SILENT):
                return
            case _:
                yield event

    def _remember(self, text: str) -> None:
        if self._room > 0:
            self._raw.append(text[: self._room])
            self._room -= len(text)

    def _said(self, pieces: Sequence[Piece]) -> Iterator[Event]:
        for piece in pieces:
            if isinstance(piece, ToolCall):
                yield piece
            elif self._form:
                self._held.append(piece)
            else:
                yield TextDelta(piece)

    def _over(self, finished: Finished) -> Iterator[Event]:
        """The end of the first run: the answer's as well, unless there is something to repair."""
        if self._answer:
            yield from self._said(self._answer.close())
            self.repair = self._answer.repair
        if self._form and not self.repair and not self._called:
            self._form.take("".join(self._held))
            self._held.clear()
            self.repair = self._form.repair
        if self.repair and finished.reason == "stop":
            self._withheld = finished
            return
        self.repair = None
        yield from self._ended(finished)

    def _ended(self, finished: Finished) -> Iterator[Event]:
        """The end of the answer."""
        if self._answer:
            yield from self._said(self._answer.close())
        if self._form and (text := self._fitting(self._form)):
            yield TextDelta(text)
        yield replace(finished, reason="tool_calls") if self._called else finished

    def _fitting(self, form: FormatAnswer) -> str:
        """The text of an answer that was to have a form; with calls, that is another turn's business."""
        said = "".join(self._held)
        if self._called:
            return said
        if said:
            form.take(said)
        return form.text

    @property
    def _called(self) -> bool:
        return self._answer is not None and self._answer.called > 0


def _without_instructions(dialogue: Sequence[Turn]) -> Sequence[Turn]:
    """What is left without them; instructions alone are the prompt."""
    return [turn for turn in dialogue if turn.role != "system"] or dialogue
