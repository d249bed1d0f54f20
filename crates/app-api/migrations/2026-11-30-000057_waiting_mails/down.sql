ALTER TABLE mails DROP COLUMN last_error, DROP COLUMN queued_at;
