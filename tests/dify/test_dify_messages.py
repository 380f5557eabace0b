"""Messages that Dify keeps, found again."""

import json
from typing import Any

import pytest

from opendify.dify.apps import Access
from opendify.dify.messages import PAGES, message_of
from opendify.errors import BrokenUpstream

ACCESS = Access("http://dify.test/v1", "app-x")


class Dify:
    """Answers with these pages, one after the other."""

    def __init__(self, *pages: Any) -> None:
        self.pages = list(pages)
        self.asked: list[str] = []

    async def call(self, access: Access, method: str, path: str, body: bytes | None = None) -> bytes:
        assert (access, method, body) == (ACCESS, "GET", None)
        self.asked.append(path)
        page = self.pages.pop(0)
        return page if isinstance(page, bytes) else json.dumps(page).encode()


def page(*ids: str, more: bool = False) -> dict[str, Any]:
    return {"data": [{"id": name, "answer": f"of {name}"} for name in ids], "has_more": more}


async def links(dify: Dify, message: str = "m") -> list[str] | None:
    found = await message_of(dify, ACCESS, "team:ann & co", "c-1", message)
    return None if found is None else list(found.links)


async def test_links_of_a_message() -> None:
    files = [{"url": "/files/a"}, {"url": None}, {}, {"url": "/files/b", "id": 1}]
    dify = Dify({"data": [{"id": "m", "answer": "![x](y)", "message_files": files, "inputs": {}}], "limit": 20})
    assert await links(dify) == ["/files/a", "/files/b", "![x](y)"]
    assert dify.asked == ["/messages?conversation_id=c-1&user=team%3Aann+%26+co&limit=20"]
    assert await links(Dify({"data": [{"id": "m", "answer": None, "message_files": None}]})) == [""]


async def test_older_messages() -> None:
    dify = Dify(page("c", "d", more=True), page("b", more=True), page("m"))
    assert await links(dify) == ["of m"]
    assert [path.partition("limit=")[2] for path in dify.asked] == ["20", "100&first_id=c", "100&first_id=b"]


@pytest.mark.parametrize("pages", [[page("a")], [page(more=True)], [page("a", more=True), page("b")]])
async def test_a_message_that_is_not_listed(pages: list[Any]) -> None:
    assert await links(Dify(*pages)) is None


async def test_a_conversation_without_end() -> None:
    dify = Dify(*(page(str(number), more=True) for number in range(99)))
    assert await links(dify) is None
    assert len(dify.asked) == PAGES


@pytest.mark.parametrize("body", [b"", b"[]", b'{"data": 1}', b'{"data": [{"id": "\xff"}]}', b"<html>", b"[" * 9999])
async def test_something_else(body: bytes) -> None:
    with pytest.raises(BrokenUpstream):
        await links(Dify(body))
