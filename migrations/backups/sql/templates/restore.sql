-- name: missing
-- The keys of saved rows that the table does not have any more, numbered.
INSERT INTO {missing} (number, {keys})
SELECT row_number() OVER (), {saved_keys} FROM {saved} AS backfilld_saved
WHERE NOT EXISTS (SELECT FROM {table} AS now WHERE ({now_keys}) = ({saved_keys}))

-- name: different
-- How many saved rows have another value in the table now, and how many rows of the table were not saved.
SELECT (SELECT count(*) FROM {saved} AS backfilld_saved JOIN {table} AS now ON ({now_keys}) = ({saved_keys})
        WHERE ROW({saved_columns})::text <> ROW({now_columns})::text) AS different,
       (SELECT count(*) FROM {table} AS now
        WHERE NOT EXISTS (SELECT FROM {saved} AS backfilld_saved WHERE ({now_keys}) = ({saved_keys}))) AS added

-- name: insert
-- Some of the saved rows that are missing, put back; one that is there again stays as it is. Triggers of the table see what they see in
-- a batch: the settings that a new session of this role has.
WITH own AS MATERIALIZED (
    SELECT count(pg_catalog.set_config(s.name, s.reset_val, true)) AS settings FROM pg_catalog.pg_settings s
    WHERE s.name IN ('search_path', 'TimeZone', 'DateStyle', 'IntervalStyle', 'extra_float_digits')
)
INSERT INTO {table} ({columns}) OVERRIDING SYSTEM VALUE
SELECT {saved_columns} FROM own JOIN {missing} AS missing ON own.settings > 0
JOIN {saved} AS backfilld_saved ON ({missing_keys}) = ({saved_keys})
WHERE missing.number BETWEEN {first} AND {last}
ON CONFLICT DO NOTHING

-- name: delete
-- Taking that back: those of them that nobody has changed since. Texts are compared before the settings are those of triggers.
WITH same AS MATERIALIZED (
    SELECT {now_keys} FROM {table} AS now, {saved} AS backfilld_saved, {missing} AS missing
    WHERE ({missing_keys}) = ({saved_keys}) AND ({now_keys}) = ({saved_keys}) AND missing.number BETWEEN {first} AND {last}
      AND ROW({saved_columns})::text = ROW({now_columns})::text
    FOR UPDATE OF now
), own AS MATERIALIZED (
    SELECT count(pg_catalog.set_config(s.name, s.reset_val, true)) AS settings FROM pg_catalog.pg_settings s
    WHERE s.name IN ('search_path', 'TimeZone', 'DateStyle', 'IntervalStyle', 'extra_float_digits')
      AND (SELECT count(*) FROM same) > 0
)
DELETE FROM {table} AS now USING own, same WHERE own.settings > 0 AND ({now_keys}) = ({same_keys})

-- name: saved_value
-- The saved value of a column, for the row at hand.
(SELECT {saved_column} FROM {saved} AS backfilld_saved WHERE ({saved_keys}) = ({own_keys}))

-- name: is_wrong
-- Whether the row at hand has another value than the saved one.
EXISTS (SELECT FROM {saved} AS backfilld_saved WHERE ({saved_keys}) = ({own_keys}) AND ROW({saved_columns})::text <> ROW({own_columns})::text)
