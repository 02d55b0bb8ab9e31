"""What depends on a column, and how each part reads for the column that takes its place. Kept with the run, as JSON.

Of two columns that change places one is in use, under the name the application knows, and the other is inactive. What cannot
belong to two columns at once has two names as well: its own where its column is in use, and one of ours where it is inactive.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from backfilld.migrations.identifiers import NAME_BYTES, TableName
from backfilld.migrations.postgres.definitions import Grant, IndexDefinition

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, kw_only=True)
class DependentIndex:
    """An index that holds the column, or computes from it."""

    name: str
    #: As it is built over the new column and over the old one, each under the name that it has while that column is inactive.
    new: IndexDefinition
    old: IndexDefinition
    #: Whether it may stay on a column that is inactive: no value can break a rule of it, or make it fail.
    harmless: bool
    #: How the constraint of the same name that owns it, UNIQUE or PRIMARY KEY, is deferred; None where none does.
    constraint: str | None
    #: Whether that is the primary key.
    primary: bool
    #: Whether CLUSTER goes by it.
    clustered: bool
    #: The index's, or its constraint's.
    comment: str | None


@dataclass(frozen=True, kw_only=True)
class DependentRule:
    """A CHECK constraint or a foreign key."""

    name: str
    #: As it reads for the new column while that is inactive, and for the old one in use.
    new: str
    old: str
    #: The table a foreign key refers to; None for a check.
    references: TableName | None
    #: Whether PostgreSQL has proved it for all rows.
    valid: bool
    comment: str | None


@dataclass(frozen=True, kw_only=True)
class DependentReference:
    """A foreign key that refers to the column, of another table or of the same one."""

    name: str
    #: The table that refers, and its columns that refer to the column.
    table: TableName
    columns: tuple[str, ...]
    #: As it reads when it refers to the new column, and to the old one, each while that is inactive.
    new: str
    old: str
    #: Whether PostgreSQL has proved it for all rows.
    valid: bool
    comment: str | None


@dataclass(frozen=True, kw_only=True)
class DependentIdentity:
    """An identity, whose sequence cannot belong to another column: each of the two columns has one of the same name.

    With an empty `generated` it is a sequence that the column owns, as that of a `serial`.
    """

    schema: str
    name: str
    #: ALWAYS or BY DEFAULT; empty for a column that is no identity.
    generated: str
    #: The sequence's options for the old type and for the new one, and the values that each may give.
    old: str
    new: str
    old_range: tuple[int, int]
    new_range: tuple[int, int]
    cache: int
    #: Whether privileges were ever granted.
    has_grants: bool
    grants: tuple[Grant, ...]
    comment: str | None
    #: The type of its numbers.
    type: str = ""
    #: The role that it belongs to, quoted, where that is not the run's own.
    owner: str = ""

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        ranges = {f"{side}_range": tuple(value[f"{side}_range"]) for side in ("old", "new")}
        return cls(**{**value, **ranges, "grants": _grants(value["grants"])})


@dataclass(frozen=True, kw_only=True)
class DependentStatistics:
    """Extended statistics."""

    schema: str
    name: str
    #: The columns and expressions of `CREATE STATISTICS … ON`, over the new column while it is inactive, and over the old one
    #: in use.
    new: str
    old: str
    #: Empty for statistics of a single expression, which have no kinds.
    kinds: str
    comment: str | None


@dataclass(frozen=True, kw_only=True)
class DependentView:
    """A view that reads the column, itself or through other views."""

    schema: str
    name: str
    #: Its name as PostgreSQL writes it, with its schema, and in quotes where it must be.
    written: str
    definition: str
    #: Storage parameters (security_invoker=true), as in WITH (…).
    options: str
    owner: str
    #: Whether privileges were ever granted; without, `grants` are the owner's own.
    has_grants: bool
    grants: tuple[Grant, ...]
    comment: str | None
    column_comments: tuple[tuple[str, str], ...]

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        comments = tuple((column, text) for column, text in value["column_comments"])
        return cls(**{**value, "grants": _grants(value["grants"]), "column_comments": comments})


@dataclass(frozen=True, kw_only=True)
class DependentPolicy:
    """A policy that reads the column, of this table or of another one."""

    name: str
    table: TableName
    using: str | None
    with_check: str | None

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        return cls(**{**value, "table": TableName(**value["table"])})


@dataclass(frozen=True, kw_only=True)
class DependentTrigger:
    """A trigger that fires for the column, or asks for its value."""

    name: str
    definition: str
    #: How ALTER TABLE says when it fires: ENABLE, DISABLE, ENABLE ALWAYS or ENABLE REPLICA.
    enabled: str
    comment: str | None


@dataclass(frozen=True, kw_only=True)
class CopiedView:
    """A materialized view, or a view that one reads: made over what comes before the switch, and moved in it."""

    view: DependentView
    materialized: bool
    #: It has rows; `REFRESH … WITH NO DATA` takes them.
    populated: bool
    method: str
    #: Empty for the database's own.
    tablespace: str
    #: Indexes, storage settings and comments, in which `bound.TABLE` and `bound.SCHEMA` stand for the view's.
    statements: tuple[str, ...]
    #: Extended statistics, by schema and name: they have a schema of their own, which must be their view's until it is moved.
    statistics: tuple[tuple[str, str], ...] = ()

    @property
    def kind(self) -> str:
        return "MATERIALIZED VIEW" if self.materialized else "VIEW"

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        return cls(
            **{
                **value,
                "view": DependentView.from_json(value["view"]),
                "statements": tuple(value["statements"]),
                "statistics": tuple((schema, name) for schema, name in value["statistics"]),
            }
        )


@dataclass(frozen=True, kw_only=True)
class DependentPublication:
    """A publication that names the column in its list of columns, or in the condition of the rows that it sends."""

    name: str
    #: The columns that it sends; None for all.
    columns: tuple[str, ...] | None
    #: The rows that it sends; None for all.
    where: str | None

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        return cls(**{**value, "columns": None if value["columns"] is None else tuple(value["columns"])})


@dataclass(frozen=True, kw_only=True)
class ColumnDependents:
    """Everything that depends on one column."""

    #: The names of the two columns while each is inactive.
    new_column: str
    old_column: str
    #: The table's owner, quoted.
    owner: str = ""
    #: The type that it has, with its collation where that is not the type's own.
    type: str
    collation: str | None
    #: The type without a domain and a limit of length: a cast to it cuts nothing off.
    plain_type: str
    #: Whether values of the old type have no equality, and are compared as texts.
    as_text: bool
    not_null: bool
    #: The column's DEFAULT for the old type and for the new one.
    default: str | None
    new_default: str | None
    #: Whether the DEFAULT is the same whenever it is asked for: a constant.
    constant_default: bool
    #: -1 for the server's own.
    statistics_target: int
    options: str
    comment: str | None
    grants: tuple[Grant, ...]
    #: The sequence that belongs to the column, quoted, and whether it must be widened to the new type.
    sequence: str | None
    widens_sequence: bool
    #: The columns of the row, beside the column itself, that `up` and `down` read.
    up_reads: tuple[str, ...] = ()
    down_reads: tuple[str, ...] = ()
    indexes: tuple[DependentIndex, ...] = ()
    checks: tuple[DependentRule, ...] = ()
    foreign_keys: tuple[DependentRule, ...] = ()
    references: tuple[DependentReference, ...] = ()
    identity: DependentIdentity | None = None
    statistics: tuple[DependentStatistics, ...] = ()
    #: In the order in which they can be made.
    views: tuple[DependentView, ...] = ()
    #: Materialized views, and the views that these read; `views` read them, and are not read by them.
    copied: tuple[CopiedView, ...] = ()
    policies: tuple[DependentPolicy, ...] = ()
    #: CREATE OR REPLACE statements of functions whose bodies the catalog understands.
    functions: tuple[str, ...] = ()
    triggers: tuple[DependentTrigger, ...] = ()
    publications: tuple[DependentPublication, ...] = ()
    #: (kind, name, digest of the definition) of all this, by which a change made meanwhile is seen.
    seen: tuple[tuple[str, str, str], ...] = ()

    @property
    def rules(self) -> tuple[DependentRule, ...]:
        return self.checks + self.foreign_keys

    @property
    def all_views(self) -> tuple[DependentView, ...]:
        """All views, each behind those that it reads."""
        return (*(one.view for one in self.copied), *self.views)

    @property
    def fills_itself(self) -> bool:
        """Whether it has a DEFAULT that cannot be asked again, or is an identity."""
        return self.identity is not None or (self.default is not None and not self.constant_default)

    @property
    def must_be_not_null(self) -> bool:
        """Whether it has something that is not given to a column which may be NULL."""
        return self.identity is not None or any(index.primary for index in self.indexes)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        return cls(
            **{
                **value,
                "grants": _grants(value["grants"]),
                "indexes": tuple(_index(one) for one in value["indexes"]),
                "checks": tuple(_rule(one) for one in value["checks"]),
                "foreign_keys": tuple(_rule(one) for one in value["foreign_keys"]),
                "references": tuple(_reference(one) for one in value["references"]),
                "identity": DependentIdentity.from_json(value["identity"]) if value["identity"] else None,
                "statistics": tuple(DependentStatistics(**one) for one in value["statistics"]),
                "views": tuple(DependentView.from_json(one) for one in value["views"]),
                "policies": tuple(DependentPolicy.from_json(one) for one in value["policies"]),
                "triggers": tuple(DependentTrigger(**one) for one in value["triggers"]),
                "copied": tuple(CopiedView.from_json(one) for one in value["copied"]),
                "publications": tuple(DependentPublication.from_json(one) for one in value["publications"]),
                "seen": tuple((kind, name, digest) for kind, name, digest in value["seen"]),
                **{name: tuple(value[name]) for name in ("up_reads", "down_reads", "functions")},
            }
        )


def inactive(column: str, end: str) -> str:
    """The name of an inactive column: the column's own, cut to what leaves room for the end."""
    room = NAME_BYTES - len(end.encode())
    return column.encode()[:room].decode(errors="ignore") + end


def _grants(values: list[Mapping[str, Any]]) -> tuple[Grant, ...]:
    return tuple(Grant(**one) for one in values)


def _index(value: Mapping[str, Any]) -> DependentIndex:
    new, old = (IndexDefinition.from_json(value[side]) for side in ("new", "old"))
    return DependentIndex(**{**value, "new": new, "old": old})


def _rule(value: Mapping[str, Any]) -> DependentRule:
    references = value["references"]
    return DependentRule(**{**value, "references": TableName(**references) if references else None})


def _reference(value: Mapping[str, Any]) -> DependentReference:
    return DependentReference(**{**value, "table": TableName(**value["table"]), "columns": tuple(value["columns"])})
