"""Where a worker may send a request that came with a migration file, and the values that such a file can only name.

Whoever may enqueue a migration must not reach into the network with it: the operator of the workers says which addresses there are.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from backfilld.migrations.errors import Finding
from backfilld.migrations.file.personas import VALUE
from backfilld.monitoring.checks import tokens

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from urllib.parse import SplitResult

    from pydantic import JsonValue, SecretStr

    from backfilld.migrations.file.application_checks import Probe
    from backfilld.migrations.file.personas import Persona

_PORTS = {"http": 80, "https": 443}


class Forbidden(Exception):
    """A probe asks for what the settings of this worker do not allow; `finding` says which setting would."""

    def __init__(self, finding: Finding) -> None:
        super().__init__(str(finding))
        self.finding = finding


@dataclass(frozen=True, kw_only=True)
class Targets:
    """The addresses and values of a worker's settings."""

    #: What may be asked by GET, each with its scheme, host, port and the beginning of its path.
    allowed: Sequence[str] = ()
    #: What may be asked by POST: such a request can change something, whatever the file says.
    allowed_post: Sequence[str] = ()
    values: Mapping[str, SecretStr] = field(default_factory=dict, repr=False)
    #: With which tokens of personas are signed that bring none, and the roles that such a token may have.
    jwt_secret: SecretStr | None = field(default=None, repr=False)
    jwt_roles: Sequence[str] = ()

    def url(self, probe: Probe) -> SplitResult:
        """The whole URL of a probe. Raises Forbidden for one that is not allowed, or names a value that is not there."""
        parts = urlsplit(self._filled(probe, probe.address))
        allowed = self.allowed if probe.method == "GET" else self.allowed_post
        try:
            is_allowed = bool(parts.hostname) and any(_is_within(parts, urlsplit(one)) for one in allowed)
        except ValueError:  # a port that is none
            is_allowed = False
        if not is_allowed:
            shown, by = f"{parts.scheme}://{parts.hostname or '?'}", "" if probe.method == "GET" else " by POST"
            setting = "BACKFILLD_APPLICATION_TARGETS" + ("" if probe.method == "GET" else "_POST")
            raise Forbidden(
                Finding(
                    "application_target",
                    f"the probe {probe.name} asks {shown}{by}, which this worker may not",
                    f"Add the address to {setting} of the workers, restart them, then resume",
                )
            )
        return parts

    def headers(self, probe: Probe, persona: Persona | None = None) -> dict[str, str]:
        """With the token of who asks. Raises Forbidden for a value that is not there, or that no header can hold."""
        filled = {name: self._filled(probe, value) for name, value in probe.headers.items()}
        if persona is not None:
            filled["Authorization"] = f"Bearer {self._token(probe, persona)}"
        for name, value in filled.items():
            if not value.isprintable() or not value.isascii():
                raise Forbidden(
                    Finding(
                        "application_value",
                        f"the header {name} of the probe {probe.name} holds what no header can",
                        "Look at the values in BACKFILLD_APPLICATION_VALUES of the workers, restart them, then resume",
                    )
                )
        ours = {"Accept": "application/json", "User-Agent": "backfilld"}
        if probe.body is not None:
            ours["Content-Type"] = "application/json"
        theirs = {name.lower() for name in filled}
        return {name: value for name, value in ours.items() if name.lower() not in theirs} | filled

    def body(self, probe: Probe) -> bytes | None:
        """What is posted. Raises Forbidden for a value that is not there."""
        return None if probe.body is None else json.dumps(self._filled_in(probe, probe.body)).encode()

    def _token(self, probe: Probe, persona: Persona) -> str:
        if persona.token is not None:
            return self._filled(probe, persona.token)
        role = persona.claims.get("role", persona.role)
        if self.jwt_secret is None:
            why = "which has no token, and this worker has no secret to sign one"
            remedy = (
                f"Give the persona `token: $NAME` and the value in BACKFILLD_APPLICATION_VALUES of the workers, or set "
                f"BACKFILLD_APPLICATION_JWT_SECRET and BACKFILLD_APPLICATION_JWT_ROLES='[\"{role}\"]'; restart them, then resume"
            )
        elif role not in self.jwt_roles:
            why = f"and this worker signs no token for the role {role}"
            remedy = "Add the role to BACKFILLD_APPLICATION_JWT_ROLES of the workers, restart them, then resume"
        else:
            claims = {"role": role, **persona.claims}
            return tokens.signed(claims, secret=self.jwt_secret.get_secret_value(), now=time.time())
        raise Forbidden(Finding("application_persona", f"the probe {probe.name} asks as {probe.as_}, {why}", remedy))

    def _filled_in(self, probe: Probe, value: JsonValue) -> JsonValue:
        """A body with the values that its texts name."""
        match value:
            case str():
                return self._filled(probe, value)
            case list():
                return [self._filled_in(probe, one) for one in value]
            case dict():
                return {name: self._filled_in(probe, one) for name, one in value.items()}
            case _:
                return value

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
