"""The passages that an answer rests on: those of `message_end`, else those that the flow's nodes have found."""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from msgspec import Raw

from opendify.dialogue import Citation
from opendify.dify.calls import parsed

MAX_CITED: Final = 100
MAX_CONTENT: Final = 2000
MAX_URL: Final = 2000
MAX_NAME: Final = 500
# The names under which authors and connectors keep a document's own address.
ADDRESSES: Final = ("url", "source", "source_url", "link")


class Sources:
    """One for each answer. What `message_end` lists counts alone, even where that is nothing.

    Then the app's author has switched citations off, or its models were not given what the nodes have found.
    """

    def __init__(self) -> None:
        self._cited: dict[tuple[str | None, ...], Citation] = {}

    def found(self, outputs: Raw) -> None:
        """A Knowledge Retrieval node has run."""
        held = parsed(outputs)
        self._note(held.get("result") if isinstance(held, dict) else None)

    def settle(self, resources: Raw) -> None:
        """`message_end` has come; `resources` is empty where its server does not list any."""
        listed = parsed(resources)
        if isinstance(listed, list):
            self._cited.clear()
            self._note(listed)

    def cited(self) -> tuple[Citation, ...]:
        """Each passage once."""
        return tuple(self._cited.values())

    def _note(self, passages: object) -> None:
        for passage in passages if isinstance(passages, list) else ():
            if len(self._cited) >= MAX_CITED:
                return
            if isinstance(passage, dict):
                citation = citation_of(passage)
                known = (citation.segment_id,) if citation.segment_id else (citation.document_id, citation.content)
                self._cited.setdefault(known, citation)


def citation_of(passage: Mapping[str, Any]) -> Citation:
    """A passage of `retriever_resources`, or of a node's result, which has most of it one level deeper."""
    deeper = passage.get("metadata")
    held = {**deeper, **passage} if isinstance(deeper, dict) else passage
    document, url = _text(held.get("document_name")), url_of(held)
    dataset = _text(held.get("dataset_name"))
    return Citation(
        title=_text(held.get("title")) or document or url or dataset or "",
        url=url,
        dataset_id=_text(held.get("dataset_id")),
        dataset_name=dataset,
        document_id=_text(held.get("document_id")),
        document_name=document,
        segment_id=_text(held.get("segment_id")),
        score=_number(held.get("score")),
        content=_content(held.get("content")),
    )


def url_of(held: Mapping[str, Any]) -> str | None:
    """The document's own address: of its metadata, or of the page that Dify took it from, whose name that is."""
    metadata = held.get("doc_metadata")
    named = {str(name).lower(): value for name, value in metadata.items()} if isinstance(metadata, dict) else {}
    candidates: list[object] = [named.get(name) for name in ADDRESSES]
    if held.get("data_source_type") == "website_crawl":
        candidates.append(held.get("document_name"))
    return _first_address(candidates)


def _first_address(candidates: Iterable[object]) -> str | None:
    for value in candidates:
        if isinstance(value, str) and value.strip().lower().startswith(("http://", "https://")):
            address = value.strip()
            if len(address) <= MAX_URL and len(address.split()) == 1:
                return address
    return None


def _text(value: object) -> str | None:
    return value[:MAX_NAME] if isinstance(value, str) and value else None


def _content(value: object) -> str | None:
    if not isinstance(value, str) or not value:
        return None
    return value if len(value) <= MAX_CONTENT else f"{value[:MAX_CONTENT]}..."


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
