-- Mails that wait to be sent, inserted by the transaction of the change. A mail that was sent, or given up, is deleted.
CREATE TABLE mails (
    id              uuid PRIMARY KEY,
    kind            text NOT NULL CHECK (kind IN ('invitation', 'password_reset', 'sign_in')),
    recipient       text NOT NULL,
    -- Encrypted: the link of an invitation is worth a role.
    content         text NOT NULL,
    attempts        integer NOT NULL DEFAULT 0,
    next_attempt_at timestamptz NOT NULL,
    -- Afterwards the mail is of no use.
    expires_at      timestamptz NOT NULL
);
CREATE INDEX mails_due ON mails (next_attempt_at);
-- A second request of the same recipient makes the waiting mail due again.
CREATE UNIQUE INDEX mails_one_reset ON mails (recipient) WHERE kind = 'password_reset';
