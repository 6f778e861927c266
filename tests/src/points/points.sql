CREATE TABLE points (
    aggregate_id text COLLATE "C" PRIMARY KEY,
    source       text NOT NULL,
    version      bigint NOT NULL,
    incomplete   boolean NOT NULL,
    points       bigint NOT NULL,
    orders       bigint NOT NULL
);

CREATE VIEW views.points AS
SELECT aggregate_id AS customer_id, points, orders, version FROM points;
