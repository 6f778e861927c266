CREATE TABLE owner_statistics (
    owner_id    text COLLATE "C" NOT NULL,
    source      text NOT NULL,
    collections bigint NOT NULL,
    cards       bigint NOT NULL,
    cards_added bigint NOT NULL,
    PRIMARY KEY (owner_id, source)
);

CREATE VIEW views.owner_statistics AS
SELECT owner_id, sum(collections)::bigint AS collections, sum(cards)::bigint AS cards,
       sum(cards_added)::bigint AS cards_added
FROM owner_statistics
GROUP BY owner_id;
