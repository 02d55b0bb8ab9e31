-- Notifications: what people are told of, each once and by each channel of the settings.
--
-- notice_channels  since when a channel is known: what was there before is no news for it
-- notice_holds     runs that are held, as each channel sees it: a hold that is released for moments is one hold
-- notices          one row for each thing told and each channel; what was delivered is kept for some days
--
-- `since` and `ordinal` name what is told within a run: since when it is in its state, and the number of the reminder. The
-- unique key is what makes it once, however many workers look. No foreign key to the run: its check would wait for whoever
-- holds the run. No values of rows are in `facts`.

CREATE TABLE backfilld.notice_channels (
    channel        text PRIMARY KEY,
    since          timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE TABLE backfilld.notice_holds (
    channel        text NOT NULL,
    run            bigint NOT NULL,
    since          timestamptz NOT NULL,
    seen_at        timestamptz NOT NULL DEFAULT clock_timestamp(),
    told_at        timestamptz,
    PRIMARY KEY (channel, run)
) WITH (fillfactor = 50);

CREATE TABLE backfilld.notices (
    notice         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    delivery       uuid NOT NULL DEFAULT gen_random_uuid(), -- what a receiver tells a repeated delivery by
    channel        text NOT NULL,
    run            bigint NOT NULL,
    about          text NOT NULL CHECK (about IN ('approval', 'failed', 'held', 'completed', 'rolled_back', 'paused',
                                                  'cancelled', 'quarantine')),
    since          timestamptz NOT NULL,
    ordinal        integer NOT NULL DEFAULT 0 CHECK (ordinal >= 0),
    facts          jsonb NOT NULL,
    created_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    attempts       integer NOT NULL DEFAULT 0,
    next_try_at    timestamptz NOT NULL DEFAULT clock_timestamp(), -- of one that is being sent: when it counts as not sent
    delivered_at   timestamptz,
    failed_at      timestamptz,
    last_error     text,
    UNIQUE (channel, run, about, since, ordinal),
    CONSTRAINT delivered_or_failed CHECK (delivered_at IS NULL OR failed_at IS NULL)
) WITH (fillfactor = 70);

CREATE INDEX notices_pending ON backfilld.notices (channel, next_try_at) WHERE delivered_at IS NULL AND failed_at IS NULL;

REVOKE ALL ON backfilld.notice_channels, backfilld.notice_holds, backfilld.notices FROM PUBLIC;
