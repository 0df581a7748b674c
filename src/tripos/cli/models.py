"""tripos models: load, unload and list models of a running server.

Tested in tests/e2e/test_models.py.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import click

from tripos import config
from tripos.cli.flags import ADMIN_SETTINGS, Flags, config_file, given, server_url, settings
from tripos.cli.terminal import echo_table
from tripos.errors import TriposError

if TYPE_CHECKING:
    from tripos.client import Client


@click.group(name="models")
@click.option("--url", default="", help="Address of the server, or unix:PATH. Default: what the settings say.")
@config_file
@settings("api_key_file")
@click.pass_context
def models_group(context: click.Context, /, url: str, file: str, **flags: Flags) -> None:
    """Load, unload and list models of a running server."""
    options = config.read_options((), given(flags), os.environ, config.find_file(file))
    from tripos.client import Client

    context.obj = Client(url or server_url(options.server), options.server.api_key_file, "admin")


@models_group.command(name="list")
@click.pass_obj
def list_models(client: Client) -> None:
    """Every model's state, memory and calls in flight."""
    found = client.ask("GET", "/admin/models")
    rows = [("model", "state", "memory", "calls", "routes", "source")]
    for each in found["models"]:
        size, routes = f"{each['memory_bytes'] / 2**20:,.1f} MiB", ", ".join(each["routes"])
        state = each["state"] + (f" ({each['error']})" if each["error"] else "")
        rows.append((each["name"], state, size, str(each["num_in_flight"]), routes, each["source"]))
    echo_table(rows)
    memory = found["memory"]
    click.echo(f"{memory['free_bytes'] / 2**20:,.1f} of {memory['total_bytes'] / 2**20:,.1f} MiB are free")


@models_group.command()
@click.argument("name")
@click.argument("source", default="")
@settings(*ADMIN_SETTINGS)
@click.pass_obj
def load(client: Client, /, name: str, source: str, **flags: Flags) -> None:
    """Load a model that the configuration names, or SOURCE as NAME."""
    body = {"name": name, "source": source, "options": _typed(flags)}
    _echo_loaded(client.ask("POST", "/admin/models/load", body))


@models_group.command()
@click.argument("name", default="")
@click.argument("source", default="")
@settings(*ADMIN_SETTINGS)
@click.pass_obj
def reload(client: Client, /, name: str, source: str, **flags: Flags) -> None:
    """Load NAME anew (from SOURCE) and switch to it, no request dropped. Without NAME: read tripos.toml again."""
    if not name:
        report = client.ask("POST", "/admin/reread", {})
        for key, value in report.items():
            click.echo(f"{key}: {value or 'none'}")
        if report["failed"]:
            raise TriposError("some models could not be loaded")
        return
    body = {"name": name, "source": source, "options": _typed(flags)}
    _echo_loaded(client.ask("POST", "/admin/models/reload", body))


@models_group.command()
@click.argument("name")
@click.pass_obj
def unload(client: Client, name: str) -> None:
    """Let NAME's calls end, then free its memory."""
    done = client.ask("POST", "/admin/models/unload", {"name": name})
    cut_off = f"; {done['num_cut_off']} calls were cut off" if done["num_cut_off"] else ""
    click.echo(f"{name} is unloaded{cut_off}")


def _typed(flags: dict[str, Flags]) -> dict[str, Any]:
    return {name: config.parse(name, text, config.flag(name)) for name, text in given(flags).items()}


def _echo_loaded(model: dict[str, Any]) -> None:
    click.echo(f"{model['name']} is {model['state']}: {model['memory_bytes'] / 2**20:,.1f} MiB, {model['source']}")
