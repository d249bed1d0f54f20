-- What operators see of a mail that waits.
ALTER TABLE mails
    ADD COLUMN queued_at timestamptz NOT NULL DEFAULT now(),
    -- Why the last attempt failed, without anything that the mail holds.
    ADD COLUMN last_error text;
