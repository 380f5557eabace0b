"""What runs carry besides text: files, pictures that apps make, citations, speech."""

import base64
import uuid
from typing import TYPE_CHECKING

from opendify.demo.links import Content
from opendify.demo.wire import Json, new_id

if TYPE_CHECKING:
    from opendify.demo.run import Run

PICTURE = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR4nGNgYPj/HwADAgH/p0ZwUQAAAABJRU5ErkJggg=="
)
SPEECH = base64.b64decode("UklGRiwAAABXQVZFZm10IBAAAAABAAEAQB8AAIA+AAACABAAZGF0YQgAAAAAAAAAAAAAAA==")
TENANT = str(uuid.uuid5(uuid.NAMESPACE_DNS, "demo.tenant"))


# What FILE:KIND makes.
MADE = {
    "": Content("picture.png", "image/png", "image", PICTURE),
    "html": Content("page.html", "text/html", "document", b"<script>alert(1)</script>"),
    "svg": Content("drawing.svg", "image/svg+xml", "image", b'<svg xmlns="http://www.w3.org/2000/svg"/>'),
    "txt": Content("notes.txt", "text/plain", "document", "Grüße\n".encode()),
    "big": Content("film.mp4", "video/mp4", "video", bytes(32 * 1024 * 1024)),
}


def made(run: "Run", file_id: str) -> Content:
    """The file that FILE makes, kept under this id."""
    content = MADE.get(run.script.words["FILE"].arg, MADE[""])
    run.state.contents[file_id] = content
    run.message.made.append(file_id)
    return content


def tool_link(run: "Run", file_id: str, content: Content, origin: str) -> str:
    """A signed link to a file that a tool made."""
    base = origin if run.state.files_url is None else run.state.files_url
    return base + run.state.signer.link(f"/files/tools/{file_id}{_extension(content.name)}")


def file_dict(
    *, modern: bool, type: str, method: str, url: str, name: str, mime: str, size: int, upload_id: str | None
) -> Json:
    """A file as flows describe it; servers differ in a few keys."""
    remote = "" if modern and method != "remote_url" else url
    body: Json = {"dify_model_identity": "__dify__file__", "id": None}
    if not modern:
        body["tenant_id"] = TENANT
    body |= {"type": type, "transfer_method": method, "remote_url": remote}
    described = {"filename": name, "extension": _extension(name), "mime_type": mime, "size": size}
    if modern:
        reference = f"dify-file-ref:{upload_id}" if upload_id else None
        return body | {"reference": reference} | described | {"related_id": upload_id, "url": url}
    return body | {"related_id": upload_id} | described | {"url": url}


def _extension(name: str) -> str:
    return "." + name.rpartition(".")[2] if "." in name else ""


def as_chat_file(file: Json) -> Json:
    """A file as chat apps describe it."""
    keys = ("related_id", "extension", "filename", "size", "mime_type", "transfer_method", "type", "url")
    return {key: file[key] for key in keys} | {
        "upload_file_id": file["related_id"],
        "remote_url": file["remote_url"],
    }


def made_file(run: "Run") -> Json:
    """The file that FILE makes in chat apps; its URL is relative."""
    return as_chat_file(made_flow_file(run, origin=""))


def made_flow_file(run: "Run", origin: str) -> Json:
    """The file that FILE makes, as flows describe it."""
    file_id = new_id()
    content = made(run, file_id)
    return file_dict(
        modern=run.modern, type=content.kind, method="tool_file", url=tool_link(run, file_id, content, origin),
        name=content.name, mime=content.mime_type, size=len(content.data), upload_id=file_id,
    )  # fmt: skip


def cited(run: "Run") -> list[Json]:
    """The `retriever_resources` of an answer: what CITE looked up."""
    if "CITE" not in run.script:
        return []
    return [passage(position, run.app.is_flow) for position in (1, 2)]


def passage(position: int, in_flow: bool) -> Json:
    """One retrieved passage."""
    content = ("OpenDify speaks OpenAI's protocol in front of Dify.", "The stand-in needs no Dify server.")
    known = str(uuid.uuid5(uuid.NAMESPACE_DNS, f"demo.chapter-{position}"))
    return {
        "position": position, "dataset_id": TENANT, "dataset_name": "Demo handbook", "document_id": known,
        "document_name": f"chapter-{position}.md", "data_source_type": "upload_file", "segment_id": known,
        "retriever_from": "workflow" if in_flow else "api", "score": 1 / (position + 1), "hit_count": 1,
        "word_count": 88, "segment_position": position, "index_node_hash": "885b660d",
        "content": content[position - 1], "page": None, "doc_metadata": None, "title": None, "files": None,
        "summary": None,
    }  # fmt: skip


def result(position: int) -> Json:
    """The same passage as a node puts it out: most of it one level deeper."""
    held = passage(position, in_flow=True)
    outside = {"title": held["document_name"], "files": None, "content": held.pop("content"), "summary": None}
    return {"metadata": {"_source": "knowledge", **held, "child_chunks": []}, **outside}


def spoken_audio() -> str:
    """A moment of silence as base64, the way `tts_message` carries it."""
    return base64.b64encode(SPEECH).decode()
