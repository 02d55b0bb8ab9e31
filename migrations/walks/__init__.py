"""How a lane moves through a table, and how far it goes at a time."""
