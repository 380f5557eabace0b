"""Write what every recorded run becomes today: `python tests/replay/golden.py`. Then read the difference.

`golden.json` holds the OpenAI answers, `said.json` the events of runs in which more happens than that an app speaks.
The tests compare with these files and never write them.
"""

import json
import re
from pathlib import Path
from typing import Any

from replaying import SERVERS, TRANSCRIPTS, cases, digest, is_telling, lines, replay_case

# They end a line in some editors, or show as nothing.
HIDDEN = re.compile("[\x7f-\xa0\u2028\u2029]")


def main() -> None:
    """Two golden files a server, one entry a run."""
    for server in SERVERS:
        told = {case.name: (case, replay_case(case, [case.data], progress=True)) for case in cases(server)}
        said = {name: lines(each) for name, (case, each) in told.items() if is_telling(case, each)}
        answers = {case.name: digest(replay_case(case, [case.data])) for case in cases(server)}
        write(TRANSCRIPTS / server / "golden.json", answers)
        write(TRANSCRIPTS / server / "said.json", said)


def write(path: Path, entries: dict[str, Any]) -> None:
    """One file, readable in any editor."""
    text = json.dumps(entries, indent=1, ensure_ascii=False)
    path.write_text(HIDDEN.sub(lambda found: f"\\u{ord(found[0]):04x}", text) + "\n", "utf-8")


if __name__ == "__main__":
    main()
