-- The way back: runs that take back what they did, and what is kept so that they can.
--
-- journal    what in-place changes replaced, row by row, written in the batch's own transaction; a partition for each run
-- archive    what a contract removes, row by row, copied by lanes before it is removed; a partition for each run
-- rollback_conflicts    rows whose value does not fit the old type after a switch, each with its key and its error
--
-- Values are kept as the texts that PostgreSQL writes and reads. They are personal data: no grants, row security without a
-- policy, and dropped with their partition when `kept_until` is over (`backfilld purge`).
--
-- Lanes name the partition of their run and never the parent, so that dropping one run's partition, which locks the parent for
-- a moment, finds nobody there. `run` comes last in the keys for the same reason: a partition holds one run only.

-- Where a rollback began: {"phase": …, "step": …, "pass": …}; {} until the coordinator has taken it up, NULL while the run goes forward.
ALTER TABLE backfilld.runs
    ADD COLUMN rollback   jsonb,
    ADD COLUMN kept_until timestamptz, -- old values are kept until then; NULL: as long as the run lasts
    ADD COLUMN purged_at  timestamptz, -- old values are gone: there is no way back any more
    ADD CONSTRAINT back_has_a_beginning CHECK (state NOT IN ('rolling_back', 'rolled_back') OR rollback IS NOT NULL);

ALTER TABLE backfilld.lanes
    DROP CONSTRAINT lanes_kind_check,
    ADD CONSTRAINT lanes_kind_check
        CHECK (kind IN ('coordinator', 'backfill', 'verify', 'retry', 'archive', 'restore', 'undo'));

-- Whether a lane of this kind may work while its run is in this state and phase.
CREATE FUNCTION backfilld.may_work(state text, phase text, kind text) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE
        WHEN kind = 'coordinator' THEN state IN ('queued', 'running', 'rolling_back')
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
    key        text[] COLLATE "C" NOT NULL,
    old        text[] NOT NULL, -- of the columns in the order of the operation's targets
    new        text[] NOT NULL,
    PRIMARY KEY (operation, key, run)
) PARTITION BY LIST (run);

CREATE TABLE backfilld.archive (
    run        bigint NOT NULL,
    operation  integer NOT NULL,
    key        text[] COLLATE "C" NOT NULL,
    old        text, -- the value that is removed
    new        text, -- the value that replaced it, as it was at the same moment; NULL where nothing did
    PRIMARY KEY (operation, key, run)
) PARTITION BY LIST (run);

-- Written by the application's statements, through a sync trigger. Not a foreign key: its check would wait for whoever holds
-- the run, and the application with it.
CREATE TABLE backfilld.rollback_conflicts (
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
ALTER TABLE backfilld.rollback_conflicts ENABLE ROW LEVEL SECURITY;
REVOKE ALL ON backfilld.journal, backfilld.archive, backfilld.rollback_conflicts FROM PUBLIC;
REVOKE ALL ON FUNCTION backfilld.may_work(text, text, text) FROM PUBLIC;

-- The partition of a run, made once: `what` is journal or archive. A table of its own that is then attached takes only a SHARE
-- UPDATE EXCLUSIVE lock on the parent, which stops nobody who reads or writes.
CREATE FUNCTION backfilld.make_partition(what text, run bigint) RETURNS void
LANGUAGE plpgsql SET search_path = '' AS $$
DECLARE
    name text := what || '_' || run;
    grantee text;
BEGIN
    IF pg_catalog.to_regclass('backfilld.' || name) IS NOT NULL THEN
        RETURN;
    END IF;
    EXECUTE pg_catalog.format('CREATE TABLE backfilld.%I (LIKE backfilld.%I INCLUDING ALL, CHECK (run = %s))', name, what, run);
    EXECUTE pg_catalog.format('ALTER TABLE backfilld.%I ENABLE ROW LEVEL SECURITY', name);
    -- Default privileges may have granted something.
    FOR grantee IN
        SELECT DISTINCT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_catalog.quote_ident(r.rolname) END
        FROM pg_catalog.pg_class c CROSS JOIN LATERAL pg_catalog.aclexplode(c.relacl) a
        LEFT JOIN pg_catalog.pg_roles r ON r.oid = a.grantee
        WHERE c.oid = ('backfilld.' || name)::pg_catalog.regclass AND a.grantee <> c.relowner
    LOOP
        EXECUTE pg_catalog.format('REVOKE ALL ON backfilld.%I FROM %s', name, grantee);
    END LOOP;
    EXECUTE pg_catalog.format('ALTER TABLE backfilld.%I ATTACH PARTITION backfilld.%I FOR VALUES IN (%s)', what, name, run);
END
$$;
REVOKE ALL ON FUNCTION backfilld.make_partition(text, bigint) FROM PUBLIC;

-- Runs that are on their way have not written down what they replaced so far, and half a journal would promise too much.
UPDATE backfilld.runs SET settings = settings || '{"journal": false}' WHERE ended_at IS NULL AND phase <> 'expand';
