CREATE TABLE library_activity (
    day        date NOT NULL,
    event_type text COLLATE "C" NOT NULL,
    source     text NOT NULL,
    events     bigint NOT NULL,
    PRIMARY KEY (day, event_type, source)
);
-- How far each aggregate is counted, so that an event that comes again is not counted again.
CREATE TABLE library_activity_versions (
    aggregate    text COLLATE "C" NOT NULL,
    aggregate_id text COLLATE "C" NOT NULL,
    source       text NOT NULL,
    version      bigint NOT NULL,
    PRIMARY KEY (aggregate, aggregate_id)
);

CREATE VIEW views.library_activity AS
SELECT day, event_type, sum(events)::bigint AS events
FROM library_activity
GROUP BY day, event_type;
