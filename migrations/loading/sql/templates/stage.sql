-- name: make
-- The stage of a load: the lines that are to be loaded, each as the texts of its fields.
CREATE TABLE {stage} ("~line" bigserial, {columns}) WITH (autovacuum_enabled = off)

-- name: hide
-- Nobody but its owner may read it.
SELECT backfilld.hide({stage}::text::regclass)

-- name: drop
-- The stage has served.
DROP TABLE IF EXISTS {stage}

-- name: empty
-- What is staged is forgotten.
TRUNCATE {stage}

-- name: fill
-- What a query gives, each value as its text.
INSERT INTO {stage} ({columns}) SELECT {values} FROM ({query}) AS q

-- name: copy
-- Records of a CSV file, as they are.
COPY {stage} ({columns}) FROM STDIN (FORMAT csv, DELIMITER {delimiter}, NULL {null}, ENCODING 'UTF8')

-- name: copy_json
-- Lines of JSON, each in one column: neither character stands in JSON.
COPY {stage} ({columns}) FROM STDIN (FORMAT csv, DELIMITER E'\x02', QUOTE E'\x01', ENCODING 'UTF8')
