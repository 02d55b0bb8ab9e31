"""Plans, as far as they are compared: which tables are read from end to end, and which by an index. Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

Node = dict[str, Any]  # Any: JSON as EXPLAIN writes it


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is asked of a plan; relations by schema and name."""

    #: Tables that are read from end to end.
    scanned: frozenset[tuple[str, str]]
    #: Indexes that are read, by name.
    indexes: tuple[str, ...]
    #: Tables that are read by an index; a bitmap tells its index alone, so these come from the nodes above it.
    by_index: frozenset[tuple[str, str]]
    #: The planner's cost of the whole.
    cost: float
    #: The plan as a person reads it in one line.
    shape: str
    #: As PostgreSQL wrote it.
    root: Node
    #: Pages that were read, in memory or not, and how long it took; None where it was not run.
    buffers: int | None = None
    milliseconds: float | None = None
    #: What PostgreSQL makes of all that the statement means, constants apart; None where the server does not.
    identifier: int | None = None

    @classmethod
    def from_json(cls, text: str | bytes) -> Plan:
        """Read what `EXPLAIN (FORMAT JSON, VERBOSE)` gives."""
        found = json.loads(text)
        whole: Node = found[0] if found else {}
        root: Node = whole.get("Plan", {})
        nodes = list(walk(root))
        return cls(
            scanned=frozenset(_relation(node) for node in nodes if node.get("Node Type") == "Seq Scan"),
            indexes=tuple(sorted({str(node["Index Name"]) for node in nodes if "Index Name" in node})),
            by_index=frozenset(
                _relation(node)
                for node in nodes
                if node.get("Node Type") in {"Index Scan", "Index Only Scan", "Bitmap Heap Scan"}
            ),
            cost=float(root.get("Total Cost", 0.0)),
            shape=shape(root),
            root=root,
            buffers=root["Shared Hit Blocks"] + root["Shared Read Blocks"] if "Shared Hit Blocks" in root else None,
            milliseconds=whole.get("Execution Time"),
            identifier=whole.get("Query Identifier"),
        )


def walk(node: Node) -> Iterator[Node]:
    """All nodes of a plan, the topmost first."""
    if node:
        yield node
    for inner in node.get("Plans", ()):
        yield from walk(inner)


def shape(root: Node) -> str:
    """`Limit > Index Scan jobs by jobs_status_idx`, joined inputs in brackets."""
    if not root:
        return "no plan"
    named = str(root.get("Node Type", ""))
    if "Relation Name" in root:
        named += f" {root['Relation Name']}"
    if "Index Name" in root:
        named += f" by {root['Index Name']}"
    inner = [shape(one) for one in root.get("Plans", ())]
    if len(inner) > 1:
        return f"{named} [{' + '.join(inner)}]"
    return f"{named} > {inner[0]}" if inner else named


def newly_scanned(before: Plan, after: Plan) -> frozenset[tuple[str, str]]:
    """Tables that are read from end to end and were not, both plans made with `enable_seqscan = off`: no index can be used."""
    return after.scanned - before.scanned


def _relation(node: Node) -> tuple[str, str]:
    return str(node.get("Schema", "")), str(node.get("Relation Name", ""))
