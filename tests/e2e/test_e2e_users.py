"""Who is the user: where the name comes from, and that nobody reaches what is another's, whatever ids they send."""

import asyncio
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import httpx
import jwt
import pytest
from conftest import CLIENT_KEY, LIMITED_KEY, Serve, Served, data_url, eventually, png

from opendify.demo import call, server
from opendify.demo.stream import Receive, Scope

JWT_SECRET = "a secret for tests, of 32 bytes and more"
BOTH_TRUSTED = (
    {"name": "tester", "key": CLIENT_KEY, "trusted": True},
    {"name": "other", "key": LIMITED_KEY, "trusted": True},
)
BOTH_PLAIN = f"tester:{CLIENT_KEY},other:{LIMITED_KEY}"
CHAT, USER, TOKEN, CONVERSATION = (
    "x-openwebui-chat-id",
    "x-openwebui-user-id",
    "x-openwebui-user-jwt",
    "x-dify-conversation-id",
)


def token(user: str, secret: str = JWT_SECRET, seconds: int = 10**8) -> str:
    """What Open WebUI sends for a user; its own are good for 300 seconds, too few for a test that waits its turn."""
    now = int(time.time())
    return jwt.encode({"sub": user, "iss": "open-webui", "iat": now, "exp": now + seconds}, secret, "HS256")


class Person(NamedTuple):
    """How a client says who asks."""

    headers: dict[str, str]
    body: Mapping[str, Any] = MappingProxyType({})
    key: str = CLIENT_KEY


WAYS: dict[str, Callable[[str], Person]] = {
    "header": lambda name: Person({USER: name}),
    "body": lambda name: Person({}, {"user": name}),
    "token": lambda name: Person({TOKEN: token(name), USER: "somebody"}),
    "key": lambda name: Person({USER: "same"}, {"user": "same"}, CLIENT_KEY if name == "ann" else LIMITED_KEY),
}


class Chat:
    """What a chat program keeps of a chat, and sends with each turn."""

    def __init__(self, served: Served, person: Person, chat_id: str | None = None) -> None:
        self.served = served
        self.person = person
        self.headers = {CHAT: chat_id} if chat_id else {}
        self.messages: list[dict[str, Any]] = []

    async def send(
        self, messages: list[dict[str, Any]], headers: dict[str, str] | None = None, **more: Any
    ) -> httpx.Response:
        """One request."""
        authorization = {"authorization": f"Bearer {self.person.key}"}
        return await self.served.http.post(
            "/v1/chat/completions",
            json={"model": "Helper", "messages": messages, **self.person.body, **more},
            headers=authorization | self.person.headers | self.headers | (headers or {}),
        )

    async def say(self, text: str, **more: Any) -> str:
        """One turn after all others; the id of its conversation at Dify."""
        asked = [*self.messages, {"role": "user", "content": text}]
        answer = await self.send(asked, **more)
        assert answer.status_code == 200, answer.text
        told = answer.json()
        self.messages = [*asked, told["choices"][0]["message"]]
        name: str = told["dify"]["conversation_id"]
        return name


def owners(served: Served) -> set[str]:
    """Everyone that Dify has a conversation of."""
    return {conversation.user for conversation in served.dify.conversations.values()}


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stand-in does not order turns by seconds."""
    monkeypatch.setattr("opendify.conversation.TURN_SECONDS", 0.0)


@pytest.fixture(params=[*((way, False) for way in WAYS), ("header", True), ("key", True)], ids=str)
def way(request: pytest.FixtureRequest) -> tuple[str, bool]:
    """How two people are told apart, and whether their names are hashed."""
    chosen: tuple[str, bool] = request.param
    return chosen


@pytest.fixture
async def two(serve: Serve, way: tuple[str, bool]) -> tuple[Served, Person, Person]:
    """OpenDify, and two people in front of it."""
    name, hashed = way
    served = await serve(valid_api_keys="", keys=BOTH_TRUSTED, openwebui_jwt_secret=JWT_SECRET, hash_users=hashed)
    return served, WAYS[name]("ann"), WAYS[name]("bob")


# -- what is another's


async def test_the_same_words_of_two_people_are_two_conversations(two: tuple[Served, Person, Person]) -> None:
    served, ann, bob = two
    chats = [Chat(served, ann), Chat(served, bob)]
    begun = [await chat.say("ECHO:hello") for chat in chats]
    assert len(set(begun)) == 2
    assert chats[0].messages == chats[1].messages
    assert [await chat.say("ECHO:and now") for chat in chats] == begun
    assert len(owners(served)) == 2


@pytest.mark.parametrize("forgotten", [False, True])
async def test_nobody_goes_on_with_a_conversation_by_its_id(
    two: tuple[Served, Person, Person], forgotten: bool
) -> None:
    served, ann, bob = two
    chat, thief = Chat(served, ann, "c-1"), Chat(served, bob, "c-1")
    wanted = await chat.say("ECHO:hello")
    if forgotten:  # as after a restart: then Dify is asked whose it is
        await served.app.state.exchange.memory.store._cache.clear()
    for before in ([], chat.messages):
        asked = [*before, {"role": "user", "content": "ECHO:mine"}]
        by_header = await thief.send(asked, {CONVERSATION: wanted})
        by_body = await thief.send(asked, conversation_id=wanted)
        for answer in (by_header, by_body):
            assert (answer.status_code, answer.json()["error"]["code"]) == (404, "conversation_not_found")
    assert len(served.runs()) == 1
    assert await chat.say("ECHO:still mine", headers={CONVERSATION: wanted}) == wanted
    assert await chat.say("ECHO:still mine", conversation_id=wanted) == wanted
    assert len(owners(served)) == 1


async def test_nobody_goes_on_with_a_chat_by_its_id_and_all_that_was_said(two: tuple[Served, Person, Person]) -> None:
    served, ann, bob = two
    chat, thief = Chat(served, ann, "c-1"), Chat(served, bob, "c-1")
    wanted = await chat.say("ECHO:hello")
    await chat.say("ECHO:a secret")
    thief.messages = list(chat.messages)
    stolen = await thief.say("ECHO:what was the secret?")
    assert stolen != wanted
    assert "conversation_id" not in served.last_run
    assert served.dify.conversations[stolen].user != served.dify.conversations[wanted].user
    assert await chat.say("ECHO:still mine") == wanted
    assert len(served.dify.conversations[wanted].messages) == 3


async def test_nobody_is_told_what_a_chat_leads_to(serve: Serve, way: tuple[str, bool]) -> None:
    """Follow-up questions that Dify would suggest tell of what was said."""
    name, hashed = way
    served = await serve(
        valid_api_keys="",
        keys=BOTH_TRUSTED,
        openwebui_jwt_secret=JWT_SECRET,
        hash_users=hashed,
        background_tasks="local",
    )
    chat = Chat(served, WAYS[name]("ann"), "c-1")
    await chat.say("ECHO:hello")
    asks = [{"role": "user", "content": "Suggest."}]
    task = {"x-openwebui-task": "follow_up_generation"}
    assert (await Chat(served, WAYS[name]("bob"), "c-1").send(asks, task)).status_code == 200
    assert not [request for request in served.dify.requests if request.path.endswith("/suggested")]
    await chat.send(asks, task)
    assert [request for request in served.dify.requests if request.path.endswith("/suggested")]


async def test_a_file_of_one_is_sent_again_for_the_other(two: tuple[Served, Person, Person]) -> None:
    served, ann, bob = two
    picture = {"type": "image_url", "image_url": {"url": data_url(png(7))}}
    asked = [{"role": "user", "content": [{"type": "text", "text": "ECHO:x"}, picture]}]
    for person in (ann, bob, ann, bob):
        await Chat(served, person).send(asked)
    assert len(served.dify.uploads) == 2
    for run in served.runs():
        [file] = run.body["files"]
        assert served.dify.uploads[file["upload_file_id"]].user == run.body["user"]


async def test_a_run_is_stopped_by_whom_it_belongs_to(two: tuple[Served, Person, Person]) -> None:
    served, ann, bob = two
    asked = {"model": "Helper", "messages": [{"role": "user", "content": "SLOW 100 50"}], "stream": True}
    for person in (ann, bob):
        headers = {"authorization": f"Bearer {person.key}"} | person.headers
        async with served.http.stream(
            "POST", "/v1/chat/completions", json={**asked, **person.body}, headers=headers
        ) as answer:
            await anext(answer.aiter_lines())
        await eventually(lambda: served.dify.open_streams == 0)
    assert [stop.user for stop in served.dify.stops] == [run.body["user"] for run in served.runs()]
    assert len({stop.user for stop in served.dify.stops}) == 2


async def test_a_conversation_is_named_exactly_or_not_at_all(serve: Serve) -> None:
    served = await serve()
    wanted = await Chat(served, WAYS["header"]("ann")).say("ECHO:hello")
    thief = Chat(served, WAYS["header"]("bob"))
    spelled = [
        *(wanted.upper(), f" {wanted}", f"{wanted}\n", f"{wanted}\x00", f"{{{wanted}}}", wanted.replace("-", "")),
        *(f"{wanted}&user=tester:ann", f"{wanted}/../{wanted}", f"../conversations/{wanted}", "0" * 5000, "字", "new"),
    ]
    for name in spelled:
        answer = await thief.send([{"role": "user", "content": "ECHO:mine"}], conversation_id=name)
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "conversation_not_found"), name
    assert len(served.runs()) == 1


async def test_many_people_at_once(serve: Serve) -> None:
    """All of them say the same in a chat of the same id, at the same time."""
    served = await serve()
    chats = [Chat(served, WAYS["header"](f"user {number}"), "c-1") for number in range(12)]
    begun = await asyncio.gather(*(chat.say("ECHO:hello") for chat in chats))
    assert len(set(begun)) == 12
    for text in ("ECHO:two", "ECHO:three"):
        assert await asyncio.gather(*(chat.say(text) for chat in chats)) == begun
    told = {name: conversation.user for name, conversation in served.dify.conversations.items()}
    assert told == {name: f"tester:user {number}" for number, name in enumerate(begun)}


# -- where the name comes from


SOURCES: list[tuple[dict[str, str], object, str]] = [
    ({TOKEN: token("ann"), USER: "bob"}, "eve", "tester:ann"),
    ({TOKEN: token("ann")}, None, "tester:ann"),
    ({USER: "bob"}, "eve", "tester:bob"),
    ({USER: "bob", "x-librechat-user-id": "dan"}, "eve", "tester:bob"),
    ({"x-librechat-user-id": "dan"}, "eve", "tester:dan"),
    ({USER: "", "x-librechat-user-id": "{{LIBRECHAT_USER_ID}}"}, "eve", "tester:eve"),
    ({"X-OPENWEBUI-USER-ID": "bob"}, None, "tester:bob"),
    ({"X-OpenWebUI-User-Jwt": token("ann")}, None, "tester:ann"),
    ({}, "eve", "tester:eve"),
    ({}, {"id": "e-1", "email": "eve@example.com", "name": "Eve"}, "tester:e-1"),
    ({}, {"email": "eve@example.com", "name": "Eve"}, "tester:eve@example.com"),
    ({}, {"name": "Eve"}, "tester:Eve"),
    ({}, {"role": "user"}, "tester"),
    ({}, 42, "tester:42"),
    ({}, {"id": 42}, "tester:42"),
    ({}, {}, "tester"),
    ({}, "", "tester"),
    ({}, "   ", "tester"),
    ({}, None, "tester"),
    ({}, "other:eve", "tester:other:eve"),
]


async def test_the_strongest_source_counts(serve: Serve) -> None:
    served = await serve(openwebui_jwt_secret=JWT_SECRET)
    for headers, user, expected in SOURCES:
        await Chat(served, Person(headers, {"user": user})).say("ECHO:x")
        assert served.last_run["user"] == expected, (headers, user)


async def test_without_the_secret_a_token_says_nothing(served: Served) -> None:
    await Chat(served, Person({TOKEN: token("ann")}, {"user": "eve"})).say("ECHO:x")
    assert served.last_run["user"] == "tester:eve"


@pytest.mark.parametrize("sent", [token("ann", "another secret, of 32 bytes and more"), token("ann", seconds=-600), ""])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/models"])
async def test_a_token_that_does_not_verify_is_refused(serve: Serve, sent: str, path: str) -> None:
    served = await serve(openwebui_jwt_secret=JWT_SECRET)
    body = {"model": "Helper", "messages": [{"role": "user", "content": "ECHO:x"}], "user": "Mallory"}
    method = "GET" if path.endswith("models") else "POST"
    answer = await served.http.request(method, path, json=body, headers={TOKEN: sent, USER: "bob"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_user_token")
    assert not served.runs()
    await eventually(lambda: bool(served.told.lines("request")))
    [line] = served.told.lines("request")
    assert (line["status"], line["key"]) == (401, "tester")
    [refused] = served.told.lines("user_token_refused")
    assert refused["problem"] in {"InvalidSignatureError", "ExpiredSignatureError", "DecodeError"}
    log = served.told.log()
    assert not [secret for secret in (sent, JWT_SECRET, "bob", "Mallory") if secret and secret in log]


async def test_two_names_in_one_request_are_refused(served: Served) -> None:
    body = {"model": "Helper", "messages": [{"role": "user", "content": "ECHO:x"}]}
    answer = await served.http.post("/v1/chat/completions", json=body, headers=[(USER, "ann"), (USER, "bob")])
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_request")
    assert not served.runs()


async def test_names_of_any_kind_stay_apart(served: Served) -> None:
    """Over the wire, where a header is bytes: long ones, those in another encoding, those that look like another."""
    spoken = [b"x" * 600 + b"a", b"x" * 600 + b"b", "é".encode(), b"\xe9", b"\xe8", "安娜".encode(), b"a:b", b"a"]
    body = {"model": "Helper", "messages": [{"role": "user", "content": "ECHO:x"}]}
    for name in spoken:
        await served.http.post("/v1/chat/completions", json=body, headers=[(USER.encode(), name)])
    await Chat(served, Person({}, {"user": "line\nbreak\x00"})).say("ECHO:x")
    users = [run.body["user"] for run in served.runs()]
    assert len(set(users)) == len(spoken) + 1
    assert all(len(user) <= 255 and user.isprintable() for user in users)
    assert {"tester:é", "tester:安娜", "tester:a:b", "tester:a"} < set(users)


# -- whom OpenDify believes


async def test_of_several_keys_none_is_believed_without_a_word(serve: Serve) -> None:
    served = await serve(valid_api_keys=BOTH_PLAIN, conversations="explicit")
    chat = Chat(served, Person({USER: "ann"}, {"user": "eve"}), "c-1")
    first = await chat.say("ECHO:hello")
    assert await chat.say("ECHO:more") != first
    assert [run.body["user"] for run in served.runs()] == ["tester:eve"] * 2
    assert [line["key"] for line in served.told.lines("headers_not_trusted")] == ["tester"]


async def test_a_trusted_key_is_believed_beside_one_that_is_not(serve: Serve) -> None:
    keys = ({"name": "webui", "key": LIMITED_KEY, "trusted": True},)
    served = await serve(keys=keys, conversations="explicit")
    believed = Chat(served, Person({USER: "ann"}, key=LIMITED_KEY), "c-1")
    first = await believed.say("ECHO:hello")
    assert await believed.say("ECHO:more") == first
    await Chat(served, Person({USER: "ann"}), "c-1").say("ECHO:hello")
    assert [run.body["user"] for run in served.runs()] == ["webui:ann", "webui:ann", "tester"]


async def test_a_lone_key_that_is_not_to_be_trusted(serve: Serve) -> None:
    served = await serve(valid_api_keys="", keys=({"name": "web", "key": CLIENT_KEY, "trusted": False},))
    await Chat(served, Person({USER: "ann"})).say("ECHO:x")
    assert served.last_run["user"] == "web"


async def test_without_keys_everyone_is_anonymous_and_believed(serve: Serve) -> None:
    served = await serve(auth="off", valid_api_keys="", conversations="explicit")
    chat = Chat(served, Person({USER: "ann"}), "c-1")
    first = await chat.say("ECHO:hello")
    assert await chat.say("ECHO:more") == first
    await Chat(served, Person({})).say("ECHO:hello")
    assert [run.body["user"] for run in served.runs()] == ["anonymous:ann", "anonymous:ann", "anonymous"]


async def test_a_key_without_a_name_has_one(serve: Serve) -> None:
    served = await serve(valid_api_keys=CLIENT_KEY)
    await Chat(served, Person({USER: "ann"})).say("ECHO:x")
    key, _, user = served.last_run["user"].partition(":")
    assert (key[:4], len(key), user) == ("key-", 12, "ann")


async def test_headers_of_ones_own(serve: Serve) -> None:
    served = await serve(user_headers="X-Employee", chat_id_headers="X-Room", conversations="explicit")
    chat = Chat(served, Person({"x-employee": "ann", USER: "bob", "x-room": "r-1"}))
    first = await chat.say("ECHO:hello")
    assert await chat.say("ECHO:more") == first
    assert served.last_run["user"] == "tester:ann"


# -- hashed


class Wire:
    """Everything that reached the stand-in, as bytes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: dict[str, bytes] = {}
        real = call.read

        async def read(scope: Scope, receive: Receive) -> call.Call:
            came = await real(scope, receive)
            heard = [scope["path"].encode(), scope["query_string"], came.raw, str(came.headers).encode()]
            place = f"{came.method} {came.path.rpartition('/v1/')[2].split('/')[0]}"
            self.calls[place] = self.calls.get(place, b"") + b"\n".join(heard)
            return came

        monkeypatch.setattr(server, "read", read)


@pytest.mark.parametrize("secret", ["", "a secret for digests"])
async def test_no_name_leaves_where_they_are_hashed(serve: Serve, monkeypatch: pytest.MonkeyPatch, secret: str) -> None:
    """Not in a body, not in a query, not in a form, not when a run is stopped, not in the log."""
    wire = Wire(monkeypatch)
    served = await serve(hash_users=True, hash_secret=secret)
    ann = Person({USER: "Ann-4711"}, {"user": "Ann-4712"})
    chat = Chat(served, ann, "chat-4713")
    picture = {"type": "image_url", "image_url": {"url": data_url(png(7))}}
    await chat.send([{"role": "user", "content": [{"type": "text", "text": "ECHO:x"}, picture]}])
    begun = await chat.say("ECHO:hello")
    await served.app.state.exchange.memory.store._cache.clear()
    await chat.say("ECHO:more", conversation_id=begun)
    await chat.send([{"role": "user", "content": "A title?"}], headers={"x-openwebui-task": "title_generation"})
    await eventually(lambda: "DELETE conversations" in wire.calls)
    asked = {"model": "Helper", "messages": [{"role": "user", "content": "SLOW 100 50"}], "stream": True}
    async with served.http.stream(
        "POST", "/v1/chat/completions", json={**asked, **ann.body}, headers=ann.headers
    ) as answer:
        await anext(answer.aiter_lines())
    await eventually(lambda: bool(served.dify.stops))
    await eventually(lambda: served.dify.open_streams == 0)
    [name] = {run.body["user"] for run in served.runs()}
    assert len(bytes.fromhex(name)) == 32
    named = {place for place, heard in wire.calls.items() if name.encode() in heard}
    assert named == {"POST chat-messages", "POST files", "GET messages", "DELETE conversations"}
    assert {stop.user for stop in served.dify.stops} == {name}
    everything = b"".join(wire.calls.values()) + served.told.log().encode()
    assert not [clear for clear in (b"4711", b"4712", b"4713", b"tester:") if clear in everything]
    assert name.encode() not in served.told.log().encode()


async def test_a_hashed_person_is_the_same_after_a_restart(serve: Serve) -> None:
    users = []
    for secret in ("", "", "a secret for digests", "a secret for digests"):
        served = await serve(hash_users=True, hash_secret=secret)
        await Chat(served, WAYS["header"]("ann")).say("ECHO:x")
        users.append(served.last_run["user"])
    assert users[0] == users[1]
    assert users[2] == users[3]
    assert len(set(users)) == 2


@pytest.mark.parametrize(("secret", "people"), [("", 2), ("a secret for digests", 1)])
async def test_a_person_of_two_apps(serve: Serve, secret: str, people: int) -> None:
    served = await serve(hash_users=True, hash_secret=secret)
    for model in ("Helper", "Writer"):
        await served.ask("ECHO:x", model, user="ann")
    assert len({run.body["user"] for run in served.runs()}) == people
