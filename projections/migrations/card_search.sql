CREATE TABLE card_search (
    aggregate_id text COLLATE "C" PRIMARY KEY,
    source       text NOT NULL,
    version      bigint NOT NULL,
    incomplete   boolean NOT NULL,
    card_type    text NOT NULL,
    url          text NOT NULL,
    title        text NOT NULL,
    description  text NOT NULL,
    curators     bigint NOT NULL,
    updated_at   timestamptz NOT NULL
);
-- The same expression as the view's column `document`, or a search reads every card.
CREATE INDEX ON card_search USING gin ((
    setweight(to_tsvector('english', title), 'A')
    || setweight(to_tsvector('english', description), 'B')
    || setweight(to_tsvector('english', regexp_replace(url, '[^[:alnum:]]+', ' ', 'g')), 'D')
));

CREATE VIEW views.card_search AS
-- What is found in the title counts most, then the description, then the words of the address.
SELECT aggregate_id AS card_id, card_type, url, title, description, curators, updated_at, version,
       setweight(to_tsvector('english', title), 'A')
       || setweight(to_tsvector('english', description), 'B')
       || setweight(to_tsvector('english', regexp_replace(url, '[^[:alnum:]]+', ' ', 'g')), 'D')
           AS document
FROM card_search;
