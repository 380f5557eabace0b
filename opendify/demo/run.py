"""One run of an app: who asked what, what was said so far, and how it ends."""

import asyncio
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Literal

from opendify.demo import model
from opendify.demo.apps import AGENT_MODES, SampleApp
from opendify.demo.model import Break, Failure, Pause, Prompt, Step, Until
from opendify.demo.state import Conversation, Message, State
from opendify.demo.wire import Json, new_id
from opendify.demo.words import Script

Generation = Literal["1.16", "1.9"]
Frame = Json | bytes | Pause | Until | Break
"""What a telling of a run consists of: events, ready bytes, silences, and faults of the connection."""

TENTH_OF_MICRO = Decimal("0.0000001")
PRICES = {"prompt": Decimal("0.001"), "completion": Decimal("0.002")}
PROVIDER = "[demo] stub provider error"
PROVIDER_CODES = {
    "RAW": ("invalid_param", 400),
    "CUT": ("invalid_param", 400),
    "QUOTA": ("provider_quota_exceeded", 400),
    "INTERNAL": ("internal_server_error", 500),
}
MODERN_CODES = {"RATE": ("rate_limit_error", 429), "OTHER": ("invalid_param", 400)}


@dataclass(slots=True)
class Run:
    """One run. `origin` is how the client reached this server; `inputs` are checked and complete."""

    state: State
    app: SampleApp
    modern: bool
    user: str
    query: str
    inputs: Json
    files: list[Json]
    message: Message
    prompt: Prompt
    script: Script
    origin: str
    conversation: Conversation | None = None
    task_id: str = field(default_factory=new_id)
    run_id: str = field(default_factory=new_id)
    started: float = field(default_factory=time.monotonic)
    said: list[str] = field(default_factory=list)
    ending: Literal["", "stopped", "left"] = ""
    ended_at: float = 0.0
    status: str = "running"
    error: str | None = None
    finished: Json | None = None
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    envelope: Json = field(init=False)

    def __post_init__(self) -> None:
        """Put together the keys that every event of this run repeats."""
        keys: Json = {"conversation_id": self.conversation.id} if self.conversation else {}
        keys |= {
            "message_id": self.message.id,
            "created_at": self.message.created_at,
            "task_id": self.task_id,
        }
        self.envelope = {"workflow_run_id": self.run_id, "task_id": self.task_id} if self.is_workflow else keys

    @property
    def is_workflow(self) -> bool:
        """Whether this is a workflow, which has neither message nor conversation."""
        return self.app.mode == "workflow"

    @property
    def text(self) -> str:
        """Everything the model said."""
        return "".join(self.said)

    @property
    def latency(self) -> float:
        """Seconds since the run began."""
        return time.monotonic() - self.started

    @property
    def outlives_client(self) -> bool:
        """Whether the run goes on when its client leaves: newer servers run flows in a worker."""
        return self.modern and self.app.is_flow

    def event(self, name: str, **keys: object) -> Json:
        """An event of this run."""
        return {"event": name, **self.envelope, **keys}

    def steps(self, delay: float = 0.0) -> Iterator[Step]:
        """What the model does in this run."""
        return model.steps(self.script, self.prompt, self.query, delay)

    def preset(self) -> str | None:
        """The answer that needs no model: an annotation, or input moderation's text."""
        if self.query in self.app.annotations:
            return self.app.annotations[self.query]
        return "[input blocked by moderation]" if _mentions(self.query, self.app.blocked_input) else None

    def annotation(self) -> Json | None:
        """What `message_end` says about the annotation that answered."""
        if self.query not in self.app.annotations:
            return None
        return {"id": self.app.id, "account": {"id": self.app.workflow_id, "name": "OpenDify"}}

    def replacement(self) -> str | None:
        """The text that replaces the answer at its end, if any."""
        if "REPLACE_PREFIX" in self.script:
            return f"{self.text} And one more thing."
        if "REPLACE" in self.script:
            return "[output replaced]"
        return "[output blocked by moderation]" if _mentions(self.text, self.app.blocked_output) else None

    def end(self, ending: Literal["stopped", "left"]) -> None:
        """End the run at its next step, or at once if it is silent."""
        if not self.ending and self.status == "running":
            self.ending, self.ended_at = ending, time.monotonic()
            self.wake.set()

    def fail(self, error: str) -> None:
        """Note why the run failed."""
        self.status, self.error = "failed", error

    def save(self, answer: str | None = None) -> None:
        """Store the answer in the message, the way the server does it when a run is over."""
        self.message.status = {"failed": "error", "paused": "paused"}.get(self.status, "normal")
        self.message.error = self.error if self.status == "failed" else None
        if self.status != "failed":
            self.message.answer = self.text if answer is None else answer

    def save_partial(self) -> None:
        """Store what was said before the stop; the newest agents store nothing."""
        self.save("" if self.modern and self.app.mode in AGENT_MODES else None)

    def usage(self, *, zero: bool = False) -> Json:
        """The usage object of the whole run."""
        if zero or "NOUSAGE" in self.script:
            return usage(0, 0, self.latency)
        return usage(self.prompt.size, len([piece for piece in self.said if piece]), self.latency)


def usage(prompt: int, completion: int, latency: float) -> Json:
    """Token counts with prices as decimal strings; nothing at all is written as "0.0"."""
    if not prompt and not completion:
        return _usage(0, 0, ("0.0",) * 5, latency)
    prices = [_price(prompt, "prompt"), _price(completion, "completion")]
    return _usage(prompt, completion, ("0.001", str(prices[0]), "0.002", str(prices[1]), str(sum(prices))), latency)


def _usage(prompt: int, completion: int, prices: tuple[str, ...], latency: float) -> Json:
    unit, spent, completion_unit, completion_spent, total = prices
    per = "0.001" if prompt or completion else "0.0"
    return {
        "prompt_tokens": prompt, "prompt_unit_price": unit, "prompt_price_unit": per, "prompt_price": spent,
        "completion_tokens": completion, "completion_unit_price": completion_unit,
        "completion_price_unit": per, "completion_price": completion_spent,
        "total_tokens": prompt + completion, "total_price": total, "currency": "USD", "latency": latency,
    }  # fmt: skip


def _price(tokens: int, kind: str) -> Decimal:
    return (tokens * PRICES[kind] * Decimal("0.001")).quantize(TENTH_OF_MICRO)


def _mentions(text: str, words: Iterable[str]) -> bool:
    return any(word in text for word in words)


def provider_error(failure: Failure, *, modern: bool, streaming: bool = True) -> tuple[str, int, str]:
    """Code, status and message of a provider's failure, as the app kinds without a workflow report it."""
    kind = failure.kind or "UNAVAIL"
    text = "Incorrect API key provided" if kind == "AUTH" else provider_text(failure)
    known = PROVIDER_CODES | (MODERN_CODES if modern else {})
    code, status = known.get(kind, ("completion_request_error", 400))
    if code == "rate_limit_error" and not streaming:
        code, status = "completion_request_error", 400
    return code, status, text


def provider_text(failure: Failure) -> str:
    """The text of a provider's failure, with the internals that real ones carry."""
    kind = failure.kind or "UNAVAIL"
    texts = {
        "RAW": "stub raw failure-500",
        "CUT": "Request to Plugin Daemon Service failed-500",
        "OTHER": '{"error_type": "SomeOtherError", "message": "' + f"{PROVIDER} OTHER" + '", "args": {}}',
        "RUNTIME": f"[Demo LLM] Error: req_id: ae6ee8b93e PluginRuntimeError: {PROVIDER} RUNTIME"
        " at http://plugin_daemon:5002/plugin",
        "QUOTA": "Your quota for Dify Hosted Model Provider has been exhausted. Please go to Settings -> Model"
        " Provider to complete your own provider credentials.",
        "INTERNAL": "Internal Server Error, please contact support.",
    }
    return texts.get(kind, f"{PROVIDER} {kind}")
