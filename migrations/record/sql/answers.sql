-- name: put_answer
-- What a probe got at a moment; asked again at the same moment, the newest answer counts.
INSERT INTO backfilld.application_answers (run, probe, moment, answer)
VALUES (%(run)s::bigint, %(probe)s::text, %(moment)s::text, %(answer)s::jsonb)
ON CONFLICT (run, probe, moment) DO UPDATE SET answer = excluded.answer, at = clock_timestamp()

-- name: answers_at
-- What the probes of a run got at a moment.
SELECT probe, answer FROM backfilld.application_answers
WHERE run = %(run)s::bigint AND moment = %(moment)s::text ORDER BY probe

-- name: forget_answers
-- Answers of runs that have ended go.
DELETE FROM backfilld.application_answers a
WHERE NOT EXISTS (SELECT FROM backfilld.runs r WHERE r.run = a.run AND r.ended_at IS NULL)
