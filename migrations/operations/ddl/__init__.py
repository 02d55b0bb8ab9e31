"""The DDL that operations are made of: each statement is worded once, with the lock that PostgreSQL takes for it."""
