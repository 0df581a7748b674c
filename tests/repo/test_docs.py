"""The documentation is true where a program can tell."""

from __future__ import annotations

import ast
import contextlib
import re
import shlex
import tomllib
from pathlib import Path

import click
import pytest

import tripos
from tests.repo.tree import ROOT, name_of, tracked
from tripos import cli, config

PAGES = tracked(".md")
SETTINGS = (ROOT / "docs" / "reference" / "settings.md").read_text()

RULES = ("Makefile", "benchmarks/peers/peers.mk", "benchmarks/serving/serving.mk")


def blocks(path: Path, *languages: str) -> list[str]:
    found = re.findall(r"^```(\w+)\n(.*?)^```", path.read_text(), flags=re.M | re.S)
    return [body for language, body in found if language in languages]


def commands(path: Path) -> list[list[str]]:
    """The command lines of a page's shell examples, continued and quoted lines joined."""
    found, line = [], ""
    for more in "\n".join(blocks(path, "sh", "bash", "shell", "console")).replace("\\\n", " ").splitlines():
        line += more + "\n"
        with contextlib.suppress(ValueError):  # a quotation that goes on in the next line
            found.append(shlex.split(line, comments=True))
            line = ""
    assert not line, f"unclosed quotation in an example: {line}"
    return [words for words in found if words]


@pytest.mark.parametrize("name", list(config.settings()))
def test_setting_is_documented_with_flag_variable_and_default(name: str) -> None:
    row = next((line for line in SETTINGS.splitlines() if line.startswith(f"| `{config.flag(name)}`")), "")
    assert f"`{config.variable(name)}`" in row
    assert config.settings()[name]["doc"].split(".")[0] in row


FILE_KEYS = [(table, key) for table, rules in config.tables().items() for key in rules]


@pytest.mark.parametrize(("table", "key"), FILE_KEYS, ids=lambda name: name)
def test_key_of_the_service_file_is_documented_in_its_table(table: str, key: str) -> None:
    section = SETTINGS.partition(f"<!-- settings: {table} -->")[2].partition("<!-- end -->")[0]
    row = next((line for line in section.splitlines() if f"| `{key}` |" in line), "")
    assert row.endswith(f"| {config.tables()[table][key]['doc']} |")


def test_every_stage_is_documented() -> None:
    assert not [name for name in config.STAGES if f"`{name}`" not in SETTINGS]


def service_files() -> list[str]:
    """The example, and every example of a page that has a model."""
    pages = [body for path in PAGES for body in blocks(path, "toml")]
    return [(ROOT / "examples" / "tripos.toml").read_text(), *(body for body in pages if "[models." in body)]


@pytest.mark.parametrize("text", service_files())
def test_example_service_files_are_read(tmp_path: Path, text: str) -> None:
    file = tmp_path / "tripos.toml"
    file.write_text(text)
    options = config.read_options((), {}, {}, str(file))
    assert options.models
    assert options.routes


def test_the_example_of_a_service_file_fits() -> None:
    from tripos.build import service as build_service

    options = config.read_options((), {}, {}, str(ROOT / "examples" / "tripos.toml"))
    assert len(build_service.check_service(options)) == sum(model.preload for model in options.models) > 1


def test_the_example_shows_every_table() -> None:
    text = (ROOT / "examples" / "tripos.toml").read_text()
    assert not [word for word in ("[server]", "[models.", "[routes.", "stage =", "need") if word not in text]


@pytest.mark.parametrize("name", config.NATIVE_VARIABLES)
def test_variable_of_the_native_library_is_documented(name: str) -> None:
    assert f"`{name}`" in SETTINGS


def test_no_setting_is_documented_that_does_not_exist() -> None:
    known = {config.variable(name) for name in config.settings()} | set(config.NATIVE_VARIABLES)
    named = {name for path in PAGES for name in re.findall(r"\bTRIPOS_[A-Z_]+\b", path.read_text())}
    build_flags = {"TRIPOS_SANITIZE"}  # of CMake
    of_kubernetes = {"TRIPOS_SERVICE_HOST"}  # which sets nothing, as the page says
    assert named <= known | build_flags | of_kubernetes


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_example_commands_parse(path: Path) -> None:
    for words in commands(path):
        if Path(words[0]).name == "tripos" and len(words) > 1:
            try:
                context = cli.tripos.make_context("tripos", words[1:])
                command = cli.tripos.get_command(context, words[1])
                assert command is not None, f"no such command: {words[1]}"
                command.make_context(words[1], words[2:], parent=context)
            except click.exceptions.Exit:
                continue  # --help, --version
        elif words[0] == "make":
            rules = "".join((ROOT / name).read_text() for name in RULES)
            targets = re.findall(r"^([\w-]+):", rules, flags=re.M)
            assert next(word for word in words[1:] if "=" not in word) in targets


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_python_examples_are_python(path: Path) -> None:
    for body in blocks(path, "python"):
        text = f"{{\n{body}}}" if body.startswith('"') else body  # an entry of a table that the page speaks of
        compile(text, name_of(path), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_links_lead_somewhere(path: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", re.sub(r"^```.*?^```", "", path.read_text(), flags=re.M | re.S))
    local = [link for link in links if "://" not in link and not link.startswith("mailto:")]
    assert not [link for link in local if not (path.parent / link).exists()]


@pytest.mark.parametrize("path", [page for page in PAGES if "decisions" not in page.parts], ids=name_of)
def test_named_files_exist(path: Path) -> None:
    names = re.findall(r"`([a-z_]+/[\w/.-]*(?:\.py|\.h|/))`", path.read_text())
    places = (ROOT, ROOT / "src", ROOT / "src" / "tripos", path.parent)
    not_built = {"remote/", "tripos/models/families/new.py"}  # a room to come, an example
    assert not [name for name in names if name not in not_built and not any((at / name).exists() for at in places)]


def test_every_dependency_has_its_sentence() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    page = (ROOT / "docs" / "decisions" / "0002-dependencies.md").read_text()
    names = [re.split(r"[<>=\[]", requirement)[0] for requirement in project["dependencies"]]
    assert not [name for name in names if not re.search(rf"^\| {re.escape(name)} \| .+\.", page, flags=re.M)]


def test_every_place_tells_the_same_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert tripos.__version__ == project["version"]
    assert f"\n## {project['version']}" in (ROOT / "CHANGELOG.md").read_text()


def test_ci_runs_check_and_test_and_nothing_else() -> None:
    lines = (ROOT / ".ci" / "run").read_text().splitlines()
    assert [line for line in lines if line.startswith("make")] == ["make check", "make test"]
