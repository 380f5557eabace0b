"""A stand-in Dify server: sample apps of every mode, and faults on request."""

from opendify.demo.apps import CODE_WORD, SAMPLE_APPS, Control, SampleApp
from opendify.demo.server import StandIn
from opendify.demo.state import Conversation, Recorded, Stop, Upload

__all__ = [
    "CODE_WORD",
    "SAMPLE_APPS",
    "Control",
    "Conversation",
    "Recorded",
    "SampleApp",
    "StandIn",
    "Stop",
    "Upload",
]
