"""What an answer rests on: Dify's events in, the waist's events out."""

from typing import Any

import pytest
from frames import DONE, chunk, end, event, message, node, read, reason, run

from opendify.dialogue import Citation, Cited, Event, Failed, FileOut, ReasoningDelta, TextDelta
from opendify.dify.citations import MAX_CITED, MAX_CONTENT, citation_of

IDS = {"dataset_id": "set", "dataset_name": "Fruit", "document_id": "doc", "document_name": "fruit.txt"}
KNOWN: dict[str, Any] = {**IDS, "segment_id": "seg", "score": 0.5, "content": "The durian is in Rotterdam."}
DURIAN = Citation(title="fruit.txt", **KNOWN)


def resource(**fields: Any) -> dict[str, Any]:
    """One of `retriever_resources`, as servers send it."""
    more = {"position": 1, "data_source_type": "upload_file", "hit_count": 1, "title": None, "doc_metadata": None}
    return more | KNOWN | fields


def result(**fields: Any) -> dict[str, Any]:
    """One of a node's results: title and content outside, the rest in `metadata`."""
    metadata: dict[str, Any] = {"_source": "knowledge", "data_source_type": "upload_file", **KNOWN, **fields}
    return {"metadata": metadata, "title": metadata["document_name"], "files": None, "content": metadata.pop("content")}


def retrieval(*results: dict[str, Any]) -> bytes:
    return node("knowledge-retrieval", outputs={"result": list(results)})


def cited(*citations: Citation) -> Cited:
    return Cited(citations)


PAPAYA = Citation(title="fruit.txt", **{**KNOWN, "segment_id": "seg-2", "content": "The papaya is in Lisbon."})
BOTH = [resource(), resource(segment_id="seg-2", content="The papaya is in Lisbon.")]

ANSWERS: dict[str, tuple[str, list[bytes], list[Event]]] = {
    "chat": (
        "chat",
        [message("Rotterdam."), end(retriever_resources=BOTH)],
        [TextDelta("Rotterdam."), cited(DURIAN, PAPAYA), DONE],
    ),
    "agent-chat": ("agent-chat", [end(retriever_resources=[resource()])], [cited(DURIAN), DONE]),
    "chatflow: the node says the same": (
        "advanced-chat",
        [retrieval(result()), message("Hi"), end(retriever_resources=[resource()]), run()],
        [TextDelta("Hi"), cited(DURIAN), DONE],
    ),
    "chatflow: message_end knows better": (
        "advanced-chat",
        [retrieval(result(), result(segment_id="x")), end(retriever_resources=[resource()]), run()],
        [cited(DURIAN), DONE],
    ),
    "chatflow: message_end lists none, for its author wants none": (
        "advanced-chat",
        [retrieval(result()), end(retriever_resources=[]), run()],
        [DONE],
    ),
    "chatflow of an old server: message_end has no list": (
        "advanced-chat",
        [retrieval(result()), end(), run()],
        [cited(DURIAN), DONE],
    ),
    "chatflow: the list is null": (
        "advanced-chat",
        [retrieval(result()), end(retriever_resources=None), run()],
        [cited(DURIAN), DONE],
    ),
    "chatflow 1.13.0: message_end is lost": ("advanced-chat", [retrieval(result()), run()], [cited(DURIAN), DONE]),
    "chatflow until 1.12: the run ends first": (
        "advanced-chat",
        [retrieval(result()), run(), message("Hi"), end(retriever_resources=BOTH)],
        [TextDelta("Hi"), cited(DURIAN, PAPAYA), DONE],
    ),
    "workflow": (
        "workflow",
        [retrieval(result()), chunk("Hi"), run(outputs={"text": "Hi"})],
        [TextDelta("Hi"), cited(DURIAN), DONE],
    ),
    "workflow: two nodes find the same": (
        "workflow",
        [
            retrieval(result()),
            retrieval(result(), result(segment_id="seg-2", content="The papaya is in Lisbon.")),
            run(),
        ],
        [cited(DURIAN, PAPAYA), DONE],
    ),
    "after all text, thinking and files": (
        "chat",
        [
            message("<think>hm</think>Hi <thi"),
            event(
                "message_end",
                metadata={"retriever_resources": [resource()]},
                files=[{"url": "/files/tools/1.png", "type": "image", "transfer_method": "tool_file"}],
            ),
        ],
        [
            ReasoningDelta("hm"),
            TextDelta("Hi "),
            TextDelta("<thi"),
            FileOut(url="http://dify.test/files/tools/1.png", name="1.png", is_image=True),
            cited(DURIAN),
            DONE,
        ],
    ),
    "a failed run rests on nothing": (
        "workflow",
        [retrieval(result()), run(status="failed", error="x")],
        [Failed(code="run_failed", message="x", status=500)],
    ),
    "nothing was found": ("workflow", [retrieval(), reason("hm"), run()], [ReasoningDelta("hm"), DONE]),
    "odd outputs": (
        "workflow",
        [
            *(node("knowledge-retrieval", outputs=outputs) for outputs in (None, "cut...", [1], {}, {"result": None})),
            *(node("knowledge-retrieval", outputs={"result": result}) for result in ({"a": 1}, "x", [None, "x", 5])),
            run(),
        ],
        [DONE],
    ),
    "odd lists": (
        "chat",
        [end(retriever_resources={"a": 1})],
        [DONE],
    ),
}


@pytest.mark.parametrize(("mode", "frames", "events"), ANSWERS.values(), ids=ANSWERS)
def test_citations(mode: str, frames: list[bytes], events: list[Event]) -> None:
    assert read(mode, frames) == events


def cited_of(*resources: object) -> list[Citation]:
    events = read("chat", [end(retriever_resources=list(resources))])
    return [citation for event in events if isinstance(event, Cited) for citation in event.citations]


def test_each_passage_once() -> None:
    assert cited_of(resource(), resource(score=0.1), resource(position=3)) == [DURIAN]
    unnamed = [resource(segment_id=None), resource(segment_id=None, score=0.1), resource(segment_id=None, content="x")]
    assert [citation.content for citation in cited_of(*unnamed)] == ["The durian is in Rotterdam.", "x"]


def test_so_many_passages() -> None:
    assert len(cited_of(*(resource(segment_id=str(number)) for number in range(MAX_CITED + 9)))) == MAX_CITED
    retrievals = [retrieval(result(segment_id=str(number))) for number in range(MAX_CITED + 9)]
    (told, _) = read("workflow", [*retrievals, run()])
    assert isinstance(told, Cited)
    assert len(told.citations) == MAX_CITED


# what a passage has -> what differs from the usual citation
FIELDS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "as usual": ({}, {}),
    "a title": ({"title": "Fruit of the world"}, {"title": "Fruit of the world"}),
    "only a set's name": ({"document_name": None}, {"title": "Fruit", "document_name": None}),
    "no name at all": (
        {"document_name": "", "dataset_name": None},
        {"title": "", "document_name": None, "dataset_name": None},
    ),
    "only an address": (
        {"document_name": None, "doc_metadata": {"url": "https://a.test"}},
        {"title": "https://a.test", "document_name": None, "url": "https://a.test"},
    ),
    "no score": ({"score": None}, {"score": None}),
    "a whole score": ({"score": 1}, {"score": 1.0}),
    "an odd score": ({"score": "0.5"}, {"score": None}),
    "a score that is true": ({"score": True}, {"score": None}),
    "no content": ({"content": None}, {"content": None}),
    "long content": ({"content": "é" * (MAX_CONTENT + 1)}, {"content": "é" * MAX_CONTENT + "..."}),
    "odd ids": ({"dataset_id": 5, "document_id": ["x"]}, {"dataset_id": None, "document_id": None}),
    "its url": ({"doc_metadata": {"url": "https://a.test/x?y#z"}}, {"url": "https://a.test/x?y#z"}),
    "its source": ({"doc_metadata": {"source": "http://a.test"}}, {"url": "http://a.test"}),
    "its source_url": (
        {"doc_metadata": {"source": "upload", "source_url": "https://a.test"}},
        {"url": "https://a.test"},
    ),
    "its link": ({"doc_metadata": {"Link": " HTTPS://a.test "}}, {"url": "HTTPS://a.test"}),
    "other addresses": ({"doc_metadata": {"url": "s3://b/x", "link": "javascript:alert(1)", "source": 5}}, {}),
    "an address and more": ({"doc_metadata": {"url": "https://a.test and more"}}, {}),
    "an endless address": ({"doc_metadata": {"url": "https://a.test/" + "x" * 2000}}, {}),
    "metadata in a list": ({"doc_metadata": [{"name": "url", "value": "https://a.test"}]}, {}),
    "a page that Dify has read": (
        {"data_source_type": "website_crawl", "document_name": "https://a.test/x"},
        {"title": "https://a.test/x", "document_name": "https://a.test/x", "url": "https://a.test/x"},
    ),
    "a file that is called like a page": (
        {"document_name": "https://a.test/x"},
        {"title": "https://a.test/x", "document_name": "https://a.test/x"},
    ),
}


@pytest.mark.parametrize(("given", "differs"), FIELDS.values(), ids=FIELDS)
def test_fields(given: dict[str, Any], differs: dict[str, Any]) -> None:
    expected = Citation(**{"title": "fruit.txt", **KNOWN, **differs})
    assert citation_of(resource(**given)) == expected
    if "title" not in given:
        assert citation_of(result(**given)) == expected
