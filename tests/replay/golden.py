"""Write what every recorded run becomes today: `python tests/replay/golden.py`. Then read the difference.

The tests compare with these files and never write them.
"""

import json
import re

from replaying import SERVERS, TRANSCRIPTS, cases, digest, replay_case

# They end a line in some editors, or show as nothing.
HIDDEN = re.compile("[\x7f-\xa0\u2028\u2029]")


def main() -> None:
    """One golden file a server, one entry a run."""
    for server in SERVERS:
        entries = {case.name: digest(replay_case(case, [case.data])) for case in cases(server)}
        text = json.dumps(entries, indent=1, ensure_ascii=False)
        text = HIDDEN.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
        (TRANSCRIPTS / server / "golden.json").write_text(text + "\n", "utf-8")


if __name__ == "__main__":
    main()
