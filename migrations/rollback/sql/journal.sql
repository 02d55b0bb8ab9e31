-- name: key_of
-- The key of a row, as texts, from the key of its entry in the journal.
SELECT %(key)s::text[] AS key
