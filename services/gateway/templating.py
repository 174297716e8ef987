"""How templates become pages: Jinja's way, without what it does again for each page.

A page shows some two hundred values, and imports two or three templates with macros.
"""

from collections.abc import MutableMapping
from typing import Any

import markupsafe
from flask.templating import Environment as FlaskEnvironment
from jinja2 import nodes
from jinja2.compiler import CodeGenerator
from markupsafe import Markup


def as_html(value: Any) -> str:
    """What stands in the page for a value; Jinja marks each as escaped, which nobody asks for
    once it is written."""
    kind = type(value)
    if kind is str:
        return markupsafe._escape_inner(value)  # type: ignore[attr-defined]  # noqa: SLF001
    return value if kind is Markup else markupsafe.escape(value)


class _Generator(CodeGenerator):
    def _output_child_to_const(self, node: Any, frame: Any, finalize: Any) -> str:
        """What is the same on each page stands in it from when the template is read: addresses too,
        where nothing in them is of this page."""
        is_address = isinstance(node, nodes.Call) and getattr(node.node, "name", "") == "url_for"
        if is_address and node.dyn_args is None and node.dyn_kwargs is None:
            args = [each.as_const(frame.eval_ctx) for each in node.args]
            named = dict(each.as_const(frame.eval_ctx) for each in node.kwargs)
            url_for: Any = self.environment.globals["url_for"]
            node = nodes.Const(url_for(*args, **named))
        return super()._output_child_to_const(node, frame, finalize)

    def _output_child_pre(self, node: Any, frame: Any, finalize: Any) -> None:
        if frame.eval_ctx.volatile or not frame.eval_ctx.autoescape or finalize.src is not None:
            super()._output_child_pre(node, frame, finalize)
        else:
            self.write("environment.as_html(")


class Environment(FlaskEnvironment):
    """Names for all templates are known before the first is read: where one imports another, Jinja
    compares theirs, which takes it long for names in two layers."""

    code_generator_class = _Generator
    as_html = staticmethod(as_html)

    def make_globals(self, d: MutableMapping[str, Any] | None) -> MutableMapping[str, Any]:
        return {**self.globals, **(d or {})}
