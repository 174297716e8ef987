"""The faults: which small changes are made to a file of rules, and where.

Most are Cosmic Ray's. It has none for what costs money here, so these are ours: a query that
lost a link (a lock, a filter, an order), a filter that lost a condition, a statement that is
left out, and an error that is not caught (its own knows no ``except module.Error``).
"""

import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from cosmic_ray import plugins
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.operators.operator import Example, Operator
from parso.python.tree import Keyword, Name
from parso.tree import NodeOrLeaf, search_ancestor

LINKS = {
    "group_by",
    "limit",
    "on_conflict_do_nothing",
    "order_by",
    "outerjoin",
    "where",
    "with_for_update",
}
CONDITIONS = {"where", "and_", "or_", "filter"}
# What is said and changes nothing, and where a test ends the process.
IGNORED_CALLS = ("log.", "crash_point(")

# What costs memory only, or what mypy refuses.
IGNORED_ARGUMENTS = {"frozen", "slots"}

# A constant of this kind is a judgement: nothing is right with 10 seconds and wrong with 11.
TUNED = re.compile(r"[A-Z_]+_(S|MS|SIZE)")

# What a statement lies in. Its lines are those before its own block.
BLOCKS = {"suite", "file_input", "if_stmt", "for_stmt", "while_stmt", "try_stmt", "with_stmt"}

REPLACEMENTS = {
    "ReplaceComparisonOperator": (
        *("Eq_NotEq", "NotEq_Eq", "Is_IsNot", "IsNot_Is"),
        *("Lt_LtE", "Lt_GtE", "LtE_Lt", "LtE_Gt", "Gt_GtE", "Gt_LtE", "GtE_Gt", "GtE_Lt"),
    ),
    "ReplaceBinaryOperator": (
        *("Add_Sub", "Sub_Add", "Mul_FloorDiv", "FloorDiv_Mul", "Mod_FloorDiv", "Pow_Mul"),
        *("BitAnd_BitOr", "BitOr_BitAnd"),
    ),
}
"""One near miss and one opposite for each operator: of the 30 others, most raise at once."""

WHOLE = (
    "AddNot",
    "NumberReplacer",
    "RemoveDecorator",
    "ReplaceAndWithOr",
    "ReplaceBreakWithContinue",
    "ReplaceContinueWithBreak",
    "ReplaceFalseWithTrue",
    "ReplaceOrWithAnd",
    "ReplaceTrueWithFalse",
    "ReplaceUnaryOperator_Delete_Not",
    "ReplaceUnaryOperator_USub_UAdd",
    "ZeroIterationForLoop",
)


class Place(NamedTuple):
    """Where a fault can be put, of which it is the ``occurrence``-th of its kind in the file."""

    file: str
    line: int
    operator: Operator
    occurrence: int
    node: NodeOrLeaf


@dataclass(frozen=True)
class Fault:
    """One change to one file, ``within`` a function or a class, or nothing.

    ``lines`` are those of its statement, or of none where that runs before any test, at import.
    ``before`` and ``after`` are the lines that it changes, on one line.
    """

    file: str
    line: int
    lines: range
    within: str
    kind: str
    before: str
    after: str
    code: str = field(repr=False)


class DropLink(Operator):
    """``select(A).where(B).with_for_update()`` without one of its links."""

    def mutation_positions(self, node: NodeOrLeaf) -> Iterator[tuple[Any, Any]]:
        for at in self._links(node):
            yield node.children[at].start_pos, node.children[at + 1].end_pos

    def mutate(self, node: NodeOrLeaf, index: int) -> NodeOrLeaf:
        at = list(self._links(node))[index]
        del node.children[at : at + 2]
        return node

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        return (Example("select(A).where(B).limit(1)", "select(A).limit(1)"),)

    def _links(self, node: NodeOrLeaf) -> Iterator[int]:
        if node.type not in ("atom_expr", "power"):
            return
        for at, (name, call) in enumerate(zip(node.children, node.children[1:], strict=False)):
            if name.type != "trailer" or call.type != "trailer":
                continue
            if call.children[0].value == "(" and name.children[-1].get_code() in LINKS:
                yield at


class DropCondition(Operator):
    """``.where(A, B)`` without one of its conditions."""

    def mutation_positions(self, node: NodeOrLeaf) -> Iterator[tuple[Any, Any]]:
        for argument in self._conditions(node):
            yield argument.start_pos, argument.end_pos

    def mutate(self, node: NodeOrLeaf, index: int) -> NodeOrLeaf:
        at = node.children.index(self._conditions(node)[index])
        # The comma after it, or before the last one.
        start = at if at + 1 < len(node.children) else at - 1
        del node.children[start : start + 2]
        return node

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        return (Example("q.where(A, B)", "q.where( B)"),)

    def _conditions(self, node: NodeOrLeaf) -> list[NodeOrLeaf]:
        if node.type != "arglist":
            return []
        called = node.parent.get_previous_leaf()
        if called is None or called.value not in CONDITIONS:
            return []
        conditions = [child for child in node.children if child.type != "operator"]
        return conditions if len(conditions) > 1 else []


class DropStatement(Operator):
    """A call, an assignment to a row, a raise or an early return that is left out."""

    def mutation_positions(self, node: NodeOrLeaf) -> Iterator[tuple[Any, Any]]:
        if self._can_go(node):
            yield node.children[0].start_pos, node.children[0].end_pos

    def mutate(self, node: NodeOrLeaf, index: int) -> NodeOrLeaf:  # noqa: ARG002
        statement = node.children[0]
        prefix = statement.get_first_leaf().prefix
        node.children[0] = Keyword("pass", statement.start_pos, prefix)
        return node

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        return (Example("lock(user)\n", "pass\n"),)

    def _can_go(self, node: NodeOrLeaf) -> bool:
        if node.type != "simple_stmt":
            return False
        statement = node.children[0]
        if statement.type == "expr_stmt":
            # A name that is never set would only raise; within an `if` it may have been set before.
            is_conditional = node.parent.type == "suite" and node.parent.parent.type == "if_stmt"
            return is_conditional or statement.children[0].type != "name"
        is_early_return = statement.type == "keyword" and statement.value == "return"
        return is_early_return or statement.type in ("atom_expr", "power", "raise_stmt")


class LoseError(Operator):
    """An ``except`` that catches nothing."""

    def mutation_positions(self, node: NodeOrLeaf) -> Iterator[tuple[Any, Any]]:
        if node.type == "except_clause":
            yield node.children[1].start_pos, node.children[1].end_pos

    def mutate(self, node: NodeOrLeaf, index: int) -> NodeOrLeaf:  # noqa: ARG002
        node.children[1] = Name("()", node.children[1].start_pos, " ")
        return node

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        return (Example("try: a()\nexcept b.C: d()", "try: a()\nexcept (): d()"),)


def places(file: str) -> list[Place]:
    """Every place for a fault in this file."""
    nodes = list(ast_nodes(get_ast(Path(file).read_text())))
    return [
        Place(file, start[0], operator, occurrence, node)
        for operator in _operators()
        for occurrence, (node, (start, _)) in enumerate(
            (node, position) for node in nodes for position in operator.mutation_positions(node)
        )
        if not _is_beside_the_point(node)
    ]


def _operators() -> list[Operator]:
    names = [f"core/{name}" for name in WHOLE]
    for family, pairs in REPLACEMENTS.items():
        names += [f"core/{family}_{pair}" for pair in pairs]
    ours: list[Operator] = [DropLink(), DropCondition(), DropStatement(), LoseError()]
    return [*ours, *(plugins.get_operator(name)() for name in names)]


def _is_beside_the_point(node: NodeOrLeaf) -> bool:
    """Inside a type, in what is only said, or in what is only tuned."""
    below, above = node, node.parent
    if node.get_code().strip().startswith(IGNORED_CALLS):
        return True
    while above is not None:
        if _is_type(below, above):
            return True
        if above.type == "argument":
            name = above.children[0].get_code().strip()
            if name in IGNORED_ARGUMENTS or (
                below.type == "number" and TUNED.fullmatch(name.upper())
            ):
                return True
        if above.type == "expr_stmt" and TUNED.fullmatch(above.children[0].get_code().strip()):
            return True
        if above.type == "simple_stmt" and above.get_code().strip().startswith(IGNORED_CALLS):
            return True
        below, above = above, above.parent
    return False


def _is_type(node: NodeOrLeaf, above: NodeOrLeaf) -> bool:
    """Whether ``node`` is the type that ``above`` gives to a parameter, a name or a result."""
    if above.type == "tfpdef":
        return node is above.children[2]
    if above.type == "annassign":
        return node is above.children[1]
    return above.type == "funcdef" and node is above.annotation


def fault_at(place: Place) -> Fault | None:
    """The fault, or None where it would be no Python, as ``select(*)``."""
    source = Path(place.file).read_text()
    kind = type(place.operator).__name__
    code = mutate_code(source, place.operator, place.occurrence)
    if code is None:
        raise ValueError(f"{kind} made no change in {place.file}")
    try:
        compile(code, place.file, "exec")
    except SyntaxError:
        return None
    before, after = [], []
    for entry in difflib.ndiff(source.splitlines(), code.splitlines()):
        if entry.startswith("- "):
            before.append(entry[2:])
        elif entry.startswith("+ "):
            after.append(entry[2:])
    definition = search_ancestor(place.node, "funcdef", "classdef")
    return Fault(
        file=place.file,
        line=place.line,
        lines=_lines(place.node),
        within=definition.name.value if definition is not None else "",
        kind=kind,
        before=_one_line(before),
        after=_one_line(after),
        code=code,
    )


def _lines(node: NodeOrLeaf) -> range:
    """The lines that run when ``node`` does, none if that is at import."""
    if not _is_called(node):
        return range(0)
    while node.parent.type not in BLOCKS:
        node = node.parent
    start, end = node.start_pos[0], node.get_last_leaf().start_pos[0]
    for child in getattr(node, "children", ()):
        if child.type == "suite":
            return range(start, child.start_pos[0] + 1)
    return range(start, end + 1)


def _is_called(node: NodeOrLeaf) -> bool:
    """Whether ``node`` lies in the body of a function."""
    while node.parent is not None:
        if node.parent.type == "funcdef" and node is node.parent.children[-1]:
            return True
        node = node.parent
    return False


def _one_line(lines: list[str]) -> str:
    return " ".join(" ".join(lines).split())
