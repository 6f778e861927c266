CREATE TABLE customer_totals (
    customer_id text COLLATE "C" NOT NULL,
    source      text NOT NULL,
    orders      bigint NOT NULL,
    total_cents bigint NOT NULL,
    PRIMARY KEY (customer_id, source)
);

CREATE VIEW views.customer_totals AS
-- Each partition's sum fits in a bigint; theirs may not, and one such customer must not fail every list.
SELECT customer_id,
       least(sum(orders), 9223372036854775807)::bigint AS orders,
       least(sum(total_cents), 9223372036854775807)::bigint AS total_cents
FROM customer_totals
GROUP BY customer_id;
