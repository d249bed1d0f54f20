CREATE UNIQUE INDEX mails_one_reset ON mails (recipient) WHERE kind = 'password_reset';
DROP INDEX mails_one_waiting;
