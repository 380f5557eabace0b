"""multipart/form-data as programs send it, and as they should not."""

import pytest

from opendify.errors import InvalidRequest
from opendify.openai import forms
from opendify.openai.forms import Form, FormFile, parse_form

TEXTS = ("purpose", "model")


def part(head: str, content: bytes | str = b"x", kind: str = "") -> bytes:
    """One part of a form."""
    content = content if isinstance(content, bytes) else content.encode()
    kind = f"\r\nContent-Type: {kind}" if kind else ""
    return f"--b\r\nContent-Disposition: form-data; {head}{kind}\r\n\r\n".encode() + content + b"\r\n"


def form(*parts: bytes, end: bytes = b"--b--\r\n") -> bytes:
    """A whole body."""
    return b"".join(parts) + end


FILE = part('name="file"; filename="a.txt"', b"hello", "text/plain")


async def parsed(*parts: bytes, end: bytes = b"--b--\r\n") -> Form:
    return await parse_form(form(*parts, end=end), "b", TEXTS)


async def test_a_form() -> None:
    result = await parsed(part('name="purpose"', "user_data"), FILE, part('name="model"', "文档处理"))
    assert result == Form(FormFile("a.txt", "text/plain", b"hello"), {"purpose": "user_data", "model": "文档处理"})


@pytest.mark.parametrize("size", [1, 3, 7, 64, 1 << 20])
async def test_in_any_pieces(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forms, "PIECE_BYTES", size)
    data = b"\r\n-b\r\n--\r\n--B--\r\r\n\0\xff" * 20
    result = await parsed(part('name="file"; filename="a.bin"', data), part('name="purpose"', "x"))
    assert (result.file.data, result.texts) == (data, {"purpose": "x"})


@pytest.mark.parametrize(
    ("head", "name"),
    [
        ('name="file"; filename="图片.png"', "图片.png"),
        ('filename="a.txt"; name="file"', "a.txt"),
        ("name=file; filename=a.txt", "a.txt"),
        ('name="file"; filename="with %22quotes%22.txt"', 'with "quotes".txt'),
    ],
)
async def test_names(head: str, name: str) -> None:
    assert (await parsed(part(head))).file.name == name


@pytest.mark.parametrize(
    ("kind", "told"),
    [("", ""), ("application/octet-stream", ""), ("Text/Markdown; charset=x", "text/markdown")],
)
async def test_types(kind: str, told: str) -> None:
    assert (await parsed(part('name="file"; filename="a"', kind=kind))).file.mime_type == told


async def test_what_nobody_asked_for_is_dropped() -> None:
    more = (
        part('name="more"; filename="b.txt"', bytes(100_000)),
        part('name="other"', b"\xff"),
        part('name="model"', ""),
    )
    result = await parsed(*more, FILE, part('name="purpose"', "x"), end=b"--b--\r\nand more" + bytes(300_000))
    assert result == Form(FormFile("a.txt", "text/plain", b"hello"), {"purpose": "x"})


async def test_the_last_of_two_texts_counts() -> None:
    assert (await parsed(FILE, part('name="purpose"', "a"), part('name="purpose"', "b"))).texts == {"purpose": "b"}


@pytest.mark.parametrize(
    ("body", "param", "message"),
    [
        (form(part('name="purpose"', "x")), "file", "has no file"),
        (form(part('name="file"', "x")), "file", "needs a file name"),
        (form(part('name="file"; filename=""', "x")), "file", "needs a file name"),
        (form(FILE, FILE), "file", "One file at a time"),
        (form(FILE, part('name="model"', "m" * 5000)), "model", "up to 4096 bytes"),
        (form(FILE, part('name="model"', b"\xff\xfe")), "model", "not UTF-8"),
        (form(FILE, end=b""), None, "not valid multipart"),
        (form(FILE, end=b"--b"), None, "not valid multipart"),
        (form(end=b""), None, "not valid multipart"),
        (b"hello", None, "not valid multipart"),
        (form(b"--b\r\nnonsense\r\n\r\nx\r\n"), None, "not valid multipart"),
        (form(b"--b\r\n\r\nx\r\n"), None, "not valid multipart"),
        (form(part('name="file"; filename="\xff"').replace(b"\xc3\xbf", b"\xff")), None, "not valid multipart"),
        (form(*[part('name="x"')] * 70), None, "too many parts"),
        (form(part(f'name="file"; filename="{"a" * 5000}"')), None, "too long a header"),
    ],
    ids=range(15),
)
async def test_what_is_no_form(body: bytes, param: str | None, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message) as caught:
        await parse_form(body, "b", TEXTS)
    assert (caught.value.status, caught.value.param) == (400, param)
