"""What hangs on a column: found in the catalog, and rewritten by PostgreSQL for the column that takes its place.

No definition is rewritten by us. A temporary copy of the table, in which the column has another name and another type, has
all indexes, checks and statistics, and PostgreSQL says how they read there; what it cannot make for the new type, or what it
does not accept once the new column has the name, is a reason for refusal before anything has happened.
"""

from __future__ import annotations

import hashlib
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import sql

from backfilld.migrations.identifiers import TableName
from backfilld.migrations.postgres import indexes
from backfilld.migrations.postgres.column_dependents import (
    DependentIndex,
    DependentPolicy,
    DependentRule,
    DependentStatistics,
    DependentTrigger,
    DependentView,
)
from backfilld.migrations.postgres.definitions import Grant
from backfilld.migrations.postgres.expression_probe import Rejected
from backfilld.migrations.queries import literally, queries

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from backfilld.migrations.postgres.connect import Connection, Row
    from backfilld.migrations.postgres.definitions import IndexDefinition

_SQL = queries(__package__, "column_dependents")

#: What cannot be taken along to another column, by the kind that `attached` gives: what to say, and what to do instead.
IN_THE_WAY = {
    "primary key": (
        "the primary key {} holds it",
        "A primary key is changed by an operation of its own, which is not there yet",
    ),
    "inbound": (
        "the foreign key {} of another row refers to it",
        "Change both sides in turn: drop that foreign key, change both columns, and add it again with `add_foreign_key`",
    ),
    "generated": ("the generated column {} reads it", "Drop that column first, and add it again afterwards"),
    "identity": (
        "it is an identity column ({})",
        "Keep its type, or make its sequence an ordinary default first (DROP IDENTITY)",
    ),
    "materialized view": ("the materialized view {} reads it", "Drop that view first, and make it again afterwards"),
    "rule": ("the rule {} reads it", "Drop that rule first, and make it again afterwards"),
    "publication": (
        "{} names it in a list of columns or in a filter",
        "Take the table out of it first, and add it again afterwards",
    ),
    "constraint": ("the constraint {} holds it", "Drop that constraint first, and add it again afterwards"),
    "other": ("{} depends on it, or on a view that reads it", "Drop that first, and make it again afterwards"),
}


_FIRST = "Drop it first, and make it again afterwards"


@dataclass(frozen=True, kw_only=True)
class ColumnDependent:
    """One thing that hangs on a column."""

    kind: str
    oid: int
    name: str
    definition: str | None

    @property
    def digest(self) -> str:
        return hashlib.md5((self.definition or "").encode(), usedforsecurity=False).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Copy:
    """A temporary copy of a table, with everything on it."""

    name: sql.Identifier
    #: The names of its indexes and statistics, by the oid of what each was made from.
    indexes: dict[int, str]
    statistics: dict[int, str]

    @property
    def named(self) -> dict[str, str]:
        """For the queries of a table."""
        return {"table": self.name.as_string()}


@dataclass(frozen=True, kw_only=True)
class Definitions:
    """How indexes, checks and statistics read over a column of another name."""

    #: By the oid of the index, and of the statistics, that the copy's was made from.
    indexes: dict[int, IndexDefinition]
    statistics: dict[int, str]
    #: By the constraint's name.
    checks: dict[str, str]


def column(connection: Connection, table: TableName, name: str) -> Row:
    """What belongs to a column itself; the columns are those of the query."""
    return connection.execute(_SQL["column"], _of(table, name)).fetchone() or {}


def grants(pairs: Sequence[Sequence[Any]]) -> tuple[Grant, ...]:
    """Privileges, as the queries give them."""
    return tuple(Grant(privilege=privilege, grantee=to, grantable=grantable) for privilege, to, grantable in pairs)


def attached(connection: Connection, table: TableName, name: str) -> list[ColumnDependent]:
    """Everything that hangs on a column; views in the order in which they can be made."""
    return [
        ColumnDependent(kind=row["kind"], oid=row["oid"], name=row["name"], definition=row["definition"])
        for row in connection.execute(_SQL["attached"], _of(table, name))
    ]


def changed_since(table: TableName, name: str, seen: Sequence[tuple[str, str, str]]) -> sql.Composed:
    """A query that names what hangs on a column now and did not, is another now, or hung on it and does not any more."""
    now = literally(_SQL["attached"], _of(table, name))
    then = sql.SQL(", ").join(
        sql.SQL("({})").format(sql.SQL(", ").join(sql.Literal(part) for part in one)) for one in [("", "", ""), *seen]
    )
    return sql.SQL(
        "SELECT coalesce(now.kind || ' ' || now.name, since.kind || ' ' || since.name) AS what FROM ({now}) now "
        "FULL JOIN (VALUES {then}) since (kind, name, digest) ON since.kind = now.kind AND since.name = now.name "
        "AND since.digest = pg_catalog.md5(coalesce(now.definition, '')) "
        "WHERE (now.kind IS NULL OR since.kind IS NULL) AND since.kind IS DISTINCT FROM '' ORDER BY 1 LIMIT 1"
    ).format(now=now, then=then)


def appeared_since(table: TableName, name: str, seen: Sequence[tuple[str, str, str]]) -> sql.Composed:
    """A query that names what hangs on a column now and did not, whatever its definition is by now."""
    now = literally(_SQL["attached"], _of(table, name))
    known = [sql.Literal(f"{kind} {known}") for kind, known, _ in seen]
    return sql.SQL(
        "SELECT now.kind || ' ' || now.name AS what FROM ({now}) now WHERE now.kind || ' ' || now.name <> ALL ({known}) "
        "ORDER BY 1 LIMIT 1"
    ).format(now=now, known=sql.SQL("ARRAY[{}]::text[]").format(sql.SQL(", ").join(known)))


def mentions(connection: Connection, table: TableName, name: str) -> list[str]:
    """Functions whose body is a text that holds the names of the table and of the column."""
    named = {"column": name, "name": table.name}
    return [row["name"] for row in connection.execute(_SQL["mentions"], named)]


@contextmanager
def successor(  # noqa: PLR0913 - one copy; each part is named where it is called
    connection: Connection,
    table: TableName,
    name: str,
    *,
    named: str,
    type_: sql.Composable | None,
    found: Sequence[ColumnDependent] = (),
) -> Iterator[Copy]:
    """A temporary copy of the table, with everything on it, in which the column has this name and type; undone at the end.

    Runs inside a probe, whose own copy gives way. Raises Rejected: something on the column cannot be had for the type.
    """
    temporary = sql.Identifier("pg_temp", table.name)
    column = sql.Identifier(name)
    alter = sql.SQL("ALTER TABLE {} ").format(temporary)
    with connection.transaction(force_rollback=True):
        connection.execute(alter + sql.SQL("RENAME TO {}").format(sql.Identifier("~backfilld probe")))
        connection.execute(
            sql.SQL("CREATE TEMPORARY TABLE {} (LIKE {} INCLUDING ALL)").format(
                sql.Identifier(table.name), table.identifier
            )
        )
        copy = Copy(
            name=temporary,
            indexes=_copied(connection, table, temporary, "indexes"),
            statistics=_copied(connection, table, temporary, "statistics"),
        )
        connection.execute(alter + sql.SQL("ALTER COLUMN {} DROP DEFAULT").format(column))
        if type_ is not None:
            statement = alter + sql.SQL("ALTER COLUMN {} TYPE {} USING NULL").format(column, type_)
            try:
                with connection.transaction():
                    connection.execute(statement)
            except psycopg.Error as exc:
                _raise_unless_refused(exc)
                what = _culprit(connection, copy, found, statement)
                raise _complaint("column_dependents", f"{what} cannot be had for the new type of {name}", exc) from exc
        if named != name:
            connection.execute(alter + sql.SQL("RENAME COLUMN {} TO {}").format(column, sql.Identifier(named)))
        yield copy


def _copied(connection: Connection, table: TableName, copy: sql.Identifier, what: str) -> dict[int, str]:
    # LIKE copies in the order of the oids, so the n-th of the copy was made from the n-th of the table. Names stay.
    theirs = connection.execute(_SQL[what], _of(table, "")).fetchall()
    ours = connection.execute(_SQL[what], {"table": copy.as_string()}).fetchall()
    return {their["oid"]: our["name"] for their, our in zip(theirs, ours, strict=True)}


def definitions(connection: Connection, copy: Copy, found: Sequence[ColumnDependent]) -> Definitions:
    """How everything that hangs on the column reads in the copy that `successor` made."""
    made = {one.name: one for one in _definitions_on(connection, copy.name)}
    checks = connection.execute(_SQL["checks"], copy.named).fetchall()
    columns = {row["name"]: row["columns"] for row in connection.execute(_SQL["statistics"], copy.named)}
    return Definitions(
        indexes={
            one.oid: _settled(connection, copy, made[copy.indexes[one.oid]]) for one in found if one.kind == "index"
        },
        statistics={oid: columns[name] for oid, name in copy.statistics.items()},
        checks={row["name"]: row["definition"].removesuffix(" NOT VALID") for row in checks},
    )


def _settled(connection: Connection, copy: Copy, definition: IndexDefinition) -> IndexDefinition:
    """The definition in words that stay the same when an index is built from them: PostgreSQL may write others once more."""
    name = "~backfilld settled"
    for _ in range(3):
        connection.execute(
            sql.SQL("CREATE {}INDEX {} ON {} {}").format(
                sql.SQL("UNIQUE " if definition.unique else ""),
                sql.Identifier(name),
                copy.name,
                sql.SQL(definition.rest),  # PostgreSQL's own text
            )
        )
        (made,) = [one for one in _definitions_on(connection, copy.name) if one.name == name]
        connection.execute(sql.SQL("DROP INDEX {}").format(sql.Identifier("pg_temp", name)))
        if made.rest == definition.rest:
            break
        definition = made
    return definition


def _culprit(connection: Connection, copy: Copy, found: Sequence[ColumnDependent], statement: sql.Composed) -> str:
    """The thing without which the statement is accepted, in words; of several together none is named."""
    for one in found:
        match one.kind:
            case "check" | "unique":
                drop = sql.SQL("ALTER TABLE {} DROP CONSTRAINT {}").format(copy.name, sql.Identifier(one.name))
            case "index":
                drop = sql.SQL("DROP INDEX {}").format(sql.Identifier("pg_temp", copy.indexes[one.oid]))
            case "statistics":
                drop = sql.SQL("DROP STATISTICS {}").format(sql.Identifier("pg_temp", copy.statistics[one.oid]))
            case _:
                continue
        try:
            with connection.transaction(force_rollback=True):
                connection.execute(drop)
                connection.execute(statement)
        except psycopg.Error:
            continue
        return f"the {one.kind} {one.name}"
    return "what hangs on it"


def attached_indexes(  # noqa: PLR0913 - one list; each part is named where it is called
    connection: Connection,
    table: TableName,
    found: Sequence[ColumnDependent],
    new: Definitions,
    old: Definitions,
    *,
    names: Names,
) -> tuple[DependentIndex, ...]:
    """The indexes among what hangs on a column. Raises Rejected."""
    mine = {one.oid for one in found if one.kind == "index"}
    own = {one.name: one for one in _definitions_on(connection, table.identifier)}
    result: list[DependentIndex] = []
    for row in connection.execute(_SQL["indexes"], _of(table, "")):
        if row["oid"] not in mine:
            continue
        name = row["name"]
        if not row["is_valid"]:
            raise Rejected(
                "index", f"the index {name} is INVALID", "Drop it (DROP INDEX CONCURRENTLY), or build it again"
            )
        if row["is_exclusion"]:
            raise Rejected("index", f"the exclusion constraint {name} holds it", _FIRST)
        if row["is_identity"]:
            raise Rejected("index", f"the index {name} is the table's replica identity", "Choose another one first")
        here = own[name]
        result.append(
            DependentIndex(
                name=name,
                new=replace(
                    new.indexes[row["oid"]], name=names.new(len(result)), tablespace=here.tablespace, comment=""
                ),
                old=replace(
                    old.indexes[row["oid"]], name=names.old(len(result)), tablespace=here.tablespace, comment=""
                ),
                harmless=not row["may_fail"],
                constraint=row["constraint"],
                clustered=row["is_clustered"],
                comment=row["constraint_comment"] or here.comment or None,
            )
        )
    return tuple(result)


@dataclass(frozen=True, kw_only=True)
class Names:
    """Our names for what is parked: a text with a place for a number."""

    new_form: str
    old_form: str

    def new(self, number: int) -> str:
        return self.new_form.format(number)

    def old(self, number: int) -> str:
        return self.old_form.format(number)


def attached_rules(  # noqa: PLR0913 - two lists; each part is named where it is called
    connection: Connection,
    table: TableName,
    name: str,
    found: Sequence[ColumnDependent],
    new: Definitions,
    *,
    named: str,
) -> tuple[tuple[DependentRule, ...], tuple[DependentRule, ...]]:
    """The CHECK constraints and the outgoing foreign keys among what hangs on a column."""
    of = {kind: {one.name for one in found if one.kind == kind} for kind in ("check", "foreign key")}
    checks = tuple(
        DependentRule(
            name=row["name"],
            new=new.checks[row["name"]],
            old=row["definition"].removesuffix(" NOT VALID"),
            references=None,
            valid=row["is_valid"],
            comment=row["comment"],
        )
        for row in connection.execute(_SQL["checks"], _of(table, name))
        if row["name"] in of["check"]
    )
    keys = tuple(
        DependentRule(
            name=row["name"],
            new=f"{row['head']}{TableName(row['schema'], row['table_name']).identifier.as_string()}{row['tail']}",
            old=row["definition"].removesuffix(" NOT VALID"),
            references=TableName(row["schema"], row["table_name"]),
            valid=row["is_valid"],
            comment=row["comment"],
        )
        for row in connection.execute(_SQL["foreign_keys"], {**_of(table, name), "named": named})
        if row["name"] in of["foreign key"]
    )
    return checks, keys


def attached_statistics(
    connection: Connection, table: TableName, found: Sequence[ColumnDependent], new: Definitions
) -> tuple[DependentStatistics, ...]:
    """The extended statistics among what hangs on a column."""
    mine = {one.oid for one in found if one.kind == "statistics"}
    return tuple(
        DependentStatistics(
            schema=row["schema"],
            name=row["name"],
            new=new.statistics[row["oid"]],
            old=row["columns"],
            kinds=row["kinds"] or "",
            comment=row["comment"],
        )
        for row in connection.execute(_SQL["statistics"], _of(table, ""))
        if row["oid"] in mine
    )


def attached_views(connection: Connection, found: Sequence[ColumnDependent]) -> tuple[DependentView, ...]:
    """The views among what hangs on a column. Raises Rejected for one that could not be made as it was."""
    result: list[DependentView] = []
    for one in found:
        if one.kind != "view":
            continue
        row = connection.execute(_SQL["view"], {"oid": one.oid}).fetchone() or {}
        for fault, is_so in (
            ("belongs to another role", not row["owned"]),
            ("has privileges on single columns", row["has_column_grants"]),
            ("has defaults of its own", row["has_defaults"]),
            ("has triggers", row["has_triggers"]),
        ):
            if is_so:
                raise Rejected("view", f"the view {one.name} reads it and {fault}", _FIRST)
        result.append(
            DependentView(
                schema=row["schema"],
                name=row["name"],
                written=one.name,
                definition=row["definition"].rstrip().removesuffix(";"),
                options=row["options"] or "",
                owner=row["owner"],
                has_grants=row["has_grants"],
                grants=grants(row["grants"]),
                comment=row["comment"],
                column_comments=tuple((column, text) for column, text in row["column_comments"]),
            )
        )
    return tuple(result)


def attached_policies(connection: Connection, found: Sequence[ColumnDependent]) -> tuple[DependentPolicy, ...]:
    """The policies among what hangs on a column. Raises Rejected for one of a table this role does not own."""
    rows = [
        connection.execute(_SQL["policy"], {"oid": one.oid}).fetchone() or {} for one in found if one.kind == "policy"
    ]
    for row in rows:
        if not row["owned"]:
            raise Rejected(
                "policy",
                f"the policy {row['name']} of {row['table_name']} reads it, and that table belongs to another role",
                _FIRST,
            )
    return tuple(
        DependentPolicy(
            name=row["name"],
            table=TableName(row["schema"], row["table_name"]),
            using=row["using_"],
            with_check=row["with_check"],
        )
        for row in rows
    )


def attached_functions(connection: Connection, found: Sequence[ColumnDependent]) -> tuple[str, ...]:
    """The functions among what hangs on a column, as the statements that make them. Raises Rejected."""
    rows = [
        connection.execute(_SQL["function"], {"oid": one.oid}).fetchone() or {}
        for one in found
        if one.kind == "function"
    ]
    for row in rows:
        if not (row["owned"] and row["atomic"]):
            why = "belongs to another role" if row["atomic"] else "names it in a way that cannot be made anew"
            raise Rejected("function", f"the function {row['name']} reads it and {why}", _FIRST)
    return tuple(row["definition"] for row in rows)


def attached_triggers(connection: Connection, found: Sequence[ColumnDependent]) -> tuple[DependentTrigger, ...]:
    """The triggers of the table among what hangs on a column."""
    words = {"O": "ENABLE", "D": "DISABLE", "A": "ENABLE ALWAYS", "R": "ENABLE REPLICA"}
    rows = [
        connection.execute(_SQL["trigger"], {"oid": one.oid}).fetchone() or {} for one in found if one.kind == "trigger"
    ]
    return tuple(
        DependentTrigger(
            name=row["name"], definition=row["definition"], enabled=words[row["enabled"]], comment=row["comment"]
        )
        for row in rows
    )


def rewrites(connection: Connection, table: TableName, name: str, type_: sql.Composable) -> bool:
    """Whether a plain ALTER COLUMN … TYPE would write the table, or an index of it, anew. Found by doing it to a copy."""
    with successor(connection, table, name, named=name, type_=None) as copy:
        before = connection.execute(_SQL["files"], copy.named).fetchone()
        try:
            with connection.transaction():
                connection.execute(
                    sql.SQL("ALTER TABLE {} ALTER COLUMN {} TYPE {}").format(copy.name, sql.Identifier(name), type_)
                )
        except psycopg.Error:
            return True
        return before != connection.execute(_SQL["files"], copy.named).fetchone()


def file_of(connection: Connection, oid: int) -> int:
    """The file of a table at this moment."""
    row = connection.execute("SELECT pg_relation_filenode(%s::bigint::oid)::bigint AS file", [oid]).fetchone()
    return int(row["file"]) if row else 0


def try_dependents(
    connection: Connection, table: TableName, found: Sequence[ColumnDependent], default: str | None, name: str
) -> None:
    """Make everything that depends on the column once more, over the copy `successor` made, where the column is the new one.

    PostgreSQL writes names that are on the search_path without their schema. Written with the table's schema on it, and read
    with that of temporary objects before it, a view of the table becomes a view of the copy.
    Raises Rejected with what PostgreSQL does not accept.
    """
    schema = sql.Identifier(table.schema)
    copy = sql.Identifier("pg_temp", table.name)
    # Not without pg_temp, which comes first where it is not named, and would hide the table itself.
    connection.execute(sql.SQL("SET LOCAL search_path = {}, pg_temp").format(schema))
    tried: list[tuple[str, sql.Composed]] = []
    for one in found:
        what = f"the {one.kind} {one.name} is not accepted for the new type"
        if one.kind == "view":
            row = connection.execute(_SQL["view"], {"oid": one.oid}).fetchone() or {}
            tried.append(
                (
                    what,
                    sql.SQL("CREATE TEMPORARY VIEW {} AS {}").format(
                        sql.Identifier(row["name"]), sql.SQL(row["definition"])
                    ),
                )
            )
        elif one.kind == "policy":
            row = connection.execute(_SQL["policy"], {"oid": one.oid}).fetchone() or {}
            of = TableName(row["schema"], row["table_name"])
            over = sql.Identifier(of.name) if of == table else of.identifier
            tried += [
                (what, sql.SQL("EXPLAIN SELECT FROM {} WHERE {}").format(over, sql.SQL(expression)))
                for expression in (row["using_"], row["with_check"])
                if expression is not None
            ]
        elif one.kind == "function":
            row = connection.execute(_SQL["function"], {"oid": one.oid}).fetchone() or {}
            tried.append((what, sql.Composed([sql.SQL(row["definition"])])))
        elif one.kind == "trigger":
            row = (
                connection.execute(
                    "SELECT pg_get_triggerdef(%s::bigint::oid, true) AS definition", [one.oid]
                ).fetchone()
                or {}
            )
            tried.append((what, sql.Composed([sql.SQL(row["definition"])])))
    connection.execute(sql.SQL("SET LOCAL search_path = pg_temp, {}").format(schema))
    for what, statement in tried:
        with _accepting("column_dependents", what):
            connection.execute(statement)
    connection.execute("SET LOCAL search_path = ''")
    if default is not None:
        with _accepting("default", "the default cannot be cast to the new type"):
            connection.execute(
                sql.SQL("ALTER TABLE {} ALTER COLUMN {} SET DEFAULT {}").format(
                    copy, sql.Identifier(name), sql.SQL(default)
                )
            )


def try_foreign_keys(connection: Connection, table: TableName, found: Sequence[ColumnDependent], name: str) -> None:
    """Add the foreign keys to the copy `successor` made, each to a copy of what it refers to. Raises Rejected."""
    mine = {one.name for one in found if one.kind == "foreign key"}
    for row in connection.execute(_SQL["foreign_keys"], _of(table, name)).fetchall():
        if row["name"] not in mine:
            continue
        referred = TableName(row["schema"], row["table_name"])
        with (
            connection.transaction(force_rollback=True),
            _accepting("column_dependents", f"the foreign key {row['name']} is not accepted for the new type"),
        ):
            connection.execute(
                sql.SQL('CREATE TEMPORARY TABLE "~backfilld referred" (LIKE {} INCLUDING INDEXES)').format(
                    referred.identifier
                )
            )
            connection.execute(
                sql.SQL('ALTER TABLE {} ADD {}pg_temp."~backfilld referred"{}').format(
                    sql.Identifier("pg_temp", table.name), sql.SQL(row["head"]), sql.SQL(row["tail"])
                )
            )


def _of(table: TableName, name: str) -> dict[str, str]:
    return {"table": table.identifier.as_string(), "column": name, "named": name}


def _definitions_on(connection: Connection, table: sql.Identifier) -> list[IndexDefinition]:
    row = connection.execute("SELECT %s::text::regclass::oid::bigint AS oid", [table.as_string()]).fetchone()
    named = indexes.of_table(connection, row["oid"]) if row else []
    return [one.definition for one in named if one.definition is not None]


@contextmanager
def _accepting(check: str, what: str) -> Iterator[None]:
    try:
        yield
    except psycopg.Error as exc:
        _raise_unless_refused(exc)
        raise _complaint(check, what, exc) from exc


def _raise_unless_refused(exc: psycopg.Error) -> None:
    """What is not about the statement goes on as it is: a lost connection, a shutdown."""
    if exc.sqlstate is None or exc.sqlstate.startswith(("08", "57")):
        raise exc


def _complaint(check: str, what: str, exc: psycopg.Error) -> Rejected:
    remedy = "Drop it first and make it again for the new type afterwards, or choose another type"
    return Rejected(check, f"{what}: {exc.diag.message_primary or exc}", remedy)
