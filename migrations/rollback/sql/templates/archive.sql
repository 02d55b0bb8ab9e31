-- name: archive
-- A batch of the archive: copy the rows of a range where the archive does not have them as they are. A row that was there has
-- its former version's deletion in xmax.
WITH copied AS (
    INSERT INTO {archive} AS archive (run, operation, key, old, new)
    SELECT {run}, {operation}, {key}, {old}, {new} FROM {table} WHERE {condition}
    ON CONFLICT (operation, key, run) DO UPDATE SET old = excluded.old, new = excluded.new
    WHERE (archive.old, archive.new) IS DISTINCT FROM (excluded.old, excluded.new)
    RETURNING xmax = 0 AS missing
)
SELECT count(*) AS changed, count(*) FILTER (WHERE missing) AS missing FROM copied

-- name: unarchived
-- How many rows of a range the archive does not have. Not NOT EXISTS: that may become a scan of the whole archive for each batch.
SELECT count(*) AS rows FROM {table}
WHERE {condition}
  AND (SELECT true FROM {archive} "~archive" WHERE "~archive".operation = {operation} AND "~archive".key = {key}) IS NULL
