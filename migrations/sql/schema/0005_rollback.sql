-- The way back: runs that take back what they did, and what is kept so that they can.
--
-- journal    what in-place changes replaced, row by row, written in the batch's own transaction; a partition for each run
-- archive    what a contract removes, row by row, copied by lanes before it is removed; a partition for each run
-- misfits    rows whose value does not fit the old type after a switch, each with its key and its error
--
-- Values are kept as the texts that PostgreSQL writes and reads. They are personal data: no grants, row security without a
-- policy, and dropped with their partition when `kept_until` is over (`backfilld purge`).

-- Where a rollback began: {"phase": …, "step": …, "pass": …}; {} until the conductor has taken it up, NULL while the run goes forward.
ALTER TABLE backfilld.runs
    ADD COLUMN rollback   jsonb,
    ADD COLUMN kept_until timestamptz, -- old values are kept until then; NULL: as long as the run lasts
    ADD COLUMN purged_at  timestamptz, -- old values are gone: there is no way back any more
    ADD CONSTRAINT back_has_a_beginning CHECK (state NOT IN ('rolling_back', 'rolled_back') OR rollback IS NOT NULL);

ALTER TABLE backfilld.lanes
    DROP CONSTRAINT lanes_kind_check,
    ADD CONSTRAINT lanes_kind_check
        CHECK (kind IN ('conductor', 'backfill', 'verify', 'retry', 'archive', 'restore', 'undo'));

-- Whether a lane of this kind may work while its run is in this state and phase.
CREATE FUNCTION backfilld.may_work(state text, phase text, kind text) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE
        WHEN kind = 'conductor' THEN state IN ('queued', 'running', 'rolling_back')
        WHEN state IN ('queued', 'running') THEN CASE phase
            WHEN 'backfill' THEN kind IN ('backfill', 'retry')
            WHEN 'verify'   THEN kind = 'verify'
            WHEN 'contract' THEN kind = 'archive'
            ELSE false END
        WHEN state = 'rolling_back' THEN kind IN ('archive', 'restore', 'undo')
        ELSE false END
$$;

CREATE TABLE backfilld.journal (
    run        bigint NOT NULL,
    operation  integer NOT NULL,
    key        text[] NOT NULL,
    old        text[] NOT NULL,
    new        text[] NOT NULL,
    PRIMARY KEY (run, operation, key)
) PARTITION BY LIST (run);

CREATE TABLE backfilld.archive (
    run        bigint NOT NULL,
    operation  integer NOT NULL,
    key        text[] NOT NULL,
    old        text, -- the value that is removed
    new        text, -- the value that replaced it, as it was at the same moment; NULL where nothing did
    PRIMARY KEY (run, operation, key)
) PARTITION BY LIST (run);

-- Written by the application's statements, through a sync trigger. Not a foreign key: its check would wait for whoever holds
-- the run, and the application with it.
CREATE TABLE backfilld.misfits (
    run        bigint NOT NULL,
    operation  integer NOT NULL,
    key        text[] NOT NULL,
    sqlstate   text NOT NULL,
    error      text NOT NULL,
    seen_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (run, operation, key)
);

ALTER TABLE backfilld.journal ENABLE ROW LEVEL SECURITY;
ALTER TABLE backfilld.archive ENABLE ROW LEVEL SECURITY;
ALTER TABLE backfilld.misfits ENABLE ROW LEVEL SECURITY;
REVOKE ALL ON backfilld.journal, backfilld.archive, backfilld.misfits FROM PUBLIC;
REVOKE ALL ON FUNCTION backfilld.may_work(text, text, text) FROM PUBLIC;
