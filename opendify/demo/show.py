"""`opendify demo`: OpenDify in front of the stand-in, and the lines that make a newcomer's first request."""

import asyncio

from opendify.app import create_app
from opendify.demo.apps import SAMPLE_APPS
from opendify.demo.serve import running
from opendify.demo.server import StandIn
from opendify.settings import only

KEY = "sk-demo"
TOKEN_SECONDS = 0.03


async def show(host: str, port: int) -> None:
    """Serve until interrupted. Raises RuntimeError where the port is taken."""
    async with running(StandIn(token_delay=TOKEN_SECONDS)) as dify:
        settings = only(
            valid_api_keys=f"demo:{KEY}",
            dify_api_keys=",".join(app.key for app in SAMPLE_APPS),
            dify_api_base=dify,
            log_level="warning",
        )
        async with running(create_app(settings), host=host, port=port) as url:
            print(welcome(url), flush=True)  # noqa: T201 (this is what the command is for)
            await asyncio.Event().wait()


def welcome(url: str) -> str:
    """What the demo prints: the address, the key, the models and a request that works."""
    models = "\n".join(f"    {app.name:<24} {app.mode}" for app in SAMPLE_APPS)
    return f"""
OpenDify is running in front of a stand-in Dify. Point any OpenAI client at it:

  base URL  {url}/v1
  API key   {KEY}
  models
{models}

Try it:

  curl -N {url}/v1/chat/completions -H 'Authorization: Bearer {KEY}' -H 'Content-Type: application/json' \\
    -d '{{"model": "{SAMPLE_APPS[0].name}", "stream": true, "messages": [{{"role": "user", "content": "Hello!"}}]}}'

Ctrl-C ends it.
"""
