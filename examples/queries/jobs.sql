-- What the shop sends about its jobs. $1, $2 … stand for its parameters.
SELECT id, status FROM jobs WHERE status = $1 ORDER BY created_at LIMIT $2;

SELECT customer_id, sum(total) FROM jobs GROUP BY customer_id;
