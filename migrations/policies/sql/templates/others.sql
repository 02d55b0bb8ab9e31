-- name: readable
-- The table, whoever asks: the view reads it with our rights, and an index serves what is asked of it.
CREATE TEMPORARY VIEW backfilld_readable AS SELECT {columns} FROM {table} AS {name}

-- name: seen
-- What a persona will see of the table; runs with the rights of whoever asks.
CREATE FUNCTION pg_temp.{name}() RETURNS SETOF pg_temp.backfilld_readable LANGUAGE sql STABLE
BEGIN ATOMIC SELECT {columns} FROM pg_temp.backfilld_readable AS {name} WHERE {rule}; END
