"""tripos.toml: what it may say, what wins over it, and that every refusal names the file, the line and the key."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tripos import config
from tripos.config.lines import key_lines
from tripos.errors import ConfigError

WHOLE = """\
# a comment = 1
[server]
port = 9000  # another
memory = "4GiB"
model_roots = ["models"]
api_key_file = "keys.txt"

[models.assistant]
source = "demo:assistant"
max_sequences = 8

[models."small:one"]
source = "weights/small"
weights = "int8"
preload = false

[routes.support]
model = "assistant"
stages = [
  { stage = "limits", max_n = 2 },
  "deadline",
]

[routes.support.need]
class = "bulk"
deadline_s = 30
"""


def written(folder: Path, text: str | bytes) -> str:
    path = folder / "tripos.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


def read(file: str, flags: dict[str, str] | None = None, **environment: str) -> config.ServiceOptions:
    return config.read_options((), flags or {}, environment, file)


def test_every_table_is_read(tmp_path: Path) -> None:
    options = read(written(tmp_path, WHOLE))
    assert (options.server.port, options.server.memory) == (9000, 4 << 30)
    assert [model.name for model in options.models] == ["assistant", "small:one"]
    assert options.models[0].max_sequences == 8
    assert (options.models[1].weights, options.models[1].preload) == ("int8", False)
    (route,) = options.routes
    assert (route.name, route.model) == ("support", "assistant")
    assert route.stages == (config.LimitsStage(max_n=2), config.DeadlineStage())
    assert route.need == config.NeedOptions(class_="bulk", deadline_s=30.0)


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    options = read(written(tmp_path, WHOLE))
    assert options.models[0].source == "demo:assistant"
    assert options.models[1].source == str(tmp_path / "weights" / "small")
    assert options.server.model_roots == (str(tmp_path / "models"),)
    assert options.server.api_key_file == str(tmp_path / "keys.txt")


def test_flags_win_over_environment_over_file_over_defaults(tmp_path: Path) -> None:
    file = written(tmp_path, "[server]\nport = 1\nhost = '127.0.0.2'\ndrain_s = 3\n")
    options = read(file, {"port": "3"}, TRIPOS_PORT="2", TRIPOS_DRAIN_S="4")
    assert (options.server.port, options.server.drain_s, options.server.host) == (3, 4.0, "127.0.0.2")
    assert options.server.max_connections == 1024
    origins = {key: origin for key, _, origin in config.effective(options)}
    assert origins["server.port"] == "flag --port"
    assert origins["server.drain_s"] == "variable TRIPOS_DRAIN_S"
    assert origins["server.host"] == f"{file}:3"
    assert origins["server.max_connections"] == "default"


def test_effective_values_show_every_setting_with_its_line(tmp_path: Path) -> None:
    file = written(tmp_path, WHOLE)
    rows = {key: (value, origin) for key, value, origin in config.effective(read(file, {"threads": "2"}))}
    assert rows["models.assistant.max_sequences"] == ("8", f"{file}:10")
    assert rows["models.small:one.weights"] == ('"int8"', f"{file}:14")
    assert rows["models.assistant.threads"] == ("2", "flag --threads")
    assert rows["routes.support.stages"] == ('["limits", "deadline"]', f"{file}:19")
    assert rows["routes.support.stages.limits.max_n"] == ("2", f"{file}:19")
    assert rows["routes.support.need.class"] == ('"bulk"', f"{file}:25")
    for struct, prefix in ((config.ServerOptions, "server"), (config.ModelOptions, "models.assistant")):
        assert {f"{prefix}.{name}" for name in config.tables()[prefix.replace("assistant", "NAME")]} <= set(rows), (
            struct
        )


def test_models_of_the_command_line_stand_in_for_those_of_the_file(tmp_path: Path) -> None:
    options = config.read_options(("demo:assistant",), {}, {}, written(tmp_path, WHOLE))
    assert [model.source for model in options.models] == ["demo:assistant"]
    assert not options.routes
    assert options.server.port == 9000


def test_a_file_without_models_serves_the_default(tmp_path: Path) -> None:
    assert read(written(tmp_path, "")).models == (config.ModelOptions(),)


def test_the_file_of_the_working_directory_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert config.find_file("") == ""
    written(tmp_path, "")
    assert config.find_file("") == "tripos.toml"
    assert config.find_file("other.toml") == "other.toml"


MODEL = '[models.a]\nsource = "demo:assistant"\n'
ROUTE = MODEL + '[routes.r]\nmodel = "a"\n'
BAD: list[tuple[str, str | bytes, tuple[str, ...]]] = [
    ("C01 binary", b"\x00\xff\xfe\x01", (":1:", "UTF-8")),
    ("C01 UTF-16", "[server]".encode("utf-16"), (":1:", "UTF-8")),
    ("C01 large", b"#" * (1 << 20) + b"#", ("1 MiB",)),
    ("C02 syntax", "[server]\nport 80", (":2:",)),
    ("C02 half a string", '[server]\nhost = "a', (":2:",)),
    ("C02 tab in a key", "[server]\nport\t80", (":2:",)),
    ("C02 key twice", "[server]\nport = 1\nport = 2", (":3:",)),
    ("C02 table twice", "[server]\n[server]", (":2:",)),
    ("C02 deep", "a = " + "[" * 100_000, ("nested too deep",)),
    ("C02 key", "[server]\n\nprot = 1", (":3:", "'prot'", "did you mean port?")),
    ("C02 table", "[sever]\nport = 1", (":1:", "'sever'", "did you mean server?")),
    ("C02 model key", MODEL + "thread = 1", (":3:", "models.a", "did you mean threads?")),
    ("C02 route key", ROUTE + "stage = []", (":5:", "did you mean stages?")),
    ("C02 need key", ROUTE + "need = { clas = 1 }", (":5:", "did you mean class?")),
    ("C02 stage", ROUTE + 'stages = ["limit"]', (":5:", "did you mean limits?")),
    ("C02 stage key", ROUTE + 'stages = [{ stage = "limits", max = 1 }]', (":5:", "did you mean max_n?")),
    ("C02 stage array", ROUTE + '[[routes.r.stages]]\nstage = "limits"\nmax_m = 1', (":7:", "did you mean max_n?")),
    ("C02 long key", "[server]\n" + "k" * 5000 + " = 1", (":2:",)),
    ("C03 yaml", "a: &x [1]\nb: *x", (":1:",)),
    ("C03 yaml tag", "!!python/object:os.system", (":1:",)),
    ("C04 text", '[server]\nport = "80"', (":2:", "port", "whole number")),
    ("C04 text number", '[server]\nport = "80a"', (":2:", "port")),
    ("C04 bool", "[server]\nport = true", (":2:", "port")),
    ("C04 float", "[server]\nport = 80.0", (":2:", "port")),
    ("C04 below", "[server]\nport = -1", (":2:", "port", "0 to 65535")),
    ("C04 above", "[server]\nport = 65536", (":2:", "port", "0 to 65535")),
    ("C04 list", "[server]\nport = [80]", (":2:", "port")),
    ("C04 date", "[server]\nport = 2020-01-01", (":2:", "port")),
    ("C04 number for text", "[server]\nhost = 1", (":2:", "host", "quotes")),
    ("C04 newline in text", '[server]\nhost = "a\\nb"', (":2:", "host", "printable")),
    ("C04 text for switch", '[server]\ni_accept_no_auth = "yes"', (":2:", "true or false")),
    ("C04 text for list", '[server]\nmodel_roots = "x"', (":2:", "list")),
    ("C04 value for table", "server = 1", (":1:", "not a table")),
    ("C04 value for model", "[models]\na = 1", (":2:", "not a table")),
    ("C04 array for table", "[[server]]\nport = 1", (":1:", "not a table")),
    ("C05 inf", "[server]\ndrain_s = inf", (":2:", "drain_s")),
    ("C05 nan", "[server]\ndrain_s = nan", (":2:", "drain_s")),
    ("C05 negative", "[server]\ndrain_s = -1", (":2:", "drain_s")),
    ("C05 unit", '[server]\nmemory = "10mm"', (":2:", "memory", "4GiB")),
    ("C05 negative size", '[server]\nmemory = "-1GiB"', (":2:", "memory")),
    ("C05 huge", "[server]\nmemory = 99999999999999999999", (":2:", "memory")),
    ("C05 limit", ROUTE + 'stages = [{ stage = "limits", max_n = 0 }]', (":5:", "max_n", "1 to 8")),
    ("C05 deadline", ROUTE + "need = { deadline_s = 0 }", (":5:", "deadline_s")),
    ("C06 open to all", '[server]\nhost = "0.0.0.0"', ("--api-key-file",)),
    ("C06 no such model", MODEL + '[routes.r]\nmodel = "b"', (":4:", "'b'", "there are a")),
    ("C06 route without model", "[routes.r]", (":1:", "model is missing")),
    ("C06 model without source", "[models.a]", (":1:", "source is missing")),
    ("C06 model named twice", MODEL + 'name = "b"', (":3:", "[models.b]")),
    ("C06 hidden model", MODEL + '[models.b]\nsource = "x"\n[routes.a]\nmodel = "b"', (":6:", "hide")),
    ("C06 deadline of nobody", ROUTE + 'stages = ["limits"]\nneed = { deadline_s = 1 }', (":6:", "deadline")),
    ("C06 stage twice", ROUTE + 'stages = ["limits", "limits"]', (":5:", "twice")),
    ("C06 empty name", '[models.""]\nsource = "x"', (":1:", "name")),
    ("C06 name with a newline", '[models."a\\nb"]\nsource = "x"', (":1:", "name")),
    ("C06 long name", f'[models.{"n" * 129}]\nsource = "x"', (":1:", "128")),
    ("C06 adapter named as a model", MODEL + 'adapters = { a = "x" }', ("named a",)),
    ("C06 route named as an adapter", ROUTE + '[models.b]\nsource = "x"\nadapters = { r = "y" }', (":4:",)),
    ("need of a later version", ROUTE + "need = { ttft_s = 1 }", (":5:", "ttft_s", "not acted upon")),
    ("need class", ROUTE + 'need = { class = "fast" }', (":5:", "interactive, bulk")),
    ("stages no list", ROUTE + 'stages = "limits"', (":5:", "list")),
    ("stage no name", ROUTE + "stages = [{ max_n = 1 }]", (":5:", "name")),
    ("stage number", ROUTE + "stages = [1]", (":5:", "not a table")),
]


@pytest.mark.parametrize(("text", "words"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_a_bad_file_is_refused_by_file_line_and_key(tmp_path: Path, text: str | bytes, words: tuple[str, ...]) -> None:
    file = written(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        read(file)
    message = caught.value.message
    assert not [word for word in words if word not in message], message
    assert message.startswith(file) or "--host" in message or "named a" in message
    assert len(message) < 600 + len(file)


def test_a_path_that_is_no_file_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.toml", tmp_path):
        with pytest.raises(ConfigError, match="cannot be read"):
            read(str(path))


def test_name_fits_no_model_of_a_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--name"):
        read(written(tmp_path, MODEL), {"name": "x"})


def test_lines_are_found_past_strings_comments_and_lists() -> None:
    text = '''\
"quoted.key" = 1 # not = this
a.b = """
c = 3
"""
list = [ # [x]
  "d = 4", '] = ',
]
[t.u] # [v]
'e' = '=#['
[[t.w]]
f = { g = 1 }
[[t.w]]
f = 2
'''
    lines = key_lines(text)
    assert lines[("quoted.key",)] == 1
    assert lines[("a", "b")] == 2
    assert lines[("list",)] == 5
    assert lines[("t", "u")] == 8
    assert lines[("t", "u", "e")] == 9
    assert (lines[("t", "w", "0", "f")], lines[("t", "w", "1", "f")]) == (11, 13)
    assert ("c",) not in lines
    assert ("d",) not in lines


@given(st.text(alphabet="[]{}\"'\\=.#ab1\n ,", max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    import tomllib

    try:
        tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return
    assert all(1 <= line <= text.count("\n") + 1 for line in key_lines(text).values())


def test_adapters_are_a_table_of_paths_beside_the_file(tmp_path: Path) -> None:
    file = tmp_path / "tripos.toml"
    file.write_text('[models.m]\nsource = "demo:assistant"\nmax_adapters = 3\n[models.m.adapters]\nsql = "lora/sql"\n')
    model = config.read_options((), {}, {}, str(file)).models[0]
    assert model.adapters == (("sql", str(tmp_path / "lora/sql")),)
    assert ("models.m.adapters", f'{{"sql" = "{tmp_path / "lora/sql"}"}}', f"{file}:4") in config.effective(
        config.read_options((), {}, {}, str(file))
    )


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('adapters = ["a=x"]', "is not a table of paths such as"),
        ("adapters = {a = 1}", "is not text: put it in quotes"),
        ('adapters = {a = "x", b = "y"}\nmax_adapters = 1', "2 adapters are named, max_adapters allows 1"),
    ],
)
def test_wrong_tables_of_adapters(tmp_path: Path, line: str, message: str) -> None:
    file = tmp_path / "tripos.toml"
    file.write_text(f'[models.m]\nsource = "demo:assistant"\n{line}\n')
    with pytest.raises(ConfigError, match=message):
        config.read_options((), {}, {}, str(file))
