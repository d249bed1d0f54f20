-- Whoever knows a password could fill its owner's mailbox by signing in again and again: one waiting alert tells enough.
DELETE FROM mails later USING mails earlier
    WHERE later.kind = 'sign_in' AND earlier.kind = 'sign_in' AND later.recipient = earlier.recipient AND later.id > earlier.id;
CREATE UNIQUE INDEX mails_one_waiting ON mails (recipient, kind) WHERE kind IN ('password_reset', 'sign_in');
DROP INDEX mails_one_reset;
