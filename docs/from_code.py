"""Directives that write reference pages from the code: the command line, trace formats, files and their keys."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from importlib import resources
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective


def _table(columns: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    head = list(columns)
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    lines += [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows]
    return [*lines, ""]


def _commands(group: Any, prefix: str = "qmodel") -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _commands(command, f"{prefix} {name}")
        else:
            yield f"{prefix} {name}", command


def command_line() -> list[str]:
    """Return the page of all commands with their options, as Markdown lines."""
    from typer.main import get_command

    from qmodel.cli.app import app

    lines: list[str] = []
    for name, command in _commands(get_command(app)):
        lines += [f"## {name}", ""]
        for paragraph in (command.help or "").split("\n\n"):
            text = " ".join(paragraph.split())
            head, _, example = text.partition("Example: ")
            lines += [head.strip(), ""] if head.strip() else []
            lines += ["```console", f"$ {example}", "```", ""] if example else []
        rows = []
        for parameter in command.params:
            is_option = parameter.param_type_name == "option"
            shown = ", ".join(f"`{word}`" for word in parameter.opts) if is_option else f"`{parameter.name.upper()}`"
            about = getattr(parameter, "help", None) or ""
            if parameter.required:
                about = f"{about} Required."
            rows.append((shown, about))
        lines += _table(("option", "meaning"), rows)
    return lines


def trace_formats() -> list[str]:
    """Return the table of trace formats."""
    from qmodel.io.traces_formats import FORMATS

    rows = [
        (f"`{name}`", fmt.title, ", ".join(f"`{column}`" for column in sorted(fmt.names)) or "no header")
        for name, fmt in FORMATS.items()
    ]
    return _table(("name", "format", "recognised by"), rows)


def plan_file() -> list[str]:
    """Return the layout of plan files, from their JSON Schema."""
    text = resources.files("qmodel").joinpath("data/schemas/plan.schema.json").read_text(encoding="utf-8")
    return _table(("entry", "type", "required"), _entries(json.loads(text), "", depth=2))


def calibration_file() -> list[str]:
    """Return the layout of calibration files, from the model that reads them."""
    from qmodel.io.calibrations import CalibrationFile

    return _table(("entry", "type", "required"), _entries(CalibrationFile.model_json_schema(), "", depth=1))


def configuration() -> list[str]:
    """Return the keys of a configuration file that every command about a cluster shares."""
    from qmodel.io.config import ScenarioConfig

    fields = ScenarioConfig.model_fields.items()
    rows = [(f"`{name}`", field.description or "", f"`{(field.examples or [''])[0]}`") for name, field in fields]
    return _table(("key", "meaning", "example"), rows)


def _entries(schema: dict[str, Any], prefix: str, depth: int, root: dict[str, Any] | None = None) -> list[list[str]]:
    top = root or schema
    here = _resolved(schema, top)
    rows = []
    for name, part in here.get("properties", {}).items():
        inner = _resolved(part, top)
        rows.append([f"`{prefix}{name}`", _kind(part, top), "yes" if name in here.get("required", ()) else "no"])
        if depth > 1 and inner.get("properties"):
            rows += _entries(inner, f"{prefix}{name}.", depth - 1, top)
    return rows


def _resolved(schema: dict[str, Any], top: dict[str, Any]) -> dict[str, Any]:
    if "$ref" in schema:
        return dict(top["$defs"][schema["$ref"].rsplit("/", 1)[1]])
    return schema


def _kind(schema: dict[str, Any], top: dict[str, Any]) -> str:
    for key in ("anyOf", "oneOf"):
        if key in schema:
            return " or ".join(dict.fromkeys(_kind(part, top) for part in schema[key]))
    inner = _resolved(schema, top)
    if "const" in inner:
        return f"`{json.dumps(inner['const'])}`"
    if "enum" in inner:
        return " or ".join(f"`{value}`" for value in inner["enum"])
    kind = inner.get("type", "any")
    if kind == "array" and "items" in inner:
        return f"list of {_kind(inner['items'], top)}"
    return kind if isinstance(kind, str) else " or ".join(kind)


_PAGES = {
    "command-line": command_line,
    "trace-formats": trace_formats,
    "plan-file": plan_file,
    "calibration-file": calibration_file,
    "configuration": configuration,
}


class FromCode(SphinxDirective):
    """Put what the code says in place of the directive; its argument names what."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Return the parsed lines."""
        return self.parse_text_to_nodes("\n".join(_PAGES[self.arguments[0]]()), allow_section_headings=True)


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directive."""
    app.add_directive("from-code", FromCode)
    return {"version": "1", "parallel_read_safe": True}
