"""What preflight learned of the database and the walk depends on, kept with the run.

The meaning of a cursor depends on the key it was made for, so the key is chosen once and written down.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Self

from backfilld.migrations.postgres.belongings import TableDefinition
from backfilld.migrations.postgres.column_dependents import ColumnDependents, DependentIdentity
from backfilld.migrations.postgres.definitions import Constraint, Grant, IndexDefinition, KeyColumn
from backfilld.migrations.postgres.policies import Persona, PolicySet

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, kw_only=True)
class Target:
    """A column that is written, and how to tell whether it holds the right value."""

    column: str
    type: str
    #: Compare as text: the type has no equality, or one that takes different values for the same.
    as_text: bool = False
    #: The type without a domain and a limit of length, so that what is cast to it is never cut.
    plain_type: str = ""


@dataclass(frozen=True, kw_only=True)
class ShadowColumn:
    """What a second column needs in order to serve in place of one that is there."""

    #: Without a domain, which would have to be proved for every row before the column is filled.
    type: str
    #: As written in SQL; empty for the type's own.
    collation: str = ""
    #: The DEFAULT, where asking it again gives the same; empty for none.
    default: str = ""
    #: The column has a DEFAULT that cannot be asked again, or is an identity.
    fills_itself: bool = False
    comment: str = ""
    #: Privileges on the column itself.
    grants: tuple[Grant, ...] = ()
    #: Its indexes, while it has the new name; and while it has the old one.
    indexes: tuple[IndexDefinition, ...] = ()
    indexes_as_old: tuple[IndexDefinition, ...] = ()

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        return cls(
            **{
                **value,
                "grants": tuple(Grant(**one) for one in value["grants"]),
                "indexes": tuple(IndexDefinition.from_json(one) for one in value["indexes"]),
                "indexes_as_old": tuple(IndexDefinition.from_json(one) for one in value["indexes_as_old"]),
            }
        )


@dataclass(frozen=True, kw_only=True)
class Dropped:
    """A column that goes, with all that has to be made again should it come back."""

    type: str
    not_null: bool
    #: Quoted, with its schema; None for the type's own.
    collation: str | None = None
    #: SQL of its DEFAULT.
    default: str | None = None
    comment: str | None = None
    #: Privileges on the column itself.
    grants: tuple[Grant, ...] = ()
    constraints: tuple[Constraint, ...] = ()
    indexes: tuple[IndexDefinition, ...] = ()
    #: Of the indexes, the names of those that are UNIQUE constraints.
    unique: tuple[str, ...] = ()

    @property
    def carries(self) -> list[tuple[str, str, str]]:
        """What comes back with the column, as `dependents.appeared_since` takes it."""
        return [
            *(("index", index.name, "") for index in self.indexes),
            *(("unique", name, "") for name in self.unique),
            *(
                ("check" if one.definition.startswith("CHECK ") else "foreign key", one.name, "")
                for one in self.constraints
            ),
        ]

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        return cls(
            **{
                **value,
                "grants": tuple(Grant(**one) for one in value["grants"]),
                "constraints": tuple(Constraint(**one) for one in value["constraints"]),
                "indexes": tuple(IndexDefinition.from_json(one) for one in value["indexes"]),
                "unique": tuple(value["unique"]),
            }
        )


@dataclass(frozen=True, kw_only=True)
class Replaced:
    """Columns that others replace."""

    targets: tuple[Target, ...]
    #: All that has to be made again should they come back, in the order of `targets`.
    dropped: tuple[Dropped, ...]
    #: Of each, whether its DEFAULT can be asked again for the same value.
    constant_defaults: tuple[bool, ...]
    #: Columns of the row, beside old and new ones, that `up` reads; and that `down` reads.
    up_reads: tuple[str, ...]
    down_reads: tuple[str, ...]

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        return cls(
            targets=tuple(Target(**one) for one in value["targets"]),
            dropped=tuple(Dropped.from_json(one) for one in value["dropped"]),
            **{name: tuple(value[name]) for name in ("constant_defaults", "up_reads", "down_reads")},
        )


@dataclass(frozen=True, kw_only=True)
class Referrer:
    """A column that refers to a key which gets other values, itself or through another one."""

    #: In the notation of migration files; empty for the table of the key itself.
    table: str
    column: str
    #: The new column.
    target: Target
    #: The key by which its table is walked.
    key: tuple[KeyColumn, ...]
    dependents: ColumnDependents
    #: The table that it refers to (empty for that of the key), its columns of the foreign key, those that they refer to, and the operators that compare the
    #: two, the referenced column on the left.
    references: str
    columns: tuple[str, ...]
    referenced: tuple[str, ...]
    equalities: tuple[str, ...]
    keys_because: str = ""

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        return cls(
            **{
                **value,
                "target": Target(**value["target"]),
                "key": tuple(KeyColumn(**one) for one in value["key"]),
                "dependents": ColumnDependents.from_json(value["dependents"]),
                **{name: tuple(value[name]) for name in ("columns", "referenced", "equalities")},
            }
        )


@dataclass(frozen=True, kw_only=True)
class KeptRule:
    """A constraint that goes, with all that has to be made again should it come back."""

    name: str
    #: As PostgreSQL writes it under an empty search_path.
    definition: str
    #: Whether it was proved for all rows.
    valid: bool
    #: DEFERRABLE and INITIALLY DEFERRED, as SQL.
    deferred: str
    comment: str | None
    columns: tuple[str, ...]
    #: The table that a foreign key refers to, in the notation of migration files; empty for other constraints.
    references: str
    referenced: tuple[str, ...]
    #: The operators that compare the referenced columns with its own; none where PostgreSQL alone can tell which rows break it.
    equalities: tuple[str, ...]

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        return cls(**{**value, **{name: tuple(value[name]) for name in ("columns", "referenced", "equalities")}})


@dataclass(frozen=True, kw_only=True)
class OldName:
    """What a view needs in order to serve under the old name of a table."""

    columns: tuple[str, ...]
    #: Privileges on the table, each with the column that it is for; None for the whole.
    grants: tuple[tuple[str | None, Grant], ...] = ()
    #: Roles that get privileges on a new view by themselves.
    default_grantees: tuple[str, ...] = ()
    comment: str | None = None
    #: The table is read by the view with the rights of who reads the view (from PostgreSQL 15 on).
    security_invoker: bool = True
    #: A PostgREST is told to read the schema again.
    notifies: bool = False

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        return cls(
            **{
                **value,
                "columns": tuple(value["columns"]),
                "grants": tuple((column, Grant(**one)) for column, one in value["grants"]),
                "default_grantees": tuple(value["default_grantees"]),
            }
        )


@dataclass(frozen=True, kw_only=True)
class OtherTable:
    """A table whose policies read the one that gets others."""

    #: In the notation of migration files.
    relation: str
    key: tuple[KeyColumn, ...]
    policies: PolicySet
    personas: tuple[Persona, ...]

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        return cls(
            relation=value["relation"],
            key=tuple(KeyColumn(**one) for one in value["key"]),
            policies=PolicySet.from_json(value["policies"]),
            personas=tuple(Persona.from_json(one) for one in value["personas"]),
        )


@dataclass(frozen=True, kw_only=True)
class UncountedTable:
    """Another table whose policies read the one that gets others, of which nobody can count what becomes of it."""

    #: In the notation of migration files.
    relation: str
    #: Why, in words.
    because: str


@dataclass(frozen=True, kw_only=True)
class PolicyChange:
    """The policies of a table before and after, and who is asked what each of them shows."""

    old: PolicySet
    new: PolicySet
    personas: tuple[Persona, ...]
    others: tuple[OtherTable, ...] = ()
    uncounted: tuple[UncountedTable, ...] = ()

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        return cls(
            others=tuple(OtherTable.from_json(one) for one in value["others"]),
            uncounted=tuple(UncountedTable(**one) for one in value["uncounted"]),
            old=PolicySet.from_json(value["old"]),
            new=PolicySet.from_json(value["new"]),
            personas=tuple(Persona.from_json(one) for one in value["personas"]),
        )


@dataclass(frozen=True, kw_only=True)
class LoadColumn:
    """A column that a load gives values."""

    name: str
    #: As the table has it; and without a domain and a limit of length, so that what is cast to it is never cut.
    type: str
    plain_type: str
    #: SQL over the fields, `"~f_N"` each.
    expression: str
    #: The number of the field that it takes as it is; None for an expression.
    field: int | None
    as_text: bool
    not_null: bool


@dataclass(frozen=True, kw_only=True)
class LoadParent:
    """A foreign key of a table that is loaded, all of whose columns are."""

    name: str
    #: The table it refers to, as a statement names it.
    relation: str
    columns: tuple[str, ...]
    referenced: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class LoadReferrer:
    """A foreign key that refers to a table that is loaded."""

    name: str
    relation: str
    columns: tuple[str, ...]
    referenced: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class LoadFacts:
    """What is known of a load."""

    #: The fields of its source, in their order.
    fields: tuple[str, ...]
    columns: tuple[LoadColumn, ...]
    #: Columns of the table that are not loaded: a row that was inserted is deleted again only while these are untouched too.
    others: tuple[str, ...]
    #: CHECK constraints over loaded columns alone: name and expression.
    rules: tuple[tuple[str, str], ...]
    parents: tuple[LoadParent, ...]
    referrers: tuple[LoadReferrer, ...]
    #: Unique keys beside the one that is loaded by, all of whose columns are loaded: name and columns.
    uniques: tuple[tuple[str, tuple[str, ...]], ...]
    #: Sequences that give loaded columns their values where nobody else does: column and sequence, as statements name them.
    sequences: tuple[tuple[str, str], ...]
    #: A GENERATED ALWAYS AS IDENTITY column is loaded.
    overrides_identity: bool
    #: Code of users' runs when a row is inserted or updated.
    fires: bool
    #: Of the source, as its head tells.
    bytes_total: int
    lines: int

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        def listed(kind: Any, found: Any) -> Any:  # Any: one of the classes above, and its JSON
            return tuple(
                kind(**{key: tuple(part) if isinstance(part, list) else part for key, part in one.items()})
                for one in found
            )

        return cls(
            **{
                **value,
                "fields": tuple(value["fields"]),
                "others": tuple(value["others"]),
                "columns": listed(LoadColumn, value["columns"]),
                "parents": listed(LoadParent, value["parents"]),
                "referrers": listed(LoadReferrer, value["referrers"]),
                "rules": tuple((name, text) for name, text in value["rules"]),
                "uniques": tuple((name, tuple(columns)) for name, columns in value["uniques"]),
                "sequences": tuple((column, name) for column, name in value["sequences"]),
            }
        )


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What is known of one operation."""

    #: The table, in the notation of migration files.
    relation: str
    #: The key that is walked, or by which rows are named; empty when there is none.
    key: tuple[KeyColumn, ...] = ()
    targets: tuple[Target, ...] = ()
    #: The columns that the expression reads, or that a Python function is handed beside the key.
    reads: tuple[str, ...] = ()
    #: The DEFAULT of a column that is added is the same in every session and at any time.
    constant_default: bool = False
    #: Whether writing the values again would give the same values, so that rows may be looked at twice.
    repeatable: bool = True
    #: Why not, in words for people; empty when repeatable.
    once_because: str = ""
    #: Whether computing the values again may give others: by `random()`, the clock, a sequence or a Python function.
    volatile: bool = False
    #: Why the table has to be walked by its key, in words for people; empty when it may be walked by pages.
    keys_because: str = ""
    #: The condition reads a column that is set, so that it can be false for a row that is done.
    condition_may_end: bool = False
    #: The column is there already, left by a cancelled run of the same name.
    adopts: bool = False
    #: Adding the column with its default fills every row at once, without a rewrite.
    default_fills: bool = False
    #: The index that is built or dropped.
    index: IndexDefinition | None = None
    #: The column that has the same values while one is renamed.
    shadow: ShadowColumn | None = None
    #: For a column that is to be dropped.
    dropped: Dropped | None = None
    #: For a key that gets other values: what refers to it, each behind what it refers to itself.
    referrers: tuple[Referrer, ...] = ()
    #: Of that key: the sequence that goes with its old column.
    numbers: DependentIdentity | None = None
    #: For columns that others replace.
    replaced: Replaced | None = None
    #: For a column that is moved: its collation as written in SQL; empty for the type's own.
    collation: str = ""
    #: What depends on a column that is to have another type.
    column_dependents: ColumnDependents | None = None
    #: The columns that a CHECK is about; empty when that cannot be told.
    rule_columns: tuple[str, ...] = ()
    #: The columns that a foreign key refers to, and the operators (`OPERATOR(schema.=)`) that compare them with its own.
    referenced: tuple[str, ...] = ()
    equalities: tuple[str, ...] = ()
    #: Constraints that go, and come back on the way back.
    rules: tuple[KeptRule, ...] = ()
    #: A change of type that PostgreSQL does at once, in the catalog alone; and whether it does the way back so too.
    in_place: bool = False
    back_in_place: bool = False
    #: Columns of a new primary key that may be NULL before.
    nullable: tuple[str, ...] = ()
    #: Row level security was on before; of a new table, that it is to be.
    row_security: bool = False
    #: For a table that gets another name.
    old_name: OldName | None = None
    #: For a table that gets other policies.
    policies: PolicyChange | None = None
    #: Indexes and sequences of a table that is taken away, by name, each with whether it is a sequence.
    parts: tuple[tuple[str, bool], ...] = ()
    #: A table that is made anew, with all that belongs to it.
    definition: TableDefinition | None = None
    #: What was there before: the DEFAULT of a column, and the comment on the thing that gets another.
    default: str | None = None
    comment: str | None = None
    #: For a load.
    load: LoadFacts | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        index, dropped, dependents, shadow, old_name, definition, policies = (
            value[name]
            for name in ("index", "dropped", "column_dependents", "shadow", "old_name", "definition", "policies")
        )
        replaced = value.get("replaced")
        return cls(
            **{
                **value,
                "load": LoadFacts.from_json(value["load"]) if value.get("load") else None,
                "key": tuple(KeyColumn(**column) for column in value["key"]),
                "targets": tuple(Target(**target) for target in value["targets"]),
                "index": IndexDefinition.from_json(index) if index else None,
                "dropped": Dropped.from_json(dropped) if dropped else None,
                "column_dependents": ColumnDependents.from_json(dependents) if dependents else None,
                "shadow": ShadowColumn.from_json(shadow) if shadow else None,
                "replaced": Replaced.from_json(replaced) if replaced else None,
                "numbers": DependentIdentity.from_json(value["numbers"]) if value.get("numbers") else None,
                "referrers": tuple(Referrer.from_json(one) for one in value.get("referrers", ())),
                "rules": tuple(KeptRule.from_json(one) for one in value["rules"]),
                "old_name": OldName.from_json(old_name) if old_name else None,
                "definition": TableDefinition.from_json(definition) if definition else None,
                "policies": PolicyChange.from_json(policies) if policies else None,
                "parts": tuple((name, is_sequence) for name, is_sequence in value["parts"]),
                **{
                    name: tuple(value[name])
                    for name in ("reads", "rule_columns", "referenced", "equalities", "nullable")
                },
            }
        )
