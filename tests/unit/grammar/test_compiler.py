"""The gate, the process behind it and the cache: the corpus of hostile grammars, killed processes, limits."""

from __future__ import annotations

import asyncio
import json
import os
import random
import resource
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.unit.engine.tiny import EOS
from tripos.errors import EngineFailed, InvalidRequest, Overloaded
from tripos.grammar import compile_process
from tripos.grammar import compiler as constraints
from tripos.grammar.compiler import CompiledConstraint, Grammars
from tripos.grammar.limits import admit
from tripos.testing import byte_tokenizer
from tripos.types import Constraint

ALIVE_S = 10.0  # the most that a refusal may take, on a busy machine


@pytest.fixture(scope="module")
def grammars() -> Iterator[Grammars]:
    made = Grammars(byte_tokenizer(), 257)
    yield made
    made.close()


def schema(value: Any) -> Constraint:
    return Constraint(kind="json_schema", source=value if isinstance(value, str) else json.dumps(value), param="p")


def regex(source: str) -> Constraint:
    return Constraint(kind="regex", source=source, param="p")


def lark(source: str) -> Constraint:
    return Constraint(kind="lark", source=source, param="p")


def gbnf(source: str) -> Constraint:
    return Constraint(kind="gbnf", source=source, param="p")


def nested(depth: int) -> str:
    return '{"items": ' * depth + "{}" + "}" * depth


COMPLEX, SCHEMA, UNSUPPORTED, GRAMMAR = "grammar_too_complex", "invalid_schema", "unsupported_schema", "invalid_grammar"
# id, constraint, the codes that are right; "" = it is served
CORPUS: list[tuple[str, Constraint, set[str]]] = [
    *(("G01", schema(value), {SCHEMA}) for value in ('""', "false", "[]", "0", "")),
    *(("G02", schema(nested(depth)), {COMPLEX}) for depth in (65, 300, 1000)),
    ("G02", schema(nested(100_000)), {COMPLEX}),
    ("G03 itself", schema({"$ref": "#"}), {UNSUPPORTED}),
    ("G03 itself below", schema({"properties": {"a": {"$ref": "#"}}, "type": "object"}), {""}),
    ("G03 missing", schema({"$ref": "#/a/b"}), {UNSUPPORTED}),
    ("G03 remote", schema({"$ref": "http://127.0.0.1:9/x"}), {UNSUPPORTED}),
    ("G03 file", schema({"$ref": "file:///etc/passwd"}), {UNSUPPORTED}),
    ("G04 cycle", schema({"$ref": "#/$defs/a", "$defs": {
        "a": {"type": "array", "items": {"$ref": "#/$defs/b"}},
        "b": {"type": "array", "items": {"$ref": "#/$defs/a"}}}}), {""}),
    ("G04 power", schema({"$ref": "#/$defs/d0", "$defs": {
        **{f"d{i}": {"allOf": [{"$ref": f"#/$defs/d{i + 1}"}] * 2} for i in range(30)},
        "d30": {"type": "string"}}}), {"", COMPLEX}),
    ("G04 any", schema({"$ref": "#/$defs/d0", "$defs": {
        **{f"d{i}": {"anyOf": [{"$ref": f"#/$defs/d{i + 1}"}] * 2} for i in range(30)},
        "d30": {"type": "string"}}}), {"", COMPLEX}),
    ("G05 many", schema({"enum": list(range(100_000))}), {COMPLEX}),
    ("G05 none", schema({"enum": []}), {SCHEMA}),
    ("G05 twice", schema({"enum": ["a", "a"]}), {""}),
    ("G05 long", schema({"enum": ["a" * 1_000_000]}), {COMPLEX}),
    ("G06 many", schema({"properties": {f"p{i}": {} for i in range(20_000)}}), {COMPLEX}),
    ("G06 required", schema({"type": "object", "required": ["a"]}), {""}),
    ("G07 range", schema({"type": "number", "minimum": 5, "maximum": 1}), {SCHEMA}),
    ("G07 items", schema({"type": "array", "minItems": 5, "maxItems": 1}), {SCHEMA}),
    ("G07 multiple", schema({"multipleOf": 0}), {SCHEMA}),
    ("G07 nothing", schema({"allOf": [{"type": "string"}, {"type": "null"}]}), {SCHEMA}),
    ("G08 length", schema({"type": "string", "minLength": 10**9}), {COMPLEX}),
    ("G08 items", schema({"type": "array", "maxItems": 10**18}), {COMPLEX}),
    ("G08 negative", schema({"type": "array", "minItems": -1}), {SCHEMA}),
    *(("G09", schema({"type": "string", "pattern": pattern}), {SCHEMA, UNSUPPORTED})
      for pattern in ("(((", "(?<=a)b", "(a)\\1", "[z-a]", "a{2,1}", "*")),
    ("G09 odd but regular", schema({"type": "string", "pattern": "^+[a-z]$"}), {"", SCHEMA}),
    ("G10", schema({"type": "string", "pattern": "(" * 20_000 + ")" * 20_000}), {COMPLEX}),
    ("G10", regex("(" * 20_000 + ")" * 20_000), {COMPLEX}),
    ("G11", regex("((a{0,1000}){0,1000}){0,1000}"), {"", COMPLEX}),
    ("G11", regex("a{1,1000000000}"), {"", COMPLEX, GRAMMAR}),
    ("G12", regex("(a|a)*(a|a)*b"), {""}),
    ("G12", regex("(.*a.{20})"), {"", COMPLEX}),
    ("G12", regex("(a|b)*a(a|b){200}"), {"", COMPLEX}),
    ("G13", regex("|".join(f"word{i}" for i in range(120_000))), {COMPLEX}),
    ("G13 in bounds", regex("|".join(f"word{i}" for i in range(6_000))), {"", COMPLEX}),
    ("G14 format", schema({"type": "string", "format": "shoe-size"}), {UNSUPPORTED}),
    ("G14 keyword", schema({"shoeSize": 43}), {UNSUPPORTED}),
    ("G14 draft", schema({"$schema": "http://json-schema.org/draft-03/schema#"}), {UNSUPPORTED}),
    ("G15 empty", lark(""), {GRAMMAR}),
    ("G15 empty", gbnf(""), {GRAMMAR}),
    ("G15 undefined", lark("start: other"), {GRAMMAR}),
    ("G15 no root", lark('other: "a"'), {GRAMMAR}),
    ("G15 left recursion", lark('start: start "a" | "b"'), {""}),
    ("G15 endless", lark("start: start"), {GRAMMAR, COMPLEX}),
    ("G15 repeated empty", lark('start: ("")* "a"'), {"", GRAMMAR}),
    ("G15 nested", lark("start: " + "(" * 30_000 + '"a"' + ")" * 30_000), {COMPLEX}),
    ("G15 nested", gbnf("root ::= " + "(" * 30_000 + '"a"' + ")" * 30_000), {COMPLEX}),
    ("G20 names", schema({
        "type": "object", "properties": {'q"\n\x00é': {"type": "null"}}, "required": ['q"\n\x00é']}), {""}),
    ("G20 surrogate", Constraint(kind="json_schema", source='{"const": "\ud800"}'), {GRAMMAR}),
    ("lark keyword", lark('start: "x" %json {"type": "array", "uniqueItems": true}'), {UNSUPPORTED}),
    ("lark hidden keyword", lark('start: /a"\\/%json/ "\\"" %json {"x-guidance": {"lenient": true}}'), {UNSUPPORTED}),
    ("lark no json", lark("start: %json {,}"), {SCHEMA}),
    ("lark special token", lark("start: <|nowhere|>"), {GRAMMAR}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("constraint", "codes"), [case[1:] for case in CORPUS], ids=[f"{i} {case[0]}" for i, case in enumerate(CORPUS)]
)
def test_the_corpus_of_hostile_grammars(grammars: Grammars, constraint: Constraint, codes: set[str]) -> None:
    start_s = time.monotonic()
    problem = None
    try:
        grammars.compile(constraint)
    except InvalidRequest as refusal:
        problem = refusal
    assert (problem.code if problem else "") in codes
    assert problem is None or (len(problem.message) < 1000 and problem.param == constraint.param)
    assert time.monotonic() - start_s < ALIVE_S
    assert isinstance(grammars.compile(regex("after[0-9]")), CompiledConstraint)


def test_a_special_token_and_a_schema_in_lark(grammars: Grammars) -> None:
    grammar = grammars.compile(lark('start: "call " call </s>\ncall: %json {"const": {"a": 1}, "title": "x"}')).grammar
    assert grammar.accepts([*b'call {"a": 1}', EOS])
    assert not grammar.accepts([*b'call {"a": 1}x', EOS])
    assert grammars.compile(lark("start: <[256]>")).grammar.accepts([EOS])


def test_a_schema_inside_a_grammar_that_only_the_compiler_refuses_is_told_by_its_comment(grammars: Grammars) -> None:
    some_of = json.dumps({"$comment": "tools[1].parameters", "oneOf": [{"minimum": 1}, {"maximum": 3}]})
    fine = json.dumps({"$comment": "tools[0].parameters", "oneOf": [{"type": "null"}, {"type": "string"}]})
    with pytest.raises(InvalidRequest) as caught:
        grammars.compile(lark(f"start: a | b\na: %json {fine}\nb: %json {some_of}"))
    assert caught.value.code == UNSUPPORTED
    assert caught.value.message.startswith("tools[1].parameters: the keyword 'oneOf' is not supported")


@pytest.mark.parametrize("names", [{"a": {}}, {"a": {}, "b": {"type": "null"}}])
@pytest.mark.parametrize("keyword", ["minProperties", "maxProperties"])
def test_a_count_of_names_that_may_be_missing_is_not_supported(
    grammars: Grammars, names: dict[str, Any], keyword: str
) -> None:
    for given in (
        {"properties": names, keyword: 1},
        {"allOf": [{"properties": names}, {keyword: 1}]},
        {"type": "object", "properties": {"a": {"type": "object", "properties": names}},
         "patternProperties": {"^a$": {"type": "object", keyword: 1}}},
    ):  # fmt: skip
        with pytest.raises(InvalidRequest, match=r"minProperties|maxProperties") as caught:
            grammars.compile(schema(given))
        assert caught.value.code == UNSUPPORTED


def test_a_name_and_an_equal_pattern_both_hold(grammars: Grammars) -> None:
    for name, pattern in (("foo", "foo"), ("foo", "^foo$"), ("^x", r"^\^x"), ("a", "^[a[]$")):
        given = {"properties": {name: {"minimum": 3}}, "patternProperties": {pattern: {"type": "integer"}}}
        accepts = grammars.compile(schema({"type": "object", **given})).grammar.accepts
        for value, is_right in (("3", True), ("2", False), ("3.5", False), ('"x"', False)):
            text = json.dumps({name: 0}).replace("0", value)
            assert accepts(list(text.encode())) == is_right, (name, pattern, text)


def test_a_tools_description_does_not_change_its_grammar(grammars: Grammars) -> None:
    chance = random.Random(3)
    digests = set()
    for _ in range(50):
        text = "".join(chr(chance.randrange(1, 0xD000)) for _ in range(40))
        parameters = {"type": "object", "properties": {"a": {"type": "string", "description": text}}}
        digests.add(grammars.compile(schema({"description": text, **parameters})).grammar.digest)
        digests.add(grammars.compile(schema({**parameters, "title": text})).grammar.digest)
    assert len(digests) == 1


def test_what_is_known_is_not_tried_again(grammars: Grammars, monkeypatch: pytest.MonkeyPatch) -> None:
    good, bad = schema({"type": "null"}), schema({"not": {}})
    first = grammars.compile(good)
    with pytest.raises(InvalidRequest):
        grammars.compile(bad)
    monkeypatch.setattr(compile_process.CompileProcess, "check", lambda *_: pytest.fail("tried again"))
    assert grammars.compile(good) is first
    with pytest.raises(InvalidRequest, match="'not'"):
        grammars.compile(bad)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGUSR2])
def test_the_process_may_be_killed_at_any_time(grammars: Grammars, number: signal.Signals) -> None:
    for i in range(3):
        grammars.compile(regex(f"kill{i}{number}"))
        pid = grammars.process_id
        assert pid is not None
        os.kill(pid, number)
        grammars.compile(regex(f"killed{i}{number}"))
        assert grammars.process_id != pid


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_process_leaves_nothing_behind(grammars: Grammars, number: signal.Signals) -> None:
    grammars.compile(regex(f"zombie{number}"))
    pid = grammars.process_id
    assert pid is not None
    os.kill(pid, number)
    end_s = time.monotonic() + ALIVE_S
    while os.path.exists(f"/proc/{pid}"):
        assert time.monotonic() < end_s
        time.sleep(0.005)


def test_a_grammar_is_tried_where_a_thousand_connections_are_open() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2048), hard))
    open_ones: list[int] = []
    try:
        while not open_ones or open_ones[-1] < 1100:
            open_ones.append(os.open(os.devnull, os.O_RDONLY))
        late = Grammars(byte_tokenizer(), 257)
        assert late.compile(regex("a+")).text
        late.close()
    finally:
        for each in open_ones:
            os.close(each)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def stop(grammars: Grammars) -> int:
    grammars.compile(regex(f"before {time.monotonic_ns()}"))
    pid = grammars.process_id
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    return pid


@pytest.mark.parametrize("size", [10, 60_000], ids=["short", "fills the pipe"])
def test_a_grammar_that_was_held_up_is_tried_again(
    grammars: Grammars, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """It says nothing about the grammar when the machine had no time for it."""
    monkeypatch.setattr(compile_process, "MAX_WALL_S", 0.3)
    held_up = regex("held up" + "a" * size)
    stop(grammars)
    with pytest.raises(Overloaded, match="CPU time") as refused:
        grammars.compile(held_up)
    assert refused.value.is_retryable
    assert refused.value.retry_after_s
    monkeypatch.undo()
    assert grammars.compile(held_up).grammar.accepts(list(held_up.source.encode()))


def test_a_grammar_that_takes_too_much_time_is_refused_for_good(
    grammars: Grammars, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its CPU time alone, which the process counts itself; from this side too, should that fail."""
    monkeypatch.setattr(compile_process, "MAX_WALL_S", 0.3)
    stop(grammars)
    times = iter([1.0, 1.0 + compile_process.MAX_CPU_S])
    monkeypatch.setattr(compile_process, "_cpu_s", lambda pid: next(times))
    for _ in range(2):  # the second time without trying
        with pytest.raises(InvalidRequest, match="too complex"):
            grammars.compile(regex("takes all of it"))
    monkeypatch.undo()
    assert grammars.compile(regex("afterwards")).grammar.accepts(list(b"afterwards"))


@pytest.mark.parametrize("number", [signal.SIGPROF, signal.SIGSEGV, signal.SIGABRT])
def test_a_grammar_that_the_process_dies_of_is_refused_for_good(
    grammars: Grammars, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    pid = stop(grammars)
    os.kill(pid, number)  # is delivered when it goes on, with the grammar before it
    send = compile_process.CompileProcess._send

    def send_and_go_on(self: compile_process.CompileProcess, value: Any, seconds: float) -> None:
        send(self, value, seconds)
        os.kill(pid, signal.SIGCONT)

    monkeypatch.setattr(compile_process.CompileProcess, "_send", send_and_go_on)
    for _ in range(2):
        with pytest.raises(InvalidRequest, match="too complex"):
            grammars.compile(regex(f"dies of it {number}"))
    monkeypatch.undo()
    assert grammars.compile(regex("afterwards")).grammar.accepts(list(b"afterwards"))


def test_who_ends_the_process_again_and_again_gets_an_error_that_passes(
    grammars: Grammars, monkeypatch: pytest.MonkeyPatch
) -> None:
    receive = compile_process.CompileProcess._receive

    def kill_first(self: compile_process.CompileProcess, seconds: float) -> bytes:
        if seconds == compile_process.MAX_WALL_S:
            assert self.pid is not None
            os.kill(self.pid, signal.SIGKILL)
        return receive(self, seconds)

    monkeypatch.setattr(compile_process.CompileProcess, "_receive", kill_first)
    monkeypatch.setattr(compile_process.CompileProcess, "_send", _send_what_is_never_answered)
    with pytest.raises(EngineFailed, match="ended from outside") as failed:
        grammars.compile(regex("ended from outside"))
    assert failed.value.is_retryable
    monkeypatch.undo()
    assert isinstance(grammars.compile(regex("ended from outside")), CompiledConstraint)


_send = compile_process.CompileProcess._send


def _send_what_is_never_answered(self: compile_process.CompileProcess, value: Any, seconds: float) -> None:
    if isinstance(value, compile_process.Tokens):
        _send(self, value, seconds)


def test_the_cache_stays_within_its_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constraints, "MAX_CACHE_BYTES", 1 << 20)
    grammars = Grammars(byte_tokenizer(), 257)
    sizes = []
    for i in range(200):
        grammars.compile(regex(f"unique{i}"))
        sizes.append(grammars.cache_bytes)
    grammars.close()
    assert max(sizes) <= 1 << 20
    assert min(sizes[100:]) > 1 << 18


def test_a_grammar_that_was_used_for_long_is_made_anew(grammars: Grammars, monkeypatch: pytest.MonkeyPatch) -> None:
    """Patterns with many states fill the lexer's room: the next user must not find it full."""
    pattern = regex("(a|b)*a(a|b){200}")
    used = grammars.compile(pattern)
    chance = random.Random(4)
    while not used.is_worn:
        assert used.grammar.accepts([*(chance.choice(b"ab") for _ in range(99)), *b"a", *b"b" * 200])
    assert used.num_bytes > 4 << 20
    monkeypatch.setattr(compile_process.CompileProcess, "check", lambda *_: pytest.fail("tried again"))
    renewed = grammars.compile(pattern)
    assert renewed is not used
    assert renewed.num_bytes < 1 << 20
    assert grammars.compile(pattern) is renewed


async def test_only_so_many_wait_to_be_compiled(grammars: Grammars, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constraints, "MAX_PENDING", 2)
    results = await asyncio.gather(*(grammars.get(regex(f"burst{i}")) for i in range(4)), return_exceptions=True)
    assert [type(each) for each in results] == [CompiledConstraint] * 2 + [Overloaded] * 2
    assert isinstance(await grammars.get(regex("burst0")), CompiledConstraint)


async def test_who_waits_for_a_grammar_is_told_when_the_model_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    compiling, may_compile = threading.Event(), threading.Event()
    grammars = Grammars(byte_tokenizer(), 257)
    compile = grammars.compile

    def slow(constraint: Constraint) -> CompiledConstraint:
        compiling.set()
        assert may_compile.wait(10)
        return compile(constraint)

    monkeypatch.setattr(grammars, "compile", slow)
    first, waiting, left = (asyncio.create_task(grammars.get(regex(f"stop{i}"))) for i in range(3))
    while not compiling.is_set():
        await asyncio.sleep(0.001)
    left.cancel()
    with pytest.raises(asyncio.CancelledError):
        await left
    grammars.close()
    with pytest.raises(EngineFailed, match="stopped") as stopped:
        await waiting
    assert (stopped.value.code, stopped.value.retry_after_s) == ("draining", 5.0)
    may_compile.set()
    assert isinstance(await first, CompiledConstraint)
    assert grammars._num_pending == 0
    grammars.close()


def test_anchors_around_a_whole_pattern_say_nothing_new() -> None:
    assert admit(regex("^a[$^]b$")).text == admit(regex("a[$^]b")).text
    assert admit(regex("a\\$")).text != admit(regex("a\\")).text
