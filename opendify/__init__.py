"""OpenDify: the OpenAI-compatible front door of Dify."""

__version__ = "0.1.0"
