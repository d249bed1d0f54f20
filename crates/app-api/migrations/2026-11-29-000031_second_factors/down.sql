DROP TABLE recovery_codes;
DROP TABLE second_factors;
DROP FUNCTION second_factors_rotate_sessions;
