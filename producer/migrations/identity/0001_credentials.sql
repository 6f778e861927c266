-- Hashes of passwords, and nothing else that is known of a user. Events name a row by its id.
CREATE TABLE credentials (
    credential_id   uuid PRIMARY KEY,
    registration_id text COLLATE "C" NOT NULL,
    -- PHC string: algorithm, parameters, salt and hash.
    hash            text NOT NULL,
    created_at      timestamptz NOT NULL DEFAULT now(),
    -- The registration was completed with it.
    kept            boolean NOT NULL DEFAULT false,
    settle_at       timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX ON credentials (settle_at) WHERE NOT kept;
