"""Where a worker may send a request that came with a migration file, and the values that such a file can only name. Pure.

Whoever may enqueue a migration must not reach into the network with it: the operator of the workers says which addresses there are.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from backfilld.migrations.errors import Finding
from backfilld.migrations.file.application_checks import VALUE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from urllib.parse import SplitResult

    from pydantic import SecretStr

    from backfilld.migrations.file.application_checks import Probe

_PORTS = {"http": 80, "https": 443}


class Forbidden(Exception):
    """A probe asks for what the settings of this worker do not allow; `finding` says which setting would."""

    def __init__(self, finding: Finding) -> None:
        super().__init__(str(finding))
        self.finding = finding


@dataclass(frozen=True, kw_only=True)
class Targets:
    """The addresses and values of a worker's settings."""

    #: Each with its scheme, host, port and the beginning of its path.
    allowed: Sequence[str] = ()
    values: Mapping[str, SecretStr] = field(default_factory=dict, repr=False)

    def url(self, probe: Probe) -> SplitResult:
        """The whole URL of a probe. Raises Forbidden for one that is not allowed, or names a value that is not there."""
        text = self._filled(probe, probe.get)
        parts = urlsplit(text)
        try:
            is_allowed = bool(parts.hostname) and any(_is_within(parts, urlsplit(one)) for one in self.allowed)
        except ValueError:  # a port that is none
            is_allowed = False
        if not is_allowed:
            shown = f"{parts.scheme}://{parts.hostname or '?'}"
            raise Forbidden(
                Finding(
                    "application_target",
                    f"the probe {probe.name} asks {shown}, which this worker may not",
                    "Add the address to BACKFILLD_APPLICATION_TARGETS of the workers, restart them, then resume",
                )
            )
        return parts

    def headers(self, probe: Probe) -> dict[str, str]:
        """Raises Forbidden for a value that is not there, or that no header can hold."""
        filled = {name: self._filled(probe, value) for name, value in probe.headers.items()}
        for name, value in filled.items():
            if not value.isprintable() or not value.isascii():
                raise Forbidden(
                    Finding(
                        "application_value",
                        f"the header {name} of the probe {probe.name} holds what no header can",
                        "Look at the values in BACKFILLD_APPLICATION_VALUES of the workers, restart them, then resume",
                    )
                )
        return {"Accept": "application/json", "User-Agent": "backfilld", **filled}

    def _filled(self, probe: Probe, text: str) -> str:
        missing = sorted({match["name"] for match in VALUE.finditer(text)} - set(self.values))
        if missing:
            raise Forbidden(
                Finding(
                    "application_value",
                    f"the probe {probe.name} needs the value ${missing[0]}, which this worker does not have",
                    "Add it to BACKFILLD_APPLICATION_VALUES of the workers, restart them, then resume",
                )
            )
        return VALUE.sub(lambda match: self.values[match["name"]].get_secret_value(), text)


def _is_within(url: SplitResult, allowed: SplitResult) -> bool:
    """The same scheme, host and port, and a path below the one that is allowed."""
    if url.username is not None or url.scheme not in _PORTS or any(not c.isprintable() or c == "\\" for c in url.path):
        return False
    if (url.scheme, url.hostname) != (allowed.scheme, allowed.hostname):
        return False
    if (url.port or _PORTS[url.scheme]) != (allowed.port or _PORTS[url.scheme]):
        return False
    path, base = unquote(url.path), allowed.path.rstrip("/")
    return ".." not in path.split("/") and (path == base or path.startswith(f"{base}/"))
