CREATE TABLE notifications (
    aggregate_id    text COLLATE "C" NOT NULL,
    source          text NOT NULL,
    version         bigint NOT NULL,
    incomplete      boolean NOT NULL,
    notification_id text COLLATE "C" NOT NULL,
    kind            text NOT NULL,
    channel         text,
    masked_to       text,
    source_event_id text NOT NULL,
    state           text NOT NULL,
    attempts        bigint NOT NULL,
    provider_id     text,
    last_error      text,
    requested_at    timestamptz NOT NULL,
    updated_at      timestamptz NOT NULL,
    PRIMARY KEY (aggregate_id, notification_id)
);
CREATE INDEX ON notifications (notification_id);
CREATE INDEX ON notifications (requested_at, notification_id);
CREATE INDEX ON notifications (state, kind);
CREATE INDEX ON notifications (source_event_id);

CREATE VIEW views.notifications AS
SELECT notification_id, aggregate_id AS recipient_id, kind, channel, masked_to, source_event_id,
       state, attempts, provider_id, last_error, requested_at, updated_at, version
FROM notifications;
