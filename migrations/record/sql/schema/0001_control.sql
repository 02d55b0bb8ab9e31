-- The record of backfilld, in the database it works on, so that a checkpoint commits with the data it describes.
--
-- runs        one execution of a migration; holds what people ask (wish) and where it stands (phase, state)
-- lanes       slices of tables that are walked in order; lane 0 of a run is its coordinator, which does the phases
-- permits     a semaphore: a batch holds one of the first `pace.width` rows for as long as its transaction lasts
-- pace        one row: how hard this database may be worked, and why
-- events      who did what, and every change of state; append only
-- quarantine  rows that cannot be converted, each with its key and its error (personal data: no grants, RLS without policy)

CREATE TABLE backfilld.runs (
    run                bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name               text NOT NULL,
    checksum           text NOT NULL,
    definition         jsonb NOT NULL,
    settings           jsonb NOT NULL,
    facts              jsonb NOT NULL,
    phase              text NOT NULL DEFAULT 'expand'
        CHECK (phase IN ('expand', 'backfill', 'verify', 'switch', 'contract', 'done')),
    state              text NOT NULL DEFAULT 'queued'
        CHECK (state IN ('queued', 'running', 'waiting', 'pausing', 'paused', 'cancelling', 'cancelled',
                         'rolling_back', 'rolled_back', 'failed', 'completed')),
    wish               text CHECK (wish IN ('pause', 'cancel')),
    approved           text[] NOT NULL DEFAULT '{}',
    pass               integer NOT NULL DEFAULT 1 CHECK (pass >= 1),
    rows_total         bigint CHECK (rows_total >= 0),
    residual_rows      bigint CHECK (residual_rows >= 0),
    verified_at        timestamptz,
    error              jsonb,
    hot_baseline       jsonb,
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
    CONSTRAINT a_failure_has_an_error CHECK (state <> 'failed' OR error IS NOT NULL)
);

-- A name belongs to one run at a time; it is free again after a cancel or a rollback.
CREATE UNIQUE INDEX runs_name_in_use ON backfilld.runs (name) WHERE state NOT IN ('cancelled', 'rolled_back');

CREATE TABLE backfilld.lanes (
    run                bigint NOT NULL REFERENCES backfilld.runs ON DELETE CASCADE,
    lane               integer NOT NULL CHECK (lane >= 0),
    kind               text NOT NULL CHECK (kind IN ('coordinator', 'backfill', 'verify', 'retry')),
    operation          integer CHECK (operation >= 0),
    pass               integer NOT NULL DEFAULT 1,
    relation           text,
    bounds             jsonb NOT NULL DEFAULT '{}',
    cursor             jsonb,
    seq                bigint NOT NULL DEFAULT 0,
    batch_rows         integer NOT NULL DEFAULT 1000 CHECK (batch_rows >= 1),
    recent             jsonb NOT NULL DEFAULT '[]',
    rows_walked        bigint NOT NULL DEFAULT 0,
    rows_changed       bigint NOT NULL DEFAULT 0,
    rows_residual      bigint NOT NULL DEFAULT 0,
    batches_committed  bigint NOT NULL DEFAULT 0,
    batches_retried    bigint NOT NULL DEFAULT 0,
    attempts           integer NOT NULL DEFAULT 0,
    last_error         jsonb,
    next_run_at        timestamptz DEFAULT clock_timestamp(), -- NULL: sleeps until somebody wakes it
    enqueued_at        timestamptz DEFAULT clock_timestamp(), -- NULL: no message is on its way
    progressed_at      timestamptz,
    done_at            timestamptz,
    PRIMARY KEY (run, lane),
    CONSTRAINT lane_zero_conducts CHECK ((lane = 0) = (kind = 'coordinator')),
    CONSTRAINT a_walk_has_an_operation CHECK (kind = 'coordinator' OR (operation IS NOT NULL AND relation IS NOT NULL))
) WITH (fillfactor = 50);

CREATE INDEX lanes_open ON backfilld.lanes (run, lane) WHERE done_at IS NULL;

CREATE TABLE backfilld.permits (
    permit             integer PRIMARY KEY CHECK (permit BETWEEN 1 AND 64)
);
INSERT INTO backfilld.permits SELECT generate_series(1, 64);

CREATE TABLE backfilld.pace (
    only_row           boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    width              integer NOT NULL DEFAULT 2 CHECK (width BETWEEN 0 AND 64),
    max_width          integer NOT NULL DEFAULT 8 CHECK (max_width BETWEEN 1 AND 64),
    hold_reason        text,
    held_since         timestamptz,
    batch_seconds      double precision,
    readings           jsonb NOT NULL DEFAULT '{}',
    sampled_at         timestamptz,
    widened_at         timestamptz
) WITH (fillfactor = 50);
INSERT INTO backfilld.pace DEFAULT VALUES;

CREATE TABLE backfilld.events (
    event              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at                 timestamptz NOT NULL DEFAULT clock_timestamp(),
    run                bigint REFERENCES backfilld.runs ON DELETE CASCADE,
    actor              text NOT NULL,
    what               text NOT NULL,
    detail             jsonb NOT NULL DEFAULT '{}'
);
CREATE INDEX events_of_run ON backfilld.events (run, event);

CREATE TABLE backfilld.quarantine (
    quarantine         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    run                bigint NOT NULL REFERENCES backfilld.runs ON DELETE CASCADE,
    operation          integer NOT NULL,
    relation           text NOT NULL,
    key                jsonb NOT NULL,
    sqlstate           text NOT NULL,
    error              text NOT NULL,
    retry              boolean NOT NULL DEFAULT false,
    attempts           integer NOT NULL DEFAULT 1,
    quarantined_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    UNIQUE (run, operation, key)
);

ALTER TABLE backfilld.quarantine ENABLE ROW LEVEL SECURITY;
REVOKE ALL ON ALL TABLES IN SCHEMA backfilld FROM PUBLIC;
REVOKE ALL ON SCHEMA backfilld FROM PUBLIC;
