-- The trace that a job was asked for in, as W3C's Trace Context writes it.

ALTER TABLE jobs ADD COLUMN traceparent TEXT CHECK (length(traceparent) = 55);
ALTER TABLE jobs ADD COLUMN tracestate TEXT CHECK (tracestate IS NULL OR traceparent IS NOT NULL);
