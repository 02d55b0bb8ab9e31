"""The policies of a table as the catalog has them, and the roles that they are for."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, Self

from backfilld.migrations.identifiers import TableName
from backfilld.migrations.queries import literally, queries

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from psycopg import sql

    from backfilld.migrations.postgres.connect import Connection

_SQL = queries(__package__, "policies")

#: Everybody; no role can have this name.
PUBLIC = "public"


@dataclass(frozen=True, kw_only=True)
class Policy:
    """One policy, with its expressions as PostgreSQL writes them under an empty search_path."""

    name: str
    #: What it is asked for; `all` for every command.
    command: Literal["all", "select", "insert", "update", "delete"]
    permissive: bool
    #: In the order of their names; `public` is everybody.
    roles: tuple[str, ...]
    using: str | None = None
    check: str | None = None
    comment: str | None = None

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Self:  # Any: columns of the catalog
        using, check = row["using_"], row["check_"]
        rest = {key: value for key, value in row.items() if key not in {"using_", "check_"}}
        return cls(**{**rest, "roles": tuple(row["roles"]), "using": using, "check": check})

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        return cls(**{**value, "roles": tuple(value["roles"])})

    def is_like(self, other: Policy) -> bool:
        """Whether the two let the same rows through for the same roles, whatever is said of them."""
        return {**asdict(self), "comment": None} == {**asdict(other), "comment": None}


@dataclass(frozen=True, kw_only=True)
class PolicySet:
    """All policies of a table, and whether they are asked."""

    policies: tuple[Policy, ...]
    #: Row level security is on; and for the table's owner too.
    enabled: bool
    forced: bool

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        return cls(**{**value, "policies": tuple(Policy.from_json(one) for one in value["policies"])})

    def differs(self, table: TableName) -> sql.Composed:
        """A query that gives the first thing by which a table's policies are others than these; no row where none is."""
        rows = [asdict(policy) for policy in self.policies]
        for row in rows:
            row["using_"], row["check_"] = row.pop("using"), row.pop("check")
        parameters = {
            "policies": json.dumps(rows),
            "relation": table.identifier.as_string(),
            "enabled": _boolean(self.enabled),
            "forced": _boolean(self.forced),
        }
        return literally(_SQL["changed_policies"], parameters)


@dataclass(frozen=True, kw_only=True)
class Persona:
    """Somebody who uses the application, with what his role may do with a table."""

    name: str
    role: str
    #: Settings of his sessions, by name: his claims, and the application's own.
    settings: tuple[tuple[str, str], ...]
    #: Superuser, or BYPASSRLS: no policy is asked.
    bypasses: bool
    #: He has the rights of the table's owner: policies are asked only where row level security is forced.
    owns: bool
    #: Roles whose policies are asked for him.
    roles: tuple[str, ...]
    #: Of `select`, `insert`, `update` and `delete`, what the privileges of the table let him try.
    may: tuple[str, ...]
    #: He may read every column of the key.
    sees_key: bool

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        return cls(
            **{
                **value,
                "settings": tuple((name, text) for name, text in value["settings"]),
                "roles": tuple(value["roles"]),
                "may": tuple(value["may"]),
            }
        )


def policies_of(connection: Connection, oid: int) -> tuple[Policy, ...]:
    """The policies of a table, by name; `connection` has an empty search_path."""
    return tuple(Policy.from_row(row) for row in connection.execute(_SQL["policies_of"], {"oid": oid}).fetchall())


def role(connection: Connection, name: str, *, table: int, key: Sequence[str]) -> Mapping[str, Any] | None:
    """What a role is to a table and to us; None where there is no such role. Any: columns of the catalog."""
    return connection.execute(_SQL["role"], {"role": name, "oid": table, "key": list(key)}).fetchone()


def missing_roles(connection: Connection, roles: Sequence[str]) -> list[str]:
    """Roles, of those given, that do not exist."""
    return [row["name"] for row in connection.execute(_SQL["missing_roles"], {"roles": list(roles)})]


def exposed_schemas(connection: Connection) -> frozenset[str]:
    """The schemas that an API in front of the database shows, by the settings of its role; `public` where there is none."""
    return frozenset(row["name"] for row in connection.execute(_SQL["exposed_schemas"])) or frozenset({"public"})


@dataclass(frozen=True, kw_only=True)
class Past:
    """Something that reads with the rights of its owner: a view of a table, or a function that a policy calls."""

    name: TableName
    owner: str
    #: The roles, of those asked for, that may use it.
    roles: tuple[str, ...]
    #: Of a function, the policy that calls it.
    policy: str = ""


def views_past(connection: Connection, table: int, roles: Sequence[str], *, forced: bool) -> list[Past]:
    """Views that show rows of a table to these roles although no policy is asked for their owner."""
    rows = connection.execute(_SQL["views_past"], {"oid": table, "roles": sorted(set(roles)), "forced": forced})
    return [
        Past(name=TableName(row["schema"], row["name"]), owner=row["owner"], roles=tuple(row["shown_to"]))
        for row in rows
        if row["shown_to"]
    ]


def definers_called(connection: Connection, table: int, roles: Sequence[str]) -> list[Past]:
    """SECURITY DEFINER functions that a table's policies call and that these roles may call by themselves."""
    rows = connection.execute(_SQL["definers_called"], {"oid": table, "roles": sorted(set(roles))})
    return [
        Past(
            name=TableName(row["schema"], row["name"]),
            owner=row["owner"],
            roles=tuple(row["callers"]),
            policy=row["policy"],
        )
        for row in rows
        if row["callers"]
    ]


def _boolean(value: bool) -> str:  # noqa: FBT001 - what it is about
    return "true" if value else "false"
