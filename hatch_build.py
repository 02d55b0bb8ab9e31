"""The description and the links of a wheel, for the page of an index: there a link relative to the repository leads nowhere.

`BACKFILLD_PROJECT_URL` says at build time where the repository is; without it the description keeps the words of its links alone.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from hatchling.metadata.plugin.interface import MetadataHookInterface

#: A link or a picture, to what is no address of its own.
_RELATIVE = re.compile(r"(?P<picture>!?)\[(?P<words>[^\]]*)\]\((?!https?://|#|mailto:)(?P<path>[^)\s]+)\)")


class Description(MetadataHookInterface):
    """Reads the README for the wheel's metadata."""

    def update(self, metadata: dict[str, object]) -> None:
        """Set `readme`, and `urls` where the address is known."""
        url = os.environ.get("BACKFILLD_PROJECT_URL", "").rstrip("/")
        text = Path(self.root, "README.md").read_text(encoding="utf-8")
        metadata["readme"] = {"content-type": "text/markdown", "text": absolute(text, url)}
        metadata["urls"] = urls(url)


def urls(url: str) -> dict[str, str]:
    """The project's links, where its address is known."""
    if not url:
        return {}
    return {
        "Source": url,
        "Documentation": f"{url}/blob/main/docs/install.md",
        "Changelog": f"{url}/blob/main/CHANGELOG.md",
    }


def absolute(text: str, url: str) -> str:
    """Markdown whose relative links lead to the repository; without its address to nowhere: their words stay, pictures go."""

    def replaced(found: re.Match[str]) -> str:
        if not url:
            return "" if found["picture"] else found["words"]
        place = "raw" if found["picture"] else "blob"
        return f"{found['picture']}[{found['words']}]({url}/{place}/main/{found['path']})"

    return _RELATIVE.sub(replaced, text)
