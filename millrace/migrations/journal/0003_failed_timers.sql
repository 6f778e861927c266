-- How many there are is asked every few seconds, and those that have fired are kept.
CREATE INDEX timers_failed ON timers (timer_id) WHERE state = 'failed';
