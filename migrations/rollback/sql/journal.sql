-- name: join_by_key
-- Without ANALYZE the planner knows nothing about a journal: taken for a large one, a batch of it would be joined to the whole table.
SELECT set_config('enable_hashjoin', 'off', true), set_config('enable_mergejoin', 'off', true)

-- name: key_of
-- The key of a row, as texts, from the key of its entry in the journal.
SELECT %(key)s::text[] AS key
