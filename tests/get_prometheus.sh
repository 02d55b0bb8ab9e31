#!/usr/bin/env bash
# Brings Debian's Prometheus, promtool, Alertmanager and amtool into a folder, without installing or starting anything.
# The tests of dashboards and alerts look for them there, and on the PATH: tests/fix_prometheus.py
set -euo pipefail
folder=${1:?a folder for the programs, such as .venv/prometheus}

if command -v prometheus promtool prometheus-alertmanager amtool >/dev/null || [ -x "$folder/bin/amtool" ]; then
    exit 0
fi
if ! command -v apt-get dpkg-deb >/dev/null; then
    echo "No apt here. Install prometheus, promtool, alertmanager and amtool 0.25 or newer, and put them on the PATH." >&2
    exit 1
fi
packages=(prometheus prometheus-alertmanager)
if ! apt-cache show "${packages[@]}" >/dev/null 2>&1; then
    apt-get update --quiet --quiet # only root may; on a machine of one's own the lists are there
fi
unpacked=$(mktemp -d)
trap 'rm -rf "$unpacked"' EXIT
chmod 755 "$unpacked" # apt downloads as a user of its own
(cd "$unpacked" && apt-get download --quiet --quiet "${packages[@]}")
for package in "$unpacked"/*.deb; do
    dpkg-deb --extract "$package" "$unpacked/tree"
done
rm -rf "$folder"
mkdir -p "$folder"
mv "$unpacked/tree/usr/bin" "$folder/bin"
