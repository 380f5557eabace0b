"""Files of apps by links of ours: they outlive Dify's own, lead nowhere else, and nothing in them runs."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from conftest import MODELS, Serve, Served, eventually

from opendify.demo.media import MADE, PICTURE
from opendify.dialogue import Ids
from opendify.file_proxy import FileProxy

GENERATIONS = ["1.9", "1.16"]
# Those whose messages Dify can be asked for again; the files of the others are kept.
RENEWED = ["chat", "agent-chat", "advanced-chat"]
KEPT = ["completion", "workflow"]
DIFY_SECONDS = 300
TRANSPARENT = {"content-security-policy", "content-disposition", "x-content-type-options"}


def proxy_of(served: Served) -> FileProxy:
    """What makes and opens links in this server."""
    proxy: FileProxy = served.app.state.proxy
    return proxy


async def made_by(served: Served, mode: str, words: str = "FILE") -> tuple[str, dict[str, Any]]:
    """Dify's own link to the file that an app makes, and Dify's names for the answer."""
    answer = await served.ask(f"{words} ECHO:here", MODELS[mode], user="ann")
    assert answer.status_code == 200, answer.text
    file_id, content = list(served.dify.state.contents.items())[-1]
    ending = content.name.rpartition(".")[2]
    origin = served.dify.state.files_url or ""
    return origin + served.dify.state.signer.link(f"/files/tools/{file_id}.{ending}"), answer.json()["dify"]


async def link_to(served: Served, mode: str, url: str, dify: dict[str, Any], **more: Any) -> str:
    """Our link in its place."""
    app = await served.app.state.catalog.find(MODELS[mode], lambda _: True)
    ids = Ids(dify.get("conversation_id"), dify.get("message_id"))
    link = proxy_of(served).link(app, "tester:ann", ids, url, base=served.url, **more)
    await eventually(lambda: not proxy_of(served)._tasks)
    return link


async def link_of(served: Served, mode: str, words: str = "FILE", **more: Any) -> str:
    """A link to what an app makes."""
    return await link_to(served, mode, *await made_by(served, mode, words), **more)


@pytest.fixture
async def browser() -> AsyncIterator[httpx.AsyncClient]:
    """Somebody with a link and without a key."""
    async with httpx.AsyncClient(timeout=10) as client:
        yield client


def error_of(answer: httpx.Response) -> tuple[int, str]:
    """Status and code."""
    return answer.status_code, answer.json()["error"]["code"]


def asked(served: Served) -> list[str]:
    """What Dify was asked for after the newest run."""
    paths = [request.path for request in served.dify.requests]
    last = max(place for place, path in enumerate(paths) if path == served.runs()[-1].path)
    return paths[last + 1 :]


@asynccontextmanager
async def reading_nothing(link: str) -> AsyncIterator[asyncio.StreamReader]:
    """A client on a socket of our own that has asked for a file."""
    url = httpx.URL(link)
    reader, writer = await asyncio.open_connection(url.host, url.port, limit=1024)
    writer.write(f"GET {url.raw_path.decode()} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    try:
        yield reader
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


# -- how long a link holds


@pytest.mark.parametrize("generation", GENERATIONS)
@pytest.mark.parametrize("mode", [*RENEWED, *KEPT])
async def test_a_picture_that_an_app_made(serve: Serve, browser: httpx.AsyncClient, mode: str, generation: str) -> None:
    """Before and after Dify's own link is over, and again and again."""
    served = await serve(dify={"generation": generation})
    url, dify = await made_by(served, mode)
    link = await link_to(served, mode, url, dify, name="picture.png")
    assert link.startswith(f"{served.url}/v1/dify-files/")
    assert link.endswith("/picture.png")
    for _ in range(3):
        answer = await browser.get(link)
        assert (answer.status_code, answer.headers["content-type"], answer.content) == (200, "image/png", PICTURE)
        served.dify.state.signer.ahead += DIFY_SECONDS + 1
    async with httpx.AsyncClient() as direct:
        assert (await direct.get(served.dify_url + urlsplit(url).path + "?" + urlsplit(url).query)).status_code == 403


async def test_dify_is_asked_for_a_new_signature_only_where_the_old_is_over(
    served: Served, browser: httpx.AsyncClient
) -> None:
    link = await link_of(served, "agent-chat")
    served.dify.state.signer.seconds = 86_400
    served.dify.state.signer.ahead += 80_000
    await browser.get(link)
    assert "/v1/messages" not in asked(served)
    served.dify.state.signer.ahead += 80_000
    await browser.get(link)
    await browser.get(link)  # with the signature of before
    assert asked(served).count("/v1/messages") == 1


async def test_a_picture_in_a_long_conversation(served: Served, browser: httpx.AsyncClient, monkeypatch: Any) -> None:
    monkeypatch.setattr("opendify.dify.messages.FIRST_PAGE", 2)
    monkeypatch.setattr("opendify.dify.messages.PAGE", 3)
    link = await link_of(served, "agent-chat")
    [conversation] = served.dify.conversations.values()
    first = conversation.messages[0]
    for number in range(7):
        conversation.messages.append(type(first)(f"ECHO:{number}", answer=str(number)))
    served.dify.state.signer.ahead += DIFY_SECONDS + 1
    assert (await browser.get(link)).content == PICTURE
    assert asked(served).count("/v1/messages") == 3
    for number in range(20):
        conversation.messages.append(type(first)(f"ECHO:{number}", answer=str(number)))
    served.dify.state.signer.ahead += DIFY_SECONDS + 1
    assert error_of(await browser.get(link)) == (410, "file_expired")


async def test_a_link_within_the_text(served: Served, browser: httpx.AsyncClient) -> None:
    """What a model says stands in no list of files, but Dify signs it anew all the same."""
    url, _ = await made_by(served, "completion")
    answer = await served.ask(f"ECHO:look ![a]({url})", user="ann")
    link = await link_to(served, "chat", url, answer.json()["dify"])
    served.dify.state.signer.ahead += DIFY_SECONDS + 1
    proxy_of(served)._kept._files.clear()
    assert (await browser.get(link)).content == PICTURE


async def test_an_upload_of_the_user(served: Served, browser: httpx.AsyncClient) -> None:
    upload = await served.http.post(
        f"{served.dify_url}/v1/files/upload",
        files={"file": ("a.txt", b"notes", "text/plain")},
        data={"user": "tester:ann"},
        headers={"authorization": "Bearer app-demo-chat"},
    )
    url = served.dify.state.signer.link(f"/files/{upload.json()['id']}/file-preview")
    answer = await served.ask(f"ECHO:![a]({url})", user="ann")
    link = await link_to(served, "chat", url, answer.json()["dify"])
    for _ in range(2):
        got = await browser.get(link)
        assert (got.content, got.headers["content-type"]) == (b"notes", "text/plain; charset=utf-8")
        served.dify.state.signer.ahead += DIFY_SECONDS + 1


async def test_the_time_of_the_link_itself(served: Served, browser: httpx.AsyncClient, monkeypatch: Any) -> None:
    link = await link_of(served, "agent-chat")
    assert (await browser.get(link)).headers["cache-control"] in {"private, max-age=86399", "private, max-age=86400"}
    now = proxy_of(served)._links.read(link.split("/")[5]).note.expires
    monkeypatch.setattr("opendify.openai.dify_files.time.time", lambda: now - 10.0)
    assert (await browser.get(link)).headers["cache-control"] == "private, max-age=10"
    monkeypatch.setattr("opendify.file_links.time.time", lambda: now + 1.0)
    assert error_of(await browser.get(link)) == (410, "file_expired")


# -- what is not there any more


@pytest.mark.parametrize("generation", GENERATIONS)
@pytest.mark.parametrize("mode", RENEWED)
async def test_a_file_that_dify_lost(serve: Serve, browser: httpx.AsyncClient, mode: str, generation: str) -> None:
    served = await serve(dify={"generation": generation})
    link = await link_of(served, mode)
    contents = dict(served.dify.state.contents)
    served.dify.state.signer.ahead += DIFY_SECONDS + 1
    await browser.get(link)  # the message is known from now on
    served.dify.state.contents.clear()
    assert error_of(await browser.get(link)) == (410, "file_expired")  # no message lists it
    for file_id, content in contents.items():
        served.dify.state.contents[file_id] = content
    served.dify.state.signer.seconds = -1  # listed, and not handed out
    assert error_of(await browser.get(link)) == (404, "file_not_found")


async def test_a_deleted_conversation(served: Served, browser: httpx.AsyncClient) -> None:
    link = await link_of(served, "chat")
    served.dify.conversations.clear()
    assert (await browser.get(link)).status_code == 200
    served.dify.state.signer.ahead += DIFY_SECONDS + 1
    assert error_of(await browser.get(link)) == (410, "file_expired")


@pytest.mark.parametrize("mode", KEPT)
async def test_what_is_not_kept_ends_with_difys_own_link(served: Served, browser: httpx.AsyncClient, mode: str) -> None:
    link = await link_of(served, mode)
    proxy_of(served)._kept._files.clear()  # as in another worker
    assert (await browser.get(link)).content == PICTURE
    served.dify.state.signer.ahead += DIFY_SECONDS + 1
    answer = await browser.get(link)
    assert error_of(answer) == (410, "file_expired")
    assert answer.json()["error"]["type"] == "invalid_request_error"


async def test_links_that_are_none(served: Served, browser: httpx.AsyncClient) -> None:
    link = await link_of(served, "agent-chat")
    token = link.split("/")[5]
    for path in (f"{token[:-1]}A/x.png", "x", f"{token}x", token[::-1], "..%2f..%2fconsole", "%00"):
        answer = await browser.get(f"{served.url}/v1/dify-files/{path}")
        assert error_of(answer) == (404, "file_not_found"), path
    for end in ("", "/other-name.exe", "/a/b/../c", "/picture.png?x=1"):
        assert (await browser.get(f"{served.url}/v1/dify-files/{token}{end}")).content == PICTURE
    assert (await browser.post(link)).status_code == 405


async def test_a_link_of_an_app_that_is_not_served_any_more(serve: Serve, browser: httpx.AsyncClient) -> None:
    here = await serve()
    there = await serve(dify_api_keys="app-demo-chat", dify_api_base=here.dify_url)
    link = await link_of(here, "agent-chat")
    assert error_of(await browser.get(link.replace(here.url, there.url))) == (404, "file_not_found")
    same = await link_of(here, "chat")
    assert (await browser.get(same.replace(here.url, there.url))).content == PICTURE  # as of another worker


# -- where it is fetched


@pytest.mark.parametrize("host", ["http://api:5001", "https://files.internal.example", "http://169.254.169.254"])
@pytest.mark.parametrize("mode", ["agent-chat", "advanced-chat", "workflow"])
async def test_the_host_that_a_link_names_is_never_asked(
    served: Served, browser: httpx.AsyncClient, mode: str, host: str
) -> None:
    served.dify.state.files_url = host
    url, dify = await made_by(served, mode)
    assert url.startswith(host)
    link = await link_to(served, mode, url, dify)
    for _ in range(2):
        assert (await browser.get(link)).content == PICTURE
        served.dify.state.signer.ahead += DIFY_SECONDS + 1


async def test_the_apps_key_does_not_go_with_it(served: Served, browser: httpx.AsyncClient) -> None:
    link = await link_of(served, "agent-chat")
    await browser.get(link, headers={"authorization": "Bearer of-the-client", "cookie": "a=b", "x-secret": "1"})
    fetched = served.dify.requests[-1]
    assert fetched.path.startswith("/files/tools/")
    assert set(fetched.headers) == {"host", "user-agent", "accept", "accept-encoding"}


async def test_nothing_of_it_is_logged(served: Served, browser: httpx.AsyncClient) -> None:
    link = await link_of(served, "agent-chat")
    await browser.get(link)
    served.dify.state.signer.ahead += DIFY_SECONDS + 1
    await browser.get(link)
    served.dify.conversations.clear()
    served.dify.state.signer.ahead += DIFY_SECONDS + 1
    await browser.get(link)
    assert {line["path"] for line in served.told.lines("request")} >= {"/v1/dify-files/..."}
    token = link.split("/")[5]
    assert token[:20] not in served.told.log()
    assert "sign=" not in served.told.log()


def answering(monkeypatch: Any, served: Served, status: int, headers: dict[str, str], *parts: bytes) -> None:
    """From now on Dify answers everything like this; without parts, not at all."""

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        if not parts:
            await asyncio.sleep(30)
        pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": status, "headers": pairs})
        for part in (*parts, b""):
            await send({"type": "http.response.body", "body": part, "more_body": bool(part)})

    monkeypatch.setattr(served.dify, "_answer", answer)


@pytest.mark.parametrize(
    ("status", "headers"),
    [(302, {"location": "http://169.254.169.254/"}), (500, {}), (503, {}), (200, {"content-encoding": "gzip"})],
)
async def test_dify_answers_with_something_else(
    served: Served, browser: httpx.AsyncClient, monkeypatch: Any, status: int, headers: dict[str, str]
) -> None:
    link = await link_of(served, "chat")
    answering(monkeypatch, served, status, headers, b"secret")
    answer = await browser.get(link)
    assert error_of(answer) == (502, "upstream_error")
    assert "secret" not in answer.text


@pytest.mark.parametrize(
    ("told", "kind"),
    [
        ("Image/PNG", "image/png"),
        ("audio/L16; rate=8000", "audio/l16"),
        ("text/plain; charset=UTF-8", "text/plain; charset=utf-8"),
        ("text/plain; charset=latin-1", "text/plain"),
        ("", "application/octet-stream"),
        ("a b/c", "application/octet-stream"),
    ],
)
async def test_types_and_sizes_as_dify_calls_them(
    served: Served, browser: httpx.AsyncClient, monkeypatch: Any, told: str, kind: str
) -> None:
    """Without a size there are no ranges."""
    link = await link_of(served, "chat")
    answering(monkeypatch, served, 200, {"content-type": told}, b"abc", b"def")
    answer = await browser.get(link, headers={"range": "bytes=0-1"})
    assert (answer.status_code, answer.content, answer.headers["content-type"]) == (200, b"abcdef", kind)
    assert "accept-ranges" not in answer.headers
    assert (await browser.head(link)).headers["content-type"] == kind


async def test_dify_is_down(serve: Serve, browser: httpx.AsyncClient) -> None:
    served = await serve(dify_api_base="http://127.0.0.1:9")
    here = await serve()
    url, dify = await made_by(here, "chat")
    [access, *_] = proxy_of(served)._links._accesses.values()
    app = await here.app.state.catalog.find("Helper", lambda _: True)
    from msgspec.structs import replace

    ids = Ids(dify["conversation_id"], dify["message_id"])
    link = proxy_of(served).link(replace(app, access=access), "tester", ids, url, base=served.url)
    assert error_of(await browser.get(link)) == (503, "upstream_unreachable")


# -- what a browser does with it


async def headers_of(served: Served, browser: httpx.AsyncClient, words: str) -> httpx.Headers:
    answer = await browser.get(await link_of(served, "agent-chat", words))
    assert answer.content == MADE[words.partition(":")[2]].data
    return answer.headers


@pytest.mark.parametrize("kind", ["html", "svg"])
async def test_pages_do_not_run(served: Served, browser: httpx.AsyncClient, kind: str) -> None:
    headers = await headers_of(served, browser, f"FILE:{kind}")
    assert headers["content-disposition"] == "attachment"
    assert headers["content-security-policy"].startswith("sandbox; default-src 'none'")
    assert "allow" not in headers["content-security-policy"]
    assert "script" not in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    ("words", "kind"), [("FILE", "image/png"), ("FILE:txt", "text/plain; charset=utf-8"), ("FILE:big", "video/mp4")]
)
async def test_pictures_films_and_texts_are_shown(
    served: Served, browser: httpx.AsyncClient, words: str, kind: str
) -> None:
    headers = await headers_of(served, browser, words)
    assert (headers["content-type"], headers["content-disposition"]) == (kind, "inline")
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cross-origin-resource-policy"] == "cross-origin"
    assert not {name for name in headers if name.startswith(("x-version", "x-env", "set-cookie", "access-control"))}


@pytest.mark.parametrize("mode", ["agent-chat", "workflow"])
async def test_its_head(served: Served, browser: httpx.AsyncClient, mode: str) -> None:
    link = await link_of(served, mode)
    whole, head = await browser.get(link), await browser.head(link)
    own = {"date", "x-request-id", "cache-control"}  # of the very second
    assert {name: value for name, value in head.headers.items() if name not in own} == {
        name: value for name, value in whole.headers.items() if name not in own
    }
    assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", str(len(PICTURE)))
    assert (await browser.head(link[:-20])).status_code == 404


@pytest.mark.parametrize("mode", ["agent-chat", "workflow"])
async def test_a_piece_of_it(served: Served, browser: httpx.AsyncClient, mode: str) -> None:
    """Safari plays no film without it."""
    link = await link_of(served, mode)
    size = len(PICTURE)
    for span, first, last in (
        ("bytes=0-1", 0, 2),
        ("bytes=10-", 10, size),
        ("bytes=-5", size - 5, size),
        ("bytes=3-9999", 3, size),
        ("bytes=-9999", 0, size),
    ):
        answer = await browser.get(link, headers={"range": span})
        assert (answer.status_code, answer.content) == (206, PICTURE[first:last])
        assert answer.headers["content-range"] == f"bytes {first}-{last - 1}/{size}"
    for span in ("bytes=5-2", "bytes=-", "bytes=0-1,3-4", "lines=1-2", f"bytes={size}-", "bytes=-0"):
        answer = await browser.get(link, headers={"range": span})
        assert (answer.status_code, answer.content) == (200, PICTURE)
    answer = await browser.get(link, headers={"range": "bytes=0-1", "if-range": "x"})
    assert answer.status_code == 200


async def test_a_piece_of_a_film(served: Served, browser: httpx.AsyncClient) -> None:
    link = await link_of(served, "agent-chat", "FILE:big")
    answer = await browser.get(link, headers={"range": "bytes=100000-300000"})
    assert (answer.status_code, len(answer.content)) == (206, 200_001)
    await eventually(lambda: served.dify.open_downloads == 0)
    await eventually(lambda: served.dify.cut_downloads == 1)  # the rest of it did not travel


# -- clients that leave, and too many of them


async def test_a_client_that_leaves(served: Served) -> None:
    link = await link_of(served, "agent-chat", "FILE:big")
    async with reading_nothing(link) as reader:
        assert b"200 OK" in await reader.readline()
        await eventually(lambda: served.dify.open_downloads == 1)
    await eventually(lambda: served.dify.open_downloads == 0)
    assert served.dify.cut_downloads == 1


async def test_a_client_that_leaves_before_anything_came(served: Served, monkeypatch: Any) -> None:
    link = await link_of(served, "agent-chat")
    answering(monkeypatch, served, 200, {})
    async with reading_nothing(link):
        await asyncio.sleep(0.1)
    await eventually(lambda: bool([line for line in served.told.lines("request") if line["status"] == 499]))


async def test_a_client_that_does_not_read(served: Served, monkeypatch: Any) -> None:
    monkeypatch.setattr("opendify.openai.dify_files.STALL_SECONDS", 0.2)
    link = await link_of(served, "agent-chat", "FILE:big")
    async with reading_nothing(link):
        await eventually(lambda: served.dify.open_downloads == 1)
        await eventually(lambda: served.dify.open_downloads == 0)
    assert [line["problem"] for line in served.told.lines("file_broken_off")] == ["client_gone"]


async def test_an_end_in_the_middle(served: Served, browser: httpx.AsyncClient, monkeypatch: Any) -> None:
    """No client takes half a file for a whole one."""
    monkeypatch.setattr("opendify.dify.gateway.FILE_SECONDS", 0.3)
    link = await link_of(served, "agent-chat", "FILE:big")
    async with browser.stream("GET", link) as answer:
        assert answer.status_code == 200
        await asyncio.sleep(0.5)
        with pytest.raises(httpx.RemoteProtocolError):
            await answer.aread()
    assert [line["problem"] for line in served.told.lines("file_broken_off")] == ["upstream_timeout"]
    await eventually(lambda: served.dify.open_downloads == 0)


async def test_few_at_a_time(served: Served, browser: httpx.AsyncClient, monkeypatch: Any) -> None:
    """The rest waits: Dify's few connections are for runs."""
    monkeypatch.setattr("opendify.file_proxy.QUEUE_SECONDS", 0.5)
    film, picture = await link_of(served, "agent-chat", "FILE:big"), await link_of(served, "agent-chat")
    answers = await asyncio.gather(*(browser.get(picture) for _ in range(12)))
    assert {answer.status_code for answer in answers} == {200}
    async with reading_nothing(film), reading_nothing(film), reading_nothing(film), reading_nothing(film):
        await eventually(lambda: served.dify.open_downloads == 4)
        answer = await browser.get(picture)
        assert error_of(answer) == (503, "overloaded")
        assert answer.headers["retry-after"]
        assert (await served.ask("ECHO:runs go on")).status_code == 200
    await eventually(lambda: served.dify.open_downloads == 0)
    assert (await browser.get(picture)).content == PICTURE


async def test_the_document_describes_it(served: Served) -> None:
    paths = (await served.http.get("/schema/openapi.json")).json()["paths"]
    [path] = [path for path in paths if re.fullmatch(r"/v1/dify-files/\{token\}", path)]
    assert paths[path]["get"]["security"] == [{}]
