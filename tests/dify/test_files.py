"""Attachments -> the places of an app that take them."""

import base64
import io
import re
import wave
import zipfile
from collections.abc import Sequence
from typing import Any

import pytest
from app_samples import file_input, link, make_app, takes, text

from opendify.dialogue import Ahead, Attachment
from opendify.dify import files as module
from opendify.dify.apps import MEGABYTE, App, FileRule, Input
from opendify.dify.files import KINDS, PlannedFile, decode_base64, plan
from opendify.errors import FileNotFound, InvalidRequest, OpenDifyError, RequestTooLarge

ALL = takes("image", "audio", "video", "document", "custom", extensions=(".json", ".zip", ".py", ".bin", ".txt"))


def wav() -> bytes:
    out = io.BytesIO()
    with wave.open(out, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(8000)
        sound.writeframes(b"\0" * 64)
    return out.getvalue()


def docx() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("[Content_Types].xml", "<Types/>")
        archive.writestr("word/document.xml", "<w:document/>")
    return out.getvalue()


PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
JPEG = bytes.fromhex("ffd8ffe000104a46494600010100000100010000ffdb004300") + b"\0" * 64 + b"\xff\xd9"
GIF = b"GIF89a\x01\0\x01\0\x80\0\0\0\0\0\xff\xff\xff,\0\0\0\0\x01\0\x01\0\0\x02\x02D\x01\0;"
WEBP = b"RIFF\x24\0\0\0WEBPVP8 \x18\0\0\0" + b"\0" * 24
WAV = wav()
MP3 = b"ID3\x03\0\0\0\0\0\0\xff\xfb\x90\x00" + b"\0" * 100
PDF = b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj\n<<>>\nendobj\n"
MP4 = b"\0\0\0\x18ftypisom\0\0\0\0isomiso2" + b"\0" * 20
DOCX = docx()
WORD = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"
M4A = b"\0\0\0\x18ftypM4A \0\0\0\0M4A isom"
BINARY = bytes(range(256))


def data(content: bytes, media: Any = "file", name: str | None = None, mime_type: str | None = None) -> Attachment:
    """A file that is uploaded."""
    encoded = base64.b64encode(content).decode()
    return Attachment(media=media, param="messages[0].content[1]", base64=encoded, name=name, mime_type=mime_type)


def place(app: App, *attachments: Attachment, most: int = 20, given: Sequence[str] = ()) -> list[PlannedFile]:
    return plan(app, attachments, (), most, set(given))


def uploaded(attachment: Attachment, rule: FileRule = ALL) -> tuple[str, str, str]:
    """Name, type and kind of a file that is uploaded."""
    (planned,) = place(make_app(files=rule), attachment)
    assert planned.upload
    return planned.upload.name, planned.upload.mime_type, planned.kind


def refusal(app: App, *attachments: Attachment, most: int = 20) -> OpenDifyError:
    with pytest.raises(OpenDifyError) as caught:
        place(app, *attachments, most=most)
    return caught.value


# -- kinds


@pytest.mark.parametrize(
    ("kind", "extension"), [(kind, item) for kind, items in KINDS.items() for item in sorted(items)]
)
def test_the_kind_of_a_link_by_difys_table(kind: str, extension: str) -> None:
    for url in (
        f"https://host/a{extension}",
        f"https://host/a{extension.upper()}?sign=a.b#c",
        f"http://h/%41{extension}",
    ):
        (planned,) = place(make_app(files=takes(kind)), link(url, "file"))
        assert (planned.kind, planned.url, planned.upload) == (kind, url, None)


@pytest.mark.parametrize(
    ("url", "media", "kind"),
    [
        ("https://host/picture", "image", "image"),
        ("https://host/picture?name=a.pdf", "image", "image"),
        ("https://host/sound", "audio", "audio"),
        ("https://host/report.pdf", "image", "document"),
        ("https://host/sound.webm", "audio", "video"),
        ("https://host/v1.2/picture", "image", "image"),
    ],
)
def test_a_link_without_a_telling_extension_is_what_the_client_calls_it(url: str, media: str, kind: str) -> None:
    (planned,) = place(make_app(files=ALL), link(url, media))
    assert planned.kind == kind


@pytest.mark.parametrize(
    ("extensions", "name", "kind"),
    [
        ((".json",), "a.json", "custom"),
        ((".json",), "A.JSON", "custom"),
        ((".pdf",), "a.pdf", "custom"),
        ((".json", ".pdf"), "a.zip", None),
        ((".json",), "a.pdf", None),
        ((), "a.zip", "custom"),
    ],
)
def test_custom_extensions(extensions: tuple[str, ...], name: str, kind: str | None) -> None:
    app = make_app(files=takes("custom", extensions=extensions))
    content = PDF if name.endswith(".pdf") else b"text"
    if kind:
        (planned,) = place(app, data(content, name=name))
        assert planned.kind == kind
    else:
        assert "does not take this file: it takes custom, not" in refusal(app, data(content, name=name)).message


def test_the_natural_kind_is_preferred_to_custom() -> None:
    assert uploaded(data(PDF, name="a.pdf"), takes("document", "custom", extensions=(".pdf",)))[2] == "document"


# -- names and types


@pytest.mark.parametrize(
    ("attachment", "expected"),
    [
        (data(PNG, "image", mime_type="image/png"), ("image-1.png", "image/png", "image")),
        (data(PNG, "image"), ("image-1.png", "image/png", "image")),
        (data(PNG, "image", mime_type="image/jpeg"), ("image-1.png", "image/png", "image")),
        (data(PNG, "file", "photo"), ("photo.png", "image/png", "image")),
        (data(PNG, "file", "notes.txt", "text/plain"), ("notes.png", "image/png", "image")),
        (data(JPEG, "image", mime_type="image/png"), ("image-1.jpeg", "image/jpeg", "image")),
        (data(JPEG, "image", "a.JPG"), ("a.jpg", "image/jpeg", "image")),
        (data(GIF, "image"), ("image-1.gif", "image/gif", "image")),
        (data(WEBP, "image", mime_type="image/webp"), ("image-1.webp", "image/webp", "image")),
        (data(PDF, "file"), ("file-1.pdf", "application/pdf", "document")),
        (data(PDF, "image", mime_type="image/png"), ("image-1.pdf", "application/pdf", "document")),
        (data(WAV, "audio", "audio.wav"), ("audio.wav", "audio/wav", "audio")),
        (data(WAV, "audio", "audio.mp3"), ("audio.wav", "audio/wav", "audio")),
        (data(MP3, "audio", "audio.mp3"), ("audio.mp3", "audio/mpeg", "audio")),
        (data(MP4, "file"), ("file-1.mp4", "video/mp4", "video")),
        (data(DOCX, "file", "cv.docx"), ("cv.docx", WORD, "document")),
        (data(DOCX, mime_type=WORD), ("file-1.docx", WORD, "document")),
        (data(WEBP, "image"), ("image-1.webp", "image/webp", "image")),
        (data(WEBP, "image", mime_type="image/png"), ("image-1.webp", "image/webp", "image")),
        (data(M4A, "audio", "a.m4a"), ("a.m4a", "audio/m4a", "audio")),
        (data(b"# x", "file", "a.md"), ("a.md", "text/markdown", "document")),
        (data(b"x", "file", mime_type="text/markdown"), ("file-1.md", "text/markdown", "document")),
        (data(JPEG, "image", "a.jpg", "image/png"), ("a.jpg", "image/jpeg", "image")),
        (data(JPEG, "image", "really-a-jpeg.png", "image/png"), ("really-a-jpeg.jpeg", "image/jpeg", "image")),
        (data(b"a,b\n1,2\n", "file", "t.csv"), ("t.csv", "text/csv", "document")),
        (data(b"hello", "file"), ("file-1.txt", "text/plain", "document")),
        (data("ж".encode() * 8000, "file"), ("file-1.txt", "text/plain", "document")),
        (data(b"x" + "ж".encode() * 8000, "file"), ("file-1.txt", "text/plain", "document")),
        (data(b"{}", "file", mime_type="application/json"), ("file-1.json", "application/json", "custom")),
        (data(b"{}", "file", mime_type="Application/JSON; a=b"), ("file-1.json", "application/json", "custom")),
        (data(BINARY, "file"), ("file-1.bin", "application/octet-stream", "custom")),
        (data(b"a\0b", "file"), ("file-1.bin", "application/octet-stream", "custom")),
        (data(b"print()", "file", "a.py"), ("a.py", "text/x-python", "custom")),
        (data(b"<svg/>", "image", mime_type="image/svg+xml"), ("image-1.svg", "image/svg+xml", "image")),
    ],
)  # fmt: skip
def test_names_and_types_are_what_the_bytes_show(attachment: Attachment, expected: tuple[str, str, str]) -> None:
    assert uploaded(attachment) == expected


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("notes.txt", "notes.txt"),
        ("日本語 メモ.txt", "日本語 メモ.txt"),
        ("../../etc/passwd", "passwd.txt"),
        ("/srv/a/b.txt", "b.txt"),
        ("C:\\docs.old\\notes.txt", "notes.txt"),
        ("C:\\docs.old\\readme", "readme.txt"),
        ("a\0b\r\n.txt", "ab.txt"),
        ("a.p\0y", "a.py"),
        ('what? "x" <y>|z*:.txt', "what x yz.txt"),
        ("...", "file-1.txt"),
        (".txt", "txt.txt"),
        ("", "file-1.txt"),
        ("name.", "name.txt"),
        (" spaced .txt", "spaced.txt"),
        ("dir/", "file-1.txt"),
        ("n" * 500 + ".txt", "n" * 196 + ".txt"),
        ("a." + "x" * 500, "a." + "x" * 19),
    ],
)
def test_names_are_made_safe(given: str, name: str) -> None:
    rule = takes("document", "custom", extensions=(".txt", ".py", "." + "x" * 19))
    assert uploaded(data(b"hello", name=given), rule)[0] == name
    assert len(name) <= 200


def test_files_without_a_name_are_numbered() -> None:
    planned = place(make_app(files=takes("image")), link("https://h/a.png"), data(PNG, "image"), data(PNG, "image"))
    assert [file.upload.name for file in planned if file.upload] == ["image-2.png", "image-3.png"]


@pytest.mark.parametrize(
    ("encoded", "expected"),
    [
        ("aGVsbG8=", b"hello"),
        ("aGVsbG8", b"hello"),
        ("aGVs\nbG8=\r\n", b"hello"),
        (" aGVs bG8 ", b"hello"),
        ("-_-_", b"\xfb\xff\xbf"),
        ("+/+/", b"\xfb\xff\xbf"),
        ("_w", b"\xff"),
        ("", b""),
    ],
)
def test_base64_in_its_variants(encoded: str, expected: bytes) -> None:
    assert decode_base64(encoded, "p") == expected


@pytest.mark.parametrize("encoded", ["a", "!!!!", "aGVsbG8=aGVs", "aGV sb*G8=", "é", "汉字", "data:;base64,aGVs"])
def test_bad_base64(encoded: str) -> None:
    attachment = Attachment(media="file", param="messages[3].content[2].file.file_data", base64=encoded)
    error = refusal(make_app(files=ALL), attachment)
    assert (error.status, error.param) == (400, "messages[3].content[2].file.file_data")
    assert error.message == "The data is not valid base64."


def test_an_empty_file() -> None:
    error = refusal(make_app(files=ALL), data(b""))
    assert (error.status, error.param, error.message) == (400, "messages[0].content[1]", "The file is empty.")


def test_good_base64_is_decoded_in_one_go(monkeypatch: pytest.MonkeyPatch) -> None:
    def sub(*args: object) -> str:
        raise AssertionError("a copy without need")

    monkeypatch.setattr(re, "sub", sub)
    assert decode_base64("aGVsbG8=", "p") == b"hello"


# -- limits


class Claiming(bytes):
    """Bytes that say they are more than they are."""

    size: int

    def __len__(self) -> int:
        return self.size


@pytest.mark.parametrize(
    ("content", "name", "limits", "limit"),
    [
        (PNG, "a.png", {}, 10),
        (MP3, "a.mp3", {}, 50),
        (MP4, "a.mp4", {}, 100),
        (PDF, "a.pdf", {}, 15),
        (b"{}", "a.json", {}, 15),
        (PNG, "a.png", {"image": 2 * MEGABYTE, "document": MEGABYTE}, 2),
        (PDF, "a.pdf", {"image": 2 * MEGABYTE, "document": MEGABYTE}, 1),
        (b"{}", "a.json", {"custom": 3 * MEGABYTE}, 3),
    ],
)
def test_too_big(
    content: bytes, name: str, limits: dict[str, int], limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    contents = {"fits": Claiming(content), "not": Claiming(content)}
    contents["fits"].size = limit * MEGABYTE
    contents["not"].size = limit * MEGABYTE + 1
    monkeypatch.setattr(module, "decode_base64", lambda encoded, param: contents[encoded])
    app = make_app(files=ALL, size_limits=limits)
    fits, too_big = (
        Attachment(media="file", param="messages[0].content[1]", base64=encoded, name=name) for encoded in contents
    )
    assert len(place(app, fits)) == 1
    error = refusal(app, too_big)
    assert isinstance(error, RequestTooLarge)
    assert (error.status, error.param) == (413, "messages[0].content[1]")
    assert str(limit * MEGABYTE) in error.message


def test_too_many_for_one_request() -> None:
    pictures = [link("https://h/a.png")] * 3
    app = make_app(files=takes("image", count=None))
    assert len(place(app, *pictures, most=3)) == 3
    error = refusal(app, *pictures, most=2)
    assert (error.status, error.param) == (413, "messages")
    assert "At most 2 files" in error.message


def test_too_many_for_the_app() -> None:
    error = refusal(make_app(files=takes("image", count=2)), *[link("https://h/a.png")] * 3)
    assert (error.status, error.param) == (400, "messages[0].content[1]")
    assert error.message == "'Helper' does not take this file: it takes at most 2 files."


@pytest.mark.parametrize(
    ("files", "attachment", "reason"),
    [
        (None, link("https://h/a.png"), "'Helper' takes no files."),
        (None, data(PNG), "'Helper' takes no files."),
        (takes("image", "audio"), data(PDF), "it takes audio, image, not document files."),
        (takes("document"), data(PNG, name="a.pdf"), "it takes document, not image files."),
        (takes(), data(PNG), "it takes nothing, not image files."),
        (takes("image", methods=("local_file",)), link("https://h/a.png"), "it takes uploads only."),
        (takes("image", methods=("remote_url",)), data(PNG), "it takes links only."),
    ],
)
def test_what_the_app_does_not_take_is_refused(files: FileRule | None, attachment: Attachment, reason: str) -> None:
    error = refusal(make_app(files=files), attachment)
    assert isinstance(error, InvalidRequest)
    assert (error.status, error.param) == (400, "messages[0].content[1]")
    assert error.message.endswith(reason)


def test_a_link_that_is_no_address() -> None:
    error = refusal(make_app(files=ALL), link("http://[::1/a.png"))
    assert (error.status, error.param) == (400, "messages[0].content[1]")


# -- places


def where(app: App, *attachments: Attachment, given: Sequence[str] = ()) -> list[str | None]:
    return [file.place for file in place(app, *attachments, given=given)]


PICTURE, REPORT = link("https://h/a.png"), link("https://h/a.pdf")
PIC = file_input("pic", takes("image", count=1))
PICS = file_input("pics", takes("image", count=2), control="file-list")
DOC = file_input("doc", takes("document", count=1))


@pytest.mark.parametrize(
    ("inputs", "beside", "attachments", "chat", "workflow"),
    [
        ([], takes("image"), [PICTURE], [None], [None]),
        ([PIC], None, [PICTURE], ["pic"], ["pic"]),
        ([PIC], takes("image"), [PICTURE], [None], ["pic"]),
        ([PIC], takes("image"), [PICTURE] * 2, [None, None], ["pic", None]),
        ([PIC], takes("image", count=1), [PICTURE] * 2, [None, "pic"], ["pic", None]),
        ([DOC, PICS], None, [PICTURE, REPORT, PICTURE], ["pics", "doc", "pics"], ["pics", "doc", "pics"]),
        ([text("q"), PIC, PICS], None, [PICTURE] * 3, ["pic", "pics", "pics"], ["pic", "pics", "pics"]),
    ],
)
def test_the_first_place_that_takes_it(
    inputs: list[Input],
    beside: FileRule | None,
    attachments: list[Attachment],
    chat: list[str | None],
    workflow: list[str | None],
) -> None:
    assert where(make_app("chat", *inputs, files=beside), *attachments) == chat
    assert where(make_app("workflow", *inputs, files=beside), *attachments) == workflow


def test_an_input_that_the_client_set_itself_is_left_alone() -> None:
    assert where(make_app("workflow", PIC, PICS), PICTURE, given=["pic"]) == ["pics"]
    with pytest.raises(InvalidRequest, match="takes no files"):
        where(make_app("workflow", PIC), PICTURE, given=["pic"])


def test_lists_are_told_from_single_files() -> None:
    planned = place(make_app("workflow", PIC, PICS, files=takes("image")), *[PICTURE] * 4)
    assert [(file.place, file.is_list) for file in planned] == [
        ("pic", False),
        ("pics", True),
        ("pics", True),
        (None, True),
    ]


def earlier(app: App, current: list[Attachment], *before: Attachment, most: int = 20) -> list[str | None]:
    return [file.url for file in plan(app, current, before, most, set())]


NEW, OLDER, OLDEST = (link(f"https://h/{age}.png") for age in ("new", "older", "oldest"))


@pytest.mark.parametrize(
    ("count", "most", "expected"),
    [
        (None, 20, ["https://h/oldest.png", "https://h/older.png", "https://h/new.png"]),
        (3, 20, ["https://h/oldest.png", "https://h/older.png", "https://h/new.png"]),
        (2, 20, ["https://h/older.png", "https://h/new.png"]),
        (1, 20, ["https://h/new.png"]),
        (None, 2, ["https://h/older.png", "https://h/new.png"]),
        (None, 1, ["https://h/new.png"]),
    ],
)
def test_earlier_files_get_what_is_left_the_newest_first(count: int | None, most: int, expected: list[str]) -> None:
    assert earlier(make_app(files=takes("image", count=count)), [NEW], OLDEST, OLDER, most=most) == expected


@pytest.mark.parametrize("old", [REPORT, data(b""), link("http://[::1/a.png"), data(PNG)])
def test_earlier_files_that_do_not_fit_are_left_out(old: Attachment) -> None:
    app = make_app(files=takes("image", methods=("remote_url",)))
    assert earlier(app, [NEW], OLDEST, old, OLDER) == [
        "https://h/oldest.png",
        "https://h/older.png",
        "https://h/new.png",
    ]
    assert earlier(make_app(), [], old) == []


# -- sent ahead


def sent_ahead(name: str = "a.txt", **what: Any) -> Attachment:
    """A file that was sent ahead: Dify's id of it, or its bytes."""
    ahead = Ahead("key", **what)
    return Attachment(media="file", param="messages[0].content[1]", file_id="file-1", ahead=ahead, name=name)


@pytest.mark.parametrize(
    ("name", "kind"), [("photo.png", "image"), ("a.PDF", "document"), ("a.mp3", "audio"), ("a.py", "custom")]
)
def test_a_file_that_dify_has_is_placed_by_its_name(name: str, kind: str) -> None:
    (planned,) = place(make_app(files=ALL), sent_ahead(name, upload_id="6a0c"))
    assert (planned.kind, planned.upload, planned.ahead) == (kind, None, Ahead("key", "6a0c"))
    assert planned.param == "messages[0].content[1]"


def test_bytes_that_were_sent_ahead_are_uploaded() -> None:
    (planned,) = place(make_app(files=ALL), sent_ahead("photo", data=PNG))
    assert (planned.kind, planned.ahead) == ("image", Ahead("key", data=PNG))
    assert planned.upload
    assert (planned.upload.name, planned.upload.data) == ("photo.png", PNG)


def test_the_rules_hold_for_files_sent_ahead() -> None:
    known, waits = sent_ahead("a.pdf", upload_id="6a0c"), sent_ahead("a.pdf", data=PDF)
    for attachment in (known, waits):
        assert "not document files" in refusal(make_app(files=takes("image")), attachment).message
        assert "links only" in refusal(make_app(files=takes("document", methods=("remote_url",))), attachment).message
        assert len(place(make_app(files=takes("document", methods=("local_file",))), attachment)) == 1
        assert "At most 1 files" in refusal(make_app(files=ALL), attachment, attachment, most=1).message
    limited = make_app(files=ALL, size_limits={"document": 8})
    assert refusal(limited, waits).status == 413


def test_a_file_sent_ahead_that_was_not_found() -> None:
    lost = Attachment(media="file", param="messages[0].content[1]", file_id="file-1")
    error = refusal(make_app(files=ALL), lost)
    assert isinstance(error, FileNotFound)
    assert error.param == "messages[0].content[1]"
    assert earlier(make_app(files=ALL), [NEW], lost) == ["https://h/new.png"]


def test_references() -> None:
    (linked, sent) = place(make_app(files=takes("image")), PICTURE, data(PNG))
    assert linked.reference(None) == {"type": "image", "transfer_method": "remote_url", "url": "https://h/a.png"}
    assert sent.reference("6a0c") == {"type": "image", "transfer_method": "local_file", "upload_file_id": "6a0c"}
    assert sent.upload
    assert sent.upload.data == PNG
    assert sent.param == "messages[0].content[1]"
