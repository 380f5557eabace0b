"""An answer's text apart from its blocks, wherever the stream was cut."""

import json
import random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from opendify.client_tools import scanner as module
from opendify.client_tools.scanner import MAX_BLOCK, MAX_BLOCKS, MAX_DEPTH, MAX_LEAD, After, Block, CallScanner, Said
from opendify.client_tools.tags import Tags

TAGS = Tags.of(b"k" * 32, "salt")
NONCE, OPEN, CLOSE = TAGS.nonce, TAGS.opening, TAGS.closing
CALL = '{"name":"f","arguments":{}}'
MAX_HELD = 64 + 40 + 20


def merged(said: list[Said]) -> list[Said]:
    told: list[Said] = []
    for each in said:
        match each, told[-1] if told else None:
            case str(), str(before):
                told[-1] = before + each
            case After(text), After(before):
                told[-1] = After(before + text)
            case _:
                told.append(each)
    return told


def scan(*cuts: str) -> list[Said]:
    """All that is told of a text that comes in these pieces."""
    scanner, said = CallScanner(TAGS), list[Said]()
    for cut in cuts:
        said += scanner.feed(cut)
        assert len(scanner._held) <= MAX_HELD
    said += scanner.close()
    assert not scanner.close()
    assert all(said)
    return merged(said)


def marked(said: list[Said]) -> str:
    """One line: the values of blocks in braces of their own, and what is after them in brackets."""
    words = []
    for each in said:
        match each:
            case Block(text, None):
                words.append(f"{{BROKEN {text}}}")
            case Block(_, value):
                words.append(f"{{{json.dumps(value, separators=(',', ':'))}}}")
            case After(text):
                words.append(f"[{text}]")
            case _:
                words.append(str(each))
    return "".join(words)


F, G = '{"name":"f"}', '{"name":"g"}'
RULES = {
    "text": ("Just text, 1 < 2.", "Just text, 1 < 2."),
    "a call": (TAGS.call(F), f"{{{F}}}"),
    "text before a call": (f"I look.\n{TAGS.call(F)}", f"I look.\n{{{F}}}"),
    "white space at the beginning is dropped before a call": (f"\n\n {TAGS.call(F)}\n", f"{{{F}}}"),
    "and is text before text": ("\n\n a", "\n\n a"),
    "several calls": (f"{TAGS.call(F)}\n\n{TAGS.call(G)}", f"{{{F}}}{{{G}}}"),
    "calls without closing tags": (f"{OPEN}>{F}{OPEN}>{G}", f"{{{F}}}{{{G}}}"),
    "several in one block": (f"{OPEN}>{F}\n{G}{CLOSE}", f"{{{F}}}{{{G}}}"),
    "a list": (TAGS.call(f"[{F},{G}]"), f"{{[{F},{G}]}}"),
    "no end of the tag": (f"{OPEN}\n{F}\n{CLOSE}", f"{{{F}}}"),
    "attributes": (f'{OPEN} name="f">{F}{CLOSE}', f"{{{F}}}"),
    "a fence inside": (TAGS.call(f"```json\n{F}\n```"), f"{{{F}}}"),
    "a fence around": (f"So:\n```xml\n{TAGS.call(F)}\n```", f"So:\n{{{F}}}"),
    "a fence of another kind is text": (f"```xml\n<a/>{TAGS.call(F)}", f"```xml\n<a/>{{{F}}}"),
    "code marks around": (f"`{TAGS.call(F)}`", f"{{{F}}}"),
    "closing tag without nonce": (f"{OPEN}>{F}</call>{TAGS.call(G)}", f"{{{F}}}{{{G}}}"),
    "closing tag with another nonce": (f"{OPEN}>{F}</call-z2aaaaaaa>{TAGS.call(G)}", f"{{{F}}}{{{G}}}"),
    "a comma between": (f"{TAGS.call(F)},{TAGS.call(G)}", f"{{{F}}}{{{G}}}"),
    "a bracket too many": (f"{OPEN}>{F}}}{CLOSE}{TAGS.call(G)}", f"{{{F}}}{{{G}}}"),
    "a bracket missing": (f'{OPEN}>{{"name":"f","arguments":{{"a":[1{CLOSE}', '{{"name":"f","arguments":{"a":[1]}}}'),
    "a comma too many": (TAGS.call('{"name":"f",}'), f"{{{F}}}"),
    "a raw line end in a string": (TAGS.call('{"a":"1\n2"}'), '{{"a":"1\\n2"}}'),
    "brackets and quotes in strings": (TAGS.call(r'{"a":"}\"]{"}'), r'{{"a":"}\"]{"}}'),
    "text after a call": (f"{TAGS.call(F)}\nIt rains.", f"{{{F}}}[It rains.]"),
    "no call after text after a call": (f"{TAGS.call(F)} so {TAGS.call(G)}", f"{{{F}}}[so {TAGS.call(G)}]"),
    "an invented result": (f"{TAGS.call(F)}\n{TAGS.result('5', 1, 'f')}", f"{{{F}}}[{TAGS.result('5', 1, 'f')}]"),
    "what follows a closing tag is no block": (f"{TAGS.call(F)}{G}", f"{{{F}}}[{G}]"),
    "cut off": (f'a {OPEN}>\n{{"name":"f","argu', 'a {BROKEN >\n{"name":"f","argu}'),
    "only the tag": (f"{OPEN}", "{BROKEN }"),
    "begun tag at the end": (f"a {OPEN[:-1]}", f"a {OPEN[:-1]}"),
    "no JSON": (f"{OPEN}>f(1){CLOSE}", "{BROKEN >f(1)}"),
    "quotes in quotes": (f'{OPEN}{{"a":"b "c" d"}}{CLOSE}', '{BROKEN {"a":"b "c" d"}}'),
    "brackets of two kinds": (f"{OPEN}{{]{CLOSE}", "{BROKEN {]}"),
    "a string that does not end": (f'{OPEN}{{"a":"b}}{CLOSE}{TAGS.call(F)}', f'{{BROKEN {{"a":"b}}}}{{{F}}}'),
    "the next call ends a broken one": (f'{OPEN}{{"a":"b}}{TAGS.call(F)}', f'{{BROKEN {{"a":"b}}}}{{{F}}}'),
    "our closing tag in a string": (f'{OPEN}{{"a":"{CLOSE}"}}', '{BROKEN {"a":"}["}]'),
    "too much before the bracket": (f"{OPEN}{' ' * MAX_LEAD}x{F}{CLOSE}", f"{{BROKEN {' ' * MAX_LEAD}x{F}}}"),
    "too deep": (f"{OPEN}{'[' * MAX_DEPTH}[{CLOSE}", f"{{BROKEN {'[' * MAX_DEPTH}[}}"),
    "NaN is no JSON": (TAGS.call('{"a":NaN}'), '{BROKEN >\n{"a":NaN}\n}'),
    "another nonce": (f"<call-z2aaaaaaa>{F}</call-z2aaaaaaa>", f"<call-z2aaaaaaa>{F}</call-z2aaaaaaa>"),
    "no nonce": (f"<tool_call>{F}</tool_call> <call>{F}</call>", f"<tool_call>{F}</tool_call> <call>{F}</call>"),
    "the nonce in capitals": (f"{OPEN.upper()}>{F}", f"<CALL-[hidden]>{F}"),
    "the nonce in the text": (f"It is {NONCE}, {NONCE.upper()}.", "It is [hidden], [hidden]."),
    "a closing tag in the text": (f"a {CLOSE} b", "a </call-[hidden]> b"),
    "an echoed result": (f"<result-{NONCE} x", "<result-[hidden] x"),
}


@pytest.mark.parametrize(("text", "expected"), RULES.values(), ids=RULES)
def test_the_rules(text: str, expected: str) -> None:
    assert marked(scan(text)) == marked(scan(*text)) == expected


def test_text_is_told_as_it_comes() -> None:
    scanner = CallScanner(TAGS)
    for text in ("A line.\n", "1 < 2, ", "lazy ", "`a` b", "<call me>", " end\n"):
        assert "".join(map(str, scanner.feed(text))) == text
    assert scanner.feed("") == []


def test_only_what_may_become_a_tag_is_held_back() -> None:
    scanner = CallScanner(TAGS)
    assert scanner.feed("\n ") == []
    assert scanner.feed("So <c") == ["\n So "]
    assert scanner.feed("all-") == []
    assert scanner.feed("it ```js") == ["<call-it "]
    assert scanner.feed("\n") == []
    assert scanner.feed("a ") == ["```js\na "]
    assert scanner.feed(NONCE[:3]) == []
    assert scanner.feed("a`") == [f"{NONCE[:3]}a"]
    assert scanner.feed(OPEN) == []
    assert scanner.close() == [Block("", None)]


def test_a_call_is_told_before_the_next_is_complete() -> None:
    scanner = CallScanner(TAGS)
    assert scanner.feed(f"{OPEN}>{CALL[:-1]}") == []
    assert [said.value["name"] for said in scanner.feed("}") if isinstance(said, Block)] == ["f"]
    assert scanner.feed(f"\n{CLOSE}\n{OPEN}>") == []


def test_no_more_blocks_than_a_number() -> None:
    said = scan(TAGS.call(CALL) * (MAX_BLOCKS + 3))
    assert [type(each) for each in said] == [Block] * MAX_BLOCKS + [After]


@pytest.mark.parametrize("size", [MAX_BLOCK - 1, MAX_BLOCK, MAX_BLOCK + 1])
def test_a_block_that_is_too_long_is_text(size: int) -> None:
    body = f'>{{"a":"{"x" * (size - 9)}"}}'
    whole = f"a {OPEN}{body}{CLOSE}{TAGS.call(CALL)}"
    pieces = [whole[start : start + 4096] for start in range(0, len(whole), 4096)]
    assert len(body) == size
    assert scan(whole) == scan(*pieces)
    if size <= MAX_BLOCK:
        assert marked(scan(whole)).startswith('a {{"a":"xxx')
    else:
        assert marked(scan(whole)) == f"a <call-[hidden]{body}</call-[hidden]>{{{CALL}}}"


@pytest.mark.parametrize("filler", ['"', '"\\', "{", "[", '"",', OPEN, f"{OPEN}{{", "z", "<", "`", CLOSE])
def test_much_of_anything_takes_little_time(filler: str) -> None:
    whole = OPEN + filler * (1_000_000 // len(filler))
    scan(whole)
    scan(*(whole[start : start + 999] for start in range(0, len(whole), 999)))


WORDS = [OPEN, CLOSE, NONCE, NONCE.upper(), NONCE[:4], NONCE[4:], TAGS.call(CALL), TAGS.result("a", 1, "f"), CALL]
PARTS = ["<", ">", "</", "<call", "<call-", "</call", "</call>", "</call-z2aaaaaaa>", "z", "Z", "<result-"]
JSON = ["{", "}", "[", "]", '"', "\\", ",", ":", '{"a":', "}}", '{"a":[1,]}', '"\n"']
MARKS = ["`", "``", "```", "````", "```json\n", "```\n", "\n", " ", "\r\n", " " * 70, "a", "So, ", "é思👍🏽\u2028"]
CUTS = st.lists(st.one_of(*map(st.sampled_from, (WORDS, PARTS, JSON, MARKS))), max_size=24)


@settings(deadline=None, max_examples=400)
@given(CUTS, st.integers(2, 9))
@example([NONCE[:4], CLOSE, NONCE[4:]], 2)
@example(["`", "``", OPEN, "{", CLOSE], 2)
def test_any_cutting_gives_the_same_as_the_whole(cuts: list[str], size: int) -> None:
    whole = "".join(cuts)
    expected = scan(whole)
    assert scan(*whole) == expected
    assert scan(*cuts) == expected
    assert scan(*(whole[start : start + size] for start in range(0, len(whole), size))) == expected


def test_any_cutting_gives_the_same_with_blocks_that_are_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    dice = random.Random(1)
    for size in (1, 7, 20, 50):
        monkeypatch.setattr(module, "MAX_BLOCK", size)
        for _ in range(400):
            whole = "".join(dice.choice(WORDS + PARTS + JSON + MARKS) for _ in range(12))
            said = scan(whole)
            assert said == scan(*whole)
            assert not any(NONCE in each.lower() for each in said if isinstance(each, str))


@settings(deadline=None)
@given(CUTS)
def test_no_byte_is_lost_without_the_nonce(cuts: list[str]) -> None:
    whole = "".join(cuts)
    for nonce in (NONCE, NONCE.upper()):
        whole = whole.replace(nonce, "z2aaaaaaa")
    if NONCE not in whole.lower():
        assert "".join(map(str, scan(*whole))) == whole


PROSE = st.text('ab .,é思👍🏽\n<>`z{}"', max_size=20)


@settings(deadline=None)
@given(PROSE, st.lists(st.sampled_from([CALL, G, f"[{F}]"]), max_size=4), st.sampled_from(["", "\n", " "]))
def test_nothing_but_tags_is_lost_with_calls(prose: str, calls: list[str], gap: str) -> None:
    text = f"a{prose}."
    said = scan(*(text + gap.join(map(TAGS.call, calls))))
    assert said[0] == text
    assert [each.value for each in said[1:] if isinstance(each, Block)] == [json.loads(call) for call in calls]
    assert "".join(each.text.removeprefix(">\n") for each in said[1:] if isinstance(each, Block)) == "".join(calls)
