DROP INDEX mails_one_sign_in;
