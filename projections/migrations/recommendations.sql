CREATE TABLE recommendation_collections (
    collection_id text COLLATE "C" PRIMARY KEY,
    source        text NOT NULL,
    version       bigint NOT NULL
);
CREATE TABLE recommendation_members (
    collection_id text COLLATE "C" NOT NULL,
    card_id       text COLLATE "C" NOT NULL,
    source        text NOT NULL,
    PRIMARY KEY (collection_id, card_id)
);
-- In how many collections of a partition two cards are together; both ways round. A card together with itself counts
-- the collections that it is in.
CREATE TABLE recommendation_pairs (
    card_id  text COLLATE "C" NOT NULL,
    other_id text COLLATE "C" NOT NULL,
    source   text NOT NULL,
    together bigint NOT NULL,
    PRIMARY KEY (card_id, other_id, source)
);
CREATE INDEX ON recommendation_pairs (card_id) WHERE card_id = other_id;
-- A card that nobody has keeps its version, so that an event that comes again does not bring it back.
CREATE TABLE recommendation_cards (
    card_id  text COLLATE "C" PRIMARY KEY,
    source   text NOT NULL,
    version  bigint NOT NULL,
    curators bigint NOT NULL,
    url      text NOT NULL,
    title    text NOT NULL
);

CREATE VIEW views.recommendations AS
SELECT found.collection_id, found.card_id, card.url, card.title, found.together
FROM (
    SELECT mine.collection_id, pair.other_id AS card_id, sum(pair.together)::bigint AS together
    FROM recommendation_members mine
    JOIN recommendation_pairs pair
      ON pair.card_id = mine.card_id AND pair.other_id <> mine.card_id
    GROUP BY mine.collection_id, pair.other_id
    UNION ALL
    -- First recommendations: to a collection without cards, what is in the most collections.
    SELECT empty.collection_id, pair.card_id, sum(pair.together)::bigint
    FROM recommendation_collections empty
    CROSS JOIN recommendation_pairs pair
    WHERE pair.card_id = pair.other_id
      AND NOT EXISTS (SELECT FROM recommendation_members held
                      WHERE held.collection_id = empty.collection_id)
    GROUP BY empty.collection_id, pair.card_id
) found
-- What is recommended is in somebody's library, and not in the collection yet.
JOIN recommendation_cards card ON card.card_id = found.card_id AND card.curators > 0
WHERE NOT EXISTS (SELECT FROM recommendation_members held
                  WHERE held.collection_id = found.collection_id AND held.card_id = found.card_id);
