"""The way back, from what is on record as done: an operation made of named steps, each of which says its name on the way."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import pytest

from backfilld.migrations.facts import Facts
from backfilld.migrations.identifiers import TableName
from backfilld.migrations.operations import Action, Index, Walk
from backfilld.migrations.postgres.definitions import IndexDefinition
from backfilld.migrations.record.states import Phase
from backfilld.migrations.rollback.steps import way_back

if TYPE_CHECKING:
    from collections.abc import Mapping

    from backfilld.migrations.operations import Operation, Reliance, Step
    from backfilld.migrations.walks.rewrite import Rewrite

TABLE = TableName("public", "t")


def action(name: str, *, index: bool = False) -> Action:
    definition = IndexDefinition(name=name, unique=False, rest="USING btree (a)", keys=("a",))
    built = Index(schema="public", name=name, present=True, definition=definition) if index else None
    return Action(table=TABLE, statements=(), index=built, back=(told(f"{name} back 1"), told(f"{name} back 2")))


def walk(name: str) -> Walk:
    return Walk(kind="archive", operation=0, table=TABLE, key=(), note=name, back=(told(f"{name} back"),))


def told(name: str) -> Walk:
    """A step that can be told from others by its note."""
    return Walk(kind="restore", operation=0, table=TABLE, key=(), note=name)


@dataclass(frozen=True)
class Named:
    """An operation of steps with names."""

    name: str
    table: TableName = TABLE
    facts: Facts = field(default_factory=lambda: Facts(relation="t"))

    def rewrite(self) -> Rewrite | None:
        return None

    def expand(self) -> tuple[Step, ...]:
        return (action(f"{self.name} expand"),)

    def fill(self) -> tuple[Step, ...]:
        return ()

    def undo(self) -> tuple[Step, ...]:
        return (told(f"{self.name} undo"),)

    def verify(self) -> tuple[Step, ...]:
        return (action(f"{self.name} check"), action(f"{self.name} index", index=True))

    def switch(self) -> tuple[Step, ...]:
        return (action(f"{self.name} switch"),)

    def contract(self) -> tuple[Step, ...]:
        return (walk(f"{self.name} archive"), action(f"{self.name} drop"))

    def relies_on(self, *, switched: bool) -> None:
        """No sync trigger keeps it."""

    def also_relies_on(self, *, switched: bool) -> tuple[Reliance, ...]:
        """Nothing is proved of it."""
        del switched
        return ()

    def parts(self) -> tuple[Operation, ...]:
        """It has one table."""
        return ()

    def recheck(self) -> None:
        """Nothing is proved of it."""


def notes(phase: Phase, done: int, *, pass_: int = 1, names: str = "a") -> list[str]:
    back = way_back([Named(name) for name in names], phase=phase, done=done, pass_=pass_)
    return [step.step.note for step in back if isinstance(step.step, Walk)]


EXPAND = ["a expand back 1", "a expand back 2"]
CHECK, INDEX = ["a check back 1", "a check back 2"], ["a index back 1", "a index back 2"]
VERIFY = INDEX + CHECK
SWITCH = ["a switch back 1", "a switch back 2"]


@pytest.mark.parametrize(
    ("phase", "done", "pass_", "expected"),
    [
        pytest.param(Phase.EXPAND, 0, 1, [], id="nothing done"),
        pytest.param(Phase.EXPAND, 1, 1, EXPAND, id="expanded"),
        pytest.param(Phase.BACKFILL, 0, 1, ["a undo", *EXPAND], id="some rows changed"),
        pytest.param(Phase.BACKFILL, 0, 2, [*INDEX, "a undo", *EXPAND], id="walked again: an index may be there"),
        pytest.param(Phase.VERIFY, 0, 1, [*INDEX, "a undo", *EXPAND], id="an index may be there"),
        pytest.param(Phase.VERIFY, 1, 1, [*VERIFY, "a undo", *EXPAND], id="an index is half built"),
        pytest.param(Phase.VERIFY, 2, 1, [*VERIFY, "a undo", *EXPAND], id="verified"),
        pytest.param(Phase.SWITCH, 0, 1, [*VERIFY, "a undo", *EXPAND], id="not switched"),
        pytest.param(Phase.SWITCH, 1, 1, [*SWITCH, *VERIFY, "a undo", *EXPAND], id="switched"),
        pytest.param(
            Phase.CONTRACT, 0, 1, ["a archive back", *SWITCH, *VERIFY, "a undo", *EXPAND], id="the archive in hand"
        ),
        pytest.param(
            Phase.DONE,
            0,
            1,
            ["a drop back 1", "a drop back 2", "a archive back", *SWITCH, *VERIFY, "a undo", *EXPAND],
            id="all done",
        ),
    ],
)
def test_what_was_done_is_taken_back_the_latest_first(phase: Phase, done: int, pass_: int, expected: list[str]) -> None:
    assert notes(phase, done, pass_=pass_) == expected


def test_operations_are_taken_back_in_reverse_order() -> None:
    assert notes(Phase.EXPAND, 2, names="ab") == ["b expand back 1", "b expand back 2", *EXPAND]
    assert notes(Phase.EXPAND, 1, names="ab") == EXPAND


def test_each_step_knows_whose_work_it_takes_back() -> None:
    phases = [back.phase for back in way_back([Named("a")], phase=Phase.DONE, done=0)]
    assert list(dict.fromkeys(phases)) == [Phase.CONTRACT, Phase.SWITCH, Phase.VERIFY, Phase.BACKFILL, Phase.EXPAND]


# --- the application first ---------------------------------------------------------------------------------------------

#: The part of a step's name that stands for each kind of step.
SHORT = {
    "free": Action(table=TABLE, statements=(), frees=True),
    "free index": replace(action("", index=True), frees=True, back=()),
    "own sql": Action(table=TABLE, statements=(), is_users=True),
    "build": replace(action("", index=True), back=()),
    "drop": Action(table=TABLE, statements=()),
}


@dataclass(frozen=True)
class Going:
    """An operation whose way back, by phase, is said in words."""

    number: int
    back: Mapping[Phase, tuple[str, ...]]
    table: TableName = TABLE
    facts: Facts = field(default_factory=lambda: Facts(relation="t"))

    def rewrite(self) -> Rewrite | None:
        return None

    def fill(self) -> tuple[Step, ...]:
        return ()

    def undo(self) -> tuple[Step, ...]:
        return ()

    def expand(self) -> tuple[Step, ...]:
        return self._steps(Phase.EXPAND)

    def verify(self) -> tuple[Step, ...]:
        return self._steps(Phase.VERIFY)

    def switch(self) -> tuple[Step, ...]:
        return self._steps(Phase.SWITCH)

    def contract(self) -> tuple[Step, ...]:
        return self._steps(Phase.CONTRACT)

    def relies_on(self, *, switched: bool) -> None:
        """No sync trigger keeps it."""

    def also_relies_on(self, *, switched: bool) -> tuple[Reliance, ...]:
        """Nothing is proved of it."""
        del switched
        return ()

    def parts(self) -> tuple[Operation, ...]:
        """It has one table."""
        return ()

    def recheck(self) -> None:
        """Nothing is proved of it."""

    def _steps(self, phase: Phase) -> tuple[Step, ...]:
        return (Action(table=TABLE, statements=(), back=tuple(self._step(word) for word in self.back.get(phase, ()))),)

    def _step(self, word: str) -> Step:
        if word in {"archive", "restore"}:
            return Walk(kind=word, operation=self.number, table=TABLE, key=(), note=word)  # type: ignore[arg-type] # of these two
        return SHORT[word]


def order(*several: Mapping[Phase, tuple[str, ...]]) -> list[str]:
    """The way back from the end, each step as `phase operation kind`."""
    words = {id(step): word for word, step in SHORT.items()}
    back = way_back([Going(number, each) for number, each in enumerate(several)], phase=Phase.DONE, done=0)
    return [f"{one.phase} {one.operation} {words.get(id(one.step)) or getattr(one.step, 'kind', '')}" for one in back]


def test_the_archive_of_a_column_waits_until_the_column_goes() -> None:
    """The rule that the application's INSERT breaks goes first; the user's own SQL, in between, does not need the archive."""
    added = {Phase.CONTRACT: ("archive",), Phase.SWITCH: ("free",), Phase.VERIFY: ("free",), Phase.EXPAND: ("drop",)}
    assert order(added, {Phase.SWITCH: ("own sql",)}) == [
        "switch 1 own sql",
        "switch 0 free",
        "verify 0 free",
        "expand 0 archive",
        "expand 0 drop",
    ]


def test_what_frees_comes_before_what_is_as_long_as_the_table_is_large() -> None:
    """Also where it belongs to another operation, and an index that waits for old transactions after what waits for none."""
    rule = {Phase.SWITCH: ("free",), Phase.VERIFY: ("free index", "free")}
    dropped = {Phase.CONTRACT: ("free", "restore", "build", "drop")}
    assert order(rule, dropped) == [
        "contract 1 free",
        "contract 0 free",
        "contract 0 free",
        "contract 0 free index",
        "contract 1 restore",
        "contract 1 build",
        "contract 1 drop",
    ]


def test_nothing_passes_by_the_users_own_statements() -> None:
    """They may rely on all that is before them: a primary key of theirs forbids DROP NOT NULL."""
    rule = {Phase.VERIFY: ("free",)}
    assert order(rule, {Phase.SWITCH: ("own sql",)}, {Phase.CONTRACT: ("restore",)}) == [
        "contract 2 restore",
        "switch 1 own sql",
        "verify 0 free",
    ]
