"""What policies read at last: by themselves, through views, in functions that they call, and by the policies of tables on the way.

Whose rights count differs on the way, and with them whether a table's policies are asked:

a view              reads as its owner, or with `security_invoker` as whoever asks; functions in it run as whoever asks
a function          runs as whoever calls it, or with SECURITY DEFINER as its owner
a policy            reads as whoever reads its table; functions in it run as whoever asks

PostgreSQL knows what a view and a BEGIN ATOMIC body read. Of a body that is a text only the names are known, which may stand for
something else: such a way is not certain.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from backfilld.migrations.identifiers import TableName
from backfilld.migrations.postgres.statements import Unclosed, split
from backfilld.migrations.queries import queries

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from backfilld.migrations.postgres.connect import Connection

_SQL = queries(__package__, "readings")

#: Whoever asks.
_CALLER = 0


@dataclass(frozen=True, kw_only=True)
class Way:
    """One way on which a policy comes to read a table, where the table's policies are asked for it."""

    table: TableName
    policy: str
    #: What lies between, in words; nothing for a policy that reads it by itself.
    through: tuple[str, ...]
    #: The role as which it is read at last; None for whoever asks.
    role: str | None
    #: Every name on the way is known to PostgreSQL; otherwise one stands in the text of a function.
    certain: bool

    @property
    def in_words(self) -> str:
        role = f" as {self.role}" if self.role is not None else ""
        return (f"through {' and '.join(self.through)}" if self.through else "itself") + role


class _Node(NamedTuple):
    """Something that is read or called."""

    is_relation: bool
    oid: int
    #: As whom a relation is read, and as whom functions run that are called on the way.
    reader: int
    caller: int


class _Edge(NamedTuple):
    to: _Node
    certain: bool


@dataclass
class _Graph:
    """What reads what, asked of the catalog step by step. Any: columns of the catalog."""

    connection: Connection
    edges: dict[_Node, list[_Edge]] = field(default_factory=dict)
    relations: dict[int, Mapping[str, Any]] = field(default_factory=dict)
    functions: dict[int, Mapping[str, Any]] = field(default_factory=dict)

    def grow(self, start: Iterable[_Node], *, to: int) -> None:
        """Ask until nothing new is read; what the table `to` asks itself does not matter."""
        fresh = {node for node in start if not (node.is_relation and node.oid == to)}
        while fresh:
            self.learn(fresh)
            views = [one.oid for one in fresh if self._kind(one) == "v"]
            bodies = [one.oid for one in fresh if not one.is_relation and one.oid in self.functions]
            tables = [one.oid for one in fresh if self._kind(one) in {"r", "p"} and self._asks(one)]
            read = {
                "view": self._reads("views_read", views),
                "function": self._reads("functions_read", bodies),
                "table": self._reads("policies_read", tables),
            }
            named = self._named(bodies)
            for one in fresh:
                self.edges[one] = [*self._from(one, read), *self._from_text(one, named)]
            fresh = {
                edge.to
                for one in fresh
                for edge in self.edges[one]
                if edge.to not in self.edges and not (edge.to.is_relation and edge.to.oid == to)
            }

    def words(self, node: _Node) -> str:
        """What lies on a way, as a person calls it."""
        if not node.is_relation:
            one = self.functions[node.oid]
            return f"the function {TableName(one['schema'], one['name'])}()"
        one = self.relations[node.oid]
        what = "the view" if one["kind"] == "v" else "the policies of"
        return f"{what} {TableName(one['schema'], one['name'])}"

    def _kind(self, node: _Node) -> str:
        return str(self.relations[node.oid]["kind"]) if node.is_relation and node.oid in self.relations else ""

    def _asks(self, node: _Node) -> bool:
        if not self.relations[node.oid]["row_security"]:
            return False
        return node.reader == _CALLER or asked(self.connection, node.oid, [node.reader])[node.reader][1]

    def learn(self, nodes: Iterable[_Node]) -> None:
        """What is to be known of things that are seen for the first time."""
        nodes = list(nodes)
        relations = [one.oid for one in nodes if one.is_relation and one.oid not in self.relations]
        functions = [one.oid for one in nodes if not one.is_relation and one.oid not in self.functions]
        for row in self.connection.execute(_SQL["relations"], {"oids": relations}) if relations else ():
            self.relations[row["oid"]] = row
        for row in self.connection.execute(_SQL["functions"], {"oids": functions}) if functions else ():
            self.functions[row["oid"]] = row

    def _reads(self, query: str, oids: list[int]) -> dict[int, list[tuple[bool, int]]]:
        found: dict[int, list[tuple[bool, int]]] = {}
        for row in self.connection.execute(_SQL[query], {"oids": oids}) if oids else ():
            found.setdefault(row["reader"], []).append((row["is_relation"], row["oid"]))
        return found

    def _named(self, functions: Iterable[int]) -> dict[tuple[str | None, str], list[tuple[bool, int]]]:
        """What the names in these functions' texts may stand for."""
        names = sorted(
            {name for oid in functions for name in _names(self.functions[oid]["body"])},
            key=lambda one: (one[0] or "", one[1]),
        )
        found: dict[tuple[str | None, str], list[tuple[bool, int]]] = {}
        parameters = {"schemas": [schema for schema, _ in names], "names": [name for _, name in names]}
        for row in self.connection.execute(_SQL["named"], parameters) if names else ():
            found.setdefault((row["schema"], row["name"]), []).append((row["is_relation"], row["oid"]))
        return found

    def _from(self, node: _Node, read: Mapping[str, Mapping[int, Sequence[tuple[bool, int]]]]) -> Iterator[_Edge]:
        if not node.is_relation:
            runs_as = self._runs_as(node)
            things, reader, caller = read["function"].get(node.oid, ()), runs_as, runs_as
        elif self._kind(node) == "v":
            one = self.relations[node.oid]
            things, caller = read["view"].get(node.oid, ()), node.caller
            reader = node.caller if one["as_caller"] else one["owner"]
        else:
            asks = self._kind(node) != "" and self._asks(node)
            things, reader, caller = read["table"].get(node.oid, ()) if asks else (), node.reader, node.caller
        for is_relation, oid in things:
            yield _Edge(_Node(is_relation, oid, reader, caller), certain=True)

    def _from_text(
        self, node: _Node, named: Mapping[tuple[str | None, str], Sequence[tuple[bool, int]]]
    ) -> Iterator[_Edge]:
        if node.is_relation or node.oid not in self.functions:
            return
        runs_as = self._runs_as(node)
        for name in _names(self.functions[node.oid]["body"]):
            for is_relation, oid in named.get(name, ()):
                if (is_relation, oid) != (False, node.oid):
                    yield _Edge(_Node(is_relation, oid, runs_as, runs_as), certain=False)

    def _runs_as(self, node: _Node) -> int:
        one = self.functions.get(node.oid)
        return node.caller if one is None or one["as_caller"] else int(one["owner"])


def ways(connection: Connection, table: int, *, of: Sequence[int] | None = None, forced: bool = False) -> list[Way]:
    """How policies come to read a table whose policies are then asked: those of the tables `of`, or of all others.

    With `forced` the owner's reading counts as well, as it will once the table's row security is forced.
    """
    starts: dict[tuple[int, str], list[_Edge]] = {}
    oids = list(of) if of is not None else None
    for row in connection.execute(_SQL["policies_read"], {"oids": oids}):
        if row["reader"] != table:
            node = _Node(row["is_relation"], row["oid"], _CALLER, _CALLER)
            starts.setdefault((row["reader"], row["policy"]), []).append(_Edge(node, certain=True))
    graph = _Graph(connection)
    graph.grow({edge.to for edges in starts.values() for edge in edges}, to=table)
    graph.learn(_Node(True, reader, _CALLER, _CALLER) for reader, _ in starts)
    found: list[Way] = []
    for (reader, policy), edges in sorted(starts.items()):
        one = graph.relations[reader]
        arrivals = _arrivals(graph, edges, table, avoid=reader)
        roles = asked(connection, table, [role for role, _ in arrivals if role != _CALLER], forced=forced)
        for (role, _), (certain, between) in arrivals.items():
            if role == _CALLER or roles[role][1]:
                found.append(
                    Way(
                        table=TableName(one["schema"], one["name"]),
                        policy=policy,
                        through=tuple(graph.words(node) for node in between),
                        role=None if role == _CALLER else roles[role][0],
                        certain=certain,
                    )
                )
    return found


def _arrivals(
    graph: _Graph, edges: Sequence[_Edge], table: int, *, avoid: int
) -> dict[tuple[int, bool], tuple[bool, tuple[_Node, ...]]]:
    """By the role as which the table is read, and whether by the policy itself: the shortest way, what is certain first."""
    found: dict[tuple[int, bool], tuple[bool, tuple[_Node, ...]]] = {}
    for certain_only in (True, False):
        seen: set[_Node] = set()
        front: list[tuple[_Edge, tuple[_Node, ...], bool]] = [(edge, (), True) for edge in edges]
        while front:
            following: list[tuple[_Edge, tuple[_Node, ...], bool]] = []
            for edge, between, certain in front:
                node, sure = edge.to, certain and edge.certain
                if node in seen or (certain_only and not sure) or (node.is_relation and node.oid == avoid):
                    continue
                if node.is_relation and node.oid == table:
                    found.setdefault((node.reader, not between), (sure, between))
                    continue
                seen.add(node)
                following += [(next_, (*between, node), sure) for next_ in graph.edges.get(node, ())]
            front = following
    return found


def asked(
    connection: Connection, table: int, roles: Sequence[int], *, forced: bool = False
) -> dict[int, tuple[str, bool]]:
    """By role: its name, and whether the policies of a table are asked for it."""
    rows = connection.execute(_SQL["asked"], {"roles": sorted(set(roles)), "oid": table, "forced": forced})
    return {row["oid"]: (row["name"], row["asked"]) for row in rows}


def _names(body: str | None) -> set[tuple[str | None, str]]:
    """The names in the text of a function, with their schema where it is written."""
    if body is None:
        return set()
    try:
        statements = split(body)
    except Unclosed:
        return set()
    found: set[tuple[str | None, str]] = set()
    for statement in statements:
        found |= {name for _, _, name in statement.qualified}
        for number, token in enumerate(statement.tokens):
            before = statement.tokens[number - 1].text if number else ""
            after = statement.tokens[number + 1].text if number + 1 < len(statement.tokens) else ""
            if token.name is not None and "." not in {before, after}:
                found.add((None, token.name))
        if "EXECUTE" in statement.bare.split():  # a statement that is put together
            for text in statement.strings:
                found |= _names(text.strip("'").replace("''", "'"))
    return found
