"""Several runs on one table at once: each waits for its contract, and is approved or rolled back when chance has it.

Each part is one migration, and says under which columns the application may find and write its fields: while its run has not begun
or is rolled back, while it waits (any of several), and once it is done. The application that writes meanwhile is made of one choice
of each part, in several versions side by side.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from proof.scenarios import OneOf, Scenario, number, shown, word
from proof.trial import Trial

if TYPE_CHECKING:
    import random
    from collections.abc import Mapping

    from proof.scenarios import Row, Shows

#: Versions of the application side by side.
_VERSIONS = 3


@dataclass(frozen=True, kw_only=True)
class Part:
    """One migration of the table."""

    name: str
    operation: str
    old: Mapping[str, Shows]
    new: Mapping[str, Shows]
    #: What may be used while the run waits; the old and the new name, unless it is otherwise.
    waiting: tuple[Mapping[str, Shows], ...] = ()
    #: Columns that must hold this once they are there, and that the application only reads.
    derived: Mapping[str, Shows] = field(default_factory=dict)

    @property
    def migration(self) -> str:
        return f"name: {self.name}\noperations: [{self.operation}]\nsettings: {{lanes: 2}}\n"


def _label(row: Row) -> str:
    """What the application gave it, and what the migration computes for rows to which it gave nothing."""
    return str(row["label"] if row["label"] is not None else row.get("status", "").upper())


def _document(chance: random.Random) -> str:
    return json.dumps({"a": chance.randrange(10**6)})


def _rename(old: str, new: str) -> Part:
    operation = f"{{rename_column: {{table: items, from: {old}, to: {new}}}}}"
    return Part(name=new, operation=operation, old={old: shown(old)}, new={new: shown(old)})


PARTS = (
    Part(
        name="label",
        operation='{add_column: {table: items, column: {name: label, type: text}, backfill: "upper(status)", not_null: true}}',
        old={},
        new={"label": _label},
    ),
    Part(
        name="size",
        operation='{add_column: {table: items, column: {name: size, type: integer}, backfill: "length(status)", computed: true}}',
        old={},
        new={},
        derived={"size": lambda row: len(row["status"])},
    ),
    _rename("first", "alpha"),
    _rename("second", "beta"),
    Part(
        name="info",
        operation='{change_type: {table: items, column: info, type: jsonb, up: "info::jsonb", down: "info::text"}}',
        old={"info": shown("info")},
        new={"info": lambda row: json.loads(row["info"])},
        waiting=({"info": lambda row: OneOf((row["info"], json.loads(row["info"])))},),
    ),
    Part(
        name="balance",
        operation="{change_type: {table: items, column: balance, type: bigint}}",
        old={"balance": shown("balance")},
        new={"balance": shown("balance")},
    ),
)

TABLE = Scenario(
    name="together on one table",
    schema="CREATE TABLE items (id bigint PRIMARY KEY, status text NOT NULL, first text, second integer, "
    "info text NOT NULL DEFAULT '{}', balance integer NOT NULL DEFAULT 0, padding text NOT NULL DEFAULT repeat('x', 700));",
    operations="[]",
    fields={"status": word, "label": word, "first": word, "second": number, "info": _document, "balance": number},
    # To a row that an application adds which does not know of it, and to those that were there, nothing was given.
    first={"label": lambda _chance: None},
    before={"status": shown("status"), **{name: show for part in PARTS for name, show in part.old.items()}},
    after={},
)


@dataclass
class Together(Trial):
    """Runs on one table, one after the other enqueued, and ended in an order that chance decides."""

    #: What the application may use for each part at this moment.
    choices: dict[str, tuple[Mapping[str, Shows], ...]] = field(
        default_factory=lambda: {part.name: (part.old,) for part in PARTS}
    )
    derived: dict[str, Mapping[str, Shows]] = field(default_factory=dict)
    part: Part = PARTS[0]

    @property
    def migration(self) -> str:
        return self.part.migration

    def play(self) -> None:
        """Every run to its waiting for contract, and every one of them to its end."""
        self.application.begin()
        for part in self.chance.sample(PARTS, k=len(PARTS)):
            self.part = part
            if part.waiting:  # its type changes under the application's hands
                self._use(part, *part.waiting)
            state = self.work("enqueue")["state"]
            if state != "waiting":
                raise self.wrong(f"the run {part.name} is {state}")
            self.derived[part.name] = part.derived
            self._use(part, *(part.waiting or (part.old, part.new)))
        for part in self.chance.sample(PARTS, k=len(PARTS)):
            self.part = part
            forward = self.chance.random() < 0.5
            # An application that would not survive it has been taken down before.
            self._use(part, *(part.waiting or ((part.new if forward else part.old),)))
            # Nobody keeps it right once its trigger is gone.
            self.derived.pop(part.name)
            state = self.work("approve:contract" if forward else "rollback")["state"]
            if state != ("completed" if forward else "rolled_back"):
                raise self.wrong(f"the run {part.name} is {state}")
            self._use(part, part.new if forward else part.old)
        self._left_behind()

    def _use(self, part: Part, *columns: Mapping[str, Shows]) -> None:
        """What the application may use from here on; whatever it uses is looked at."""
        self.choices[part.name] = columns
        versions = [
            {"status": shown("status")}
            | {name: show for each in PARTS for name, show in self._choice(each.name).items()}
            for _ in range(_VERSIONS)
        ]
        self.application.versions = tuple(versions)
        self._act_and_look()

    def _choice(self, name: str) -> Mapping[str, Shows]:
        return self.chance.choice(self.choices[name])

    def look(self) -> None:
        """No statement has failed, and every column that may be used holds what it must. Raises Wrong."""
        if self.application.failures:
            raise self.wrong(f"statements of the application failed: {self.application.failures}")
        columns = {name: show for choices in self.choices.values() for one in choices for name, show in one.items()} | {
            name: show for one in self.derived.values() for name, show in one.items()
        }
        self._compare({"status": shown("status"), **columns}, f"with {self.part.name}")

    def _left_behind(self) -> None:
        left = self.value(
            "SELECT string_agg(what, ', ') FROM (SELECT tgname AS what FROM pg_trigger WHERE tgname LIKE '%%backfilld%%' "
            "UNION ALL SELECT proname FROM pg_proc WHERE pronamespace = 'backfilld'::regnamespace "
            "AND prorettype = 'trigger'::regtype "
            "UNION ALL SELECT conname FROM pg_constraint WHERE conname LIKE '%%backfilld%%' AND conrelid = 'items'::regclass "
            "UNION ALL SELECT attname FROM pg_attribute WHERE attname LIKE '%%backfilld%%' AND attrelid = 'items'::regclass "
            "AND NOT attisdropped) l"
        )
        if left is not None:
            raise self.wrong(f"left behind: {left}")
