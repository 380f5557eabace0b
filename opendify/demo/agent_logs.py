"""What agents in flows log of their work: rounds, in these the model's thoughts and the calls that it asks for."""

import time
from dataclasses import dataclass, field

from opendify.demo.wire import Json, new_id


@dataclass(slots=True)
class Log:
    """One log: sent when it begins, and again, whole, when it is over. Only those with a provider have an icon."""

    node_id: str
    execution: str
    label: str
    parent_id: str | None = None
    provider: str = ""
    id: str = field(default_factory=new_id)
    started: float = field(default_factory=time.perf_counter)
    status: str = "start"
    data: Json = field(default_factory=dict)
    metadata: Json = field(init=False)

    def __post_init__(self) -> None:
        """All that is known at the start."""
        self.metadata = {"started_at": self.started} | self.shown()

    def shown(self) -> Json:
        """Who did it, and the picture of that."""
        return {"provider": self.provider, "icon": "icon.svg", "icon_dark": None} if self.provider else {}

    def finish(self, data: Json, spent: Json) -> "Log":
        """It is over."""
        now = time.perf_counter()
        timing: Json = {"started_at": self.started, "finished_at": now, "elapsed_time": now - self.started}
        self.status, self.data, self.metadata = "success", data, timing | spent | self.shown()
        return self

    def told(self) -> Json:
        """This log in the stream."""
        body: Json = {"node_execution_id": self.execution, "id": self.id, "label": self.label}
        body |= {"parent_id": self.parent_id, "error": None, "status": self.status}
        return body | {"data": self.data, "metadata": self.metadata, "node_id": self.node_id}

    def kept(self) -> Json:
        """The same among the outputs of its node."""
        body: Json = {"id": self.id, "parent_id": self.parent_id, "error": None, "status": self.status}
        return body | {"data": self.data, "label": self.label, "metadata": self.metadata, "node_id": self.node_id}
