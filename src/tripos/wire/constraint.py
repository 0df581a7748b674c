"""What an answer must match, as each dialect writes it → Constraint. Whether it can be enforced the model says."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from tripos.errors import InvalidRequest, shown
from tripos.types import Constraint
from tripos.wire.fields import Field, Found, kind_of, table

MAX_CHOICES = 5000

_FORMAT = table(
    Field("type", "string", "", choices=("text", "json_object", "json_schema"), required=True),
    Field("json_schema", "object", ""),
    Field("schema", "object", "As llama.cpp has it, with either type."),
)
_SCHEMA = (
    Field("name", "string", "", max_bytes=64),
    Field("description", "string", "", use="ignored"),
    Field("schema", "any", ""),
    Field("strict", "boolean", "Schemas are always enforced.", use="met"),
)
_NAMED_SCHEMA = table(*_SCHEMA)
_TEXT_FORMAT = table(_FORMAT["type"], *_SCHEMA)
_ONLY_SCHEMA = table(
    Field("type", "string", "", choices=("json_schema",), required=True),
    Field("schema", "any", "", required=True),
)
_TEXT = table(
    Field("format", "object", ""),
    Field("verbosity", "string", "", use="ignored", nothing=("medium",)),
)
_STRUCTURED = table(
    Field("json", "any", "A schema, or its text."),
    Field("json_object", "boolean", ""),
    Field("regex", "string", ""),
    Field("choice", "array", "", max_items=MAX_CHOICES),
    Field("grammar", "string", ""),
    Field("structural_tag", "any", "use a grammar", use="refused"),
    *(Field(name, "any", "say it in the schema or use a grammar", use="refused")
      for name in ("disable_any_whitespace", "disable_additional_properties", "whitespace_pattern")),
    Field("disable_fallback", "boolean", "There is none.", use="met"),
)  # fmt: skip
_GBNF = re.compile(r"^\s*[A-Za-z0-9_-]+\s*::=", re.MULTILINE)


def read_constraint(found: Found) -> Constraint | None:
    """`response_format` and `structured_outputs` of chat and legacy completions. Raises InvalidRequest."""
    form, structured = found.get("response_format"), found.get("structured_outputs")
    constraint = None if form is None else _read_response_format(found)
    if structured is None:
        return constraint
    if constraint is not None:
        message = "structured_outputs and response_format exclude each other: give one"
        raise InvalidRequest(message, code="invalid_value", param="structured_outputs")
    return _read_structured(found)


def _read_response_format(found: Found) -> Constraint | None:
    read_form = found.inner("response_format", _FORMAT)
    if "schema" in read_form and "json_schema" not in read_form and read_form["type"] != "text":
        return schema_constraint(read_form["schema"], "response_format.schema")
    if read_form["type"] != "json_schema":
        return _plain(read_form["type"], "response_format.type")
    path = "response_format.json_schema"
    if "json_schema" not in read_form:
        raise InvalidRequest(f"{path} is required", code="missing_field", param=path)
    return _named(read_form.inner("json_schema", _NAMED_SCHEMA), path)


def read_text_format(found: Found) -> Constraint | None:
    """`text` of a responses body. Raises InvalidRequest."""
    text = found.inner("text", _TEXT)
    if "format" not in text:
        return None
    path = "text.format"
    read_form = text.inner("format", _TEXT_FORMAT)
    if read_form["type"] != "json_schema":
        return _plain(read_form["type"], f"{path}.type")
    return _named(read_form, path)


def read_schema_format(found: Found, name: str) -> Constraint:
    """Anthropic's {type: json_schema, schema} in field `name`. Raises InvalidRequest."""
    form = found.inner(name, _ONLY_SCHEMA)
    return schema_constraint(form["schema"], f"{form.path}.schema")


def read_ollama_format(form: Any) -> Constraint | None:
    """Ollama's "json", or a schema. Raises InvalidRequest."""
    if form == "":
        return None
    if form == "json":
        return Constraint(kind="json_object", param="format")
    if not isinstance(form, dict):
        message = (
            f'format must be "json" or a JSON schema, not {shown(form) if isinstance(form, str) else kind_of(form)}'
        )
        raise InvalidRequest(message, code="invalid_schema", param="format")
    return schema_constraint(form, "format")


def schema_constraint(schema: Any, path: str) -> Constraint:
    if not isinstance(schema, dict):
        message = f"{path} must be a JSON schema, which is an object, not {kind_of(schema)}"
        raise InvalidRequest(message, code="invalid_schema", param=path)
    return Constraint(kind="json_schema", source=msgspec.json.encode(schema).decode(), param=path)


def _plain(kind: str, path: str) -> Constraint | None:
    return Constraint(kind="json_object", param=path) if kind == "json_object" else None


def _named(found: dict[str, Any], path: str) -> Constraint:
    if "schema" not in found:
        raise InvalidRequest(f"{path}.schema is required", code="missing_field", param=f"{path}.schema")
    return schema_constraint(found["schema"], f"{path}.schema")


def _read_structured(body: Found) -> Constraint | None:
    found = body.inner("structured_outputs", _STRUCTURED)
    given = [name for name in ("json", "json_object", "regex", "choice", "grammar") if name in found]
    if len(given) != 1:
        message = f"structured_outputs takes one of json, json_object, regex, choice and grammar, not {len(given)}"
        raise InvalidRequest(message, code="invalid_value", param="structured_outputs")
    kind = given[0]
    path = f"structured_outputs.{kind}"
    value = found[kind]
    if kind == "json":
        if isinstance(value, str) and value:
            return Constraint(kind="json_schema", source=value, param=path)
        return schema_constraint(value, path)
    if kind == "json_object":
        if not value:
            message = f"{path} is false: leave structured_outputs out"
            raise InvalidRequest(message, code="invalid_schema", param=path)
        return Constraint(kind="json_object", param=path)
    if kind == "choice":
        return Constraint(kind="regex", source=_any_of(value, path), param=path)
    if not value:
        raise InvalidRequest(f"{path} is empty", code="invalid_grammar", param=path)
    if kind == "regex":
        return Constraint(kind="regex", source=value, param=path)
    return Constraint(kind="gbnf" if _GBNF.search(value) else "lark", source=value, param=path)


def _any_of(texts: list[Any], path: str) -> str:
    """A pattern for any of some texts."""
    if not texts or not all(isinstance(text, str) and text for text in texts):
        raise InvalidRequest(f"{path} must list texts that are not empty", code="invalid_value", param=path)
    return "|".join(
        "".join(char if char.isascii() and char.isalnum() else f"\\x{{{ord(char):x}}}" for char in text)
        for text in texts
    )
