"""Thinking apart from text, wherever the stream was cut."""

import re
from itertools import groupby

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from opendify import thinking
from opendify.thinking import MAX_HELD, Piece, ThinkSplitter

# What Dify 0.15 writes, word for word.
DIFY = (
    '<details style="color:gray;background-color: #f8f8f8;padding: 8px;border-radius: 4px;" open>'
    " <summary> Thinking... </summary>\n"
)
MAX_EDGE = 128


def merged(pieces: list[Piece]) -> list[Piece]:
    return [(kind, "".join(text for _, text in run)) for kind, run in groupby(pieces, lambda piece: piece[0])]


def split(*cuts: str) -> list[Piece]:
    """All that is told of a text that comes in these pieces; each feed keeps its promises."""
    splitter, told = ThinkSplitter(), list[Piece]()
    for cut in cuts:
        pieces = list(splitter.feed(cut))
        assert pieces == merged(pieces)
        assert all(text for _, text in pieces)
        assert len(splitter._held) <= MAX_HELD
        told += pieces
    told += splitter.close()
    assert not splitter.close()
    return merged(told)


def split_by_need(*cuts: str) -> list[Piece]:
    """The same, if what need not be fed is not."""
    splitter, told = ThinkSplitter(), list[Piece]()
    for cut in filter(None, cuts):
        told += splitter.feed(cut) if not splitter.still or thinking.marked(cut) else [(False, cut)]
    return merged([*told, *splitter.close()])


def marked(pieces: list[Piece]) -> str:
    """The pieces as one line: thinking in braces."""
    return "".join(f"{{{text}}}" if thinking else text for thinking, text in pieces)


class Reference:
    """The definition over a whole text, which may look ahead as far as it likes."""

    OPENINGS = (
        (re.compile(r"(?ai:<think(\s[^<>]{0,159})?(?<!/)>)"), r"(?ai:</think\s{0,16}>)"),
        (re.compile(r"(?ai:<thinking(\s[^<>]{0,159})?(?<!/)>)"), r"(?ai:</thinking\s{0,16}>)"),
        (
            re.compile(
                r"(?ai:<details(\s[^<>]{0,159})?(?<!/)>"
                r"\s{0,16}<summary>\s{0,16}Thinking\.\.\.\s{0,16}</summary>)"
            ),
            r"(?ai:</details\s{0,16}>)",
        ),
    )

    def __init__(self, text: str) -> None:
        self.text = text
        self.place = 0
        self.line = ""  # what is shown of this line so far
        self.pieces: list[Piece] = []

    def read(self) -> list[Piece]:
        while self.place < len(self.text):
            if not (self.block() or self.fence() or self.span()):
                self.show(self.place + 1)
        return merged([piece for piece in self.pieces if piece[1]])

    def show(self, end: int) -> None:
        shown = self.text[self.place : end]
        self.pieces.append((False, shown))
        self.line = re.split(r"[\r\n]", self.line + shown)[-1]
        self.place = end

    def block(self) -> bool:
        for opening, closing in self.OPENINGS:
            if tag := opening.match(self.text, self.place):
                rest = self.text[tag.end() :]
                thinking, *after = re.split(closing, rest, maxsplit=1)
                thinking = thinking.lstrip()
                edge = len(thinking) - min(len(thinking) - len(thinking.rstrip()), MAX_EDGE)
                self.pieces.append((True, thinking[:edge]))
                visible = after[0].lstrip("\r\n") if after else ""
                if after and visible != after[0]:
                    self.line = ""
                self.place = len(self.text) - len(visible)
                return True
        return False

    def fence(self) -> bool:
        found = re.compile(r"(`{3,})[^`\r\n]*(?![^\r\n])|(~{3,})[^\r\n]*").match(self.text, self.place)
        if not found or not re.fullmatch(" {0,3}", self.line):
            return False
        run = found[1] or found[2]
        last = re.compile(rf"[\r\n] {{0,3}}{run[0]}{{{len(run)},}}[ \t]*(?![^\r\n])").search(self.text, found.end())
        self.show(last.end() if last else len(self.text))
        return True

    def span(self) -> bool:
        run = re.compile("`+").match(self.text, self.place)
        if not run:
            return False
        closed = re.compile(rf"[^\r\n]*?(?<!`){run[0]}(?!`)").match(self.text, run.end())
        end = closed or re.compile(r"[^\r\n]*").match(self.text, run.end())
        assert end
        self.show(end.end())
        return True


RULES = {
    "plain": ("no thinking at all", "no thinking at all"),
    "nothing": ("", ""),
    "think": ("<think>hm</think>yes", "{hm}yes"),
    "thinking": ("<thinking>hm</thinking>yes", "{hm}yes"),
    "dify 0.15": (f"{DIFY}hm</details>yes", "{hm}yes"),
    "dify, spaced": ("<details>\n<summary>Thinking...</summary>hm</details>\n\nyes", "{hm}yes"),
    "any case": ("<THINK>hm</Think><Details><SUMMARY>thinking...</Summary>so</DETAILS>yes", "{hmso}yes"),
    "attributes": ('<think foo="x" open>hm</think>yes', "{hm}yes"),
    "an attribute over lines": ("<think\nfoo>hm</think>yes", "{hm}yes"),
    "space before the end": ("<think >hm</think \n>yes", "{hm}yes"),
    "several": ("a<think>b</think>c<thinking>d</thinking>e", "a{b}c{d}e"),
    "side by side": ("<think>a</think>\n\n<think>b</think>c", "{ab}c"),
    "inside a sentence": ("one <think>two</think> three", "one {two} three"),
    "unclosed": ("<think>hm, and then\nnothing", "{hm, and then\nnothing}"),
    "unclosed, with white space": ("<think>hm \n", "{hm}"),
    "unclosed and blank": ("yes<think> \n", "yes"),
    "ends inside a closing tag": ("<think>hm</thi", "{hm</thi}"),
    "ends inside an opening tag": ("yes <thi", "yes <thi"),
    "edges": ("<think>\n\n hm \n hm\t\n</think>\n\r\n\nyes\n\n", "{hm \n hm}yes\n\n"),
    "spaces after the tag stay": ("<think>hm</think> \nyes", "{hm} \nyes"),
    "blank": ("<think>\n \n</think>\n\nyes", "yes"),
    "empty": ("a<think></think>b", "ab"),
    "blank details": (f"{DIFY}\n</details>\n\nyes", "yes"),
    "no opening": ("hm</think>\n\nyes", "hm</think>\n\nyes"),
    "twice closed": ("<think>a</think>b</think>c", "{a}b</think>c"),
    "nested": ("<think>a<think>b</think>c</think>d", "{a<think>b}c</think>d"),
    "each closes its own": ("<think>a</thinking>b</details>c</think>d", "{a</thinking>b</details>c}d"),
    "a tag in the thinking": (
        "<think>a <think> or </ think> or </thinks></think>d",
        "{a <think> or </ think> or </thinks>}d",
    ),
    "other details": ("<details><summary>More</summary>x</details>", "<details><summary>More</summary>x</details>"),
    "another summary": ("<details> <summary> Thinking.. </summary>", "<details> <summary> Thinking.. </summary>"),
    "other tags": ("<thinker>a <b>c</b> <t> <think-> <thinks>", "<thinker>a <b>c</b> <t> <think-> <thinks>"),
    "closes itself": ("<think/> <think /> yes", "<think/> <think /> yes"),
    "an angle before the tag": ("<<think>a</think>1 < 2", "<{a}1 < 2"),
    "a tag begun before the tag": ("<think <think>a</think>b", "<think {a}b"),
    "no other letter is a k": ("<thin\N{KELVIN SIGN}>a", "<thin\N{KELVIN SIGN}>a"),
    "longest attributes": (f"<think {'x' * 159}>a</think>b", "{a}b"),
    "too long attributes": (f"<think {'x' * 160}>a", f"<think {'x' * 160}>a"),
    "longest gap": (f"<think>a</think{' ' * 16}>b", "{a}b"),
    "too long a gap": (f"<think>a</think{' ' * 17}>b", f"{{a</think{' ' * 17}>b}}"),
    "much space at the edges": (f"<think>{'  ' * 999}a{' ' * MAX_EDGE}</think>b", "{a}b"),
    "too much space to hold": (f"<think>a{' ' * (MAX_EDGE + 9)}</think>b", f"{{a{' ' * 9}}}b"),
    "a code fence in the thinking": ("<think>a\n```\nb `c</think>d", "{a\n```\nb `c}d"),
}

CODE = {
    "span": ("`<think>`", False),
    "span of two": ("``a`<think>``", False),
    "after a span": ("`a` <think>", True),
    "after a span of two": ("``a`b``<think>", True),
    "span not closed by more": ("`a``<think>", False),
    "span not closed by less": ("``a`<think>", False),
    "span closed on another line": ("`a\n<think>`", True),
    "span unclosed": ("it is 5` long\n<think>", True),
    "span unclosed, same line": ("it is 5` long <think>", False),
    "span unclosed, CR": ("it is 5` long\r<think>", True),
    "span across a tilde": ("`a~b <think>`", False),
    "after tildes": ("~5 or ~~six~~ <think>", True),
    "tildes mid-line": ("a ~~~<think>", True),
    "fence": ("```\n<think>\n```", False),
    "fence with info": ("```html title\n\n<think>\n```", False),
    "fence of tildes": ("~~~ a`b\n<think>\n~~~", False),
    "info string": ("``` <think>", False),
    "info string of tildes": ("~~~<think>", False),
    "after the fence": ("```\na\n```\n<think>", True),
    "after the fence, CRLF": ("```\r\na\r\n```\r\n<think>", True),
    "after an empty fence": ("~~~\n~~~\n<think>", True),
    "fence closed with spaces around": ("```\na\n   ``` \t\n<think>", True),
    "fence closed by more": ("```\na\n`````\n<think>", True),
    "fence not closed by less": ("````\na\n```\n<think>", False),
    "fence not closed by the other mark": ("```\na\n~~~\n<think>", False),
    "fence not closed with text after it": ("```\na\n``` b\n<think>", False),
    "fence not closed with marks after it": ("```\na\n``` `\n<think>", False),
    "fence not closed mid-line": ("```\na ```\n<think>", False),
    "fence not closed when indented by four": ("```\na\n    ```\n<think>", False),
    "fence indented by three": ("a\n   ```\n<think>", False),
    "no fence when indented by four": ("a\n    ```\n<think>", True),
    "no fence when indented by a tab": ("a\n\t```\n<think>", True),
    "no fence mid-line": ("a ```\n<think>", True),
    "no fence of two": ("``\n<think>", True),
    "no fence of two tildes": ("~~\n<think>", True),
    "no fence with a backtick in its line": ("```a`b\n<think>", True),
    "span that begins like a fence": ("```a``` <think>", True),
    "span that begins like a fence, open": ("```a`` <think>", False),
    "fence after text": ("a\n\nb\n```\n<think>", False),
    "fence after CR": ("a\r```\n<think>", False),
    "fence after a fence": ("```\n```\n```\n\n<think>", False),
    "no fence after a mark": ("~```\n<think>", True),
    "no fence after an angle": ("<```\n<think>", True),
    "fence after a block": ("<think>a</think>```\n<think>", False),
    "fence after a block and newlines": ("b<think>a</think>\n\n```\n<think>", False),
    "no fence after text and a block": ("b<think>a</think>```\n<think>", True),
    "indent across a block": ("  <think>a</think>  ```\n<think>", True),
}


@pytest.mark.parametrize(("text", "expected"), RULES.values(), ids=RULES)
def test_the_rules(text: str, expected: str) -> None:
    assert marked(split(text)) == marked(split(*text)) == expected
    assert Reference(text).read() == split(text)


@pytest.mark.parametrize(("text", "thinks"), CODE.values(), ids=CODE)
def test_a_tag_in_code_is_text(text: str, thinks: bool) -> None:
    text = text.rpartition("<think>")[0] + "<think>X"
    assert split(text) == split(*text) == Reference(text).read()
    assert ((True, "X") in split(text)) is thinks


def test_text_is_told_as_it_comes() -> None:
    splitter = ThinkSplitter()
    for text, thinks in (("A line.\n", False), ("1 < 2, `a` ~ ``\n", False), ("<think>.", True), ("A `line`.", True)):
        ((thinks_so, told),) = splitter.feed(text)
        assert thinks_so is thinks
        assert told == text.removeprefix("<think>")
        assert told is text or "<" in text
        assert splitter.feed("") == []


def test_most_text_need_not_be_fed() -> None:
    splitter = ThinkSplitter()
    stills = []
    for text in ("A", "\n", "b `", "c", "` d\n", "```py", "\n", "e ", "\n```", "\n", "f", "<", " g", "<think>h"):
        splitter.feed(text)
        stills.append(splitter.still)
    assert [place for place, still in enumerate(stills) if still] == [0, 3, 5, 7, 10, 12]


def test_only_what_may_become_a_tag_is_held_back() -> None:
    splitter = ThinkSplitter()
    assert splitter.feed("So <th") == [(False, "So ")]
    assert splitter.feed("e> <") == [(False, "<the> ")]
    assert splitter.feed("think>") == []
    assert splitter.feed("\nWell") == [(True, "Well")]
    assert splitter.feed(", ") == [(True, ",")]
    assert splitter.feed("no.\n</th") == [(True, " no.")]
    assert splitter.feed("ink>\n") == []
    assert splitter.feed("\nYes ") == [(False, "Yes ")]
    assert splitter.feed("<details") == []
    assert splitter.close() == [(False, "<details")]


def test_one_piece_may_hold_it_all() -> None:
    assert ThinkSplitter().feed("a<think>b</think>\nc<think></think>d<think>e") == [
        *((False, "a"), (True, "b")),
        *((False, "cd"), (True, "e")),
    ]


@pytest.mark.parametrize(
    ("start", "held"),
    [
        ("<think", "\n" * 999),
        ("<think ", "x" * 999),
        ("<details>", " " * 999),
        ("<think>x", " " * 999),
        ("<think>x</think", " " * 999),
        (f"<think>x{' ' * 200}</thinking", " " * 999),
        ("```", "`" * 999),
        ("", "<think " * 99),
        (f"<details {'x' * 159}>{' ' * 16}<summary>{' ' * 16}Thinking...{' ' * 16}</summary", "x"),
    ],
)
def test_what_is_held_back_is_bounded(start: str, held: str) -> None:
    split(*start, *held)
    split(start, held)
    splitter = ThinkSplitter()
    told = [*splitter.feed(start), *splitter.feed(held)]
    assert sum(len(text) for _, text in told) >= len(start + held) - MAX_HELD - len("<think>")


TAGS = ["<think>", "</think>", "<thinking>", "</thinking>", "<details>", "</details>", DIFY, "<think a='b'>"]
PARTS = ["<", "</", "<thi", "nk", ">", "/", "<details", "<summary>", " Thinking... ", "</summary>", "</think", "T"]
MARKS = ["`", "``", "```", "````", "~", "~~~", "```py\n", "\n```\n", "\n~~~\n", "   ", " ", "\t"]
LINES = ["\n", "\r\n", "\r", "\n\n", "\n", " \n"]
WORDS = ["a", "So,", "é", "思考", "👍🏽", "\u2028", "\N{NO-BREAK SPACE}", "x" * 90, " " * 70, "\n" * 130]
CUTS = st.lists(st.one_of(*map(st.sampled_from, (TAGS, PARTS, MARKS, LINES, WORDS))), max_size=24)


@settings(deadline=None, max_examples=400)
@given(CUTS, st.integers(2, 9))
@example(["`a\r", "\n```", "``\n", "<think>"], 2)
def test_any_cutting_gives_the_same_as_the_whole(cuts: list[str], size: int) -> None:
    whole = "".join(cuts)
    expected = Reference(whole).read()
    assert split(whole) == expected
    assert split_by_need(*cuts) == split_by_need(*whole) == expected
    assert split(*whole) == expected
    assert split(*cuts) == expected
    assert split(*(whole[start : start + size] for start in range(0, len(whole), size))) == expected


@settings(deadline=None)
@given(CUTS)
def test_no_text_is_lost_without_an_opening_tag(cuts: list[str]) -> None:
    whole = re.sub("(?i)<(think|details)", "<", "".join(cuts))
    assert "".join(text for _, text in split(*whole)) == whole


PROSE = st.text("ab .,é思👍🏽\n\r\t>/", max_size=20)
OPENED = st.sampled_from([("<think>", "</think>"), ("<THINKING a='b'>", "</thinking >"), (DIFY, "</details>")])
BLOCKS = st.lists(st.tuples(PROSE, OPENED, PROSE, st.text("\r\n")), max_size=5)


@settings(deadline=None)
@given(BLOCKS, PROSE)
def test_nothing_but_tags_and_white_space_at_edges_is_lost(
    blocks: list[tuple[str, tuple[str, str], str, str]], last: str
) -> None:
    whole, expected, newlines = "", list[Piece](), ""
    for text, (opening, closing), thought, ends in [*blocks, (last, ("", ""), "", "")]:
        whole += newlines + text + opening + thought + closing
        expected += [(False, text.lstrip("\r\n") if newlines or expected else text), (True, thought.strip())]
        newlines = ends
    assert split(*whole) == split(whole) == merged([piece for piece in expected if piece[1]])
