"""tripos generate and tripos chat: an answer as it comes, and a conversation in the terminal.

Tested in tests/e2e/test_chat.py.
"""

from __future__ import annotations

import sys
from typing import Any

import click

from tripos import config
from tripos.cli.conversation import Conversation
from tripos.cli.flags import MODEL_SETTINGS, Flags, given, require_utf8, settings
from tripos.cli.session import Kind, LocalSession, RemoteSession, Session
from tripos.cli.terminal import Printer, speed_line
from tripos.errors import ConfigError, InvalidRequest

MAX_STDIN_CHARS = 4 * 2**20  # the limit of a prompt


def tool_options(command: Any) -> Any:
    """The options of tools, which are the same for one answer and for a conversation."""
    command = click.option(
        "--tool-choice", default="auto", show_default=True, help="none, auto, required, or the name of one tool."
    )(command)
    return click.option(
        "--tools",
        default=None,
        metavar="FILE",
        help="Tools to call: a JSON list, as OpenAI's clients send it.",
    )(command)


@click.command()
@click.argument("model")
@click.argument("prompt", nargs=-1, required=False)
@click.option("--raw", is_flag=True, help="Continue the text as it stands, without the model's chat template.")
@click.option("--system", default="", help="System message, for the chat template.")
@click.option(
    "--max-tokens", type=click.IntRange(1), default=None, help="Most tokens to write. [default: 128 with --raw]"
)
@click.option(
    "--temperature", type=click.FloatRange(0, 2), default=None, help="0: the likeliest. [default: the model's]"
)
@click.option("--top-k", type=click.IntRange(0), default=None, help="Draw from the k likeliest tokens. 0: from all.")
@click.option("--top-p", type=click.FloatRange(0, 1), default=None, help="Draw from this much of the probability.")
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), default=None, help="Makes draws repeatable.")
@click.option("--stop", multiple=True, help="Stop before this text (may be repeated).")
@click.option("--json-schema", default=None, metavar="JSON", help="The answer is JSON that follows this schema.")
@click.option("--regex", default=None, metavar="PATTERN", help="The answer matches this pattern.")
@tool_options
@click.option("--stats", is_flag=True, help="Tell on standard error how fast it went.")
@settings(*MODEL_SETTINGS)
def generate(
    model: str,
    prompt: tuple[str, ...],
    raw: bool,
    system: str,
    max_tokens: int | None,
    temperature: float | None,
    top_k: int | None,
    top_p: float | None,
    seed: int | None,
    stop: tuple[str, ...],
    json_schema: str | None,
    regex: str | None,
    tools: str | None,
    tool_choice: str,
    stats: bool,
    **flags: Flags,
) -> None:
    """Answer PROMPT and print the answer as it comes.

    A model with a chat template is asked through it; any other model continues the text, as --raw makes all of them.
    A PROMPT of "-", or none where standard input is no terminal, is read from standard input; several are put together,
    each on a line of its own.
    """
    text = _read_prompt(prompt)
    for name, given_text in (("--system", system), ("--regex", regex), *(("--stop", each) for each in stop)):
        require_utf8(given_text or "", name)
    if json_schema is not None and regex is not None:
        raise click.UsageError("--json-schema and --regex exclude each other")
    if raw and system:
        raise click.UsageError("--system needs the chat template, which --raw leaves out")
    body: dict[str, Any] = {
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "seed": seed,
        "stop": list(stop) or None,
        "structured_outputs": _constraint(json_schema, regex),
        "max_tokens": max_tokens,
    }
    body = {name: value for name, value in body.items() if value is not None} | _tools(tools, tool_choice)
    with LocalSession(model, given(flags)) as session:
        is_chat = session.has_template and not raw
        if system and not is_chat:
            raise ConfigError("--system needs a chat template, which this model does not have")
        if tools and not is_chat:
            raise ConfigError("--tools needs a conversation: a model with a chat template, and no --raw")
        kind: Kind = "chat/completions" if is_chat else "completions"
        if is_chat:
            body["messages"] = [{"role": "system", "content": system}] * bool(system) + [
                {"role": "user", "content": text}
            ]
        else:
            body = {"max_tokens": 128, **body, "prompt": text}
        printer = Printer()
        session.ask(kind, body, printer.hear)
        printer.end()
        if stats:
            click.echo(speed_line(printer.last), err=True)


@click.command()
@click.argument("model", default="")
@click.option("--url", default="", help="Talk with a model of the server at this address, or unix:PATH.")
@click.option("--system", default="", help="System message.")
@click.option("--max-tokens", type=click.IntRange(1), default=None, help="Most tokens per answer.")
@click.option(
    "--temperature", type=click.FloatRange(0, 2), default=None, help="0: the likeliest. [default: the model's]"
)
@tool_options
@click.option("--stats", is_flag=True, help="Tell after each answer how fast it went.")
@settings("api_key_file", *MODEL_SETTINGS)
def chat(
    model: str,
    url: str,
    system: str,
    max_tokens: int | None,
    temperature: float | None,
    tools: str | None,
    tool_choice: str,
    stats: bool,
    **flags: Flags,
) -> None:
    """Talk with a model in the terminal.

    MODEL is what serve takes (default: demo:assistant) or, with --url, a name that the server knows (default: its
    first). Ctrl-C stops an answer, /bye or Ctrl-D ends, /help says more.
    """
    require_utf8(system, "--system")
    body = {name: each for name, each in (("max_tokens", max_tokens), ("temperature", temperature)) if each is not None}
    body |= _tools(tools, tool_choice)
    session: Session
    if url:
        settings_given = given(flags)
        key_file = settings_given.pop("api_key_file", "")
        if settings_given:
            raise click.UsageError(
                f"{config.flag(next(iter(settings_given)))} is for a model in this process and does not go with --url"
            )
        session = RemoteSession(model, url, key_file)
    else:
        session = LocalSession(model or config.DEFAULT_MODEL, given(flags))
    with session:
        Conversation(session, body, system, has_stats=stats).hold()


def _tools(file: str | None, choice: str) -> dict[str, Any]:
    """The fields of a body for --tools and --tool-choice. Raises ConfigError."""
    from tripos.models.files.opening import open_regular
    from tripos.wire.json import parse

    if not file:
        return {}
    try:
        with open_regular(file) as opened:
            tools = parse(opened.read())
    except (OSError, InvalidRequest) as error:
        reason = error.message if isinstance(error, InvalidRequest) else error.strerror
        raise ConfigError(f"--tools {file}: {reason}") from None
    if not isinstance(tools, list):
        raise ConfigError(f"--tools {file}: expected a JSON list of tools, as OpenAI's clients send them")
    is_mode = choice in ("none", "auto", "required")
    return {
        "tools": tools,
        "tool_choice": choice if is_mode else {"type": "function", "function": {"name": choice}},
    }


def _read_prompt(prompt: tuple[str, ...]) -> str:
    """Raises UsageError (there is none), ConfigError (no UTF-8, too long)."""
    if not prompt and sys.stdin.isatty():
        raise click.UsageError("Missing argument 'PROMPT': give a text, or - for standard input")
    if prompt.count("-") > 1:
        raise click.UsageError("- stands for standard input, which can be read once")
    return "\n".join(_read_stdin() if part == "-" else _checked(part) for part in prompt or ("-",))


def _checked(text: str) -> str:
    require_utf8(text, "PROMPT")
    return text


def _read_stdin() -> str:
    data = sys.stdin.buffer.read(4 * MAX_STDIN_CHARS + 1)
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise ConfigError("standard input is not valid UTF-8") from None
    if len(text) > MAX_STDIN_CHARS:
        raise ConfigError(f"standard input is longer than {MAX_STDIN_CHARS:,} characters: shorten it")
    return text.removesuffix("\n")


def _constraint(json_schema: str | None, regex: str | None) -> dict[str, Any] | None:
    if json_schema is not None:
        from tripos.wire.json import parse

        require_utf8(json_schema, "--json-schema")
        try:
            return {"json": parse(json_schema.encode())}
        except InvalidRequest as error:
            raise ConfigError(f"--json-schema: {error.message.removeprefix('the body ')}") from None
    return None if regex is None else {"regex": regex}
