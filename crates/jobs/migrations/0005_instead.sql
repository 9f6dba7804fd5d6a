-- What was asked still does not change, but what it is made as may, until something of it is finished: a
-- film that memory is not enough for is made as a smaller one.

DROP TRIGGER jobs_keep_request;

CREATE TRIGGER jobs_keep_request
BEFORE UPDATE OF id, owner, request, resolved, seed, model, model_revision, created_ms ON jobs
WHEN NEW.id <> OLD.id OR NEW.owner <> OLD.owner OR NEW.request <> OLD.request
    OR NEW.seed <> OLD.seed OR NEW.model <> OLD.model
    OR NEW.model_revision <> OLD.model_revision OR NEW.created_ms <> OLD.created_ms
    OR (NEW.resolved <> OLD.resolved AND NOT (OLD.state = 'running' AND OLD.segments_done = 0))
BEGIN
    SELECT RAISE(ABORT, 'what was asked does not change');
END;
