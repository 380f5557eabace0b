"""Copy recorded runs into this directory, one file a run: `python tests/transcripts/collect.py SOURCE`.

SOURCE holds one directory a server, with one recorded exchange a file: `app`, `app_mode`, `case`, `note`, `request`
and `response`. Of these every run (a message or a workflow run that was answered with an event stream) is kept, in a
slim form:

    app, app_mode   which app was asked, and its mode
    moderated       whether the app may withdraw text: the recorded apps say so in their names
    asked           the query and the inputs, shortened, for the reader of a failing test
    note            what happened during the recording, if anything did
    ended_by        who ended the stream: `eof` (the server), `client_closed` or `client_timeout` (the recorder)
    stream          the bytes of the stream, exactly, as text

Afterwards run `python tests/replay/golden.py` and read the difference it makes.
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RUN = re.compile(r"/v1/(chat-messages|completion-messages|workflows/run|workflows/[^/]+/run)")
MODERATED = re.compile(r"-(moderated|modin|modout)$")
SHORT = 120


def slim(exchange: dict[str, Any]) -> dict[str, Any] | None:
    """The slim form of a recorded exchange; None if it is not a run with an event stream."""
    request, response = exchange.get("request"), exchange.get("response")
    if not request or not response or request["method"] != "POST" or not RUN.fullmatch(request["path"]):
        return None
    kind = next((value for name, value in response["headers"] if name.lower() == "content-type"), "")
    if not kind.startswith("text/event-stream"):
        return None
    asked = {name: request["body"][name] for name in ("query", "inputs", "files") if request["body"].get(name)}
    return {
        "app": exchange["app"],
        "app_mode": exchange["app_mode"],
        "moderated": bool(MODERATED.search(exchange["app"])),
        "asked": shortened(asked),
        "note": exchange["note"],
        "ended_by": response["ended_by"],
        "stream": response["body"]["text"],
    }


def shortened(value: Any) -> Any:
    """The same with every long text cut."""
    match value:
        case dict():
            return {name: shortened(item) for name, item in value.items()}
        case list():
            return [shortened(item) for item in value]
        case str() if len(value) > SHORT:
            return f"{value[:SHORT]}... ({len(value)} characters)"
    return value


def main(source: Path) -> None:
    """Write a file for every run below `source`."""
    for recorded in sorted(source.glob("*/*.json")):
        if case := slim(json.loads(recorded.read_text("utf-8"))):
            target = HERE / recorded.parent.name / recorded.name
            target.parent.mkdir(exist_ok=True)
            target.write_text(json.dumps(case, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
