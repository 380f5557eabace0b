"""Links to files of apps: sealed, bound to one app's file, read by nobody else; Dify's own found in texts."""

import base64
from itertools import pairwise
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from pydantic import SecretStr

from opendify.dialogue import Ids
from opendify.dify.apps import Access, App
from opendify.dify_links import LINK_CHARS, DifyFile, LinkRewriter, dify_file, dify_files
from opendify.entries import AppConfig
from opendify.errors import LinkExpired, NoSuchLink
from opendify.file_links import FileLinks, Note, request_base

KEY = "app-0123456789"
APP = App(
    access=Access("http://dify.test/v1", KEY),
    name="Helper",
    mode="chat",
    inputs=(),
    files=None,
    size_limits={},
    moderated=False,
    config=AppConfig(key=SecretStr(KEY), base="http://dify.test/v1"),
)
OTHER = replace(APP, access=Access("http://dify.test/v1", "app-another0123456789"))
FLOW = replace(APP, mode="workflow")
ID = "7690f33c-67f5-4ee2-af01-4d01fb897a6d"
SIGNED = "timestamp=1728088356&nonce=4f58f055ef2383cc9221d41a9f3f96af&sign=rERQEG68XFr-93TSlNG0mRqSKkXeIokSacgooPbX4kM="
TOOL = f"/files/tools/{ID}.png?{SIGNED}"
UPLOAD = f"/files/{ID}/file-preview?{SIGNED.replace('kM=', 'kM%3D')}"
CONVERSATION, MESSAGE = "933e723c-d778-4031-b8b2-dca7b85d283c", "a25a3267-ff19-49f9-93c9-3885214f0bf8"
IDS = Ids(CONVERSATION, MESSAGE)
USER = "team:ann@example.com"
BASE = "https://open.example"
DAY = 86_400


def links(*apps: App, **more: Any) -> FileLinks:
    return FileLinks([app.access for app in apps or (APP,)], **({"public_base": BASE} | more))


def token_of(link: str) -> str:
    return link.removeprefix(f"{BASE}/v1/dify-files/").partition("/")[0]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, which passes only where a test says so."""
    now = [1_800_000_000.0]
    monkeypatch.setattr("opendify.file_links.time.time", lambda: now[0])
    return now


# -- what a link says


@pytest.mark.parametrize("origin", ["", "http://api:5001", "https://gw.example/dify", "http://[::1]:5001"])
@pytest.mark.parametrize("path", [TOOL, UPLOAD, UPLOAD.replace("file-preview", "image-preview")])
def test_a_link_leads_to_the_file_whatever_host_it_named(path: str, origin: str, clock: list[float]) -> None:
    made = links()
    link = made.link(APP, USER, IDS, origin + path)
    note = made.read(token_of(link)).note
    assert note == Note(note.file, int(clock[0]) + DAY, USER, UUID(CONVERSATION), UUID(MESSAGE))
    assert note.file.path == path.partition("?")[0]
    assert note.file.address.replace("%3D", "=") == path.replace("%3D", "=")
    assert origin not in link or not origin


def test_links_are_short_and_tell_nothing() -> None:
    link = links().link(APP, USER, IDS, TOOL, name="Q3 report (final)?.png")
    assert len(link) < 350
    assert link.endswith("/Q3%20report%20%28final%29%3F.png")
    sealed = base64.urlsafe_b64decode(token_of(link) + "==")
    for secret in (b"ann", UUID(ID).bytes, UUID(CONVERSATION).bytes, b"rERQ", b"png", KEY.encode()):
        assert secret not in sealed
    longest = links().link(APP, "x" * 255, IDS, TOOL)
    assert len(longest) < 700


@pytest.mark.parametrize(
    ("name", "end"),
    [
        ("", "file.png"),
        ("../../etc/passwd", "passwd"),
        ("a\\b.pdf", "b.pdf"),
        ("..", "file.png"),
        (f"{ID}.png", "file.png"),
        ("<script>", "%3Cscript%3E"),
        ("Grüße 图.png", "Gr%C3%BC%C3%9Fe%20%E5%9B%BE.png"),
        ("\ud800", "%3F"),
        ("n" * 300 + ".png", "n" * 80 + ".png"),
    ],
)
def test_the_name_at_the_end(name: str, end: str) -> None:
    assert links().link(APP, USER, IDS, TOOL, name=name).rpartition("/")[2] == end


def test_without_a_name_or_an_extension() -> None:
    assert links().link(APP, USER, IDS, UPLOAD).endswith("/file")


def test_where_links_start() -> None:
    for base in (BASE, f"{BASE}/", f"{BASE}/v1", f"{BASE}/v1/"):
        link = links(public_base=base).link(APP, USER, IDS, TOOL, base="http://inner:8000")
        assert link.startswith(f"{BASE}/v1/dify-files/")
    unknown = links(public_base=None)
    assert unknown.link(APP, USER, IDS, TOOL, base="http://here:8000").startswith("http://here:8000/v1/dify-files/")
    assert unknown.link(APP, USER, IDS, TOOL).startswith("/v1/dify-files/")


@pytest.mark.parametrize(
    ("scheme", "host", "base"),
    [
        ("http", "127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("https", "chat.example.com", "https://chat.example.com"),
        ("http", "[::1]:8000", "http://[::1]:8000"),
        ("http", "", ""),
        ("http", "evil.example/path", ""),
        ("http", "a b", ""),
        ("http", "user@evil.example", ""),
        ("http", "x)](http://evil", ""),
        ("ws", "a", ""),
    ],
)
def test_how_a_client_reached_us(scheme: str, host: str, base: str) -> None:
    assert request_base(scheme, host) == base


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com/cat.png",
        "https://example.com/files/cat.png?timestamp=1&nonce=2&sign=3",
        f"/files/tools/{ID}.png",
        f"/files/tools/../{ID}.png?{SIGNED}",
        f"/files/tools/..%2f{ID}.png?{SIGNED}",
        f"/files/workspaces/{ID}/webapp-logo?{SIGNED}",
        f"/files/upload/for-plugin?{SIGNED}",
        f"/files/{ID}/preview?{SIGNED}",
        f"/v1/files/{ID}/other?{SIGNED}",
        f"//evil.example/files/tools/{ID}.png?{SIGNED}",
        f"ftp://x/files/tools/{ID}.png?{SIGNED}",
        "",
    ],
)
def test_other_addresses_stay_as_they_are(url: str) -> None:
    assert dify_file(url) is None
    assert links().link(APP, USER, IDS, url) == url


@pytest.mark.parametrize(
    ("app", "ids"),
    [(FLOW, IDS), (APP, Ids()), (APP, Ids(CONVERSATION)), (APP, Ids("none", MESSAGE))],
)
def test_without_a_message_nobody_is_named(app: App, ids: Ids) -> None:
    note = links().read(token_of(links().link(app, USER, ids, TOOL))).note
    assert (note.user, note.conversation_id, note.message_id) == ("", None, None)


# -- who can read it, and how long


def test_every_worker_reads_it() -> None:
    for secret in ("", "shared-secret"):
        link = links(APP, OTHER, secret=secret).link(APP, USER, IDS, TOOL)
        assert links(OTHER, APP, secret=secret).read(token_of(link)).access == APP.access


def test_a_link_of_another_server_or_app() -> None:
    token = token_of(links().link(APP, USER, IDS, TOOL))
    for strangers in (links(OTHER), links(secret="other")):
        with pytest.raises(NoSuchLink):
            strangers.read(token)


def test_a_link_moved_to_another_app_is_none() -> None:
    both = links(APP, OTHER)
    mine, other = (token_of(both.link(app, USER, IDS, TOOL)) for app in (APP, OTHER))
    with pytest.raises(NoSuchLink):
        both.read(other[:8] + mine[8:])


def test_its_time(clock: list[float]) -> None:
    made = links(hours=2)
    token = token_of(made.link(APP, USER, IDS, TOOL))
    clock[0] += 2 * 3600
    assert made.read(token).access == APP.access
    clock[0] += 1
    with pytest.raises(LinkExpired):
        made.read(token)


@given(st.data())
def test_any_change_makes_it_none(data: st.DataObject) -> None:
    token = token_of(links().link(APP, USER, IDS, TOOL))
    place = data.draw(st.integers(0, len(token) - 1))
    letter = data.draw(st.sampled_from("ABCXYZabcxyz0189-_=+/ é"))
    changed = data.draw(
        st.sampled_from(
            [token[:place] + letter + token[place + 1 :], token[:place], token[:place] + letter + token[place:]]
        )
    )
    if changed != token:
        with pytest.raises(NoSuchLink):
            links().read(changed)


@given(st.text(max_size=300))
def test_whatever_else_it_is(token: str) -> None:
    with pytest.raises(NoSuchLink):
        links().read(token)


def test_a_very_long_one() -> None:
    with pytest.raises(NoSuchLink):
        links().read("A" * 100_000)


def test_what_is_sealed_is_checked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Should what makes links ever be looser than what reads them."""
    made = links()
    file = DifyFile(UUID(ID), "/../../../console/api", 1, UUID(ID), "x")
    with pytest.raises(NoSuchLink):
        made.read(made._sealed(APP.access, Note(file, 2_000_000_000)))
    monkeypatch.setattr("opendify.file_links._encode", lambda _: b"from another version")
    with pytest.raises(NoSuchLink):
        made.read(made._sealed(APP.access, Note(file, 2_000_000_000)))


# -- Dify's links within texts


def told(*cuts: str) -> str:
    """All that is told of a text that comes in these pieces, links in braces."""
    rewriter = LinkRewriter(lambda url: f"{{{url}}}")
    text = ""
    for cut in cuts:
        text += rewriter.feed(cut)
        assert len(rewriter.held) < LINK_CHARS
    text += rewriter.close()
    assert not rewriter.close()
    return text


INNER = f"http://api:5001{TOOL}"
TEXTS = {
    "plain": ("and/or https://example.com/a?b=c h", "and/or https://example.com/a?b=c h"),
    "nothing": ("", ""),
    "alone": (TOOL, f"{{{TOOL}}}"),
    "picture": (f"![a]({TOOL})", f"![a]({{{TOOL}}})"),
    "picture in angles": (f"![a](<{INNER}>) b", f"![a](<{{{INNER}}}>) b"),
    "two on a line": (f"![a]({TOOL}) ![b]({INNER})", f"![a]({{{TOOL}}}) ![b]({{{INNER}}})"),
    "a picture that is a link": (f"[![a]({TOOL})]({TOOL})", f"[![a]({{{TOOL}}})]({{{TOOL}}})"),
    "HTML": (f'<img src="{UPLOAD}">', f'<img src="{{{UPLOAD}}}">'),
    "HTML, escaped": (
        f"<a href='{TOOL.replace('&', '&amp;')}'>x</a>",
        f"<a href='{{{TOOL.replace('&', '&amp;')}}}'>x</a>",
    ),
    "JSON": (f'{{"url":"{INNER}"}}', f'{{"url":"{{{INNER}}}"}}'),
    "in a sentence": (f"See {INNER}.", f"See {{{INNER}}}."),
    "in Chinese": (f"图片\uff1a{INNER}。好", f"图片\uff1a{{{INNER}}}。好"),
    "directly after Chinese": (f"看{TOOL}\uff0c", f"看{{{TOOL}}}\uff0c"),
    "as a download": (f"[a]({TOOL}&as_attachment=true)", f"[a]({{{TOOL}&as_attachment=true}})"),
    "below a prefix": (f"https://gw.example/dify{TOOL}", f"{{https://gw.example/dify{TOOL}}}"),
    "several lines": (f"a\n{TOOL}\r\nb", f"a\n{{{TOOL}}}\r\nb"),
    "no scheme": (f"api:5001{TOOL}", f"api:5001{TOOL}"),
    "no signature": (f"/files/tools/{ID}.png", f"/files/tools/{ID}.png"),
    "another path": (f"https://x.y/files/other/{ID}?{SIGNED}", f"https://x.y/files/other/{ID}?{SIGNED}"),
    "within another word": (f"see:a{TOOL}", f"see:a{TOOL}"),
    "too long": (f"https://{'x' * LINK_CHARS}{TOOL} {TOOL}", f"https://{'x' * LINK_CHARS}{TOOL} {{{TOOL}}}"),
    "half of one": (TOOL[:60], TOOL[:60]),
    "half a scheme": ("https:/", "https:/"),
}


@pytest.mark.parametrize(("text", "expected"), TEXTS.values(), ids=TEXTS)
def test_links_in_texts(text: str, expected: str) -> None:
    assert told(text) == expected
    assert told(*text) == expected
    for place in range(len(text)):
        assert told(text[:place], text[place:]) == expected


PIECES = st.sampled_from(
    [
        TOOL, INNER, UPLOAD, SIGNED, TOOL[:40], TOOL[40:], INNER[:9], INNER[:20], "/files/", "https://", "http://",
        f"/files/tools/{ID}", " ", "(", ")", "=", "/", "h", "ht", ":", ".", "a", "图", "&", "?", "<", '"', "x" * 300,
    ]
)  # fmt: skip


@given(st.lists(PIECES, max_size=12), st.lists(st.integers(0, 2000), max_size=8))
def test_wherever_it_is_cut(pieces: list[str], places: list[int]) -> None:
    text = "".join(pieces)
    edges = [0, *sorted(min(place, len(text)) for place in places), len(text)]
    cuts = [text[start:end] for start, end in pairwise(edges)]
    assert told(*cuts) == told(text)


@given(st.text(alphabet="abhtps:/. \n(", max_size=60))
def test_other_texts_stay_as_they_are(text: str) -> None:
    assert told(*text) == told(text) == text


def test_only_beginnings_are_held_back() -> None:
    rewriter = LinkRewriter(lambda url: "")
    for text in ("Hello", " with", " all that", " is / was", " and/or", "http", " the end. ", "1/2"):
        assert rewriter.feed(text) == text
    assert [rewriter.feed(text) for text in (" ht", "tp:", " no")] == [" ", "", "http: no"]
    assert [rewriter.feed(text) for text in ("(/fil", "ter)")] == ["(", "/filter)"]
    assert [rewriter.feed(text) for text in ("(/files/", f"tools/{ID}", ")")] == ["(", "", f"/files/tools/{ID})"]


def test_all_links_of_a_text() -> None:
    found = list(dify_files(f"![a]({INNER}) and {UPLOAD} but https://example.com/files/x.png"))
    assert [file.identity for file in found] == [f"tools/{ID}", ID]
