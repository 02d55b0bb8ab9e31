-- The record of backfilld, in the database it works on, so that a checkpoint commits with the data it describes.
--
-- runs                one execution of a migration: what people ask (wish), and where it is (phase, state)
-- lanes               parts of tables that are processed in order; lane 0 of a run is its coordinator, which does the phases
-- permits             a semaphore: a batch holds one of the first `pace.width` rows for as long as its transaction lasts
-- pace                one row: how hard this database may be worked, and why
-- events              who did what, and every change of state; append only
-- quarantine          rows that cannot be converted, each with its key and its error
-- journal_RUN         what in-place changes replaced, one row for each batch, written in its own transaction
-- archive             what a contract removes, row by row, copied by lanes before it is removed
-- table_…             a table that a run took away whole, under the digest of its name, until its retention ends
-- rollback_conflicts  rows whose value does not fit the old type after a switch, each with its key and its error
-- undo_rows           rows that an undo has left as they are
-- persona_rows        what each persona gains and loses by other policies, counted by lanes before the switch
-- loads               a file that is loaded: how far it is staged, and what was found of it
-- load_lines          lines of it that are set aside, each with its error
-- stage_…             the lines that are to be loaded, under the digest of the migration's name, until they are
-- partitioned_tables  tables whose next partitions a worker makes
-- omitted_inserts     when statements came, at most one a second, that fail once a run has done its contract
-- application_statements  statements of the application that a run looks at: how often each came since the switch, and its plans
-- application_answers what the application's API answered before a run, and at later moments of it
-- notices             what people are notified of, once by each channel; notice_channels and notice_holds say what is news for it
-- backups             what was backed up, where its copies are, and how far each was proved
-- own_sessions        a view: the sessions of ours that work for a run
--
-- Quarantine, load_lines, stages, journals, archive, rollback_conflicts, undo_rows, persona_rows, application_statements and
-- application_answers hold people's data: no grants, row security without a policy, and dropped when their retention ends; statements and
-- answers as soon as their run has ended. Names say the unit, and constraints state the rules.

-- --- runs ---------------------------------------------------------------------------------------------------------------

CREATE TABLE backfilld.runs (
    run                bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name               text NOT NULL,
    checksum           text NOT NULL,                           -- of the file, so that a name means one migration
    definition         jsonb NOT NULL,                          -- the file
    settings           jsonb NOT NULL,                          -- its settings, as `pace` has changed them
    facts              jsonb NOT NULL,                          -- what preflight learned, an element for each operation
    examined_at        timestamptz DEFAULT clock_timestamp(),   -- when it did; NULL: the run begins after others, and is examined then
    phase              text NOT NULL DEFAULT 'expand'
        CHECK (phase IN ('expand', 'backfill', 'verify', 'switch', 'contract', 'done')),
    phase_since        timestamptz NOT NULL DEFAULT clock_timestamp(),
    state              text NOT NULL DEFAULT 'queued'
        CHECK (state IN ('queued', 'running', 'waiting', 'pausing', 'paused', 'cancelling', 'cancelled',
                         'rolling_back', 'rolled_back', 'failed', 'completed')),
    state_since        timestamptz NOT NULL DEFAULT clock_timestamp(),
    wish               text CHECK (wish IN ('pause', 'cancel')),
    approved           text[] NOT NULL DEFAULT '{}',            -- phases that a person has allowed to begin
    pass               integer NOT NULL DEFAULT 1 CHECK (pass >= 1), -- each look at all rows that finds some to do begins another
    rows_total         bigint CHECK (rows_total >= 0),          -- an estimate until verify has counted; NULL: not planned yet
    residual_rows      bigint CHECK (residual_rows >= 0),       -- rows that still needed work at the last look
    verified_at        timestamptz,
    own_values         bigint,                                  -- rows that hold a value of the application's own, at the last look
    structure          jsonb,                                   -- what the proof relies on, as it was then: see structure_now
    space              jsonb,                                   -- sizes of what is walked: {"before": {…}, "after": {…}}, in bytes
    error              jsonb,                                   -- why it failed, or paused by itself
    rollback           jsonb,                                   -- where the way back began: {"phase", "step", "pass"}; {} until the
                                                                -- coordinator has begun it, NULL while the run goes forward
    kept_until         timestamptz,                             -- old values are kept until then; NULL: as long as the run lasts
    purged_at          timestamptz,                             -- old values are gone: there is no way back any more
    requested_by       text NOT NULL,
    created_at         timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_at         timestamptz NOT NULL DEFAULT clock_timestamp(),
    started_at         timestamptz,
    ended_at           timestamptz,
    CONSTRAINT ended_when_it_ended CHECK ((ended_at IS NOT NULL) = (state IN ('cancelled', 'rolled_back', 'completed'))),
    CONSTRAINT completed_only_when_verified CHECK (state <> 'completed' OR (verified_at IS NOT NULL AND phase = 'done')),
    CONSTRAINT a_wish_is_a_state CHECK (wish IS NULL
                                        OR (wish = 'pause' AND state IN ('pausing', 'paused'))
                                        OR (wish = 'cancel' AND state IN ('cancelling', 'cancelled'))),
    CONSTRAINT a_failure_has_an_error CHECK (state <> 'failed' OR error IS NOT NULL),
    CONSTRAINT back_has_a_beginning CHECK (state NOT IN ('rolling_back', 'rolled_back') OR rollback IS NOT NULL)
);

-- A name belongs to one run at a time; it is free again once that has ended.
CREATE UNIQUE INDEX runs_name_in_use ON backfilld.runs (name) WHERE ended_at IS NULL;
CREATE INDEX runs_by_name ON backfilld.runs (name, run);

-- --- lanes --------------------------------------------------------------------------------------------------------------

CREATE TABLE backfilld.lanes (
    run                bigint NOT NULL REFERENCES backfilld.runs ON DELETE CASCADE,
    lane               integer NOT NULL CHECK (lane >= 0),
    kind               text NOT NULL
        CHECK (kind IN ('coordinator', 'backfill', 'verify', 'retry', 'recheck', 'archive', 'restore', 'undo', 'check',
                        'compare', 'confirm', 'drain', 'drain_back', 'match', 'follow')),
    operation          integer CHECK (operation >= 0),          -- its number in the file
    pass               integer NOT NULL DEFAULT 1,
    relation           text,
    bounds             jsonb NOT NULL DEFAULT '{}',             -- what is walked: of keys, of pages, or of a journal
    cursor             jsonb,                                   -- a key, a place among the pages or in the journal, or the coordinator's step
    seq                bigint NOT NULL DEFAULT 0,               -- the fence: a message for another seq is stale
    batch_rows         integer NOT NULL DEFAULT 1000 CHECK (batch_rows >= 1),
    recent             jsonb NOT NULL DEFAULT '[]',             -- rows and seconds of the last batches
    rows_expected      bigint CHECK (rows_expected >= 0),       -- an estimate; what is left is this less rows_walked
    rows_walked        bigint NOT NULL DEFAULT 0,
    rows_changed       bigint NOT NULL DEFAULT 0,
    rows_hot           bigint,                                  -- of rows_changed, those that touched no index; NULL: not counted
    rows_residual      bigint NOT NULL DEFAULT 0,
    rows_own           bigint NOT NULL DEFAULT 0,               -- a verifying lane's: rows with a value of the application's own
    batches_committed  bigint NOT NULL DEFAULT 0,
    batches_retried    bigint NOT NULL DEFAULT 0,
    attempts           integer NOT NULL DEFAULT 0,              -- tries of the next step that failed
    last_error         jsonb,                                   -- of the last of them
    lock_wait          jsonb,                                   -- the coordinator's: since when it tries for a lock, and who is in the way
    next_run_at        timestamptz DEFAULT clock_timestamp(),   -- NULL: sleeps until it is woken
    enqueued_at        timestamptz DEFAULT clock_timestamp(),   -- NULL: no message is on its way
    progressed_at      timestamptz,
    done_at            timestamptz,
    PRIMARY KEY (run, lane),
    CONSTRAINT lane_zero_conducts CHECK ((lane = 0) = (kind = 'coordinator')),
    CONSTRAINT a_walk_has_an_operation CHECK (kind = 'coordinator' OR (operation IS NOT NULL AND relation IS NOT NULL))
) WITH (fillfactor = 50);

CREATE INDEX lanes_open ON backfilld.lanes (run, lane) WHERE done_at IS NULL;

-- Whether a lane of this kind may work while its run is in this state and phase. `may_work` in states.py says the same.
-- Its body is parsed here and not where it is called, whose search_path it would have.
CREATE FUNCTION backfilld.may_work(state text, phase text, kind text) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN
    CASE
        WHEN kind = 'coordinator' THEN state IN ('queued', 'running', 'rolling_back')
        WHEN state IN ('queued', 'running') OR state = 'waiting' AND kind = 'follow' THEN CASE phase
            WHEN 'expand'   THEN kind = 'check'
            WHEN 'backfill' THEN kind IN ('backfill', 'retry', 'drain')
            WHEN 'verify'   THEN kind IN ('verify', 'compare', 'follow')
            WHEN 'switch'   THEN kind IN ('retry', 'confirm', 'drain', 'follow')
            WHEN 'contract' THEN kind IN ('retry', 'recheck', 'archive', 'follow')
            ELSE false END
        WHEN state = 'rolling_back' THEN kind IN ('archive', 'restore', 'undo', 'drain_back', 'match')
        ELSE false
    END;

-- --- pace ---------------------------------------------------------------------------------------------------------------

CREATE TABLE backfilld.permits (
    permit             integer PRIMARY KEY CHECK (permit BETWEEN 1 AND 64)
);
INSERT INTO backfilld.permits SELECT generate_series(1, 64);

CREATE TABLE backfilld.pace (
    only_row           boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    width              integer NOT NULL DEFAULT 2 CHECK (width BETWEEN 0 AND 64),     -- lanes that may work at once
    max_width          integer NOT NULL DEFAULT 8 CHECK (max_width BETWEEN 1 AND 64), -- the same, as a person has set it
    batch_seconds      double precision,                        -- the longest a batch may last; NULL: as long as its run says
    rest               double precision NOT NULL DEFAULT 0 CHECK (rest >= 0), -- seconds of rest for each second of work
    hold_reason        text,                                    -- nothing works until it is NULL
    held_since         timestamptz,
    readings           jsonb NOT NULL DEFAULT '{}',             -- load signals, each with its limits
    memory             jsonb NOT NULL DEFAULT '{}',             -- what one governor leaves to the next
    sampled_at         timestamptz,                             -- a verdict that is too old holds all work
    widened_at         timestamptz,
    stopped_at         timestamptz,                             -- a person has stopped all runs; each keeps its own state
    stopped_by         text,
    CONSTRAINT a_stop_has_somebody_who_asked CHECK ((stopped_at IS NULL) = (stopped_by IS NULL))
) WITH (fillfactor = 50);
INSERT INTO backfilld.pace DEFAULT VALUES;

-- The sessions of ours that work for a run, on the whole server, by their names (migrations/postgres/sessions.py builds them).
-- A role without pg_monitor sees the names of all sessions and the state of its own.
CREATE VIEW backfilld.own_sessions AS
SELECT a.pid, a.application_name AS name,
       n.part[1]::bigint AS run, n.part[2]::integer AS lane, n.part[3]::bigint AS seq, coalesce(n.part[4], 'batch') AS doing,
       a.datid = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database()) AS is_here,
       -- Any role may give its session such a name; this role cannot signal it, and must not count it as its own.
       a.usesysid = quote_ident(current_user)::regrole AS is_mine,
       a.state, a.state_change, a.backend_start, a.xact_start, a.wait_event_type, a.query,
       -- A coordinator's step that has committed and waits for a standby: cancelled, it would be seen before the standby has it.
       a.wait_event = 'SyncRep' AND n.part[2] = '0' AS is_committing
FROM pg_stat_get_activity(NULL) a
CROSS JOIN LATERAL regexp_match(a.application_name, '^backfilld run=(\d{1,18}) lane=(\d{1,9}) seq=(\d{1,18})(?: (python|index))?$') n(part)
-- The first condition is the cheap one: it is asked twenty times a second.
WHERE starts_with(a.application_name, 'backfilld run=') AND n.part IS NOT NULL;

-- --- the audit, and quarantined rows --------------------------------------------------------------------------------------

CREATE TABLE backfilld.events (
    event              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at                 timestamptz NOT NULL DEFAULT clock_timestamp(),
    run                bigint REFERENCES backfilld.runs ON DELETE CASCADE, -- NULL: of the whole database
    actor              text NOT NULL,
    what               text NOT NULL,
    detail             jsonb NOT NULL DEFAULT '{}'
);
CREATE INDEX events_of_run ON backfilld.events (run, event);

-- Written by lanes, and by the application's statements through a sync trigger that cannot compute a value. Not a foreign key: its
-- check would wait for the session that holds the run, and the application with it.
CREATE TABLE backfilld.quarantine (
    quarantine         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    run                bigint NOT NULL,
    operation          integer NOT NULL,
    relation           text NOT NULL,
    key                jsonb NOT NULL,
    sqlstate           text NOT NULL,
    error              text NOT NULL,
    retry              boolean NOT NULL DEFAULT false,
    attempts           integer NOT NULL DEFAULT 1,
    kept               text,                                    -- what a row held that a sync trigger could not compute
    quarantined_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    UNIQUE (run, operation, key)
);

-- --- loads ----------------------------------------------------------------------------------------------------------------
--
-- A stage is a table of its own, made with its run (`loading/stage.py`): a line number and the texts of the fields.

CREATE TABLE backfilld.loads (
    run                bigint NOT NULL REFERENCES backfilld.runs ON DELETE CASCADE,
    operation          integer NOT NULL CHECK (operation >= 0), -- its number in the file
    stage              text NOT NULL,                           -- the name of its stage, in this schema
    source             text NOT NULL,                           -- the file, as the migration names it
    fields             text[] NOT NULL,                         -- as its header names them
    bytes_total        bigint CHECK (bytes_total >= 0),         -- of the source as it lies there
    bytes_read         bigint NOT NULL DEFAULT 0,               -- of these, those that are staged
    read_offset        bigint NOT NULL DEFAULT 0,               -- where the next record begins, in what the source holds unpacked
    digest             text NOT NULL DEFAULT '',                -- SHA-256 of all before that; of an object in a bucket its ETag
    problem            text NOT NULL DEFAULT '',                -- why a worker cannot read it now
    lines              bigint NOT NULL DEFAULT 0,               -- records so far, without the header
    duplicates         bigint NOT NULL DEFAULT 0,               -- lines that do not count, because another has their key
    began_with         xid8,                                    -- rows of a younger transaction were written since the lanes began
    began_at           timestamptz NOT NULL DEFAULT clock_timestamp(),
    staged_at          timestamptz,                             -- when its last record was
    PRIMARY KEY (run, operation)
);

-- Lines that are not loaded. Those that COPY refused have the bytes of their record, all others the texts of their fields.
CREATE TABLE backfilld.load_lines (
    run                bigint NOT NULL,
    operation          integer NOT NULL,
    line               bigint NOT NULL,                         -- the number of the record, the header counted
    byte_offset        bigint,
    record             bytea,
    fields             text[],
    sqlstate           text NOT NULL,
    error              text NOT NULL,
    retry              boolean NOT NULL DEFAULT false,
    attempts           integer NOT NULL DEFAULT 1,
    set_aside_at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (run, operation, line),
    CONSTRAINT a_record_or_its_fields CHECK ((record IS NULL) <> (fields IS NULL))
);

-- What became of the lines of each load. Lanes count in their cursors, so that none waits for another one's count.
CREATE VIEW backfilld.load_counts AS
SELECT l.run, l.operation, l.stage, l.lines, done.inserted, done.updated, done.same,
       (SELECT count(*) FROM backfilld.load_lines s WHERE s.run = l.run AND s.operation = l.operation) AS set_aside, l.duplicates
FROM backfilld.loads l
CROSS JOIN LATERAL (
    SELECT coalesce(sum((n.cursor ->> 'inserted')::bigint), 0)::bigint AS inserted,
           coalesce(sum((n.cursor ->> 'updated')::bigint), 0)::bigint AS updated,
           coalesce(sum((n.cursor ->> 'same')::bigint), 0)::bigint AS same
    FROM backfilld.lanes n
    WHERE n.run = l.run AND n.operation = l.operation AND (n.kind = 'backfill' AND n.pass = 1 OR n.kind = 'retry')) done;

-- The same for a whole run, with how far its sources are staged, and what the check has found of the lines it looked at. NULL for a run
-- that loads nothing.
CREATE FUNCTION backfilld.load_of(run bigint) RETURNS jsonb
LANGUAGE sql STABLE SET search_path = '' AS $$
    SELECT pg_catalog.jsonb_build_object(
               'lines', sum(c.lines), 'inserted', sum(c.inserted), 'updated', sum(c.updated), 'same', sum(c.same),
               'set_aside', sum(c.set_aside), 'duplicates', sum(c.duplicates),
               'bytes_read', sum(l.bytes_read), 'bytes_total', sum(l.bytes_total), 'staged', pg_catalog.bool_and(l.staged_at IS NOT NULL),
               'seconds_left', CASE WHEN sum(l.bytes_read) > 0 AND NOT pg_catalog.bool_and(l.staged_at IS NOT NULL) THEN
                   pg_catalog.ceil(pg_catalog.date_part('epoch', pg_catalog.clock_timestamp() - min(l.began_at))
                                   * (sum(l.bytes_total) - sum(l.bytes_read))::double precision / sum(l.bytes_read)::double precision) END,
               'found', (SELECT pg_catalog.jsonb_build_object(
                             'looked_at', sum((n.cursor ->> 'looked')::bigint), 'new', sum((n.cursor ->> 'new')::bigint),
                             'changed', sum((n.cursor ->> 'changed')::bigint), 'same', sum((n.cursor ->> 'same')::bigint))
                         FROM backfilld.lanes n WHERE n.run = load_of.run AND n.kind = 'check'),
               'reasons', (SELECT pg_catalog.jsonb_object_agg(s.sqlstate, s.lines)
                           FROM (SELECT a.sqlstate, count(*) AS lines FROM backfilld.load_lines a
                                 WHERE a.run = load_of.run GROUP BY a.sqlstate) s))
    FROM backfilld.loads l JOIN backfilld.load_counts c USING (run, operation)
    WHERE l.run = load_of.run HAVING count(*) > 0
$$;

-- --- what a proof relies on --------------------------------------------------------------------------------------------
--
-- Each time that PostgreSQL changes a row of its catalog, that has another xmin: what was dropped and made again, disabled and
-- enabled, renamed and renamed back has left its trace.

-- The columns of a table by these names, and a sync trigger with its function, each with what tells it from another.
CREATE FUNCTION backfilld.structure_now(relation text, columns text[], trigger text) RETURNS jsonb
LANGUAGE sql STABLE SET search_path = '' AS $$
    SELECT coalesce(pg_catalog.jsonb_object_agg(part.what, part.version), '{}')
    FROM (SELECT 'column ' || a.attname AS what, pg_catalog.concat_ws(' ', a.attnum, a.atttypid, a.atttypmod, a.xmin) AS version
          FROM pg_catalog.pg_attribute a
          WHERE a.attrelid = pg_catalog.to_regclass(relation) AND a.attname = ANY (columns) AND a.attnum > 0
          UNION ALL
          SELECT pg_catalog.concat('sync trigger ', t.tgname, ' on ', t.tgrelid::pg_catalog.regclass),
                 pg_catalog.concat_ws(' ', t.tgenabled, t.xmin, p.xmin, pg_catalog.md5(p.prosrc))
          FROM pg_catalog.pg_trigger t JOIN pg_catalog.pg_proc p ON p.oid = t.tgfoid
          WHERE t.tgname = trigger
            AND (t.tgrelid = pg_catalog.to_regclass(relation)
                 OR t.tgrelid IN (SELECT p.relid FROM pg_catalog.pg_partition_tree(pg_catalog.to_regclass(relation)) p))) part
$$;

-- What has changed since the proof of a run: the table, what it is, and whether it is still there. No row: the proof holds.
CREATE FUNCTION backfilld.structure_changes(run bigint) RETURNS TABLE (relation text, what text, gone boolean)
LANGUAGE sql STABLE SET search_path = '' AS $$
    SELECT part.name, changed.what, changed.gone
    FROM backfilld.runs r
    CROSS JOIN LATERAL pg_catalog.jsonb_to_recordset(r.structure) part (name text, relation text, columns text[], trigger text, state jsonb)
    CROSS JOIN LATERAL (SELECT backfilld.structure_now(part.relation, part.columns, part.trigger) AS state) now
    CROSS JOIN LATERAL (
        SELECT 'table' AS what, true AS gone WHERE pg_catalog.to_regclass(part.relation) IS NULL
        UNION ALL
        SELECT coalesce(before.key, after.key), after.key IS NULL
        FROM pg_catalog.jsonb_each_text(part.state) before
        FULL JOIN pg_catalog.jsonb_each_text(now.state) after USING (key)
        WHERE before.value IS DISTINCT FROM after.value AND pg_catalog.to_regclass(part.relation) IS NOT NULL) changed
    WHERE r.run = structure_changes.run
    ORDER BY part.name, changed.what
$$;

-- Whether what a run has proved still holds: nothing that the proof relies on has changed, and no row was put down since. With its
-- owner's rights, so that a role which may read `runs` and not the quarantine is told that much.
CREATE FUNCTION backfilld.proof_holds(run bigint) RETURNS boolean
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = '' AS $$
    SELECT NOT EXISTS (SELECT FROM backfilld.quarantine q WHERE q.run = proof_holds.run)
       AND NOT EXISTS (SELECT FROM backfilld.structure_changes(proof_holds.run))
$$;

-- Of these migrations (a JSON list of names), those whose newest run is not verified and usable, as `gate` asks it; each with its
-- run's state and phase, or NULL where it has no run.
CREATE FUNCTION backfilld.awaited(names jsonb) RETURNS jsonb
LANGUAGE sql STABLE SET search_path = '' AS $$
    SELECT coalesce(pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object('name', n.name, 'state', r.state, 'phase', r.phase)
                                         ORDER BY n.place), '[]')
    FROM pg_catalog.jsonb_array_elements_text(names) WITH ORDINALITY n (name, place)
    LEFT JOIN LATERAL (SELECT o.run, o.state, o.phase, o.verified_at, o.ended_at
                       FROM backfilld.runs o WHERE o.name = n.name ORDER BY o.run DESC LIMIT 1) r ON true
    WHERE r.run IS NULL
       OR r.state IN ('failed', 'cancelling', 'cancelled', 'rolling_back', 'rolled_back')
       OR r.phase NOT IN ('contract', 'done')
       OR r.verified_at IS NULL
       OR (r.ended_at IS NULL AND NOT backfilld.proof_holds(r.run))
$$;

-- --- what batches ask -------------------------------------------------------------------------------------------------
--
-- A batch sends its statements without preparing them, as a pooler may have it on another session next time; in a function the plan
-- is kept by whichever session it is.

-- What code of a table's own an UPDATE of some columns runs: triggers, keys that change with it, functions that a rule calls.
-- With a plan for any table from the first call: by itself PostgreSQL makes one for the table at each of a session's first five.
CREATE FUNCTION backfilld.table_code("table" text, relation text, columns text[])
RETURNS TABLE (fires boolean, by_parent boolean, may_change text[]) LANGUAGE plpgsql STABLE
SET search_path = '' SET plan_cache_mode = 'force_generic_plan' AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    /* query: table_code(table, relation, columns) */;
END
$$;

-- --- the way back -------------------------------------------------------------------------------------------------------
--
-- The journal of a run is a table of its own, `journal_RUN`, made with its lanes: its columns are arrays of the types that the run
-- writes (`rollback/journal.py`).
--
-- So is the archive, `archive_RUN`: what a contract removes, as the texts that PostgreSQL writes and reads (`rollback/archive.py`).

-- Written by the application's statements, through a sync trigger. Not a foreign key: its check would wait for the session that
-- holds the run, and the application with it.
CREATE TABLE backfilld.rollback_conflicts (
    run                bigint NOT NULL,
    operation          integer NOT NULL,
    key                text[] NOT NULL,
    sqlstate           text NOT NULL,
    error              text NOT NULL,
    seen_at            timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (run, operation, key)
);

-- Written by the application's statements, through a sync trigger, at most about once a second: an INSERT gave no value for a column
-- that takes one from the trigger until contract, and fails for it afterwards; or a statement wrote the old name of a rename. No unique index, so that no statement waits for
-- another one; no foreign key, as above. Without a key of its own it needs a replica identity: a publication of all tables would
-- otherwise refuse to let old rows go.
CREATE TABLE backfilld.omitted_inserts (
    run                bigint NOT NULL,
    operation          integer NOT NULL,
    seen_at            timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX omitted_inserts_latest ON backfilld.omitted_inserts (run, operation, seen_at);
ALTER TABLE backfilld.omitted_inserts REPLICA IDENTITY FULL;

-- Rows that an undo has left as they are, because they were written or removed since; and, `restored`, those that it gave a value
-- back and that may be in an older batch of the journal as well.
CREATE TABLE backfilld.undo_rows (
    run                bigint NOT NULL,
    operation          integer NOT NULL,
    key                text[] COLLATE "C" NOT NULL,
    restored           boolean NOT NULL,
    PRIMARY KEY (run, operation, key)
);

-- What each persona may do with the rows that a lane has looked at, by the policies before a phase and after it; keys of rows that it
-- gains or loses, a few of each.
CREATE TABLE backfilld.persona_rows (
    run                bigint NOT NULL,
    operation          integer NOT NULL,
    lane               integer NOT NULL,
    phase              text NOT NULL CHECK (phase IN ('switch', 'contract')),
    relation           text NOT NULL,                           -- the table, or another whose policies read it
    persona            text NOT NULL,
    command            text NOT NULL,
    rows_now           bigint NOT NULL,
    rows_then          bigint NOT NULL,
    gained             bigint NOT NULL,
    lost               bigint NOT NULL,
    gained_keys        jsonb NOT NULL,
    lost_keys          jsonb NOT NULL,
    error_now          text,                                    -- what a statement fails with that is asked about these rows
    error_then         text,
    PRIMARY KEY (run, operation, phase, relation, persona, command, lane)
) WITH (fillfactor = 50);

-- Statements of the application, of a run whose file has `application`: their texts may hold constants, which are people's data. A row is
-- written by looks at pg_stat_statements; not a foreign key, as above.
CREATE TABLE backfilld.application_statements (
    run                bigint NOT NULL,
    digest             text NOT NULL,                           -- of the text and the queryid
    statement          text NOT NULL,
    source             text NOT NULL,
    queryid            bigint,                                  -- as pg_stat_statements has it; NULL: of a file
    identifier         bigint,                                  -- what PostgreSQL made of the text right before the switch
    roles              text[] NOT NULL,
    calls              bigint,                                  -- at the last look; NULL: nothing counts it
    calls_since        bigint NOT NULL DEFAULT 0,               -- since the first look after the switch
    came_at            timestamptz,                             -- the last look that found it had come since the one before
    plans              jsonb NOT NULL DEFAULT '{}',             -- on the real tables, by moment: before, after_switch, before_contract
    PRIMARY KEY (run, digest)
);

-- What the application's API answered at a moment of a run: bodies hold people's data. A row is written by the worker that asked; not a
-- foreign key, as above.
CREATE TABLE backfilld.application_answers (
    run                bigint NOT NULL,
    probe              text NOT NULL,                           -- its name in the migration file
    moment             text NOT NULL CHECK (moment IN ('before', 'after_switch', 'before_contract', 'after_contract')),
    answer             jsonb NOT NULL,                          -- status, body, milliseconds, and what differs by itself
    at                 timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (run, probe, moment)
);

-- A table that holds people's data is its owner's alone: default privileges may have granted something.
CREATE FUNCTION backfilld.hide(relation regclass) RETURNS void
LANGUAGE plpgsql SET search_path = '' AS $$
DECLARE
    grantee text;
BEGIN
    EXECUTE pg_catalog.format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', relation);
    FOR grantee IN
        SELECT DISTINCT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_catalog.quote_ident(r.rolname) END
        FROM pg_catalog.pg_class c CROSS JOIN LATERAL pg_catalog.aclexplode(c.relacl) a
        LEFT JOIN pg_catalog.pg_roles r ON r.oid = a.grantee
        WHERE c.oid = relation AND a.grantee <> c.relowner
    LOOP
        EXECUTE pg_catalog.format('REVOKE ALL ON %s FROM %s', relation, grantee);
    END LOOP;
END
$$;

-- What the archive of a run holds, row by row: the key, the value that was removed, and the one that had replaced it at the same moment
-- (NULL: nothing did). For people; the lanes read it in its own form.
CREATE FUNCTION backfilld.archived(run bigint) RETURNS TABLE (operation integer, key text[], old text, new text)
LANGUAGE plpgsql STABLE SET search_path = '' AS $$
DECLARE
    archive regclass := pg_catalog.to_regclass('backfilld.archive_' || run);
    one record;
BEGIN
    FOR one IN
        SELECT pg_catalog.substr(a.attname, 5) AS number,
               (SELECT pg_catalog.string_agg(pg_catalog.quote_ident(k.attname), ', ' ORDER BY k.attnum) FROM pg_catalog.pg_attribute k
                WHERE k.attrelid = archive AND k.attname ~ ('^key_' || pg_catalog.substr(a.attname, 5) || '_')) AS arrays,
               (SELECT pg_catalog.string_agg('k' || k.attnum, ', ' ORDER BY k.attnum) FROM pg_catalog.pg_attribute k
                WHERE k.attrelid = archive AND k.attname ~ ('^key_' || pg_catalog.substr(a.attname, 5) || '_')) AS names
        FROM pg_catalog.pg_attribute a WHERE a.attrelid = archive AND a.attname ~ '^old_[0-9]+$' AND NOT a.attisdropped
        ORDER BY a.attnum
    LOOP
        RETURN QUERY EXECUTE pg_catalog.format(
            'SELECT DISTINCT ON (%2$s) %1$s, ARRAY[%4$s]::text[], old_value, new_value '
            'FROM %5$s a CROSS JOIN LATERAL unnest(%3$s, old_%1$s, new_%1$s) AS one (%2$s, old_value, new_value) '
            'WHERE a.operation = %1$s ORDER BY %2$s, a.entry DESC',
            one.number, one.names, one.arrays,
            (SELECT pg_catalog.string_agg(n || '::text', ', ') FROM pg_catalog.unnest(pg_catalog.string_to_array(one.names, ', ')) n),
            archive);
    END LOOP;
END
$$;

-- --- notifications ------------------------------------------------------------------------------------------------------
--
-- `since` and `ordinal` name what is told within a run: since when it is in its state, and the number of the reminder. The unique
-- key is what makes it once, however many workers look. No foreign key to the run: its check would wait for the session that
-- holds the run. No values of rows are in `facts`.

-- Since when a channel is known: what was there before is no news for it.
CREATE TABLE backfilld.notice_channels (
    channel            text PRIMARY KEY,
    since              timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- Runs that are held, as each channel sees it: a hold that is released for moments is one hold.
CREATE TABLE backfilld.notice_holds (
    channel            text NOT NULL,
    run                bigint NOT NULL,
    since              timestamptz NOT NULL,
    seen_at            timestamptz NOT NULL DEFAULT clock_timestamp(),
    told_at            timestamptz,
    PRIMARY KEY (channel, run)
) WITH (fillfactor = 50);

CREATE TABLE backfilld.notices (
    notice             bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    delivery           uuid NOT NULL DEFAULT gen_random_uuid(), -- what a receiver knows a repeated delivery by
    channel            text NOT NULL,
    run                bigint NOT NULL,
    about              text NOT NULL CHECK (about IN ('approval', 'failed', 'held', 'completed', 'rolled_back', 'paused',
                                                      'cancelled', 'quarantine')),
    since              timestamptz NOT NULL,
    ordinal            integer NOT NULL DEFAULT 0 CHECK (ordinal >= 0),
    facts              jsonb NOT NULL,
    created_at         timestamptz NOT NULL DEFAULT clock_timestamp(),
    attempts           integer NOT NULL DEFAULT 0,
    next_try_at        timestamptz NOT NULL DEFAULT clock_timestamp(), -- of one that is being sent: when it counts as not sent
    delivered_at       timestamptz,
    failed_at          timestamptz,
    last_error         text,
    UNIQUE (channel, run, about, since, ordinal),
    CONSTRAINT delivered_or_failed CHECK (delivered_at IS NULL OR failed_at IS NULL)
) WITH (fillfactor = 70);

CREATE INDEX notices_pending ON backfilld.notices (channel, next_try_at) WHERE delivered_at IS NULL AND failed_at IS NULL;

-- --- backups ------------------------------------------------------------------------------------------------------------
--
-- Evidence, never a password or a row. Beside each copy lies a manifest that says the same, for the day on which this database is
-- lost. Not a foreign key to the run: its check would wait for the session that holds the run.
CREATE TABLE backfilld.backups (
    backup             bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    label              text NOT NULL UNIQUE,                    -- what the keys of its objects begin with
    run                bigint,                                  -- before which it was taken; NULL: by the clock or for a person
    provider           text NOT NULL,
    kind               text NOT NULL CHECK (kind IN ('logical', 'full', 'incremental', 'external')),
    parent             bigint REFERENCES backfilld.backups,     -- what an incremental one is based on
    state              text NOT NULL DEFAULT 'taking' CHECK (state IN ('taking', 'taken', 'failed', 'expired')),
    scope              text NOT NULL CHECK (scope IN ('tables', 'all')),
    tables             jsonb NOT NULL DEFAULT '[]',             -- of its snapshot: [{"table", "bytes", "rows", "checksum"}, …]
    requested_by       text NOT NULL,
    details            jsonb NOT NULL DEFAULT '{}',             -- the provider's own: the database, its encoding
    tool_version       text,
    server_version     integer,
    system_identifier  text,
    timeline           integer,
    lsn_start          pg_lsn,                                  -- of the snapshot
    lsn_stop           pg_lsn,                                  -- once it was taken
    snapshot_at        timestamptz,
    restore_point      text,                                    -- made after it was taken, where the role may make one
    restore_point_lsn  pg_lsn,
    bytes              bigint NOT NULL DEFAULT 0,               -- of one copy, so far
    objects            jsonb NOT NULL DEFAULT '[]',             -- [{"name", "bytes", "sha256"}, …]
    copies             jsonb NOT NULL DEFAULT '[]',             -- [{"store", "region"}, …]; empty once they are removed
    began_at           timestamptz NOT NULL DEFAULT clock_timestamp(),
    taken_at           timestamptz,
    verified_at        timestamptz,                             -- every copy was read back and is what was written
    proved_at          timestamptz,                             -- it was restored elsewhere, and the rows are the same
    proof              jsonb,                                   -- {"seconds", "tables": [{"table", "rows", "checksum"}, …], "warnings"}
    expires_at         timestamptz,                             -- NULL: when its chain does
    error              text,
    CONSTRAINT in_this_order CHECK ((verified_at IS NULL OR taken_at IS NOT NULL) AND (proved_at IS NULL OR verified_at IS NOT NULL)),
    CONSTRAINT taken_when_it_was CHECK (state <> 'taken' OR taken_at IS NOT NULL),
    CONSTRAINT a_failed_one_says_why CHECK ((state = 'failed') = (error IS NOT NULL))
);
CREATE INDEX backups_of_run ON backfilld.backups (run, backup) WHERE run IS NOT NULL;

-- --- partitions ---------------------------------------------------------------------------------------------------------
--
-- Tables that a run has cut by ranges: a worker makes the next partitions, until a person ends it (`backfilld partitions TABLE --end`).
-- It outlives the run. By the name of the table: a number would not survive a restored dump.
CREATE TABLE backfilld.partitioned_tables (
    relation           text PRIMARY KEY,                        -- as PostgreSQL writes it, with its schema
    run                bigint NOT NULL,                         -- that made it
    partition_by       jsonb NOT NULL,                          -- as its file had it
    since              timestamptz NOT NULL DEFAULT clock_timestamp(),
    looked_at          timestamptz,
    partitions_ahead   integer,                                 -- whole ones beyond the present one; NULL: not known
    reaches            text,                                    -- where the last of them ends
    has_strays         boolean,                                 -- rows are in the default partition
    problem            text                                     -- why the next one could not be made
) WITH (fillfactor = 50);

-- --- the workers --------------------------------------------------------------------------------------------------------

-- Who works here, as each of them says every few seconds; for those who ask why nothing moves. No step depends on it.
CREATE TABLE backfilld.workers (
    worker             text PRIMARY KEY,                        -- host:process
    started_at         timestamptz NOT NULL DEFAULT clock_timestamp(),
    seen_at            timestamptz NOT NULL DEFAULT clock_timestamp(),
    works              boolean NOT NULL,                        -- a process of it takes work
    problem            text,                                    -- what keeps it from working, or a part of it
    transforms         text[] NOT NULL                          -- modules that Python functions may come from
) WITH (fillfactor = 50);

-- --- rights -------------------------------------------------------------------------------------------------------------

ALTER TABLE backfilld.quarantine ENABLE ROW LEVEL SECURITY;
ALTER TABLE backfilld.load_lines ENABLE ROW LEVEL SECURITY;
ALTER TABLE backfilld.undo_rows ENABLE ROW LEVEL SECURITY;
ALTER TABLE backfilld.application_statements ENABLE ROW LEVEL SECURITY;
ALTER TABLE backfilld.application_answers ENABLE ROW LEVEL SECURITY;
ALTER TABLE backfilld.rollback_conflicts ENABLE ROW LEVEL SECURITY;
ALTER TABLE backfilld.omitted_inserts ENABLE ROW LEVEL SECURITY;
ALTER TABLE backfilld.persona_rows ENABLE ROW LEVEL SECURITY;
REVOKE ALL ON ALL TABLES IN SCHEMA backfilld FROM PUBLIC;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA backfilld FROM PUBLIC;
REVOKE ALL ON SCHEMA backfilld FROM PUBLIC;
-- Who was given the schema and `runs` to read may ask whether a run is verified.
GRANT EXECUTE ON FUNCTION backfilld.proof_holds, backfilld.structure_changes, backfilld.structure_now TO PUBLIC;
