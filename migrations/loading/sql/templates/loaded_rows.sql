-- name: digest
-- A row in 64 bits, by the binary form of its values, which tells apart what is equal and not the same. Another seed for each run.
hash_array_extended(ARRAY[record_send({row})], {seed})
