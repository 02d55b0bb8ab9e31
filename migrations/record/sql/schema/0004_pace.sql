-- The pace is more than a width: how long a batch may last (`pace.batch_seconds`, NULL: as long as its run says) and how long
-- its lane rests for each second of work. `memory` is what the governor knows from before (its baseline of the application's
-- latency, how much of the time a lane may work), so that another worker's governor goes on where this one stopped.

ALTER TABLE backfilld.pace
    ADD COLUMN rest   double precision NOT NULL DEFAULT 0 CHECK (rest >= 0),
    ADD COLUMN memory jsonb NOT NULL DEFAULT '{}';

-- Readings are kept with their limits and details from here on; the next verdict writes them.
UPDATE backfilld.pace SET readings = '{}';
