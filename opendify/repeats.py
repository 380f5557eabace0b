"""Results of calls that the app had run itself: a client that sends them gets the answer that it had, without a run."""

from collections.abc import Sequence
from typing import Final

import msgspec
import structlog

from opendify.dialogue import Ids, Turn
from opendify.dify.apps import App
from opendify.dify.gateway import Gateway
from opendify.dify.messages import message_of
from opendify.dify.outputs import answer_of
from opendify.dify.pauses import ASKING_TOOL
from opendify.dify.resume import run_detail
from opendify.errors import UpstreamError
from opendify.scope import Scope
from opendify.store import Store
from opendify.thinking import ThinkSplitter

REMEMBERED_SECONDS: Final = 24 * 3600.0

log = structlog.get_logger("opendify.repeats")


def answered_before(turns: Sequence[Turn]) -> Turn | None:
    """The answer that such results belong to, where nothing else was said since."""
    asking = [turn for turn in turns if turn.role != "system"]
    results: list[Turn] = []
    while asking and asking[-1].is_spent:
        results.append(asking.pop())
    if not (results and asking):
        return None
    ids = {call.id for call in asking[-1].calls if call.name != ASKING_TOOL}  # which waits for its answer
    return asking[-1] if all(result.call_id in ids for result in results) else None


class Repeats:
    """What is known of one end user's answers with such calls: where Dify keeps them, not what they say."""

    def __init__(self, store: Store, scope: Scope, gateway: Gateway, app: App, user: str) -> None:
        self._store = store
        self._scope = scope
        self._gateway = gateway
        self._app = app
        self._user = user

    async def note(self, call_id: str, ids: Ids) -> None:
        """Remember which answer a call belongs to."""
        await self._store.put(self._scope.key("call", call_id), ids, REMEMBERED_SECONDS)

    async def text(self, answer: Turn) -> str:
        """The text of the answer: the client's own copy, else Dify's; nothing where nobody has it."""
        if text := _visible(answer.text):
            return text
        for call in answer.calls:
            if ids := await self._store.get(self._scope.key("call", call.id), Ids):
                return _visible(await self._at_dify(ids))
        return ""

    async def _at_dify(self, ids: Ids) -> str:
        app = self._app
        try:
            if ids.conversation_id and ids.message_id:
                names = self._user, ids.conversation_id, ids.message_id
                message = await message_of(self._gateway, app.access, *names)
                return message.answer or "" if message else ""
            if ids.workflow_run_id:
                run = await run_detail(self._gateway, app, ids.workflow_run_id)
                outputs = msgspec.json.decode(run.outputs)
                return answer_of(outputs, app.config.output) if isinstance(outputs, dict) else ""
        except UpstreamError as error:
            log.info("answer_not_found", app=app.name, problem=error.code)
        return ""


def _visible(text: str) -> str:
    """The text of an answer without its thinking."""
    splitter = ThinkSplitter()
    pieces = [*splitter.feed(text), *splitter.close()]
    return "".join(piece for is_thinking, piece in pieces if not is_thinking).strip()
