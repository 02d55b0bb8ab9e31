"""The tables, views, types and functions of a database as each phase of a migration leaves them, without running it.

What is there today comes from the catalog. Tables that the migration changes are read again from the copies of the dry run, after
each phase, under the names that they have then; what depends on them by name, foreign keys and the columns of views, follows by rule.
Columns and tables that the run alone uses are left out.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from backfilld.migrations.errors import UsageError
from backfilld.migrations.file import operations as file
from backfilld.migrations.identifiers import TableName
from backfilld.migrations.planning.checks.findings import Findings
from backfilld.migrations.planning.dry_run import dry_run
from backfilld.migrations.planning.examine import examine
from backfilld.migrations.postgres import catalog
from backfilld.migrations.postgres.connect import apply_settings
from backfilld.migrations.queries import queries
from backfilld.migrations.record.states import Phase

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from backfilld.migrations.facts import Facts
    from backfilld.migrations.file.migration import Migration
    from backfilld.migrations.planning.dry_run_copies import Copies
    from backfilld.migrations.postgres.connect import Connection
    from backfilld.migrations.record.model import Run
    from backfilld.migrations.source_settings import SourceSettings

_SQL = queries(__package__, "planned_schema")

#: What names of columns that a run makes for itself end with.
_OURS = ("_backfilld_new", "_backfilld_old")


class At(StrEnum):
    """A moment at which the schema is looked at: as it is now, or as a phase leaves it."""

    TODAY = "today"
    EXPAND = "expand"
    SWITCH = "switch"
    CONTRACT = "contract"


@dataclass(frozen=True, kw_only=True)
class TypeName:
    """A type, by its name in the catalog: `int4`, `_text` for an array of text."""

    schema: str
    name: str


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column of a table or view."""

    name: str
    #: A domain is what it is over.
    type: TypeName
    nullable: bool
    has_default: bool
    #: `a` for always, `d` for by default, empty for none.
    identity: str
    generated: bool
    writable: bool
    #: For a view: the column of a table that is shown as it is.
    shows: tuple[TableName, str] | None = None


@dataclass(frozen=True, kw_only=True)
class Reference:
    """A foreign key."""

    name: str
    columns: tuple[str, ...]
    other: TableName
    other_columns: tuple[str, ...]
    is_one_to_one: bool


@dataclass(frozen=True, kw_only=True)
class Relation:
    """A table, or a view."""

    name: TableName
    is_view: bool
    columns: tuple[Column, ...]
    references: tuple[Reference, ...]
    takes_inserts: bool
    takes_updates: bool


@dataclass(frozen=True, kw_only=True)
class Argument:
    """An argument of a function: `i` in, `b` in and out, `v` variadic, `o` out, `t` a column of the table it gives."""

    name: str
    type: TypeName
    mode: str
    has_default: bool


@dataclass(frozen=True, kw_only=True)
class Function:
    """A function that an API can call."""

    schema: str
    name: str
    arguments: tuple[Argument, ...]
    gives_several: bool
    returns: TypeName
    #: The table or view whose rows it gives.
    returns_rows_of: TableName | None


@dataclass(frozen=True, kw_only=True)
class PlannedSchema:
    """What there is at one moment, in the schemas that were asked for; enumerations of all schemas."""

    schemas: tuple[str, ...]
    relations: tuple[Relation, ...]
    #: Labels, by type.
    enums: Mapping[TypeName, tuple[str, ...]]
    #: Attributes and their types, by type.
    composites: Mapping[TypeName, tuple[tuple[str, TypeName], ...]]
    functions: tuple[Function, ...]

    def references_of(self, relation: Relation) -> list[Reference]:
        """Its foreign keys, and those that views at either end show: an API embeds through them too."""
        found = []
        for end in self.relations:
            for one in end.references:
                for columns in (
                    [one.columns] if end.name == relation.name else _shown_by(relation, end.name, one.columns)
                ):
                    found.append(replace(one, columns=columns))
                    found += [
                        replace(one, columns=columns, other=view.name, other_columns=shown)
                        for view in self.relations
                        for shown in _shown_by(view, one.other, one.other_columns)
                    ]
        return sorted(found, key=lambda one: (one.name, str(one.other), one.columns))

    def of(self, schema: str, *, views: bool) -> list[Relation]:
        """The tables, or the views, of one schema by name."""
        found = [one for one in self.relations if one.name.schema == schema and one.is_view is views]
        return sorted(found, key=lambda one: one.name.name)


def as_code_sees_it(schema: PlannedSchema, migration: Migration) -> PlannedSchema:
    """The schema as it is for code while a column has two names: both are kept in step, so a row that is written needs one of them, and
    after the switch the old one is NULL no more than the new one. In the catalog it may be.
    """
    pairs = [(one.table, one.old, one.new) for one in migration.operations if isinstance(one, file.RenameColumn)]
    renamed = {one.table: one.renamed for one in migration.operations if isinstance(one, file.RenameTable)}
    relations = []
    for relation in schema.relations:
        columns = {one.name: one for one in relation.columns}
        for table, old, new in pairs:
            if relation.name in {table, renamed.get(table)} and old in columns and new in columns:
                nullable = columns[old].nullable and columns[new].nullable
                columns[old] = replace(columns[old], nullable=nullable, has_default=True)
                columns[new] = replace(columns[new], has_default=True)
        relations.append(replace(relation, columns=tuple(columns.values())))
    return replace(schema, relations=tuple(relations))


def _shown_by(view: Relation, table: TableName, columns: Sequence[str]) -> list[tuple[str, ...]]:
    """Under which names a view shows these columns of a table, if it shows them all."""
    names = [next((one.name for one in view.columns if one.shows == (table, column)), None) for column in columns]
    known = tuple(name for name in names if name is not None)
    return [known] if view.is_view and len(known) == len(columns) else []


def today(connection: Connection, schemas: Sequence[str]) -> PlannedSchema:
    """What there is now. Raises UsageError for a schema that is not there."""
    with connection.transaction():
        apply_settings(connection, {"search_path": ""})
        missing = connection.execute(_SQL["missing_schemas"], {"schemas": list(schemas)}).fetchall()
        if missing:
            msg = f"there is no schema {missing[0]['name']}"
            raise UsageError(msg)
        rows = connection.execute(_SQL["relations"], {"schemas": list(schemas)}).fetchall()
        return _schema(connection, schemas, [row for row in rows if not row["is_temporary"]], {})


def planned(
    connection: Connection,
    migration: Migration,
    schemas: Sequence[str],
    *,
    refuses_foreign_code: bool = False,
    sources: Sequence[SourceSettings] = (),
) -> dict[At, PlannedSchema]:
    """What there is now, and after each phase. Raises Refused where the migration cannot run here."""
    now = today(connection, schemas)
    found = examine(connection, migration, refuses_foreign_code=refuses_foreign_code, sources=sources)
    found.require()
    return _after_each(connection, now, found, migration, found.facts, tuple(Phase))


def still_planned(connection: Connection, run: Run, schemas: Sequence[str]) -> dict[At, PlannedSchema]:
    """The same for a run that is under way: what there is now, and what the phases that are still to come make of it."""
    now = today(connection, schemas)
    ahead = tuple(phase for phase in Phase if run.phase is phase or phase.is_past(run.phase))
    found = Findings(backend=catalog.backend(connection))
    return _after_each(connection, now, found, run.migration, run.facts, ahead)


def _after_each(  # noqa: PLR0913, PLR0917 - what there is to know of a migration
    connection: Connection,
    now: PlannedSchema,
    found: Findings,
    migration: Migration,
    facts: Sequence[Facts],
    phases: Sequence[Phase],
) -> dict[At, PlannedSchema]:
    states: dict[At, PlannedSchema] = {}
    at = {Phase.EXPAND: At.EXPAND, Phase.SWITCH: At.SWITCH, Phase.CONTRACT: At.CONTRACT}

    def look(phase: Phase, copies: Copies) -> None:
        if phase in at:
            states[at[phase]] = _with_copies(connection, now, migration, phase, copies)

    dry_run(connection, found, migration, facts, phases=phases, after_phase=look)
    # Where there is nothing to try, as for a backfill alone, nothing becomes different.
    return {one: states.get(one, now) for one in At}


def _schema(
    connection: Connection,
    schemas: Sequence[str],
    rows: Sequence[Mapping[str, Any]],  # Any: a row of the catalog
    names: Mapping[int, TableName],
) -> PlannedSchema:
    known = {row["oid"]: names.get(row["oid"], TableName(row["schema"], row["name"])) for row in rows}
    references: dict[int, list[Reference]] = {}
    for row in connection.execute(_SQL["references"], {"oids": list(known)}).fetchall():
        if row["other"] in known:
            reference = Reference(
                name=row["name"],
                columns=tuple(row["columns"]),
                other=known[row["other"]],
                other_columns=tuple(row["other_columns"]),
                is_one_to_one=row["is_one_to_one"],
            )
            references.setdefault(row["own"], []).append(reference)
    return PlannedSchema(
        schemas=tuple(schemas),
        relations=tuple(_relation(row, known[row["oid"]], references.get(row["oid"], ())) for row in rows),
        enums={
            TypeName(schema=row["schema"], name=row["name"]): tuple(row["labels"])
            for row in connection.execute(_SQL["enums"])
        },
        composites={
            TypeName(schema=row["schema"], name=row["name"]): tuple(
                (name, TypeName(schema=schema, name=type_)) for name, type_, schema in row["attributes"]
            )
            for row in connection.execute(_SQL["composites"], {"schemas": list(schemas)})
        },
        functions=tuple(
            _function(row) for row in connection.execute(_SQL["functions"], {"schemas": list(schemas)}).fetchall()
        ),
    )


def _relation(row: Mapping[str, Any], name: TableName, references: Sequence[Reference]) -> Relation:  # Any: as above
    return Relation(
        name=name,
        is_view=row["kind"] in {"v", "m"},
        columns=tuple(_column(one) for one in row["columns"] if not one["name"].endswith(_OURS)),
        references=tuple(references),
        takes_inserts=row["takes_inserts"],
        takes_updates=row["takes_updates"],
    )


def _column(one: Mapping[str, Any]) -> Column:  # Any: as above
    shows = one["shows"]
    return Column(
        name=one["name"],
        type=TypeName(schema=one["type_schema"], name=one["type"]),
        nullable=one["nullable"],
        has_default=one["has_default"],
        identity=one["identity"],
        generated=one["generated"],
        writable=one["writable"],
        shows=(TableName(shows[0], shows[1]), shows[2]) if shows else None,
    )


def _function(row: Mapping[str, Any]) -> Function:  # Any: as above
    return Function(
        schema=row["schema"],
        name=row["name"],
        arguments=tuple(
            Argument(
                name=one["name"],
                type=TypeName(schema=one["type_schema"], name=one["type"]),
                mode=one["mode"],
                has_default=one["has_default"],
            )
            for one in row["arguments"]
        ),
        gives_several=row["gives_several"],
        returns=TypeName(schema=row["returns_schema"], name=row["returns"]),
        returns_rows_of=TableName(*row["returns_rows_of"]) if row["returns_rows_of"] else None,
    )


# --- after a phase -----------------------------------------------------------------------------------------------------


def _with_copies(
    connection: Connection, now: PlannedSchema, migration: Migration, phase: Phase, copies: Copies
) -> PlannedSchema:
    """What there is now, with the tables that the migration changes as their copies are."""
    table_of = {oid: table for table, oid in copies.oids.items()}
    rows = connection.execute(_SQL["relations"], {"schemas": []}).fetchall()
    names = {row["oid"]: _name(row, table_of, copies) for row in rows}
    gone = _gone(migration, phase)
    made = _schema(connection, now.schemas, [row for row in rows if names[row["oid"]] not in gone], names)
    before = {one.name: one for one in now.relations}
    changes = _Followed(migration, phase)
    relations = [one for name, one in before.items() if name not in copies.oids]
    relations += [
        replace(one, references=(*_own_references(before.get(table_of.get(oid, name)), changes), *one.references))
        for oid, name in names.items()
        for one in made.relations
        if one.name == name
    ]
    columns = {(one.name, column.name): column for one in made.relations for column in one.columns}
    return replace(
        now, relations=tuple(changes.relation(one, columns) for one in relations if one.name.schema in now.schemas)
    )


def _name(row: Mapping[str, Any], table_of: Mapping[int, TableName], copies: Copies) -> TableName:  # Any: as above
    """What a relation in pg_temp stands for: its schema is its table's, or the one in which it would have been made."""
    table = table_of.get(row["oid"])
    if table is not None:
        return TableName(table.schema, row["name"])
    schema = next((schema for schema, name in copies.named if name == row["name"] and schema != "pg_temp"), "public")
    return TableName(schema, row["name"])


def _gone(migration: Migration, phase: Phase) -> set[TableName]:
    """Names that mean nothing after contract: a table that is dropped is kept for a while where a copy cannot go, and the view under a
    table's old name has a table for its copy where the run is under way.
    """
    of = migration.operations if phase is Phase.CONTRACT else ()
    return {one.table for one in of if isinstance(one, file.DropTable | file.RenameTable)}


def _own_references(before: Relation | None, changes: _Followed) -> tuple[Reference, ...]:
    """The foreign keys that a table had; copies have none but new ones."""
    return changes.references(before) if before is not None else ()


class _Followed:
    """What becomes of the things that name what a migration changes, once a phase is done."""

    def __init__(self, migration: Migration, phase: Phase) -> None:
        of = migration.operations if phase in {Phase.SWITCH, Phase.CONTRACT} else ()
        self._tables = {one.table: one.renamed for one in of if isinstance(one, file.RenameTable)}
        self._columns = {(one.table, one.old): one.new for one in of if isinstance(one, file.RenameColumn)}
        self._retyped = {(one.table, one.column) for one in of if isinstance(one, file.ChangeType)}
        self._rules = {(one.table, one.old): one.new for one in of if isinstance(one, file.RenameConstraint)}
        self._unbound = {(one.table, one.name) for one in of if isinstance(one, file.DropConstraint)}
        done = phase is Phase.CONTRACT
        self._dropped = {(one.table, one.column) for one in of if isinstance(one, file.DropColumn) and done}
        self._gone = {one.table for one in of if isinstance(one, file.DropTable) and done}

    def references(self, of: Relation) -> tuple[Reference, ...]:
        """The foreign keys of a table of today, as they are then."""
        return tuple(
            Reference(
                name=self._rules.get((of.name, one.name), one.name),
                columns=tuple(self._columns.get((of.name, column), column) for column in one.columns),
                other=self._tables.get(one.other, one.other),
                other_columns=tuple(self._columns.get((one.other, column), column) for column in one.other_columns),
                is_one_to_one=one.is_one_to_one,
            )
            for one in of.references
            if (of.name, one.name) not in self._unbound
            and one.other not in self._gone
            and not any((of.name, column) in self._dropped for column in one.columns)
        )

    def relation(self, of: Relation, columns: Mapping[tuple[TableName, str], Column]) -> Relation:
        """A relation of that moment: what a view shows may be called otherwise, and have another type."""
        if of.is_view:
            return replace(of, columns=tuple(self._shown(one, columns) for one in of.columns))
        return of

    def _shown(self, column: Column, columns: Mapping[tuple[TableName, str], Column]) -> Column:
        if column.shows is None:
            return column
        table, name = column.shows
        now = self._tables.get(table, table), self._columns.get(column.shows, name)
        retyped = columns.get(now) if column.shows in self._retyped else None
        return replace(column, shows=now, type=retyped.type if retyped is not None else column.type)
