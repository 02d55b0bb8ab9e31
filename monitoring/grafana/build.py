"""Writes the dashboards: `python -m backfilld.monitoring.grafana.build`; with `--check` it only says whether they are up to date."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from backfilld.monitoring.grafana import fleet, governor, run, runs
from backfilld.monitoring.grafana.layout import dashboard

FOLDER = Path(__file__).with_name("dashboards")


def built() -> dict[Path, str]:
    """What each file has to hold. Keys are sorted, so that a change of the SDK does not move lines about."""
    return {
        FOLDER / f"{page.uid.removeprefix('backfilld-')}.json": json.dumps(
            dashboard(page), cls=JSONEncoder, indent=2, sort_keys=True, ensure_ascii=False
        )
        + "\n"
        for page in (runs.PAGE, run.PAGE, governor.PAGE, fleet.PAGE)
    }


def main(arguments: list[str]) -> int:
    """Write, or with `--check` compare: 1 when a file differs, 2 for anything else that was asked."""
    if arguments not in ([], ["--check"]):
        sys.stderr.write("usage: python -m backfilld.monitoring.grafana.build [--check]\n")
        return 2
    texts = built()
    wrong = [path for path, text in texts.items() if not path.is_file() or path.read_text(encoding="utf-8") != text]
    wrong += sorted(set(FOLDER.glob("*.json")) - set(texts))
    for path in wrong:
        sys.stdout.write(f"{path.relative_to(FOLDER.parent)}\n")
        if not arguments and path in texts:
            path.write_text(texts[path], encoding="utf-8")
        elif not arguments:
            path.unlink()
    if arguments and wrong:
        sys.stderr.write("These differ from the code: python -m backfilld.monitoring.grafana.build\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
