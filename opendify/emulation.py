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
from opendify.client_tools.tags import Hider, Tags, new_salt
from opendify.conversation import Conversation, Topic
from opendify.dialogue import (
    Cited,
    Event,
    FileOut,
    Finished,
    Form,
    Paused,
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


def emulation(prompt: Prompt, conversation: Conversation, app: App, secret: str) -> "Emulation | None":
    """What stands between this prompt and the app, None where that is nothing. `secret` keys digests."""
    tools = prompt.tools or NO_TOOLS
    if conversation.salt is None and tools.callable:
        conversation.salt = new_salt()
    tags = Tags.of(digest_key(secret, app), conversation.salt) if conversation.salt else None
    if tags is None and not prompt.format and not conversation.lacks("format", ""):
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
        self._format = FormatAnswer(prompt.format) if prompt.format and prompt.format.checked else None
        self._held: list[str] = []  # of an answer that is told once it is known to fit
        self._thoughts = Hider(tags) if tags else None
        self._words: Hider | None = None  # of text that is nobody's to call with
        self._asks = False
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
        if rules and self._is_news("tools", rules):
            yield rules
        wanted = texts.format_rules(self._prompt.format) if self._prompt.format else ""
        if self._is_news("format", wanted):
            yield wanted or texts.ANY_FORMAT

    def _is_news(self, kind: Topic, text: str) -> bool:
        if self._app.system_input:  # which is sent with every turn
            return bool(text)
        if not self._conversation.lacks(kind, text):
            return False
        self._conversation.tell(kind, text)
        return True

    def repair_prompt(self) -> tuple[Prompt, Told]:
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
        shown: list[Event] = []
        for event in events:
            if self._thoughts and not isinstance(event, ReasoningDelta) and (rest := self._thoughts.close()):
                shown.append(ReasoningDelta(rest))
            shown += self._shown(event)
        return shown

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
            case ReasoningDelta() | Cited() | Progress():
                yield from self._beside(event)
            case TextReplaced(text=text):  # by moderation: no calls are read out of what comes now
                self._answer = self._format = None
                self._words = Hider(self._tags) if self._tags else None
                yield TextReplaced(self._tags.hide(text) if self._tags else text)
            case Paused():
                yield from self._paused(event)
            case Finished():
                yield from self._over(event)
            case _ if not (self._format and isinstance(event, FileOut)):  # a link beside JSON would make it none
                yield event

    def _beside(self, event: ReasoningDelta | Cited | Progress) -> Iterator[Event]:
        """What was told by the first run, or is no part of the answer, is not told by a silent one."""
        if self._withheld:
            return
        if isinstance(event, ReasoningDelta) and self._thoughts:
            if text := self._thoughts.feed(event.text):
                yield ReasoningDelta(text)
        else:
            yield event

    def _paused(self, paused: Paused) -> Iterator[Event]:
        """A run that waits for a person is asked nothing else: what it has said is told as it is."""
        self._asks = True
        if self._answer:
            yield from self._said(self._answer.close())
        said, self._format = "".join(self._held), None
        self._held.clear()
        if said:
            yield TextDelta(said)
        yield replace(paused, forms=tuple(self._hidden(form) for form in paused.forms))

    def _hidden(self, form: Form) -> Form:
        return replace(form, content=self._tags.hide(form.content)) if self._tags else form

    def _remember(self, text: str) -> None:
        if self._room > 0:
            self._raw.append(text[: self._room])
            self._room -= len(text)

    def _said(self, pieces: Sequence[Piece]) -> Iterator[Event]:
        for piece in pieces:
            if isinstance(piece, ToolCall):
                yield piece
            elif self._format:
                self._held.append(piece)
            elif shown := self._words.feed(piece) if self._words else piece:
                yield TextDelta(shown)

    def _over(self, finished: Finished) -> Iterator[Event]:
        """The end of a run: the answer's as well, unless there is something to repair."""
        if first := self._withheld:
            self._withheld = None
            yield from self._ended(replace(finished, usage=first.usage + finished.usage))
            return
        if self._answer:
            yield from self._said(self._answer.close())
            self.repair = self._answer.repair
        if self._format and not self.repair and not self._called:
            self._format.take("".join(self._held))
            self._held.clear()
            self.repair = self._format.repair
        if self.repair and finished.reason == "stop" and not (self._asks or finished.asks):
            self._withheld = finished
            return
        self.repair = None
        yield from self._ended(finished)

    def _ended(self, finished: Finished) -> Iterator[Event]:
        """The end of the answer."""
        if self._answer:
            yield from self._said(self._answer.close())
        if self._words and (rest := self._words.close()):
            yield TextDelta(rest)
        if self._format and (text := self._fitting(self._format)):
            yield TextDelta(text)
        yield replace(finished, reason="tool_calls") if self._called else finished

    def _fitting(self, wanted: FormatAnswer) -> str:
        """The text of an answer that was to have a format; with calls, that is another turn's business."""
        said = "".join(self._held)
        if self._called:
            return said
        if said:
            wanted.take(said)
        return wanted.text

    @property
    def _called(self) -> bool:
        return self._answer is not None and self._answer.called > 0


def _without_instructions(dialogue: Sequence[Turn]) -> Sequence[Turn]:
    """What is left without them; instructions alone are the prompt."""
    return [turn for turn in dialogue if turn.role != "system"] or dialogue
