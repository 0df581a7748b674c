"""What a grammar lets a model write, the dialect's reader understands: random walks through every grammar."""

from __future__ import annotations

import json
import random
from typing import Any

import jsonschema
import numpy as np
import pytest

from tripos.engine.grammar import Grammar, Vocabulary, lark_grammar
from tripos.errors import InvalidRequest
from tripos.types import Constraint
from tripos.wire.tools.dialect import Dialect
from tripos.wire.tools.dialects import DIALECTS
from tripos.wire.tools.generic import GENERIC
from tripos.wire.tools.grammar import constrain
from tripos.wire.tools.hermes import HERMES
from tripos.wire.tools.llama import LLAMA
from tripos.wire.tools.offer import Choice, Offer, Tool
from tripos.wire.tools.parser import Parser, Part, ToolText
from tripos.wire.tools.schema import bare

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


def offer(choice: Choice = "required", *, allowed: tuple[str, ...] = tuple(SCHEMAS), is_parallel: bool = True) -> Offer:
    return Offer(tools=TOOLS, choice=choice, allowed=allowed, is_parallel=is_parallel)


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


def walk(dialect: Dialect, offer: Offer, *, special: bool, answer: Constraint | None = None) -> Walk:
    return Walk(dialect, constrain(offer, dialect, markers_of(dialect, special), answer), special=special)


def read(dialect: Dialect, text: str) -> list[Part]:
    parser = Parser(dialect, SCHEMAS)
    return parser.push(text) + parser.flush()


KINDS = [
    (dialect, special) for dialect in DIALECTS.values() for special in ((False, True) if dialect.markers else (False,))
]


@pytest.mark.parametrize(("dialect", "special"), KINDS, ids=lambda value: getattr(value, "name", str(value)))
@pytest.mark.parametrize("is_parallel", [True, False])
def test_what_must_call_calls_with_valid_arguments(dialect: Dialect, special: bool, is_parallel: bool) -> None:
    texts = walk(dialect, offer(is_parallel=is_parallel), special=special)
    counts = set()
    for seed in range(40):
        text = texts.text(seed)
        if not text:
            continue
        calls = read(dialect, text)
        assert calls, text
        for call in calls:
            assert isinstance(call, ToolText), text
            jsonschema.validate(json.loads(call.arguments), {**SCHEMAS[call.name], "additionalProperties": False})
        counts.add(len(calls))
    assert 1 in counts
    assert (max(counts) > 1) == (is_parallel and dialect not in (LLAMA, GENERIC))


@pytest.mark.parametrize(("dialect", "special"), KINDS, ids=lambda value: getattr(value, "name", str(value)))
def test_what_may_call_speaks_freely_or_calls_rightly(dialect: Dialect, special: bool) -> None:
    grammar = constrain(offer("auto"), dialect, markers_of(dialect, special))
    allows = Walk(dialect, grammar, special=special)._grammar.accepts
    call = _written(dialect, special, "pick", '{"on": true}')
    for text in ("Hello, I am <b> free [1] of {tools} ", "", "a\n\nb", '{"answer": 42}', "[1] a"):
        assert allows(list(text.encode()))
    assert allows(call)
    assert not allows(_written(dialect, special, "pick", '{"on": 1}'))
    assert not allows(_written(dialect, special, "pick", '{"on": true, "off": 1}'))
    assert not allows(_written(dialect, special, "other", '{"on": true}'))
    assert not allows(call[:-2])
    assert not any(trigger in text and allows(list(text.encode())) for text in UNBOUND for trigger in dialect.triggers)
    if dialect.triggers and dialect is not LLAMA:
        assert allows([*b"Let me see.\n", *call])


UNBOUND = [f"a{trigger}b" for dialect in DIALECTS.values() for trigger in dialect.triggers]  # as plain text


def _written(dialect: Dialect, special: bool, name: str, arguments: str) -> list[int]:
    """Token ids of one call as the dialect writes it."""
    from tripos.wire.tools.dialect import ARGUMENTS, NAME

    frame = dialect.form.frames[0]
    places = {NAME: name, ARGUMENTS: arguments}
    text = frame.opening + "".join(str(places.get(part, part)) for part in dialect.form.call) + frame.closing
    ids = markers_of(dialect, special)
    tokens: list[int] = []
    while text:
        marker = next((each for each in ids if text.startswith(each)), None)
        tokens += [ids[marker]] if marker else text[0].encode()
        text = text[len(marker or text[0]) :]
    return tokens


def test_only_what_is_allowed_is_called() -> None:
    texts = walk(HERMES, offer(allowed=("now", "pick")), special=False)
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
        asked = Offer(tools=tuple(tools), choice="auto", allowed=tuple(tool.name for tool in tools))
        sources.add(constrain(asked, HERMES, {}).source)
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
    allows = walk(HERMES, offer("auto"), special=False, answer=answer)._grammar.accepts
    assert allows(list(b'{"n": 1}'))
    assert not allows(list(b"Hello"))
    assert allows(_written(HERMES, False, "now", "{}"))
    with pytest.raises(InvalidRequest, match="cannot be told apart"):
        constrain(offer("auto"), GENERIC, {}, answer)
    with pytest.raises(InvalidRequest, match="regex"):
        constrain(offer("auto"), HERMES, {}, Constraint(kind="regex", source="a"))
