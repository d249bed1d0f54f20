DROP TABLE package_signatures;
DROP TABLE package_keys;
