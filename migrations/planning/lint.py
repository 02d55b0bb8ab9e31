"""What is known to go wrong with raw SQL, found by reading it: rules of our own, and those of squawk.

A rule forbids (it can be no step of a run), refuses (until `allow:` accepts it), or warns. Rules about how long a
lock is held only warn when every table that the statement names is small; most of these a dry run answers, and what it saw
to take no time breaks no rule.
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

from backfilld.migrations.postgres.statements import Unclosed, split

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
    #: Whether the dry run shows if a statement breaks it: it rewrites, scans or builds an index, or it does not.
    measurable: bool = False


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
        "refuse",
        "Use a backfill operation, or delete_rows, which change rows in small batches and hold no lock in between",
    ),
    "ddl-in-do": Rule(
        "refuse", "Write the statements themselves: what DO executes can be neither linted nor tried on a copy"
    ),
    "data-change-in-do": Rule(
        "refuse", "Use a backfill operation, or delete_rows: in small batches, with the old values in the journal"
    ),
    "ddl-in-function": Rule(
        "refuse", "Write the statements themselves: what a function executes can be neither linted nor tried on a copy"
    ),
    "renaming-schema": Rule("refuse", "Deploy an application that knows both names first, then allow it"),
    "renaming-enum-value": Rule(
        "refuse", "Use change_type to a new enum that has the new value, with `up` and `down` to translate it"
    ),
    "json-column": Rule(
        "refuse", "Use jsonb: json has no equality, so SELECT DISTINCT, GROUP BY and UNION fail on rows that have it"
    ),
    "wide-index": Rule(
        "warn", "Keep those that narrow a search most: an index that is not unique seldom gains by a fourth column"
    ),
    "long-lock": Rule(
        "refuse", "Use the operation that does it without a long lock: see docs/operations/sql.md", by_size=True
    ),
    "enum-value": Rule("refuse", "PostgreSQL cannot remove a value from an enum, so `rollback` cannot either"),
    "data-change": Rule(
        "warn", "A backfill operation, or delete_rows, does it in small batches, and journals the old values"
    ),
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
    "adding-field-with-default": Rule(
        "refuse", "Use add_column, which fills rows in batches", by_size=True, measurable=True
    ),
    "adding-not-nullable-field": Rule(
        "refuse", "Use set_not_null, which validates it beforehand", by_size=True, measurable=True
    ),
    "adding-serial-primary-key-field": Rule("refuse", "Use add_primary_key", by_size=True, measurable=True),
    "adding-foreign-key-constraint": Rule("refuse", "Use add_foreign_key", by_size=True, measurable=True),
    "constraint-missing-not-valid": Rule("refuse", "Use add_check or add_foreign_key", by_size=True, measurable=True),
    "disallowed-unique-constraint": Rule("refuse", "Use add_unique", by_size=True, measurable=True),
    "changing-column-type": Rule("refuse", "Use change_type", by_size=True, measurable=True),
    "require-concurrent-index-creation": Rule("refuse", "Use create_index", by_size=True, measurable=True),
    "require-concurrent-index-deletion": Rule("refuse", "Use drop_index", by_size=True),
    "require-concurrent-reindex": Rule("refuse", "Run REINDEX CONCURRENTLY by hand", by_size=True),
    "require-concurrent-partition-detach": Rule("refuse", "Run DETACH … CONCURRENTLY by hand", by_size=True),
    # squawk's: the application fails, or something is gone.
    "adding-required-field": Rule(
        "refuse", "Use add_column with not_null: statements that leave the column out would fail"
    ),
    "renaming-column": Rule("refuse", "Use rename_column: applications may use either name until contract"),
    "renaming-table": Rule("refuse", "Use rename_table: applications may use either name until contract"),
    "ban-drop-column": Rule("refuse", "Use drop_column, which archives the values"),
    "ban-drop-table": Rule("refuse", "Use drop_table, which keeps the rows until retention ends"),
    "ban-drop-database": Rule("forbid", "Do it by hand"),
    "ban-truncate-cascade": Rule("refuse", "Name the tables, each in a statement of its own"),
    "ban-drop-not-null": Rule("warn", "Use drop_not_null, whose way back proves it without a long lock"),
    "ban-drop-constraint": Rule("warn", "Use drop_constraint, whose way back validates it without a long lock"),
}

#: What to do in place of a statement that holds a lock for long, and in place of a rollback that does. The first that fits.
_INSTEAD: tuple[tuple[str, str, str], ...] = (
    (
        r"(ALTER|CREATE) TABLE .*\bEXCLUDE\b",
        (
            "No version of PostgreSQL builds an exclusion constraint while rows are written: add it to a new table, or while the "
            "application is stopped"
        ),
        "",
    ),
    (r"ALTER TABLE .*\bADD (CONSTRAINT \S+ )?PRIMARY KEY\b", "Use add_primary_key", "Use drop_constraint"),
    (
        r"ALTER TABLE .*\b((BIG|SMALL)?SERIAL[248]?|AS IDENTITY)\b",
        (
            "Create a sequence in a migration of its own (sql: CREATE SEQUENCE), then use add_column with "
            "`default: \"nextval('public.name')\"` and `not_null: true`, which fills rows in batches"
        ),
        "",
    ),
    (
        r"ALTER TABLE .*\bGENERATED ALWAYS AS \(",
        (
            "Use add_column with `computed: true`, which fills rows in batches, and let a trigger of your own compute it after "
            "contract; or, from PostgreSQL 18 on, add a VIRTUAL column, which takes a moment"
        ),
        "",
    ),
    (r"TRUNCATE\b", "Use delete_rows, whose rows a rollback brings back", ""),
    (r"CREATE (UNIQUE )?INDEX\b", "Use create_index, or add_unique for a constraint", "Use drop_index"),
    (r"ALTER TABLE .*\b(FOREIGN KEY|REFERENCES)\b", "Use add_foreign_key", "Use drop_constraint"),
    (r"ALTER TABLE .*\bUNIQUE\b", "Use add_unique", "Use drop_constraint"),
    (r"ALTER TABLE .*\bCHECK\b", "Use add_check", "Use drop_constraint"),
    (r"ALTER TABLE .*\bSET NOT NULL\b", "Use set_not_null, which proves it beforehand", "Use drop_not_null"),
    (r"ALTER TABLE .*\bALTER\b.* TYPE\b", "Use change_type", "Use change_type"),
    (r"ALTER TABLE .*\bADD\b", "Use add_column, which fills rows in batches", "Use drop_column"),
)

#: Of squawk's rules, those that the way statements are run here answers, rules of ours say better, or are a matter of taste.
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
        "prefer-text-field",
    }
)

#: squawk's rule for all kinds of names, and where rules of ours say it better or no client knows the name.
_RENAMES = "renaming-object"
_NO_CLIENTS = re.compile(r"ALTER (SCHEMA|INDEX|TYPE .*\bRENAME VALUE|TABLE .*\bRENAME CONSTRAINT)\b")

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
    (
        "long-lock",
        r"CLUSTER\b|ALTER TABLE .*\bSET ((UN)?LOGGED|ACCESS METHOD)\b",
        "it rewrites its table under ACCESS EXCLUSIVE",
    ),
    ("renaming-schema", r"ALTER SCHEMA .*\bRENAME TO\b", "applications that know the old name fail"),
    ("renaming-enum-value", r"ALTER TYPE .*\bRENAME VALUE\b", "applications that know the old value fail"),
    ("enum-value", r"ALTER TYPE .*\bADD VALUE\b", "a value is added to an enum"),
    ("policy", r"(CREATE|ALTER|DROP) POLICY\b", "a policy is changed, under ACCESS EXCLUSIVE"),
    ("trigger", r"(CREATE (OR REPLACE )?(CONSTRAINT )?|DROP )TRIGGER\b", "a trigger is changed"),
    ("publication", r"(ALTER|DROP) PUBLICATION\b", "a publication changes"),
)
_CASCADES_BY_KEY = re.compile(r"\bON (DELETE|UPDATE) CASCADE\b")
_CHANGES_DATA = re.compile(r"(WITH\b.*)?\b(UPDATE|DELETE FROM|MERGE INTO|INSERT INTO\b.*\bSELECT)\b")
_DDL = re.compile(r"(ALTER|CREATE|DROP|TRUNCATE|COMMENT|GRANT|REVOKE|SECURITY LABEL)\b")
_DDL_INSIDE = re.compile(r"\b(ALTER|CREATE|DROP|TRUNCATE|EXECUTE|GRANT|REVOKE|LOCK)\b")
#: Not `FOR UPDATE`, which only locks rows; nor the UPDATE of an upsert, which the INSERT before it tells of.
_DATA_CHANGE_INSIDE = re.compile(r"(?<!FOR )(?<!KEY )\bUPDATE\b|\b(DELETE FROM|MERGE INTO|INSERT INTO)\b")
_ENABLES_ROW_SECURITY = re.compile(r"ALTER TABLE .*\b(ENABLE|(?<!NO )FORCE) ROW LEVEL SECURITY\b")
#: Statements that run the functions they name.
_RUNS_FUNCTIONS = re.compile(
    r"(SELECT|WITH|VALUES|CALL|DO|UPDATE|INSERT|DELETE|MERGE|CREATE MATERIALIZED VIEW|CREATE TABLE .* AS)\b"
)
#: More columns than this seldom narrow a search.
INDEX_COLUMNS = 3
_LOCKS_A_TABLE = re.compile(r"(ALTER TABLE|DROP TABLE|TRUNCATE|CREATE POLICY|ALTER POLICY|DROP POLICY|DROP TRIGGER)\b")


def remarks(text: str, *, version: int) -> tuple[Remark, ...]:
    """The rules that a text breaks, ours and squawk's; `version` is the server's major one. Raises Unclosed and NotLinted."""
    statements = split(text)
    others = _squawk(text, statements, version=version)
    return (
        *own_remarks(statements),
        *(one for one in others if one.rule != _RENAMES or not _NO_CLIENTS.match(statements[one.statement].bare)),
    )


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
        if words.startswith("DO "):
            found += [
                Remark(rule=f"{what}-in-do", problem=f"{problem} in a DO block", statement=number)
                for what, problem in hidden(*statement.strings).items()
            ]
        if _has_json_column(statement):
            found.append(Remark(rule="json-column", problem="the type json compares with nothing", statement=number))
        if (columns := _indexed(statement)) > INDEX_COLUMNS:
            problem = f"an index that is not unique has {columns} columns"
            found.append(Remark(rule="wide-index", problem=problem, statement=number))
    locked = {name: number for number, one in enumerate(statements) if (name := _locked(one)) is not None}
    if len(locked) > 1:
        tables = " and ".join(".".join(name) for name in sorted(locked))
        found.append(
            Remark(rule="several-tables", problem=f"{tables} are locked together", statement=max(locked.values()))
        )
    return tuple(found)


def instead(statement: SqlStatement, *, back: bool = False) -> str:
    """The operation that does the same without a long lock; empty where there is none to name."""
    for pattern, forth, or_back in _INSTEAD:
        if re.match(pattern, statement.bare, re.DOTALL):
            return or_back if back and or_back else forth
    return ""


def takes_back(remark: Remark, statement: SqlStatement, done: Sequence[SqlStatement]) -> bool:
    """Whether a statement of a rollback breaks a rule only in that it takes back what `run` has done."""
    if remark.rule.startswith(("ban-drop", "renaming")):
        return True
    if remark.rule != "disable-row-level-security":
        return False
    enabled = {one.qualified[0][2] for one in done if one.qualified and _ENABLES_ROW_SECURITY.match(one.bare)}
    return bool(statement.qualified) and statement.qualified[0][2] in enabled


def called(statement: SqlStatement) -> tuple[tuple[str, str], ...]:
    """The functions that a statement may run, by schema and name; none of one that only names them, such as CREATE TRIGGER."""
    if not _RUNS_FUNCTIONS.match(statement.bare):
        return ()
    texts = [statement.text, *statement.strings] if statement.bare.startswith("DO ") else [statement.text]
    return tuple(
        dict.fromkeys(
            name
            for text in texts
            for one in _split_body(text)
            for _, end, name in one.qualified
            if one.text[end:].lstrip().startswith("(")
        )
    )


def hidden(*bodies: str) -> dict[str, str]:
    """What the bodies of functions or DO blocks do that a linter looks for in statements, and how to say it."""
    words = " ".join(" ".join(one.bare for one in _split_body(body)) or body.upper() for body in bodies)
    found = {"ddl": "DDL is hidden"} if _DDL_INSIDE.search(words) else {}
    return found | ({"data-change": "rows are changed"} if _DATA_CHANGE_INSIDE.search(words) else {})


def _split_body(body: str) -> tuple[SqlStatement, ...]:
    """The statements of the body of a function, which may stand in quotes; none where it cannot be read."""
    try:
        return split(re.sub(r"\A(\$\w*\$|')|(\$\w*\$|')\Z", "", body))
    except Unclosed:
        return ()


def _has_json_column(statement: SqlStatement) -> bool:
    """Whether a table gets a column of the type json, as far as words tell: `name json`, `TYPE json`."""
    if not re.match(r"(CREATE (UNLOGGED )?|ALTER (FOREIGN )?)TABLE\b", statement.bare):
        return False
    tokens = [token for token in statement.tokens if token.text.lower() not in {"pg_catalog", "."}]
    for before, name, type_ in zip(tokens, tokens[1:], tokens[2:], strict=False):
        declared = name.name is not None and (before.text in {"(", ","} or before.word in {"ADD", "COLUMN", "EXISTS"})
        if type_.word == "JSON" and (declared or name.word == "TYPE"):
            return True
    return False


def _indexed(statement: SqlStatement) -> int:
    """How many columns an index gets that is not unique; 0 for other statements."""
    if not statement.bare.startswith("CREATE INDEX"):
        return 0
    depth, columns = 0, 0
    for token in statement.tokens:
        if token.kind != "sign":
            continue
        depth += {"(": 1, ")": -1}.get(token.text, 0)
        columns += (token.text == "(" and depth == 1) or (token.text == "," and depth == 1)
        if token.text == ")" and depth == 0:
            return columns
    return 0


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
