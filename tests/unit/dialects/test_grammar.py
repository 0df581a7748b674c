"""What a grammar lets a model write, the dialect's reader understands: random walks through every grammar."""

from __future__ import annotations

import json
import random
from typing import Any

import jsonschema
import numpy as np
import pytest

from tripos.dialects.arguments import enforceable
from tripos.dialects.deepseek import BEGIN as BEGIN_CALLS
from tripos.dialects.deepseek import DEEPSEEK_R1, DEEPSEEK_V31
from tripos.dialects.deepseek import END as END_CALLS
from tripos.dialects.dialect import ARGUMENTS, NAME, Dialect
from tripos.dialects.families import DIALECTS
from tripos.dialects.generic import GENERIC
from tripos.dialects.grammar import constrain
from tripos.dialects.hermes import HERMES
from tripos.dialects.llama import LLAMA
from tripos.dialects.mistral import MISTRAL_LIST
from tripos.dialects.parser import CallParser, Part, ToolText
from tripos.errors import InvalidRequest
from tripos.grammar.matcher import Grammar, Vocabulary, lark_grammar
from tripos.schema.parameters import bare
from tripos.types import Constraint, Tool, ToolChoice
from tripos.wire.tools import Mode

EOS = 256
WEATHER = {
    "type": "object",
    "description": "Where and when.",
    "properties": {
        "city": {"enum": ["Paris", "Rome"], "description": "Its name."},
        "days": {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 9}, "maxItems": 2},
        "unit": {"anyOf": [{"const": "C"}, {"type": "null"}], "default": "C"},
    },
    "required": ["city", "days"],
}
TOOLS = (
    Tool(name="get_weather", description='Quotes ", \\ and {{ templates }}', parameters=WEATHER),
    Tool(name="now"),
    Tool(name="pick", parameters={"properties": {"on": {"type": "boolean"}}, "required": ["on"]}),
)
SCHEMAS = {tool.name: tool.parameters for tool in TOOLS}


def choice(
    mode: Mode = "required", *, allowed: tuple[str, ...] = tuple(SCHEMAS), is_parallel: bool = True
) -> ToolChoice:
    return ToolChoice(mode=mode, allowed=allowed, is_parallel=is_parallel)


def constrained(
    chosen: ToolChoice, dialect: Dialect, marker_ids: dict[str, int], answer: Constraint | None = None
) -> Constraint:
    """With the arguments of the tools that may be called."""
    return constrain(enforceable(TOOLS, chosen.allowed or ()), chosen, dialect, marker_ids, answer)


class Walk:
    """Texts that a grammar allows, drawn at random over single bytes and the dialect's markers as special tokens."""

    def __init__(self, dialect: Dialect, constraint: Constraint, *, special: bool) -> None:
        markers = dialect.markers if special else ()
        tokens = [bytes([i]) for i in range(256)] + [b"</s>"] + [marker.encode() for marker in markers]
        self._texts = {257 + i: marker for i, marker in enumerate(markers)}
        vocabulary = Vocabulary(tokens, list(range(EOS, len(tokens))), [EOS])
        self._grammar: Grammar = vocabulary.compile(lark_grammar(constraint.source))
        self._num_words = vocabulary.num_words

    def text(self, seed: int, most: int = 400) -> str:
        """Ends when the grammar can, with a chance; "" when it did not within `most` tokens."""
        draw = random.Random(seed)
        matcher, data = self._grammar.start(), bytearray()
        for _ in range(most):
            if matcher.is_complete:
                break
            mask = np.zeros((1, self._num_words), np.uint32)
            matcher.fill(mask)
            allowed = np.flatnonzero(np.unpackbits(mask[0].view(np.uint8), bitorder="little")).tolist()
            likely = [id for id in allowed if id >= EOS or id == 10 or (id < 128 and chr(id).isprintable())]
            token = draw.choice(likely if len(allowed) > 8 else allowed)
            if EOS in allowed and draw.random() < 0.2:
                token = EOS
            assert matcher.accept(token)
            if token == EOS:
                break
            data += self._texts.get(token, "").encode() or bytes([token])
        else:
            return ""
        return data.decode()


def markers_of(dialect: Dialect, special: bool) -> dict[str, int]:
    return {marker: 257 + i for i, marker in enumerate(dialect.markers)} if special else {}


def walk(dialect: Dialect, chosen: ToolChoice, *, special: bool, answer: Constraint | None = None) -> Walk:
    return Walk(dialect, constrained(chosen, dialect, markers_of(dialect, special), answer), special=special)


def read(dialect: Dialect, text: str) -> list[Part]:
    parser = CallParser(dialect, SCHEMAS)
    return parser.push(text) + parser.flush()


KINDS = [
    (dialect, special) for dialect in DIALECTS.values() for special in ((False, True) if dialect.markers else (False,))
]


@pytest.mark.parametrize(("dialect", "special"), KINDS, ids=lambda value: getattr(value, "name", str(value)))
@pytest.mark.parametrize("is_parallel", [True, False])
def test_what_must_call_calls_with_valid_arguments(dialect: Dialect, special: bool, is_parallel: bool) -> None:
    texts = walk(dialect, choice(is_parallel=is_parallel), special=special)
    counts = set()
    for seed in range(40):
        text = texts.text(seed)
        if not text:
            continue
        parts = read(dialect, text)
        calls = [part for part in parts if isinstance(part, ToolText)]
        assert parts[:1] == calls[:1] != [], text
        assert is_parallel or parts == calls[:1], text
        for call in calls:
            jsonschema.validate(json.loads(call.arguments), {**SCHEMAS[call.name], "additionalProperties": False})
        counts.add(len(calls))
    assert 1 in counts
    assert is_parallel or counts == {1}


SAID = ("", "\n", " \n\n", "\nDone; is it?", "\n\nThen {again}:\n", " a ; b")


@pytest.mark.parametrize(("dialect", "special"), KINDS, ids=lambda value: getattr(value, "name", str(value)))
@pytest.mark.parametrize("mode", ["auto", "required"])
@pytest.mark.parametrize("said", SAID)
def test_behind_a_call_a_model_says_what_it_likes(dialect: Dialect, special: bool, mode: Mode, said: str) -> None:
    """Nothing, white space, text, or another call: none is forced on it, and all of it is read."""
    if dialect is GENERIC:  # whose call is the whole answer
        return
    allows = walk(dialect, choice(mode), special=special)._grammar.accepts
    alone = walk(dialect, choice("auto", is_parallel=False), special=special)._grammar.accepts
    pick, now = _call(dialect, "pick", '{"on": true}'), _call(dialect, "now", "{}")
    chain = dialect.form.chain if dialect.form.chain and not said.strip() else ""
    another = now if chain or not dialect.form.chain else dialect.markers[0] + now
    words = [part for part in (said.strip(" \n"),) if part]
    for text, parts in (
        (pick + said, [ToolText("pick", '{"on": true}'), *words]),
        (pick + said + chain + another, [ToolText("pick", '{"on": true}'), *words, ToolText("now", "{}")]),
    ):
        ids = _ids(dialect, special, text)
        assert allows(ids), text
        assert alone(ids) == (len(parts) == 1 + len(words)), text
        assert read(dialect, text) == parts


@pytest.mark.parametrize(("dialect", "special"), KINDS, ids=lambda value: getattr(value, "name", str(value)))
def test_a_call_that_must_be_alone_ends_the_answer(dialect: Dialect, special: bool) -> None:
    texts = walk(dialect, choice("required", is_parallel=False), special=special)
    matcher = texts._grammar.start()
    for id in _ids(dialect, special, _call(dialect, "pick", '{"on": true}')):
        assert not matcher.is_complete
        assert matcher.accept(id)
    assert matcher.is_complete


DEEPSEEK_ENDS = ("", END_CALLS, "\n" + END_CALLS, END_CALLS + "\n", f"\n{END_CALLS}\nDone.", f"Done.{END_CALLS}")


@pytest.mark.parametrize("dialect", [DEEPSEEK_R1, DEEPSEEK_V31], ids=lambda dialect: dialect.name)
@pytest.mark.parametrize("special", [False, True])
@pytest.mark.parametrize("end", DEEPSEEK_ENDS)
def test_the_mark_at_the_end_of_calls_may_stand_anywhere_behind_them(dialect: Dialect, special: bool, end: str) -> None:
    allows = walk(dialect, choice("auto"), special=special)._grammar.accepts
    text = _call(dialect, "pick", '{"on": true}') + end
    assert allows(_ids(dialect, special, text))
    words = ["Done."] if "Done" in end else []
    assert read(dialect, text) == [ToolText("pick", '{"on": true}'), *words]


def test_white_space_in_a_list_of_calls_asks_for_no_further_call() -> None:
    one = '{"name": "pick", "arguments": {"on": true}}'
    for dialect, before, modes in ((MISTRAL_LIST, "[TOOL_CALLS][", ("auto", "required")), (GENERIC, "[", ("auto",))):
        for mode in modes:
            allows = walk(dialect, choice(mode), special=False)._grammar.accepts
            for list_ in (f"{one}]", f"{one}\n]", f"{one} , {one}\n ]", f"{one},\n{one}]"):
                assert allows(list((before + list_).encode()))
                assert len(read(dialect, before + list_)) == list_.count("pick")


@pytest.mark.parametrize("dialect", [LLAMA, GENERIC], ids=lambda dialect: dialect.name)
@pytest.mark.parametrize(
    "text",
    [
        '{"name": "Ann", "age": 3}', '{"name":"Ann"}', '{\n  "name": "Ann"\n}', '{"name": null}', '{"name": ["now"]}',
        '{"type": "object", "name": "now"}', '{"id": 5, "name": "now"}', '{"arguments": {}, "name": "now"}',
        '{"names": "now"}', '{"name": "nowhere"}',
    ],
)  # fmt: skip
def test_json_that_names_no_tool_is_an_answer(dialect: Dialect, text: str) -> None:
    allows = walk(dialect, choice("auto"), special=False)._grammar.accepts
    assert allows(list(text.encode()))
    parts = read(dialect, text)
    assert "".join(part for part in parts if isinstance(part, str)) == text


@pytest.mark.parametrize("dialect", [LLAMA, GENERIC], ids=lambda dialect: dialect.name)
@pytest.mark.parametrize(
    "beginning", ['{"name":"now"', '\n{ "name" : "now"', '{"type": "function", "name": "now"', '{\n"name": "now"']
)
def test_a_call_in_any_spacing_is_a_call(dialect: Dialect, beginning: str) -> None:
    allows = walk(dialect, choice("auto"), special=False)._grammar.accepts
    key = "parameters" if dialect is LLAMA else "arguments"
    text = beginning + f', "{key}": {{}}}}'
    assert allows(list(text.encode()))
    assert not allows(list((beginning + "}").encode()))
    assert read(dialect, text) == [ToolText("now", "{}")]


@pytest.mark.parametrize(("dialect", "special"), KINDS, ids=lambda value: getattr(value, "name", str(value)))
def test_what_may_call_speaks_freely_or_calls_rightly(dialect: Dialect, special: bool) -> None:
    grammar = constrained(choice("auto"), dialect, markers_of(dialect, special))
    allows = Walk(dialect, grammar, special=special)._grammar.accepts
    call = _written(dialect, special, "pick", '{"on": true}')
    for text in ("Hello, I am <b> free [1] of {tools} ", "", "a\n\nb", '{"answer": 42}', "[1] a"):
        assert allows(list(text.encode()))
    assert allows(call)
    assert not allows(_written(dialect, special, "pick", '{"on": 1}'))
    assert not allows(_written(dialect, special, "pick", '{"on": true, "off": 1}'))
    other = _call(dialect, "other", '{"on": true}')  # text, where no marker says that it is a call
    assert allows(_ids(dialect, special, other)) == (dialect in (LLAMA, GENERIC))
    assert dialect not in (LLAMA, GENERIC) or read(dialect, other) == [other]
    assert not allows(call[:-2])
    commits = [frame.opening.rstrip("[\n").removeprefix(BEGIN_CALLS) for frame in dialect.form.frames]
    assert not any(allows(list(f"a{commit}b".encode())) for commit in commits if commit)  # as plain text
    if dialect.triggers and dialect is not LLAMA:
        assert allows([*b"Let me see.\n", *call])


def _call(dialect: Dialect, name: str, arguments: str) -> str:
    """One call as the dialect writes it."""
    frame, places = dialect.form.frames[0], {NAME: name, ARGUMENTS: arguments}
    return frame.opening + "".join(str(places.get(part, part)) for part in dialect.form.call) + frame.closing


def _ids(dialect: Dialect, special: bool, text: str) -> list[int]:
    """Token ids of a text: bytes, and markers as their own where they are special."""
    ids = markers_of(dialect, special)
    tokens: list[int] = []
    while text:
        marker = next((each for each in ids if text.startswith(each)), None)
        tokens += [ids[marker]] if marker else text[0].encode()
        text = text[len(marker or text[0]) :]
    return tokens


def _written(dialect: Dialect, special: bool, name: str, arguments: str) -> list[int]:
    return _ids(dialect, special, _call(dialect, name, arguments))


def test_only_what_is_allowed_is_called() -> None:
    texts = walk(HERMES, choice(allowed=("now", "pick")), special=False)
    names = {part.name for seed in range(30) for part in read(HERMES, texts.text(seed)) if isinstance(part, ToolText)}
    assert names == {"now", "pick"}


def test_descriptions_never_reach_the_grammar() -> None:
    draw = random.Random(0)
    marked = {"type": "object", "properties": {"description": {"type": "string"}, "title": {"type": "integer"}}}

    def described(value: Any) -> Any:
        if isinstance(value, dict) and ("type" in value or "enum" in value or "anyOf" in value):
            inner = {key: described(each) for key, each in value.items() if key != "description"}
            return {**inner, "description": _words(draw), "title": _words(draw), "examples": [_words(draw)]}
        if isinstance(value, dict):
            return {key: described(each) for key, each in value.items()}
        return [described(each) for each in value] if isinstance(value, list) else value

    sources = set()
    for _ in range(500):
        tools = [
            Tool(name=tool.name, description=_words(draw), parameters=described(tool.parameters))
            for tool in (*TOOLS, Tool(name="marked", parameters=marked))
        ]
        arguments = enforceable(tools, tuple(tool.name for tool in tools))
        sources.add(constrain(arguments, ToolChoice(), HERMES, {}).source)
    assert len(sources) == 1
    assert '"description"' in sources.pop()  # the parameter of that name


def _words(draw: random.Random) -> str:
    return "".join(chr(draw.choice([34, 92, 123, 125, 10, 37, 0x1F642, *range(97, 123)])) for _ in range(20))


def test_a_schema_keeps_what_demands_something() -> None:
    schema = {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "x-order": 1,
        "optional": ["size"],
        "type": "object",
        "properties": {
            "format": {"type": "string", "format": "date", "title": "When"},
            "size": {"type": "integer", "format": "int32", "default": 3},
            "item": {"$ref": "#/$defs/item"},
            "any": {"type": "object"},
            "open": {"type": "object", "properties": {"a": {}}, "additionalProperties": True},
        },
        "$defs": {"item": {"type": "object", "properties": {"x-y": {"enum": ["x-1"]}}, "description": "d"}},
        "allOf": [{"required": ["size"]}],
    }
    assert bare(schema) == {
        "type": "object",
        "properties": {
            "format": {"type": "string", "format": "date"},
            "size": {"type": "integer"},
            "item": {"$ref": "#/$defs/item"},
            "any": {"type": "object"},
            "open": {"type": "object", "properties": {"a": {}}, "additionalProperties": True},
        },
        "$defs": {"item": {"type": "object", "properties": {"x-y": {"enum": ["x-1"]}}, "additionalProperties": False}},
        "allOf": [{"required": ["size"]}],
    }


def test_a_schema_for_the_answer_holds_where_nothing_is_called() -> None:
    answer = Constraint(
        kind="json_schema", source='{"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}'
    )
    allows = walk(HERMES, choice("auto"), special=False, answer=answer)._grammar.accepts
    assert allows(list(b'{"n": 1}'))
    assert not allows(list(b"Hello"))
    assert allows(_written(HERMES, False, "now", "{}"))
    with pytest.raises(InvalidRequest, match="cannot be told apart"):
        constrained(choice("auto"), GENERIC, {}, answer)
    with pytest.raises(InvalidRequest, match="regex"):
        constrained(choice("auto"), HERMES, {}, Constraint(kind="regex", source="a"))
