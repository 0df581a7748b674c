"""Settings are read strictly, and every refusal says what to do."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tripos import config
from tripos.errors import ConfigError


def test_flags_win_over_environment_and_environment_over_defaults() -> None:
    options = config.read_options((), {"port": "9000"}, {"TRIPOS_PORT": "7000", "TRIPOS_THREADS": "1", "HOME": "/"})
    assert options.server.port == 9000
    assert options.models[0].threads == 1
    assert options.models[0].source == "demo:assistant"
    assert options.server.host == "127.0.0.1"


@pytest.mark.parametrize(
    ("text", "size"),
    [("4GiB", 4 << 30), ("512 MiB", 512 << 20), ("1.5kib", 1536), ("2GB", 2_000_000_000), ("17", 17)],
)
def test_sizes_have_units(text: str, size: int) -> None:
    assert config.parse_bytes(text) == size


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("port", "80a"), ("port", "-1"), ("port", "65536"), ("port", "true"), ("port", "1e3"), ("port", ""),
        ("memory", "10mm"), ("memory", "-1GiB"), ("memory", "nan"), ("drain_s", "inf"), ("drain_s", "nan"),
        ("drain_s", "-1"), ("weights", "int3"), ("host", "a\nb"), ("max_sequences", "0"), ("max_sequences", "9" * 400),
        ("i_accept_no_auth", "maybe"),
    ],
)  # fmt: skip
def test_wrong_value_is_refused_by_name(name: str, text: str) -> None:
    with pytest.raises(ConfigError, match="TRIPOS_" + name.upper()):
        config.read_options((), {}, {config.variable(name): text})


def test_unknown_variable_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean TRIPOS_THREADS"):
        config.read_options((), {}, {"TRIPOS_THREAD": "2"})


def test_variables_of_the_native_library_are_left_to_it() -> None:
    config.read_options((), {}, {"TRIPOS_ISA": "scalar", "TRIPOS_NATIVE_LIBRARY": "/x.so"})


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org"])
def test_public_address_without_key_is_refused(host: str) -> None:
    with pytest.raises(ConfigError, match="--api-key-file"):
        config.read_options((), {"host": host}, {})
    assert config.read_options((), {"host": host, "i_accept_no_auth": "true"}, {}).server.host == host
    assert config.read_options((), {"host": host, "api_key_file": "keys"}, {}).server.host == host


def test_one_name_does_not_fit_two_models() -> None:
    with pytest.raises(ConfigError, match="--name"):
        config.read_options(("a", "b"), {"name": "x"}, {})


@given(st.sampled_from(sorted(config.settings())), st.text(max_size=30))
def test_any_text_is_a_value_or_a_config_error(name: str, text: str) -> None:
    try:
        value = config.parse(name, text, config.flag(name))
    except ConfigError as error:
        message = error.message
    else:
        message = f"{config.flag(name)} = {value}"
    assert message.startswith(config.flag(name))


def test_adapters_are_named_and_counted() -> None:
    model = config.read_options(("m",), {"adapters": "a=x:b=y/z"}, {}).models[0]
    assert model.adapters == (("a", "x"), ("b", "y/z"))
    assert model.num_adapters == 2
    assert config.read_options(("m",), {"adapters": "a=x", "max_adapters": "5"}, {}).models[0].num_adapters == 5
    assert config.read_options(("m",), {}, {"TRIPOS_ADAPTERS": "a=x"}).models[0].adapters == (("a", "x"),)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"adapters": "a"}, "--adapter: 'a' is not NAME=PATH"),
        ({"adapters": "=x"}, "is not NAME=PATH"),
        ({"adapters": "a="}, "is not NAME=PATH"),
        ({"adapters": "a=x:a=y"}, "has the same name twice"),
        ({"adapters": "a=x:b=y", "max_adapters": "1"}, "2 adapters are named, max_adapters allows 1"),
        ({"max_adapter_rank": "0"}, "outside 1 to 512"),
    ],
)
def test_wrong_adapters_are_refused(flags: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config.read_options(("m",), flags, {})


def test_adapters_on_the_command_line_are_of_one_model() -> None:
    with pytest.raises(ConfigError, match="--adapter is for one model, 2 were given"):
        config.read_options(("m", "n"), {"adapters": "a=x"}, {})


SERVICE = {  # what Kubernetes gives the pods of a namespace with Services called tripos and tripos-web
    "TRIPOS_SERVICE_HOST": "10.0.0.11", "TRIPOS_SERVICE_PORT": "8000", "TRIPOS_SERVICE_PORT_HTTP": "8000",
    "TRIPOS_PORT": "tcp://10.0.0.11:8000", "TRIPOS_PORT_8000_TCP": "tcp://10.0.0.11:8000",
    "TRIPOS_PORT_8000_TCP_PROTO": "tcp", "TRIPOS_PORT_8000_TCP_PORT": "8000", "TRIPOS_PORT_8000_TCP_ADDR": "10.0.0.11",
    "TRIPOS_PORT_53_UDP": "udp://10.0.0.11:53", "TRIPOS_PORT_53_UDP_ADDR": "10.0.0.11",
    "TRIPOS_WEB_SERVICE_HOST": "10.0.0.12", "TRIPOS_WEB_PORT": "tcp://10.0.0.12:80",
    "TRIPOS_WEB_PORT_80_TCP_PORT": "80",
}  # fmt: skip


def test_a_kubernetes_service_of_our_name_sets_nothing_and_is_told() -> None:
    with pytest.warns(UserWarning, match="and 12 more variables describe a Kubernetes Service.*enableServiceLinks"):
        options = config.read_options((), {}, {**SERVICE, "TRIPOS_THREADS": "3"})
    assert (options.server, options.models[0].threads) == (config.ServerOptions(), 3)


@pytest.mark.parametrize("key", SERVICE)
def test_each_variable_of_a_kubernetes_service_is_known_alone(key: str) -> None:
    with pytest.warns(UserWarning, match=f"^{key} describes a Kubernetes Service"):
        config.read_environment({key: SERVICE[key]})


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("TRIPOS_PORT", "http://127.0.0.1"), ("TRIPOS_PORT", "tcp"), ("TRIPOS_HOSTS", "tcp://x"),
        ("TRIPOS_PORT_HTTP", "80"), ("TRIPOS_SERVICE", "10.0.0.1"), ("TRIPOS_WEB_PORT", "80"), ("TRIPOS_MEMORY", "tcp://10.0.0.1:1"),
    ],
)  # fmt: skip
def test_what_only_resembles_a_kubernetes_service_is_refused(key: str, text: str) -> None:
    with pytest.raises(ConfigError, match=key):
        config.read_environment({key: text})


def test_a_configuration_says_whether_anybody_named_a_model() -> None:
    assert config.read_options((), {}, {}).is_default
    assert not config.read_options(("demo:assistant",), {}, {}).is_default
