"""Notifications: what is news, how it is worded, and the channels it is sent by.

`backfilld.worker.side_tasks.notifier` calls these; nothing here sleeps, and nothing here is called from a batch.
"""

from backfilld.monitoring.notices.channels import (
    Dispatch,
    NotTaken,
    Outlet,
    Sent,
    TakenNever,
    dispatch,
    open_channels,
    send_test,
)
from backfilld.monitoring.notices.news import HOLD_GAP_SECONDS, News
from backfilld.monitoring.notices.wording import Message, word

__all__ = [
    "HOLD_GAP_SECONDS",
    "Dispatch",
    "Message",
    "News",
    "NotTaken",
    "Outlet",
    "Sent",
    "TakenNever",
    "dispatch",
    "open_channels",
    "send_test",
    "word",
]
