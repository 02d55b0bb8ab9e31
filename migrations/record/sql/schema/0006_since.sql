-- Since when a run is in its state and in its phase: what is slow and what waits for a person is told by it.

ALTER TABLE backfilld.runs
    ADD COLUMN state_since timestamptz NOT NULL DEFAULT clock_timestamp(),
    ADD COLUMN phase_since timestamptz NOT NULL DEFAULT clock_timestamp();

-- The best that is known of runs that are there already.
UPDATE backfilld.runs SET state_since = updated_at, phase_since = updated_at;
