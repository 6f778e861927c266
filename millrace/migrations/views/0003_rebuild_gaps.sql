-- A rebuild applies what an operator skipped, so the skip hides nothing from then on. The record stays: a gap
-- that the live view was allowed to pass is still in the topic when the next rebuild comes by.
ALTER TABLE skips ADD COLUMN rebuilt_at timestamptz;
-- What interrupted a build last and will do so again, such as events missing from the topic.
ALTER TABLE builds ADD COLUMN error text;
ALTER TABLE builds ADD COLUMN error_at timestamptz;
