"""A plan in a few figures, to read first: the locks that stop writes, what grows, what to deploy when, how many risks."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from backfilld.migrations.postgres.locks import BLOCKS_WRITES, LockMode

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from backfilld.migrations.file.operations import OperationModel
    from backfilld.migrations.planning.estimate import CostEstimate
    from backfilld.migrations.record.states import Phase

#: Modes from the weakest to the strongest, in which a reader looks for the worst.
_STRENGTH = list(LockMode)
#: How a lock is held that ends at once.
BRIEF = "brief"


class _Action(Protocol):
    """What is asked of a planned statement."""

    @property
    def lock(self) -> LockMode: ...
    @property
    def hold(self) -> str: ...
    @property
    def known(self) -> str: ...
    @property
    def operation(self) -> int | None: ...
    @property
    def step(self) -> int | None: ...


@dataclass(frozen=True, kw_only=True)
class StrongLocks:
    """Transactions that stop the writes of a table, with the same lock for the same time."""

    lock: LockMode
    hold: str
    #: Of the longest statement: measured on a copy, or by rule.
    known: str
    transactions: int


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What `plan` opens with. Sizes in bytes, rough."""

    strong_locks: tuple[StrongLocks, ...]
    heap_growth_bytes: int
    index_growth_bytes: int
    wal_bytes: int
    #: Columns that an application may use once the gate is open: `table.column`.
    usable_after_gate: tuple[str, ...]
    #: What an application can no longer do, and from when on: deploy one that does not do it before that.
    fails: tuple[str, ...]
    #: Phases that wait for a person.
    approvals: tuple[Phase, ...]
    #: By level, the highest first; levels without one are left out.
    risks: Mapping[str, int]


def of_locks(phases: Iterable[Sequence[_Action]]) -> tuple[StrongLocks, ...]:
    """The strong locks of all transactions, the strongest first; a statement outside of a step is a batch, and takes none."""
    found: Counter[tuple[LockMode, str, str]] = Counter()
    for actions in phases:
        transactions: dict[tuple[int | None, int], list[_Action]] = {}
        for action in actions:
            if action.step is not None and action.lock in BLOCKS_WRITES:
                transactions.setdefault((action.operation, action.step), []).append(action)
        for strong in transactions.values():
            # The statement that only takes the lock is by rule; what is done under it says how long it lasts.
            longest = max(strong, key=lambda one: (one.hold != BRIEF, one.known == "measured"))
            mode = max((one.lock for one in strong), key=_STRENGTH.index)
            found[mode, longest.hold, longest.known] += 1
    order = sorted(found, key=lambda one: (-_STRENGTH.index(one[0]), one[1] == BRIEF, one[2]))
    return tuple(StrongLocks(lock=key[0], hold=key[1], known=key[2], transactions=found[key]) for key in order)


def summarise(  # noqa: PLR0913 - each is named where it is called
    operations: Sequence[OperationModel],
    phases: Mapping[Phase, Sequence[_Action]],
    walks: Iterable[CostEstimate],
    *,
    approvals: Iterable[Phase],
    risk_levels: Iterable[str],
    fails: Iterable[str],
) -> Summary:
    """Put the figures together; `fails` is what risks say that an application can no longer do."""
    costs = list(walks)
    new = [
        f"{getattr(of, 'table', '')}.{one.column}"
        for of in operations
        for one in of.settles
        if one.what in {"added", "changed"}
    ]
    told = [f"after contract {of.fails_after_contract}" for of in operations if of.fails_after_contract]
    return Summary(
        strong_locks=of_locks(phases.values()),
        heap_growth_bytes=sum(one.heap_growth_bytes for one in costs),
        index_growth_bytes=sum(one.index_growth_bytes for one in costs),
        wal_bytes=sum(one.wal_bytes for one in costs),
        usable_after_gate=tuple(dict.fromkeys(new)),
        fails=tuple(dict.fromkeys([*told, *fails])),
        approvals=tuple(approvals),
        risks=dict(Counter(risk_levels)),
    )
