"""What chat programs ask for themselves (titles, tags, follow-ups ...): how to tell, and what to say without a model.

Such requests come under the id of the user's chat, or with its history, and must not enter its conversation. Only
Open WebUI can name them in a header; else they are told by the fixed words of their prompts, and by nothing less.
tests/background/README.md says where the prompts come from.

    tasks.py     which tasks there are
    prompts.py   the words of the prompts, by which requests are told
    replies.py   what is said without a model
"""

from opendify.background.prompts import recognise
from opendify.background.replies import answer
from opendify.background.tasks import WORTH_A_RUN, Task

__all__ = ["WORTH_A_RUN", "Task", "answer", "recognise"]
