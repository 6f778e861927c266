CREATE TABLE profiles (
    aggregate_id text COLLATE "C" PRIMARY KEY,
    source       text NOT NULL,
    version      bigint NOT NULL,
    incomplete   boolean NOT NULL,
    name         text NOT NULL,
    public       boolean NOT NULL,
    followers    bigint NOT NULL,
    updated_at   timestamptz NOT NULL
);

CREATE VIEW views.profiles AS
SELECT aggregate_id AS profile_id, name, public, followers, updated_at, version
FROM profiles;
