"""What is known to go wrong with raw SQL, found by reading it: rules of our own, and those of squawk.

A rule forbids (it can be no step of a run), refuses (until `allow:` accepts it), or warns. Rules about how long a
lock is held only warn when every table that the statement names is small.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from backfilld.migrations.postgres.statements import split

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backfilld.migrations.postgres.statements import SqlStatement

#: A table with fewer rows is read or written whole in some ten milliseconds.
SMALL_ROWS = 10_000
#: squawk answers in milliseconds; whatever takes longer has hung.
_SQUAWK_SECONDS = 20


@dataclass(frozen=True)
class Rule:
    """What a rule means for the migration, and what to do instead."""

    level: Literal["forbid", "refuse", "warn"]
    remedy: str
    #: Whether it is about how long a lock is held, so that a small table may well be locked.
    by_size: bool = False


@dataclass(frozen=True, kw_only=True)
class Remark:
    """A rule that a statement breaks."""

    rule: str
    problem: str
    #: The number of the statement in its text, from 0.
    statement: int

    @property
    def means(self) -> Rule:
        return RULES.get(self.rule, _ELSE)


_ELSE = Rule("warn", "")

#: All rules that do more than warn, and the ones that are ours. What squawk finds besides is a warning.
RULES = {
    # Ours: no step of a run.
    "transaction-control": Rule("forbid", "Remove it: the statements run in one transaction, which backfilld ends"),
    "not-in-a-transaction": Rule(
        "forbid", "Use create_index or drop_index for indexes; run the others by hand, outside of a migration"
    ),
    "session-setting": Rule(
        "forbid", "Write SET LOCAL, and leave timeouts, search_path, role and session_replication_role to backfilld"
    ),
    "copy": Rule("forbid", "Use INSERT, or load the rows by hand"),
    # Ours: to be looked at.
    "drop-cascade": Rule(
        "refuse", "Drop each object by a statement of its own; the plan lists what depends on the table"
    ),
    "disable-row-level-security": Rule(
        "refuse", "Change the policies instead: without row security every role sees every row"
    ),
    "data-change-with-ddl": Rule(
        "refuse", "Use a backfill operation, which changes rows in small batches and holds no lock in between"
    ),
    "ddl-in-do": Rule(
        "refuse", "Write the statements themselves: what DO executes can be neither linted nor tried on a copy"
    ),
    "long-lock": Rule(
        "refuse", "Use the operation that does it without a long lock: see docs/operations/sql.md", by_size=True
    ),
    "enum-value": Rule("refuse", "PostgreSQL cannot remove a value from an enum, so `rollback` cannot either"),
    "data-change": Rule("warn", "A backfill operation does it in small batches, and journals the old values"),
    "policy": Rule("warn", "It changes at once which rows each role may see and write; hidden rows cause no error"),
    "trigger": Rule(
        "warn", "It fires for backfilld's batches too, and after the sync triggers if its name sorts after a tilde"
    ),
    "publication": Rule(
        "warn", "It changes which rows subscribers receive from now on; existing rows are not sent again"
    ),
    "several-tables": Rule("warn", "Locks on several tables are held together until the last statement has run"),
    # squawk's. PostgreSQL judges the syntax itself; what squawk cannot read it applies none of its rules to.
    "syntax-error": Rule("warn", "squawk could not read this, and applied none of its rules to the text"),
    # squawk's: the application waits.
    "adding-field-with-default": Rule("refuse", "Use add_column, which fills rows in batches", by_size=True),
    "adding-not-nullable-field": Rule("refuse", "Use set_not_null, which validates it beforehand", by_size=True),
    "adding-serial-primary-key-field": Rule(
        "refuse", "Add the column with add_column, and its key later", by_size=True
    ),
    "adding-foreign-key-constraint": Rule("refuse", "Use add_foreign_key", by_size=True),
    "constraint-missing-not-valid": Rule("refuse", "Use add_check or add_foreign_key", by_size=True),
    "disallowed-unique-constraint": Rule("refuse", "Use add_unique", by_size=True),
    "changing-column-type": Rule("refuse", "Use change_type", by_size=True),
    "require-concurrent-index-creation": Rule("refuse", "Use create_index", by_size=True),
    "require-concurrent-index-deletion": Rule("refuse", "Use drop_index", by_size=True),
    "require-concurrent-reindex": Rule("refuse", "Run REINDEX CONCURRENTLY by hand", by_size=True),
    "require-concurrent-partition-detach": Rule("refuse", "Run DETACH … CONCURRENTLY by hand", by_size=True),
    # squawk's: the application fails, or something is gone.
    "adding-required-field": Rule(
        "refuse", "Use add_column with not_null: statements that leave the column out would fail"
    ),
    "renaming-column": Rule("refuse", "Use rename_column: applications may use either name until contract"),
    "renaming-table": Rule("refuse", "Deploy an application that knows both names first, then allow it"),
    "ban-drop-column": Rule("refuse", "Use drop_column, which archives the values"),
    "ban-drop-table": Rule("refuse", "Keep a copy, then allow it: `rollback` cannot bring the rows back"),
    "ban-drop-database": Rule("forbid", "Do it by hand"),
    "ban-truncate-cascade": Rule("refuse", "Name the tables, each in a statement of its own"),
    "ban-drop-not-null": Rule("warn", "`rollback` has to validate every row again to restore it"),
}

#: Of squawk's rules, those that the way statements are run here answers, or rules of ours say better.
_NOT_ASKED = frozenset(
    {
        "require-lock-timeout",
        "require-statement-timeout",
        "require-timeout-settings",
        "prefer-robust-stmts",
        "transaction-nesting",
        "assume-in-transaction",
        "ban-uncommitted-transaction",
        "ban-concurrent-index-creation-in-transaction",
    }
)

#: What a rule of ours looks for in a statement's words, and what it says.
_PATTERNS: tuple[tuple[str, str, str], ...] = (
    (
        "transaction-control",
        r"(BEGIN|START TRANSACTION|COMMIT|END|ROLLBACK|ABORT|SAVEPOINT|RELEASE|PREPARE TRANSACTION)\b",
        "ends or begins a transaction",
    ),
    (
        "not-in-a-transaction",
        (
            r"VACUUM\b|ALTER SYSTEM\b|(CREATE|DROP) (DATABASE|TABLESPACE|SUBSCRIPTION)\b|REINDEX (\(.*\) )?(DATABASE|SYSTEM|SCHEMA)\b"
            r"|(CREATE (UNIQUE )?INDEX|DROP INDEX|REINDEX|REFRESH MATERIALIZED VIEW|ALTER TABLE)\b.*\bCONCURRENTLY\b"
        ),
        "cannot run in a transaction, or not in one that may be rolled back",
    ),
    (
        "session-setting",
        (
            r"SET (?!LOCAL\b|CONSTRAINTS\b)|RESET\b|DISCARD\b|LISTEN\b|UNLISTEN\b|LOAD\b|PREPARE (?!TRANSACTION\b)|DEALLOCATE\b"
            r"|SET LOCAL (LOCK_TIMEOUT|STATEMENT_TIMEOUT|TRANSACTION_TIMEOUT|IDLE_IN_TRANSACTION_SESSION_TIMEOUT|SEARCH_PATH"
            r"|ROW_SECURITY|ROLE|SESSION|SESSION_REPLICATION_ROLE|STANDARD_CONFORMING_STRINGS|BACKFILLD)\b"
        ),
        "changes a setting that outlives it, or that a run depends on",
    ),
    ("copy", r"COPY .*\b(STDIN|STDOUT)\b", "moves rows over the connection, where no client sends or reads them"),
    (
        "drop-cascade",
        r"(DROP|TRUNCATE)\b.*\bCASCADE\b|ALTER .*\bDROP\b.* CASCADE\b",
        "CASCADE drops every dependent object without naming any",
    ),
    (
        "disable-row-level-security",
        r"ALTER TABLE .*\b(DISABLE|NO FORCE) ROW LEVEL SECURITY\b",
        "row security is disabled",
    ),
    ("enum-value", r"ALTER TYPE .*\bADD VALUE\b", "a value is added to an enum"),
    ("policy", r"(CREATE|ALTER|DROP) POLICY\b", "a policy is changed, under ACCESS EXCLUSIVE"),
    ("trigger", r"(CREATE (OR REPLACE )?(CONSTRAINT )?|DROP )TRIGGER\b", "a trigger is changed"),
    ("publication", r"(ALTER|DROP) PUBLICATION\b", "a publication changes"),
)
_CASCADES_BY_KEY = re.compile(r"\bON (DELETE|UPDATE) CASCADE\b")
_CHANGES_DATA = re.compile(r"(WITH\b.*)?\b(UPDATE|DELETE FROM|MERGE INTO|INSERT INTO\b.*\bSELECT)\b")
_DDL = re.compile(r"(ALTER|CREATE|DROP|TRUNCATE|COMMENT|GRANT|REVOKE|SECURITY LABEL)\b")
_DDL_INSIDE = re.compile(r"\b(ALTER|CREATE|DROP|TRUNCATE|EXECUTE|GRANT|REVOKE|LOCK)\b", re.IGNORECASE)
_LOCKS_A_TABLE = re.compile(r"(ALTER TABLE|DROP TABLE|TRUNCATE|CREATE POLICY|ALTER POLICY|DROP POLICY|DROP TRIGGER)\b")


def remarks(text: str, *, version: int) -> tuple[Remark, ...]:
    """The rules that a text breaks, ours and squawk's; `version` is the server's major one. Raises Unclosed and NotLinted."""
    statements = split(text)
    return (*own_remarks(statements), *_squawk(text, statements, version=version))


def own_remarks(statements: Sequence[SqlStatement]) -> tuple[Remark, ...]:
    """The rules of ours that these statements break."""
    found: list[Remark] = []
    changing = [number for number, one in enumerate(statements) if _changes_data(one)]
    defining = [number for number, one in enumerate(statements) if _DDL.match(one.bare)]
    for number, statement in enumerate(statements):
        words = _CASCADES_BY_KEY.sub("", statement.bare)
        found += [
            Remark(rule=rule, problem=problem, statement=number)
            for rule, pattern, problem in _PATTERNS
            if re.match(pattern, words, re.DOTALL)
        ]
        if number in changing:
            rule, problem = (
                ("data-change-with-ddl", "rows are changed in the transaction that holds locks on tables")
                if defining
                else ("data-change", "all rows are changed in one transaction")
            )
            found.append(Remark(rule=rule, problem=problem, statement=number))
        if words.startswith("DO ") and any(_DDL_INSIDE.search(body) for body in statement.strings):
            found.append(Remark(rule="ddl-in-do", problem="DDL is hidden in a DO block", statement=number))
    locked = {name: number for number, one in enumerate(statements) if (name := _locked(one)) is not None}
    if len(locked) > 1:
        tables = " and ".join(".".join(name) for name in sorted(locked))
        found.append(
            Remark(rule="several-tables", problem=f"{tables} are locked together", statement=max(locked.values()))
        )
    return tuple(found)


def _changes_data(statement: SqlStatement) -> bool:
    return _CHANGES_DATA.match(statement.bare) is not None


def _locked(statement: SqlStatement) -> tuple[str, str] | None:
    names = [name for _, _, name in statement.qualified]
    return names[0] if names and _LOCKS_A_TABLE.match(statement.bare) else None


class NotLinted(Exception):
    """squawk could not be asked; its message says why."""


def _squawk(text: str, statements: Sequence[SqlStatement], *, version: int) -> list[Remark]:
    program = _program()
    if program is None:
        msg = "the linter `squawk` is not installed (pip install squawk-cli)"
        raise NotLinted(msg)
    command = [program, "--reporter", "json", "--pg-version", str(version), "--assume-in-transaction"]
    try:
        answer = subprocess.run(  # noqa: S603 - the program beside our own, and the text goes to its standard input
            command,
            input=text.encode(),
            capture_output=True,
            timeout=_SQUAWK_SECONDS,
            check=False,
            cwd=Path(program).parent,  # not where a stray .squawk.toml could lie
        )
        # Not the exit code: it is 1 for findings and for a call that failed alike.
        found = json.loads(answer.stdout)
    except (OSError, subprocess.TimeoutExpired, ValueError) as exc:
        msg = f"the linter `squawk` failed ({type(exc).__name__})"
        raise NotLinted(msg) from exc
    lines = [0]
    for line in text.encode().splitlines(keepends=True):
        lines.append(lines[-1] + len(line))
    return [
        Remark(
            rule=one["rule_name"],
            problem=one["message"].rstrip("."),
            statement=_at(statements, len(text.encode()[: lines[one["line"]] + one["column"]].decode(errors="ignore"))),
        )
        for one in found
        if one["rule_name"] not in _NOT_ASKED
    ]


def _at(statements: Sequence[SqlStatement], position: int) -> int:
    """The number of the statement that holds a position of the text."""
    return max((number for number, one in enumerate(statements) if one.start <= position), default=0)


def _program() -> str | None:
    """squawk, beside our own interpreter, where pip puts it, or on the path."""
    beside = Path(sys.executable).parent
    return shutil.which("squawk", path=str(beside)) or shutil.which("squawk")
