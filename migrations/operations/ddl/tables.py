"""What is done to a table as a whole, each statement with its lock."""

from __future__ import annotations

from typing import TYPE_CHECKING

from psycopg import sql

from backfilld.migrations.identifiers import TableName
from backfilld.migrations.operations.base import Statement
from backfilld.migrations.operations.ddl.columns import alter_table
from backfilld.migrations.postgres.locks import LockMode

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Where tables are kept until the retention ends. No role but its owner may use the schema, so privileges need not be taken away.
KEPT_IN = "backfilld"


def rename(table: TableName, to: str) -> Statement:
    """A table gets another name; what depends on it follows."""
    return alter_table(table, sql.SQL("RENAME TO {}").format(sql.Identifier(to)))


def row_security(table: TableName, what: str) -> Statement:
    """ENABLE, DISABLE, FORCE or NO FORCE row level security."""
    return alter_table(table, sql.SQL(f"{what} ROW LEVEL SECURITY"))


def create_view(view: TableName, *, of: TableName, columns: Sequence[str], security_invoker: bool) -> Statement:
    """A view of all columns of a table, which PostgreSQL lets applications write to."""
    create = sql.SQL("CREATE VIEW {}{} AS SELECT {} FROM {}").format(
        view.identifier,
        sql.SQL(" WITH (security_invoker = true)" if security_invoker else ""),
        sql.SQL(", ").join(map(sql.Identifier, columns)),
        of.identifier,
    )
    return Statement(sql=create, lock=LockMode.ACCESS_SHARE)


def drop_view(view: TableName) -> Statement:
    """A view goes, if it is there. No CASCADE: if something was made of it meanwhile, PostgreSQL names it."""
    gone = sql.SQL("DROP VIEW IF EXISTS {}").format(view.identifier)
    return Statement(sql=gone, lock=LockMode.ACCESS_EXCLUSIVE, brief=True, note="locks the view alone")


def notify_postgrest() -> Statement:
    """A PostgREST reads the schema again once the transaction has committed."""
    return Statement(sql=sql.SQL("NOTIFY pgrst, 'reload schema'").format(), lock=LockMode.NONE)


def put_away(
    table: TableName, kept: str, parts: Sequence[tuple[str, bool]], partitions: Sequence[str] = ()
) -> tuple[Statement, ...]:
    """A table goes to our schema under a name of ours, and what moves with it gets such names first: ours may be the same."""
    renamed = [
        _rename_part(table.schema, name, _part(kept, number), is_sequence=is_sequence)
        for number, (name, is_sequence) in enumerate(parts)
    ]
    moved = _set_schema(TableName(table.schema, kept), KEPT_IN)
    followed = [
        one
        for number, name in enumerate(partitions)
        for one in (
            rename(TableName(table.schema, name), _partition(kept, number)),
            _set_schema(TableName(table.schema, _partition(kept, number)), KEPT_IN),
        )
    ]
    return (rename(table, kept), *renamed, moved, *followed)


def drop_or_put_away(table: TableName, kept: str) -> Statement:
    """A table that a run has made goes: dropped where it is empty, else put away as one that is taken away, with its rows."""
    name, away = table.identifier.as_string(), sql.Identifier(table.schema, kept).as_string()
    body = f"""
DECLARE part record;
BEGIN
  LOCK TABLE {name} IN ACCESS EXCLUSIVE MODE;
  IF NOT EXISTS (SELECT FROM {name}) THEN
    DROP TABLE {name};
    RETURN;
  END IF;
  FOR part IN SELECT c.oid, CASE c.relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'INDEX' END AS kind, row_number() OVER (ORDER BY c.oid) AS number
    FROM pg_catalog.pg_class c WHERE c.oid IN (
      SELECT i.indexrelid FROM pg_catalog.pg_index i WHERE i.indrelid = {_text(name)}::pg_catalog.regclass
      UNION SELECT d.objid FROM pg_catalog.pg_depend d
      WHERE d.refobjid = {_text(name)}::pg_catalog.regclass AND d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
        AND d.deptype IN ('a', 'i')) AND c.relkind IN ('i', 'S')
  LOOP
    EXECUTE pg_catalog.format('ALTER %s %s RENAME TO %I', part.kind, part.oid::pg_catalog.regclass, {_text(f"{kept}_part_")} || part.number);
  END LOOP;
  ALTER TABLE {name} RENAME TO {sql.Identifier(kept).as_string()};
  ALTER TABLE {away} SET SCHEMA {KEPT_IN};
END
"""  # noqa: S608 - names are quoted
    block = sql.SQL("DO {}").format(sql.Literal(body))
    note = "dropped where it is empty, else kept with its rows until the retention ends"
    return Statement(sql=block, lock=LockMode.ACCESS_EXCLUSIVE, brief=True, note=note)


def _text(text: str) -> str:
    return sql.Literal(text).as_string()


def bring_back(
    table: TableName, kept: str, parts: Sequence[tuple[str, bool]], partitions: Sequence[str] = ()
) -> tuple[Statement, ...]:
    """The table that was put away, with its names."""
    renamed = [
        _rename_part(table.schema, _part(kept, number), name, is_sequence=is_sequence)
        for number, (name, is_sequence) in enumerate(parts)
    ]
    back = _set_schema(TableName(KEPT_IN, kept), table.schema)
    followed = [
        one
        for number, name in enumerate(partitions)
        for one in (
            _set_schema(TableName(KEPT_IN, _partition(kept, number)), table.schema),
            rename(TableName(table.schema, _partition(kept, number)), name),
        )
    ]
    return (back, rename(TableName(table.schema, kept), table.name), *followed, *renamed)


def _set_schema(table: TableName, schema: str) -> Statement:
    return alter_table(table, sql.SQL("SET SCHEMA {}").format(sql.Identifier(schema)))


def _rename_part(schema: str, name: str, to: str, *, is_sequence: bool) -> Statement:
    renamed = sql.SQL("ALTER {} IF EXISTS {} RENAME TO {}").format(
        sql.SQL("SEQUENCE" if is_sequence else "INDEX"), sql.Identifier(schema, name), sql.Identifier(to)
    )
    return Statement(sql=renamed, lock=LockMode.NONE)


def _partition(kept: str, number: int) -> str:
    return f"{kept}_partition_{number}"


def _part(kept: str, number: int) -> str:
    return f"{kept}_part_{number}"


def make_schema(schema: str, *, owner: str) -> Statement:
    """A schema of a run's own, of a role that must be able to have tables there."""
    created = sql.SQL("CREATE SCHEMA {} AUTHORIZATION {}").format(sql.Identifier(schema), sql.SQL(owner))
    return Statement(sql=created, lock=LockMode.NONE, note="of the run's own")


def drop_schema(schema: str) -> Statement:
    """A schema of ours goes. No CASCADE: what another session has made in it is named by PostgreSQL, and nothing is dropped."""
    return Statement(sql=sql.SQL("DROP SCHEMA IF EXISTS {}").format(sql.Identifier(schema)), lock=LockMode.NONE)
