"""Grafana dashboards, as code. Nothing of the product imports this: what it needs is installed for development only."""
