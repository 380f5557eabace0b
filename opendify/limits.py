"""What one answer may take, and the pace its client is kept at."""

from msgspec import Struct
from msgspec.structs import replace

from opendify.dify.apps import App


class Limits(Struct, frozen=True):
    """What one answer may take: seconds, files, characters; and the pace its client is kept at, in seconds."""

    silence: float = 30.0
    first_event: float = 300.0
    run: float = 1200.0
    files: int = 20
    answer_chars: int = 16 * 1024 * 1024
    first_packet: float = 2.0
    keep_alive: float = 15.0

    def of(self, app: App) -> "Limits":
        """The same with the app's own settings."""
        own = app.config
        return replace(
            self,
            silence=own.timeout or self.silence,
            first_event=own.first_event_seconds or self.first_event,
            run=own.max_run_seconds or self.run,
            files=self.files if own.max_files is None else own.max_files,
        )
