"""From the settings of stores to stores."""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

from backfilld.migrations.errors import UsageError
from backfilld.migrations.stores.folder import FolderStore
from backfilld.migrations.stores.s3 import S3Store

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backfilld.migrations.backup_settings import StoreSettings
    from backfilld.migrations.stores.base import Store


def open_store(settings: StoreSettings) -> Store:
    """The store; nothing is asked of it yet. Raises UsageError where a package is missing."""
    match settings.kind:
        case "folder":
            if settings.path is None:
                raise TypeError(settings.name)
            return FolderStore(name=settings.name, path=settings.path, region=settings.region)
        case "s3":
            return S3Store(**{**settings.model_dump(exclude={"kind", "path"}), "bucket": settings.bucket or ""})
        case _:
            assert_never(settings.kind)


def open_stores(settings: Sequence[StoreSettings], names: Sequence[str] = ()) -> list[Store]:
    """Those of these names, or all. Raises UsageError for a name that no store has."""
    known = {one.name: one for one in settings}
    if missing := [name for name in names if name not in known]:
        msg = f"no store is called {missing[0]}; those of this process are {', '.join(known) or 'none'} (BACKFILLD_STORES)"
        raise UsageError(msg)
    return [open_store(known[name]) for name in names or known]
